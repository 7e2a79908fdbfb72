"""Symmetric grids: the values that whole numbers of a few bits times a scale can take (docs/deployment.md §2)."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from emg_lens.hooks.hook_points import probing
from emg_lens.validation import ArgumentError


def largest_level(bits: int) -> int:
    """Return the largest whole number of a symmetric grid: 127 for 8 bits; -128 is not used."""
    return 2 ** (bits - 1) - 1


def round_to_grid(values: Tensor, bits: int, axes: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Round values to whole multiples of a scale, so that the largest absolute value is a point of the grid.

    Scales are computed in float64, so rounding values that are on such a grid changes nothing.

    Args:
        values: Values of any shape.
        bits: Bits of a value with its sign.
        axes: Axes along which values share a scale.

    Returns:
        The rounded values, and the scales (float64) with length 1 along `axes`.
    """
    exact = values.double()
    scales = exact.abs().amax(dim=tuple(axes), keepdim=True) / largest_level(bits)
    whole = torch.where(scales > 0, exact / scales, 0.0).round()
    return (whole * scales).to(values.dtype), scales


def straight_through(values: Tensor, smooth: Tensor) -> Tensor:
    """Return `values` with the gradient of `smooth`: rounding itself has gradient zero (Bengio et al. 2013, §4)."""
    return _StraightThrough.apply(values, smooth)  # pyright: ignore[reportReturnType]


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, smooth: Tensor) -> Tensor:  # noqa: ARG004
        return values.detach().clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor]:  # noqa: ARG004 # pyright: ignore
        return None, gradient


class ActivationGrid:
    """A grid for the activations at one place: it first measures their largest absolute value, then rounds to it.

    Larger values are clipped; NaN stays NaN. While the probe for intervention points runs, nothing is rounded.

    Args:
        bits: Bits of an activation.
        place: Name of the hook point, for errors.
    """

    def __init__(self, bits: int, place: str) -> None:
        self.place = place
        self.levels, self.largest, self.measures = largest_level(bits), 0.0, True

    def __call__(self, x: Tensor) -> Tensor:
        """Measure `x` and return it, or return it rounded."""
        if self.measures:
            largest = float(x.detach().abs().amax())
            if not math.isfinite(largest):
                raise ArgumentError(
                    f"{self.place} is NaN or infinite for some calibration trials; expected finite activations: check"
                    " the biases and norms of the model, or load or fit it again"
                )
            self.largest = max(self.largest, largest)
            return x
        if probing.get():
            return x
        scale = self.largest / self.levels
        if scale == 0:  # all values were zero
            return x.clamp(0.0, 0.0)
        rounded = (x.detach() / scale).round().clamp(-self.levels, self.levels) * scale
        return straight_through(rounded, x.clamp(-self.largest, self.largest)) if x.requires_grad else rounded
