"""Exact p values: what the ranks, or the changes, of these very subjects give over all ways to deal them out.

Nothing is assumed of their distribution, and ties are part of it. Rank sums are counted over all splits at once (the
shift algorithm, Streitberg and Röhmel 1986), sums over signs from two halves of the subjects, then put together.
"""

from functools import lru_cache

import numpy as np
import scipy
from jaxtyping import Float, Int

_TOLERANCE = 1e-9
"""Two sums of changes that differ by less are equal: changes are kept to 12 decimals."""


def rank_sum_p(masked: Float[np.ndarray, " subject"], baseline: Float[np.ndarray, " subject"]) -> float:
    """Mann-Whitney's two-sided p: the share of all splits whose rank sum is at least as far from its mean.

    Two groups of one size have a symmetric distribution, with ties too, so that both tails are of one size.
    """
    doubled = _doubled(scipy.stats.rankdata(np.concatenate([masked, baseline])))
    return _beyond(_rank_sum_counts(tuple(sorted(doubled.tolist()))), int(doubled[: len(masked)].sum()))


def signed_rank_p(changed: Float[np.ndarray, " changed"]) -> float:
    """Wilcoxon's two-sided p: the share of all signs whose positive ranks sum up at least as far from the mean.

    Args:
        changed: Changes of the subjects who changed; 1 where there is none.
    """
    doubled = _doubled(scipy.stats.rankdata(np.abs(changed)))
    return _beyond(_signed_rank_shares(tuple(sorted(doubled.tolist()))), int(doubled[changed > 0].sum()))


def sign_flip_p(change: Float[np.ndarray, " subject"]) -> float:
    """The share of all 2ⁿ sign vectors whose sum of changes is at least as far from 0."""
    distance, half = abs(float(change.sum())) - _TOLERANCE, len(change) // 2
    if distance <= 0:
        return 1.0
    first, second = np.sort(_signed_sums(change[:half])), np.sort(_signed_sums(change[half:]))
    beyond = len(first) - np.searchsorted(first, distance - second)
    return float(2 * beyond.sum() / 2 ** len(change))


def _doubled(ranks: Float[np.ndarray, " value"]) -> Int[np.ndarray, " value"]:
    """Twice the ranks: whole numbers, where ties give halves."""
    return np.rint(2 * ranks).astype(np.int64)


def _beyond(count: Float[np.ndarray, " sum"], observed: int) -> float:
    """The share of sums at least as far from the middle as the observed, of a symmetric distribution over 0, 1, ..."""
    distance = np.abs(2 * np.arange(len(count)) - (len(count) - 1))
    return float(count[distance >= distance[observed]].sum() / count.sum())


@lru_cache(maxsize=32)
def _rank_sum_counts(doubled: tuple[int, ...]) -> Float[np.ndarray, " sum"]:
    """How many halves of these doubled ranks have each sum, from 0 to that of all."""
    n = len(doubled) // 2
    count = np.zeros((n + 1, sum(doubled) + 1))  # of the subsets of each size, by their sum
    count[0, 0] = 1
    for taken, rank in enumerate(doubled):
        size = slice(max(0, n - len(doubled) + taken), min(taken, n - 1) + 1)  # smaller ones cannot grow to n any more
        bigger = slice(size.start + 1, size.stop + 1)
        count[bigger, rank:] += count[size, :-rank]
    return count[n]


@lru_cache(maxsize=32)
def _signed_rank_shares(doubled: tuple[int, ...]) -> Float[np.ndarray, " sum"]:
    """How often the positive ones of these doubled ranks have each sum, from 0 to that of all."""
    share = np.zeros(sum(doubled) + 1)
    share[0] = 1
    for rank in doubled:
        share[rank:] += share[:-rank].copy()
        share /= 2
    return share


def _signed_sums(values: Float[np.ndarray, " value"]) -> Float[np.ndarray, " signs"]:
    """The sums of the values under all their signs."""
    sums = np.zeros(1)
    for value in values:
        sums = np.concatenate([sums - value, sums + value])
    return sums
