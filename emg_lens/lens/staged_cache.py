"""`ActivationCache` for encoders with several stages: each stage under TransformerLens's short names."""

from typing import Any, NoReturn

import torch
from jaxtyping import Float
from torch import Tensor

from emg_lens.lens.cache import BiosignalCache
from emg_lens.registry import UnknownNameError
from emg_lens.validation import ArgumentError

OF_ONE_STACK = (
    "accumulated_resid",
    "apply_ln_to_stack",
    "compute_head_results",
    "decompose_resid",
    "get_full_resid_decomposition",
    "get_neuron_results",
    "logit_attrs",
    "stack_activation",
    "stack_head_results",
    "stack_neuron_results",
)
"""Methods that add up the outputs of one stack of blocks."""


class StagedCache(BiosignalCache):
    """Activations of one run of an encoder with several stages, by full name: `stages.emg.blocks.0.attn.hook_pattern`.

    Decompositions of the residual stream are refused, because two stages write to the stream of a token.
    """

    def stage(self, name: str) -> "StagedCache":
        """Return the activations of one stage: `cache.stage("fusion")["pattern", 0]`."""
        layers = self.model.layout.stage(name).layers  # pyright: ignore[reportAttributeAccessIssue]
        prefix = f"stages.{name}."
        own = {key.removeprefix(prefix): value for key, value in self.cache_dict.items() if key.startswith(prefix)}
        cache = CacheOfStage(own, self.model, has_batch_dim=self.has_batch_dim)
        cache.n_layers = len(layers)
        return cache

    def _where(self, name: str) -> str:
        if not name.startswith("blocks."):
            return super()._where(name)
        stages = [stage.name for stage in self.model.layout.stages]  # pyright: ignore[reportAttributeAccessIssue]
        return (
            f"{type(self.model).__name__} has a stack of blocks in each stage ({', '.join(stages)}): read"
            f" cache.stage({stages[-1]!r})['pattern', 0], which is"
            f" 'stages.{stages[-1]}.blocks.0.attn.hook_pattern'"
        )


class CacheOfStage(StagedCache):
    """Activations of one stage; layers count the blocks of the stage, negative ones from its end."""

    n_layers = 0

    def __getitem__(self, key: Any) -> Tensor:
        """Return an activation by its name within the stage, or by TransformerLens's short name."""
        if not isinstance(key, tuple) or len(key) < 2 or not isinstance(key[1], int):
            return super().__getitem__(key)
        if not -self.n_layers <= key[1] < self.n_layers:
            raise UnknownNameError(f"unknown layer {key[1]}; this stage has layers 0 to {self.n_layers - 1}")
        return super().__getitem__((key[0], key[1] % self.n_layers, *key[2:]))

    def stack_activation(
        self, activation_name: str, layer: int | None = -1, sublayer_type: str | None = None
    ) -> Float[Tensor, "layer ..."]:
        """Stack an activation of the stage's first `layer` blocks, or of all (None or -1)."""
        n = self.n_layers if layer in (None, -1) else layer
        return torch.stack([self[activation_name, one, sublayer_type] for one in range(n)])

    _where = BiosignalCache._where


def _refused(method: str) -> Any:
    def refuse(self: StagedCache, *_: Any, **__: Any) -> NoReturn:
        raise ArgumentError(
            f"{method} works for one stack of blocks, but {type(self.model).__name__} has several stages; read"
            " activations by name, cache.stage(name)['resid_post', layer], or cut attention edges"
        )

    refuse.__doc__ = "Refused: see `StagedCache`."
    return refuse


for _method in OF_ONE_STACK:
    setattr(StagedCache, _method, _refused(_method))
