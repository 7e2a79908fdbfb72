"""Front ends that turn all channels of a modality into one token per time step; docs/tinymyo-model.md §9.4.

Each is one class, with the number of its time steps (`n_steps`, below 1 if the window is too short), their samples
(`step_grid`), the computation, and the number of multiplications in one trial. `FRONT_ENDS` has them by name. The
non-linearity is `cfg.act_fn`.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from emg_lens.models.dropout import drop


class CompressedConv(nn.Module):
    """Range compression x -> range * x / (midpoint + |x|), one convolution without padding, a non-linearity, LayerNorm.

    The compression follows Reinhard et al. (2002, §3.1, equation 3), with a sign. Step t uses the samples
    `t * stride ... t * stride + kernel_samples - 1` and no later ones.
    """

    def __init__(self, n_channels: int, cfg: Any) -> None:
        super().__init__()
        self.range, self.midpoint = cfg.compression_range, cfg.compression_midpoint
        self.act_fn, self.dropout = getattr(F, cfg.act_fn), cfg.dropout
        self.conv = nn.Conv1d(n_channels, cfg.d_model, cfg.kernel_samples, cfg.stride)
        self.norm = nn.LayerNorm(cfg.d_model, eps=cfg.eps)

    @staticmethod
    def n_steps(cfg: Any) -> int:
        """Return the number of steps with all their samples in the window."""
        return max((cfg.n_samples - cfg.kernel_samples) // cfg.stride + 1, 0)

    @staticmethod
    def step_grid(cfg: Any) -> tuple[int, int]:
        """Return the last sample that the first step uses, and the samples from one step to the next."""
        return cfg.kernel_samples - 1, cfg.stride

    def multiply_accumulates(self, cfg: Any) -> int:
        """Count the multiplications of the tokens of one trial."""
        return self.n_steps(cfg) * self.conv.weight.numel()

    def forward(self, x: Float[Tensor, "batch channel time"]) -> Float[Tensor, "batch step d_model"]:
        """Compute tokens."""
        compressed = self.range * x / (self.midpoint + x.abs())
        hidden = drop(self.act_fn(self.conv(compressed)), self.dropout if self.training else 0.0)
        return self.norm(rearrange(hidden, "batch d_model step -> batch step d_model"))


class ResidualConv(nn.Module):
    """Residual blocks that halve the rate, then a linear map of each step (Gaddy & Klein 2021, §2.2)."""

    def __init__(self, n_channels: int, cfg: Any) -> None:
        super().__init__()
        widths = [n_channels] + [cfg.d_model] * cfg.n_halvings
        act_fn = getattr(F, cfg.act_fn)
        self.blocks = nn.Sequential(*(HalvingBlock(*pair, act_fn) for pair in zip(widths, widths[1:], strict=False)))
        self.linear = nn.Linear(cfg.d_model, cfg.d_model)
        if cfg.initial_weights == "normal":
            nn.init.normal_(self.linear.weight, std=0.02)
            nn.init.zeros_(self.linear.bias)

    @staticmethod
    def n_steps(cfg: Any) -> int:
        """Halve the number of samples once per block, rounded up."""
        return -(-cfg.n_samples // 2**cfg.n_halvings)

    @staticmethod
    def step_grid(cfg: Any) -> tuple[int, int]:
        """Return the sample in the middle of the first step, and the samples from one step to the next.

        A step uses up to 3 · (2^halvings - 1) samples before and after its middle.
        """
        return 0, 2**cfg.n_halvings

    def multiply_accumulates(self, cfg: Any) -> int:
        """Count the multiplications of the tokens of one trial."""
        count, n_steps = 0, cfg.n_samples
        for block in self.blocks:
            n_steps = -(-n_steps // 2)
            convolutions: Any = (block.conv1, block.conv2, block.shortcut)
            count += n_steps * sum(layer.weight.numel() for layer in convolutions)
        return count + n_steps * self.linear.weight.numel()

    def forward(self, x: Float[Tensor, "batch channel time"]) -> Float[Tensor, "batch step d_model"]:
        """Compute tokens."""
        return self.linear(rearrange(self.blocks(x), "batch d_model step -> batch step d_model"))


class HalvingBlock(nn.Module):
    """A one-dimensional residual block (He et al. 2016, §3.3, projection shortcut) that halves the time steps.

    Two convolutions of width 3, each with batch normalisation, a non-linearity after the first; added to a projection
    of the input; the non-linearity again.
    """

    def __init__(self, n_in: int, n_out: int, act_fn: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.act_fn = act_fn
        self.conv1, self.norm1 = nn.Conv1d(n_in, n_out, 3, stride=2, padding=1), nn.BatchNorm1d(n_out)
        self.conv2, self.norm2 = nn.Conv1d(n_out, n_out, 3, padding=1), nn.BatchNorm1d(n_out)
        self.shortcut, self.norm3 = nn.Conv1d(n_in, n_out, 1, stride=2), nn.BatchNorm1d(n_out)

    def forward(self, x: Float[Tensor, "batch wide time"]) -> Float[Tensor, "batch d_model half"]:
        """Compute half of the time steps, rounded up."""
        inner = self.norm2(self.conv2(self.act_fn(self.norm1(self.conv1(x)))))
        return self.act_fn(inner + self.norm3(self.shortcut(x)))


FRONT_ENDS: dict[str, Any] = {"compressed": CompressedConv, "residual": ResidualConv}
"""Front ends by the value of `SequenceConfig.front_end`."""


class SequenceEmbed(nn.Module):
    """Tokens `[batch, pos, d_model]` from one front end per modality, in the layout's order."""

    def __init__(self, cfg: Any) -> None:
        super().__init__()
        self.n_channels = list(cfg.modalities.values())
        self.front_ends = nn.ModuleList(FRONT_ENDS[cfg.front_end](n, cfg) for n in self.n_channels)

    def forward(self, x: Float[Tensor, "batch channel time"]) -> Float[Tensor, "batch pos d_model"]:
        """Compute tokens modality by modality, with time steps in order."""
        pieces = x.split(self.n_channels, dim=1)
        return torch.cat([made(piece) for made, piece in zip(self.front_ends, pieces, strict=True)], dim=1)

    def multiply_accumulates(self, cfg: Any) -> int:
        """Count the multiplications of the tokens of one trial."""
        front_ends: Any = self.front_ends
        return sum(made.multiply_accumulates(cfg) for made in front_ends)
