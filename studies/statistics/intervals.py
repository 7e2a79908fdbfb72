"""Confidence interval of the mean over few subjects."""

import numpy as np
import scipy
from jaxtyping import Float

FEWEST = 5
"""With fewer subjects no interval is given; reports show the change of each subject instead."""
NO_INTERVAL = (float("nan"), float("nan"))

_ALIKE = 1e-12


def mean_interval(
    values: Float[np.ndarray, " subject"], confidence: float = 0.95, bounds: tuple[float, float] = (-np.inf, np.inf)
) -> tuple[float, float]:
    """Compute Student's t interval of a mean (docs/statistics.md §5.5). For paired changes it is the paired interval.

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
    reach = scipy.special.stdtrit(n - 1, (1 + confidence) / 2) * values.std(ddof=1) / np.sqrt(n)
    low, high = np.clip([values.mean() - reach, values.mean() + reach], *bounds)
    return float(low), float(high)
