"""The interval of a mean over few subjects, whose values may be skewed and tied."""

import numpy as np
import scipy
from jaxtyping import Float

FEWEST = 5
"""Subjects below which no interval is given: three or four tell next to nothing of how skewed their values are."""
NO_INTERVAL = (float("nan"), float("nan"))

_ALIKE = 1e-12


def mean_interval(
    values: Float[np.ndarray, " subject"], confidence: float = 0.95, bounds: tuple[float, float] = (-np.inf, np.inf)
) -> tuple[float, float]:
    """Interval of the mean, corrected for skewness by Hall's transformation of Student's t (docs/statistics.md §5.5).

    Hall (1992, J. R. Stat. Soc. B 54, 221) maps the studentised mean by a monotone cubic after which its skewness is
    gone to first order. Student's quantiles, mapped back, make an interval that is Student's own for values without
    skewness, and longer on the side of the tail for others. Nothing is drawn at random.

    Args:
        values: One a subject.
        confidence: How often the interval should cover the mean.
        bounds: What the mean cannot leave; the interval ends there.

    Returns:
        Lower and upper end; NaN for fewer than five subjects, and where all values are alike and do not tell how much
        others would differ.
    """
    n = len(values)
    if n < FEWEST or np.allclose(values, values[0], rtol=_ALIKE, atol=0):
        return NO_INTERVAL
    mean, deviation = values.mean(), values - values.mean()
    skewness = (deviation**3).mean() / (deviation**2).mean() ** 1.5
    reach = scipy.special.stdtrit(n - 1, (1 + confidence) / 2) / np.sqrt(n)
    ends = mean - values.std(ddof=1) * _before_transformation(np.array([reach, -reach]), skewness, n)
    low, high = np.clip(ends, *bounds)
    return float(low), float(high)


def _before_transformation(y: Float[np.ndarray, " end"], skewness: float, n: int) -> Float[np.ndarray, " end"]:
    """The q = (mean − μ) / s that Hall's q + γ q² / 3 + γ² q³ / 27 + γ / 6n takes to y."""
    shifted = y - skewness / (6 * n)
    root = np.cbrt(1 + skewness * shifted)
    return 3 * shifted / (root**2 + root + 1)  # 3 (root − 1) / γ, which needs no γ other than 0
