"""`SignalModel`: what all our models share, with attention or without."""

import contextlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from huggingface_hub import PyTorchModelHubMixin
from jaxtyping import Float
from torch import Tensor
from transformer_lens.HookedRootModule import HookedRootModule

from emg_lens.layout import TokenLayout
from emg_lens.lens.config import SignalConfig

MODEL_CARD = """---
{{ card_data }}
---

A model of biosignals, saved by emg-lens. `config.json` says how it is built; `from_pretrained` of its class loads it.
"""


class SignalModel(
    HookedRootModule,
    PyTorchModelHubMixin,
    library_name="emg-lens",
    model_card_template=MODEL_CARD,
    tags=["biosignals", "emg", "transformer-lens"],
):
    """A model of signals `[batch, channel, time]`, with hook points, that can be saved and loaded.

    Attributes:
        cfg: The configuration; a copy of the one given.
        layout: What its tokens stand for.
        auxiliary_parameters: What the names of those parameters begin with that only a second head has, which is read
            in training alone; `""` = the model has one head. A model with two gives `(outputs, auxiliary outputs)` for
            `return_type="both"`.
    """

    cfg: SignalConfig
    layout: TokenLayout
    auxiliary_parameters: str = ""

    def __init__(self, config: SignalConfig) -> None:
        super().__init__()
        self.cfg = replace(config)  # switches and device are this model's own
        self.layout = self.cfg.layout

    def example_input(self, batch: int = 1, seed: int = 0) -> Float[Tensor, "batch channel time"]:
        """Standard-normal input of the right shape, on the model's device."""
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(batch, self.cfg.n_channels, self.cfg.n_samples, generator=generator)
        return x.to(self.cfg.device)

    def check_signals(self, x: Tensor) -> None:
        """Refuse input that is not what the configuration promises.

        Raises:
            ValueError: No tensor, another shape, no floats, or doubles for a model of floats.
        """
        if not isinstance(x, Tensor):
            raise ValueError(f"input is a {type(x).__name__}; expected a tensor: torch.as_tensor(x).float() makes one")
        if x.dtype == torch.float64 != self.cfg.dtype:
            raise ValueError(f"input is {x.dtype}, as numpy counts, and the model {self.cfg.dtype}; give x.float()")
        expected = (self.cfg.n_channels, self.cfg.n_samples)
        if x.ndim != 3 or tuple(x.shape[1:]) != expected or not x.is_floating_point():
            raise ValueError(
                f"input has shape {list(x.shape)} ({x.dtype}); expected [batch, {expected[0]} channels, {expected[1]}"
                f" samples] of floats, with channels ordered {self.cfg.modalities}"
            )

    def _apply(self, fn: Callable, recurse: bool = True) -> "SignalModel":
        super()._apply(fn, recurse)
        parameter = next(self.parameters())
        self.cfg.device, self.cfg.dtype = parameter.device, parameter.dtype
        return self

    @classmethod
    def _from_pretrained(cls, *, strict: bool = True, **kwargs: Any) -> "SignalModel":
        """Load weights; unlike the hub's default, a missing or unexpected key is an error."""
        with contextlib.redirect_stdout(None):  # the hub library announces itself on stdout
            return super()._from_pretrained(strict=strict, **kwargs).eval()
