"""Tests, effect sizes and intervals on arrays: accuracies of subjects under conditions against a baseline.

The numbers behind `emg_lens.studies.statistics.comparison`, which knows about tables, families and corrections; here
are only arrays `[subject, condition]`. Accuracies are fractions of a few trials, so ties and zero
differences are the rule: exact distributions are conditional on the ties, and equal fractions are kept equal
by rounding.
"""

import itertools
from functools import lru_cache

import numpy as np
import scipy
from jaxtyping import Float

TESTS = ("mann_whitney", "wilcoxon", "sign_flip")

EXACT_MANN_WHITNEY = 8
"""Subjects up to which Mann-Whitney is exact; scipy's own limit, so that larger cohorts agree with it."""
EXACT_FLIPS = 16
"""Subjects up to which all sign vectors are tried: 65,536 of them."""
N_FLIPS = 100_000
"""Random sign vectors beyond that."""

_DECIMALS = 12
_TOLERANCE = 1e-9

Accuracies = Float[np.ndarray, "subject condition"]
PerCondition = Float[np.ndarray, " condition"]
PerSubject = Float[np.ndarray, " subject"]


def difference(masked: Accuracies, baseline: Accuracies) -> Accuracies:
    """Masked minus baseline, to 12 decimals: 33/34 - 32/34 and 2/34 - 1/34 are the same difference."""
    return np.round(masked - baseline, _DECIMALS)


def p_values(test: str, masked: Accuracies, baseline: Accuracies, seed: int = 0) -> PerCondition:
    """Raw two-sided p of each column of `masked` against that of `baseline`; 1 where nothing changed.

    Args:
        test: One of `TESTS`. `"mann_whitney"`: unpaired; exact up to 8 subjects, ties included, else the
            normal approximation with tie and continuity correction. `"wilcoxon"`: signed ranks of those
            who changed (scipy's zero method "wilcox"); exact up to 16 of them, ties included, else scipy's.
            `"sign_flip"`: permutation test of the mean difference; exact up to 16 subjects, else 100,000
            random flips.
        masked: Accuracy of each subject under each condition.
        baseline: Accuracy of the same subjects without a mask; one column will do.
        seed: Seed of the random flips.

    Raises:
        ValueError: An unknown test.
    """
    baseline = np.broadcast_to(baseline, masked.shape)
    if test == "mann_whitney":
        masked, baseline = np.round(masked, _DECIMALS), np.round(baseline, _DECIMALS)
        if len(masked) <= EXACT_MANN_WHITNEY:
            return _exact_mann_whitney(masked, baseline)
        return np.asarray(scipy.stats.mannwhitneyu(masked, baseline, axis=0, method="asymptotic")[1])
    if test == "wilcoxon":
        return np.array([_wilcoxon(d) for d in difference(masked, baseline).T])
    if test == "sign_flip":
        signs = _signs(len(masked)) if len(masked) <= EXACT_FLIPS else _random_signs(len(masked), seed)
        return np.array([_flip_p(d, signs) for d in difference(masked, baseline).T])
    raise ValueError(f"unknown test {test!r}; known: {', '.join(TESTS)}")


def u_statistic(masked: Accuracies, baseline: Accuracies) -> PerCondition:
    """Mann-Whitney's U of the condition: pairs (masked, baseline) with masked the higher; ties count half."""
    sign = np.sign(difference(masked[:, None], baseline[None, :]))
    return (sign + 1).sum(axis=(0, 1)) / 2


def paired_rank_biserial(change: Accuracies) -> PerCondition:
    """Matched-pairs rank-biserial, (T+ - T-) / (T+ + T-) over the subjects that changed; 0 where none did."""
    ranks = [_signed_ranks(d[d != 0]) for d in change.T]
    return np.array([r.sum() / np.abs(r).sum() if len(r) else 0.0 for r in ranks])


def bootstrap_interval(
    change: PerSubject, confidence: float = 0.95, n_resamples: int = 10_000, seed: int = 0
) -> tuple[float, float]:
    """BCa interval of the mean over resampled subjects; a seed gives every condition the same resamples.

    The point itself where all subjects changed alike (BCa is undefined there), NaN with a single subject.
    """
    if len(change) < 2:
        return np.nan, np.nan
    if np.ptp(change) == 0:
        return float(change[0]), float(change[0])
    options = {"n_resamples": n_resamples, "confidence_level": confidence, "rng": seed}
    low, high = scipy.stats.bootstrap((change,), np.mean, method="BCa", **options).confidence_interval
    return float(low), float(high)


def _exact_mann_whitney(masked: Accuracies, baseline: Accuracies) -> PerCondition:
    """Permutation distribution of the rank sum; symmetric even with ties, as both groups are of one size."""
    n = len(masked)
    ranks = scipy.stats.rankdata(np.concatenate([masked, baseline]), axis=0)
    chosen = np.array(list(itertools.combinations(range(2 * n), n)))
    expected = n * (2 * n + 1) / 2
    distance = np.abs(ranks[chosen].sum(axis=1) - expected)
    observed = np.abs(ranks[:n].sum(axis=0) - expected)
    return (distance >= observed - _TOLERANCE).mean(axis=0)


def _wilcoxon(change: PerSubject) -> float:
    changed = change[change != 0]
    if len(changed) > EXACT_FLIPS:
        return float(np.asarray(scipy.stats.wilcoxon(changed))[1])
    # The sign-flip test of the signed ranks is the exact signed-rank test, ties included.
    return _flip_p(_signed_ranks(changed), _signs(len(changed)))


def _signed_ranks(changed: PerSubject) -> PerSubject:
    return np.sign(changed) * scipy.stats.rankdata(np.abs(changed))


def _flip_p(values: PerSubject, signs: Float[np.ndarray, "flip subject"]) -> float:
    """Share of the sign vectors whose sum is at least as far from 0 as the observed one."""
    return float((np.abs(signs @ values) >= abs(values.sum()) - _TOLERANCE).mean())


@lru_cache(maxsize=4)
def _signs(n: int) -> Float[np.ndarray, "flip subject"]:
    """All 2ⁿ sign vectors."""
    return 1.0 - 2 * ((np.arange(2**n)[:, None] >> np.arange(n)) & 1)


@lru_cache(maxsize=2)
def _random_signs(n: int, seed: int) -> Float[np.ndarray, "flip subject"]:
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], size=(N_FLIPS, n))
    signs[0] = 1  # the observed signs are one of the possibilities: p is never 0
    return signs
