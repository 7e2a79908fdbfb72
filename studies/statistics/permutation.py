"""Exact p values of rank and sign-flip tests, ties included.

The p values assume nothing about the distribution of the values. Rank sums are counted over all splits at once (shift
algorithm, Streitberg and Röhmel 1986). Sums over all signs are combined from two halves of the subjects.
"""

from functools import lru_cache

import numpy as np
import scipy
from jaxtyping import Float, Int

_TOLERANCE = 1e-9
"""Sums of changes that differ by less count as equal: changes are rounded to 12 decimals."""


def rank_sum_p(masked: Float[np.ndarray, " subject"], baseline: Float[np.ndarray, " subject"]) -> float:
    """Two-sided p of Mann-Whitney's test: the fraction of all splits with a rank sum at least as far from its mean.

    The distribution for two groups of equal size is symmetric, also with ties.
    """
    doubled = _doubled(scipy.stats.rankdata(np.concatenate([masked, baseline])))
    return _beyond(_rank_sum_counts(tuple(sorted(doubled.tolist()))), int(doubled[: len(masked)].sum()))


def signed_rank_p(changed: Float[np.ndarray, " changed"]) -> float:
    """Two-sided p of Wilcoxon's test: the fraction of all sign vectors with a rank sum at least as far from its mean.

    Args:
        changed: Nonzero changes, one per subject; p is 1 without any.
    """
    doubled = _doubled(scipy.stats.rankdata(np.abs(changed)))
    return _beyond(_signed_rank_fractions(tuple(sorted(doubled.tolist()))), int(doubled[changed > 0].sum()))


def sign_flip_p(change: Float[np.ndarray, " subject"]) -> float:
    """Two-sided p of the sign-flip test: the fraction of all 2ⁿ sign vectors with a sum at least as far from 0."""
    distance, half = abs(float(change.sum())) - _TOLERANCE, len(change) // 2
    if distance <= 0:
        return 1.0
    first, second = np.sort(_signed_sums(change[:half])), np.sort(_signed_sums(change[half:]))
    beyond = len(first) - np.searchsorted(first, distance - second)
    return float(2 * beyond.sum() / 2 ** len(change))


def _doubled(ranks: Float[np.ndarray, " value"]) -> Int[np.ndarray, " value"]:
    """Twice the ranks, which are integers even with ties."""
    return np.rint(2 * ranks).astype(np.int64)


def _beyond(count: Float[np.ndarray, " sum"], observed: int) -> float:
    """Fraction of a symmetric distribution over 0, 1, ... that is at least as far from its middle as `observed`."""
    distance = np.abs(2 * np.arange(len(count)) - (len(count) - 1))
    return float(count[distance >= distance[observed]].sum() / count.sum())


@lru_cache(maxsize=32)
def _rank_sum_counts(doubled: tuple[int, ...]) -> Float[np.ndarray, " sum"]:
    """Number of half-size subsets of these doubled ranks with each sum, from 0 to the total."""
    n = len(doubled) // 2
    count = np.zeros((n + 1, sum(doubled) + 1))  # number of subsets by size and sum
    count[0, 0] = 1
    for taken, rank in enumerate(doubled):
        size = slice(max(0, n - len(doubled) + taken), min(taken, n - 1) + 1)  # smaller subsets cannot reach size n
        bigger = slice(size.start + 1, size.stop + 1)
        count[bigger, rank:] += count[size, :-rank]
    return count[n]


@lru_cache(maxsize=32)
def _signed_rank_fractions(doubled: tuple[int, ...]) -> Float[np.ndarray, " sum"]:
    """Fraction of sign vectors for which the positive doubled ranks have each sum, from 0 to the total."""
    fraction = np.zeros(sum(doubled) + 1)
    fraction[0] = 1
    for rank in doubled:
        fraction[rank:] += fraction[:-rank].copy()
        fraction /= 2
    return fraction


def _signed_sums(values: Float[np.ndarray, " value"]) -> Float[np.ndarray, " signs"]:
    """Sums of the values over all sign vectors."""
    sums = np.zeros(1)
    for value in values:
        sums = np.concatenate([sums - value, sums + value])
    return sums
