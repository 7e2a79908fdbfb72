"""Tests and effect sizes on arrays `[subject, condition]`: each condition compared with a baseline.

Accuracies are fractions of a few trials, so ties and zero differences are common. Exact distributions are conditional
on the ties, and rounding keeps equal fractions equal.
"""

from functools import lru_cache

import numpy as np
import scipy
from jaxtyping import Float

from emg_lens.studies.statistics.permutation import rank_sum_p, sign_flip_p, signed_rank_p

TESTS = ("mann_whitney", "wilcoxon", "sign_flip")

EXACT_MANN_WHITNEY = 40
"""Up to this many subjects Mann-Whitney is exact: the cohort of the IsoNet paper (§3). One p takes 25 ms for 40."""
EXACT_FLIPS = 32
"""Up to this many subjects the sign-flip test uses all sign vectors: one p takes 5 ms."""
N_FLIPS = 100_000
"""Number of random sign vectors for more subjects."""

_DECIMALS = 12
_TOLERANCE = 1e-9

Accuracies = Float[np.ndarray, "subject condition"]
PerCondition = Float[np.ndarray, " condition"]


def difference(masked: Accuracies, baseline: Accuracies) -> Accuracies:
    """Masked minus baseline, rounded to 12 decimals, so that 33/34 - 32/34 equals 2/34 - 1/34."""
    return np.round(masked - baseline, _DECIMALS)


def p_values(test: str, masked: Accuracies, baseline: Accuracies, seed: int = 0) -> PerCondition:
    """Compute the raw two-sided p of each column of `masked` against `baseline`; 1 if nothing changed.

    Args:
        test: One of `TESTS`. `"mann_whitney"`: unpaired; exact up to 40 subjects, ties included, else the
            normal approximation with tie and continuity correction. `"wilcoxon"`: signed ranks of the nonzero
            changes (scipy's zero method "wilcox"); exact, ties included. `"sign_flip"`: permutation test of the
            mean difference; exact up to 32 subjects, else 100,000 random flips.
        masked: Accuracy of each subject under each condition.
        baseline: Accuracy of the same subjects without a mask, in one column or one per condition.
        seed: Seed of the random flips.

    Raises:
        ValueError: An unknown test.
    """
    baseline = np.broadcast_to(baseline, masked.shape)
    if test == "mann_whitney":
        masked, baseline = np.round(masked, _DECIMALS), np.round(baseline, _DECIMALS)
        if len(masked) <= EXACT_MANN_WHITNEY:
            return np.array([rank_sum_p(*columns) for columns in zip(masked.T, baseline.T, strict=True)])
        return np.asarray(scipy.stats.mannwhitneyu(masked, baseline, axis=0, method="asymptotic")[1])
    changes = difference(masked, baseline).T
    if test == "wilcoxon":
        return np.array([signed_rank_p(change[change != 0]) for change in changes])
    if test == "sign_flip":
        if len(masked) <= EXACT_FLIPS:
            return np.array([sign_flip_p(change) for change in changes])
        signs = _random_signs(len(masked), seed)
        return np.array([(np.abs(signs @ d) >= abs(d.sum()) - _TOLERANCE).mean() for d in changes])
    raise ValueError(f"unknown test {test!r}; known: {', '.join(TESTS)}")


def u_statistic(masked: Accuracies, baseline: Accuracies) -> PerCondition:
    """Mann-Whitney's U of each condition: number of pairs (masked, baseline) with masked higher; ties count half."""
    sign = np.sign(difference(masked[:, None], baseline[None, :]))
    return (sign + 1).sum(axis=(0, 1)) / 2


def paired_rank_biserial(change: Accuracies) -> PerCondition:
    """Matched-pairs rank-biserial (T+ - T-) / (T+ + T-) over the subjects that changed; 0 if none changed."""
    changed = [d[d != 0] for d in change.T]
    ranks = [np.sign(d) * scipy.stats.rankdata(np.abs(d)) for d in changed]
    return np.array([r.sum() / np.abs(r).sum() if len(r) else 0.0 for r in ranks])


@lru_cache(maxsize=2)
def _random_signs(n: int, seed: int) -> Float[np.ndarray, "flip subject"]:
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], size=(N_FLIPS, n))
    signs[0] = 1  # include the observed signs, so that p is never 0
    return signs
