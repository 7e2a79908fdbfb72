"""Corrections for multiple tests, and significance stars."""

import numpy as np
import scipy
from jaxtyping import Float

CORRECTIONS = ("bonferroni", "holm", "fdr_bh")
STARS = ((0.0001, "****"), (0.001, "***"), (0.01, "**"), (0.05, "*"))
"""Thresholds of the corrected p, IsoNet paper §2.4."""
NOT_TESTED = "–"


def adjust(p: Float[np.ndarray, " test"], correction: str) -> Float[np.ndarray, " test"]:
    """Correct the p values of one family, capped at 1; NaN (not tested) stays NaN and is not counted.

    Args:
        p: Raw two-sided p value of every test.
        correction: `"bonferroni"`; `"holm"` (Holm 1979); `"fdr_bh"` (Benjamini and Hochberg 1995).

    Raises:
        ValueError: Unknown correction.
    """
    p = np.asarray(p, dtype=float)
    tested = ~np.isnan(p)
    corrected, raw = np.full(p.shape, np.nan), p[tested]
    if not len(raw):
        return corrected
    match correction:
        case "bonferroni":
            result = raw * len(raw)
        case "holm":
            order = np.argsort(raw)
            result = np.empty_like(raw)
            result[order] = np.maximum.accumulate(raw[order] * np.arange(len(raw), 0, -1))
        case "fdr_bh":
            result = scipy.stats.false_discovery_control(raw)
        case _:
            raise ValueError(f"unknown correction {correction!r}; known: {', '.join(CORRECTIONS)}")
    corrected[tested] = np.minimum(result, 1.0)
    return corrected


def stars(p: float) -> str:
    """Significance stars of a corrected p (IsoNet paper §2.4), `"ns"`, or `"–"` for NaN (not tested)."""
    if np.isnan(p):
        return NOT_TESTED
    return next((symbol for threshold, symbol in STARS if p < threshold), "ns")
