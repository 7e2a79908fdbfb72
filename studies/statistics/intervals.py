"""Confidence interval of the mean of few, skewed or tied values."""

import numpy as np
import scipy
from jaxtyping import Float

FEWEST = 5
"""With fewer subjects no interval is given: three or four values cannot show how skewed they are."""
NO_INTERVAL = (float("nan"), float("nan"))

_ALIKE = 1e-12


def mean_interval(
    values: Float[np.ndarray, " subject"], confidence: float = 0.95, bounds: tuple[float, float] = (-np.inf, np.inf)
) -> tuple[float, float]:
    """Compute the confidence interval of a mean, corrected for skewness (docs/statistics.md §5.5).

    Hall (1992, J. R. Stat. Soc. B 54, 221) transforms the studentised mean by a monotone cubic that removes skewness
    to first order. Mapping Student's quantiles back gives the interval. Without skewness it is Student's interval; with
    skewness it is longer on the side of the tail. The computation uses no random numbers.

    Args:
        values: One value per subject.
        confidence: Nominal coverage.
        bounds: Smallest and largest possible mean; the interval is clipped to them.

    Returns:
        Lower and upper end; NaN for fewer than five subjects, or if all values are equal.
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
    """Invert Hall's transformation y = q + γ q² / 3 + γ² q³ / 27 + γ / 6n of q = (mean − μ) / s."""
    shifted = y - skewness / (6 * n)
    root = np.cbrt(1 + skewness * shifted)
    return 3 * shifted / (root**2 + root + 1)  # equals 3 (root − 1) / γ, and is also defined for γ = 0
