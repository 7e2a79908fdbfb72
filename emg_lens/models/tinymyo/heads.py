"""TinyMyo's heads: a linear map back to samples, a linear map to classes, or a small convolutional net.

docs/tinymyo-model.md §9.2 describes what each head computes. All of them read every position.
"""

from typing import Any

import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from emg_lens.models.components import Unembed

D_REGRESSION = 256
"""Width between the convolutions of the regression head."""


class SampleUnembed(Unembed):
    """Linear map from a token to the samples of its patch, `W_U [d_model, sample]`."""

    def multiply_accumulates(self, cfg: Any) -> int:
        """Count the multiplications of the outputs of one trial."""
        return self.W_U.numel() * cfg.n_tokens


class ChannelUnembed(Unembed):
    """Linear map from the concatenated vectors of all channels to logits, `W_U [channel, d_model, class]`."""

    def forward(self, x: Float[Tensor, "batch channel d_model"]) -> Float[Tensor, "batch class"]:
        """Compute logits."""
        return F.linear(x.flatten(1), self.W_U.flatten(0, 1).T, self.b_U)

    multiply_accumulates = Unembed.multiply_accumulates


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
