"""Softmax in whole numbers, as on microcontrollers without fast floating-point exponentials."""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Literal

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor

from emg_lens.analysis.quantisation.grids import straight_through
from emg_lens.validation import check_fields

STEPS = 255
"""The attention 1 in whole numbers."""
PER_UNIT = 16
"""Steps of a whole-number score in one unit of the score."""
LOWEST = -128
"""The smallest whole-number score; the largest in a row is 0."""
FRACTION_BITS = 24
"""The exponential 1 in whole numbers is 2 to the power of this."""


@dataclass(frozen=True)
class IntegerSoftmax:
    """Softmax over the last axis in whole numbers; attention is a multiple of 1/255 (docs/deployment.md §3).

    With the scores s of a row: x = round(16 (s - max s)), not below -128; e = round(2²⁴ exp(sharpness x / 16)) from a
    table; attention = 255 e / Σe, rounded, / 255. An edge with score -inf (a cut edge) has e = 0.

    Attributes:
        sharpness: Factor on the scores. With 16, the value of the published GAP9 code, the result approximates
            softmax(16 s); with 1 it approximates softmax(s).
        rounding: `"floor"`: 255 e / Σe rounded down, as in that code's Python. `"reciprocal"`: e times the whole number
            floor(255 · 2²⁴ / Σe), rounded to the nearest step, as in its C kernel. With both, a row with more than 255
            equal scores is all zero.

    Example:
        >>> import torch
        >>> from emg_lens.analysis import IntegerSoftmax
        >>> scores = torch.tensor([0.5, 0.25, 0.25, -torch.inf])
        >>> (255 * IntegerSoftmax()(scores)).tolist()
        [245.0, 4.0, 4.0, 0.0]
        >>> (255 * IntegerSoftmax(sharpness=1)(scores)).tolist()
        [99.0, 77.0, 77.0, 0.0]
        >>> IntegerSoftmax()(torch.zeros(256)).sum().item()
        0.0
    """

    sharpness: Annotated[float, Field(gt=0, le=PER_UNIT)] = PER_UNIT
    rounding: Literal["floor", "reciprocal"] = "floor"

    def __post_init__(self) -> None:
        check_fields(self)

    def __call__(self, scores: Float[Tensor, "*rows src"]) -> Float[Tensor, "*rows src"]:
        """Compute attention; the gradient is the gradient of softmax(sharpness · s)."""
        attention = self.levels(scores.detach()).to(scores.dtype) / STEPS
        if not scores.requires_grad:
            return attention
        smooth = (self.sharpness * scores).softmax(-1)
        return straight_through(attention, torch.where(smooth.isnan(), 0.0, smooth))

    def levels(self, scores: Float[Tensor, "*rows src"]) -> Int[Tensor, "*rows src"]:
        """Compute attention as whole numbers from 0 to 255."""
        below = PER_UNIT * (scores - scores.amax(-1, keepdim=True))
        x = below.nan_to_num(nan=LOWEST, neginf=LOWEST).round().clamp(LOWEST, 0).long()  # NaN: every score is -inf
        exponential = torch.tensor(_table(self.sharpness), device=scores.device)[x - LOWEST].where(
            scores > -torch.inf, 0
        )
        total = exponential.sum(-1, keepdim=True).clamp(min=1)
        if self.rounding == "floor":
            return STEPS * exponential // total
        one = 1 << FRACTION_BITS
        return (exponential * (STEPS * one // total) + one // 2) >> FRACTION_BITS


@lru_cache
def _table(sharpness: float) -> tuple[int, ...]:
    """Return the exponentials of the scores from -128 to 0. No tensor: one made during an export is unusable later."""
    return tuple(round(math.exp(sharpness * score / PER_UNIT) * 2**FRACTION_BITS) for score in range(LOWEST, 1))
