"""TinyMyo's heads: a linear map back to samples, a linear map to classes, or a small convolutional net.

docs/tinymyo-model.md §9.2 describes what each head computes. All of them read every position.
"""

from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

D_REGRESSION = 256
"""Width between the convolutions of the regression head."""


class SampleUnembed(nn.Module):
    """Linear map from a token to the samples of its patch, `W_U [d_model, sample]`."""

    def __init__(self, d_model: int, n_samples: int) -> None:
        super().__init__()
        self.W_U = nn.Parameter(torch.empty(d_model, n_samples))
        self.b_U = nn.Parameter(torch.empty(n_samples))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise the weights."""
        nn.init.xavier_uniform_(self.W_U)
        nn.init.zeros_(self.b_U)

    def multiply_accumulates(self, cfg: Any) -> int:
        """Count the multiplications of the outputs of one trial."""
        return self.W_U.numel() * cfg.n_tokens

    def forward(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch sample"]:
        """Compute samples."""
        return F.linear(x, self.W_U.T, self.b_U)


class ChannelUnembed(nn.Module):
    """Linear map from the concatenated vectors of all channels to logits, `W_U [channel, d_model, class]`."""

    def __init__(self, n_channels: int, d_model: int, n_classes: int) -> None:
        super().__init__()
        self.W_U = nn.Parameter(torch.empty(n_channels, d_model, n_classes))
        self.b_U = nn.Parameter(torch.empty(n_classes))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise the weights: Xavier for the map `[channel * d_model, class]`."""
        nn.init.xavier_uniform_(self.W_U.data.view(-1, self.W_U.shape[-1]))
        nn.init.zeros_(self.b_U)

    def multiply_accumulates(self, cfg: Any) -> int:  # noqa: ARG002 - as of every head
        """Count the multiplications of the outputs of one trial."""
        return self.W_U.numel()

    def forward(self, x: Float[Tensor, "batch channel d_model"]) -> Float[Tensor, "batch class"]:
        """Compute logits."""
        return F.linear(x.flatten(1), self.W_U.flatten(0, 1).T, self.b_U)


class SequenceUnembed(nn.Module):
    """Concatenated channels -> a value per target and sample: three convolutions over patches, then interpolation.

    Without a number of samples it gives one value per target: the mean over patches.
    """

    def __init__(self, n_channels: int, d_model: int, n_targets: int, n_samples: int | None, dropout: float) -> None:
        super().__init__()
        self.n_samples = n_samples
        self.mix = nn.Conv1d(n_channels * d_model, D_REGRESSION, 1)
        self.drop = nn.Dropout(dropout)
        self.smooth = nn.Conv1d(D_REGRESSION, D_REGRESSION, 3, padding=1, groups=D_REGRESSION)
        self.read = nn.Conv1d(D_REGRESSION, n_targets, 1)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise the weights."""
        for layer in (self.mix, self.smooth, self.read):
            nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu")
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)

    def multiply_accumulates(self, cfg: Any) -> int:
        """Count the multiplications of the outputs of one trial."""
        return cfg.n_patches * sum(layer.weight.numel() for layer in (self.mix, self.smooth, self.read))

    def forward(self, x: Float[Tensor, "batch channel patch d_model"]) -> Float[Tensor, "batch *sample target"]:
        """Compute the values of each target over the window, or their mean."""
        side_by_side = rearrange(x, "batch channel patch d_model -> batch (channel d_model) patch")
        hidden = F.silu(self.smooth(self.drop(F.silu(self.mix(side_by_side)))))
        values = self.read(hidden)
        if self.n_samples is None:
            return values.mean(dim=-1)
        if values.shape[-1] != self.n_samples:
            values = F.interpolate(values, size=self.n_samples, mode="linear", align_corners=False)
        return rearrange(values, "batch target sample -> batch sample target")
