"""Any torch module with attention as a model of studies."""

from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from emg_lens.hooks import adapt
from emg_lens.layout import TokenLayout
from emg_lens.lens.config import SignalConfig
from emg_lens.lens.model_outputs import OutputFunction, output_tensor
from emg_lens.lens.signals import SignalModel
from emg_lens.validation import ArgumentError


class TorchModel(SignalModel):
    """A torch module with attention, which studies can fit, cut, save and load.

    A subclass builds the module from its configuration and passes it to `__init__` (docs/extending.md §1.3). `adapt`
    finds the attention, so the same cuts are possible as in an adapted model. They are verified in the same way.

    Attributes:
        adapted: The adapted module.
        allow_routes: Whether to cut the attention although other parts of the module also mix tokens, as for `cutting`.
        one_by_one: True: models are fitted one after the other, because `torch.vmap` may not map the module.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from emg_lens import Condition, cross_modal, sweep
        >>> from emg_lens.lens import SignalConfig
        >>> from emg_lens.models import TorchModel
        >>> class Encoder(nn.Module):
        ...     def __init__(self, cfg):
        ...         super().__init__()
        ...         layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        ...         self.embed, self.encoder = nn.Linear(cfg.n_samples, 16), nn.TransformerEncoder(layer, 2)
        ...         self.head = nn.Linear(16, cfg.n_classes)
        ...     def forward(self, x):
        ...         return self.head(self.encoder(self.embed(x)).mean(1))
        >>> class MyModel(TorchModel):
        ...     def __init__(self, config: SignalConfig):
        ...         super().__init__(config, Encoder(config))
        >>> model = MyModel(SignalConfig({"emg": 4, "acc": 3}, n_samples=20, n_classes=5)).eval()
        >>> result = sweep(model, model.example_input(8), [Condition("cut", cross_modal())])
        >>> result.logits["cut"].shape, model.cfg.n_layers
        (torch.Size([8, 5]), 2)
    """

    one_by_one = True
    allow_routes = False

    def __init__(
        self,
        config: SignalConfig,
        module: nn.Module,
        layout: TokenLayout | None = None,
        output: OutputFunction | None = None,
    ) -> None:
        """Adapt the module.

        Args:
            config: The configuration.
            module: Takes signals `[batch, channel, time]`.
            layout: Meaning of the module's tokens; default: one token per channel, without CLS.
            output: Function of what the module returns that makes its outputs `[batch, ...]`, as for `sweep`.

        Raises:
            ArgumentError: The module has an encoder and a decoder.
            DeadHookError: The module has no attention that can be edited.
        """
        super().__init__(config)
        self.adapted = adapt(module, self.example_input(2))
        if not hasattr(self.adapted, "blocks"):
            raise ArgumentError(
                f"{type(module).__name__} has an encoder and a decoder; a study needs one stack of blocks:"
                " use adapt(module) and sweep in a notebook"
            )
        self.blocks, self.output = self.adapted.blocks, output
        self.layout = self.cfg.layout if layout is None else layout
        self.cfg.n_layers, self.cfg.n_heads = self.adapted.cfg.n_layers, self.adapted.cfg.n_heads
        self.setup()

    def setup(self) -> None:
        """Use the names of the adapted module for its hook points."""
        self.adapted.setup()
        self.mod_dict, self.hook_dict = self.adapted.mod_dict, self.adapted.hook_dict

    def forward(self, input: Float[Tensor, "batch channel time"], **options: Any) -> Float[Tensor, "batch *output"]:
        """Return the outputs `[batch, class]`; options are passed to the module."""
        self.check_signals(input)
        return output_tensor(self.adapted, self.adapted(input, **options), self.output, len(input))
