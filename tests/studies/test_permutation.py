"""Exact p values against scipy, and against every split and every sign written out."""

import itertools
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.descriptivestats import sign_test

from emg_lens.studies.statistics.permutation import rank_sum_p, sign_flip_p, signed_rank_p

ties = st.integers(1, 6).flatmap(lambda n: st.lists(st.tuples(*[st.integers(0, 4)] * 2), min_size=n, max_size=n))
changes = st.lists(st.integers(-6, 6), min_size=1, max_size=9)


def every_split_p(masked: np.ndarray, baseline: np.ndarray) -> float:
    """Mann-Whitney's p by its definition: U of every way to choose who is masked."""
    n, pooled = len(masked), np.concatenate([masked, baseline])

    def distance(chosen: tuple[int, ...]) -> float:
        mine, rest = pooled[list(chosen)], np.delete(pooled, chosen)
        return abs(np.sign(mine[:, None] - rest).sum())

    distances = [distance(chosen) for chosen in itertools.combinations(range(2 * n), n)]
    return float(np.mean(np.array(distances) >= distance(tuple(range(n)))))


def every_sign_p(values: np.ndarray) -> float:
    """Fraction of sign vectors with a sum at least as far from 0."""
    signs = np.array(list(itertools.product([-1, 1], repeat=len(values))))
    return float((np.abs(signs @ values) >= abs(values.sum()) - 1e-9).mean())


@pytest.mark.parametrize("n", [1, 2, 5, 9, 10, 15, 20])
def test_mann_whitney_is_scipys_exact_one_where_there_are_no_ties(n):
    """From nine subjects on it was the normal approximation."""
    rng = np.random.default_rng(n)
    for shift in (0, 0.3, 1, 3):
        masked, baseline = rng.normal(-shift, 1, n), rng.normal(0, 1, n)
        exact = stats.mannwhitneyu(masked, baseline, method="exact").pvalue
        assert rank_sum_p(masked, baseline) == pytest.approx(exact, rel=1e-12)


@settings(max_examples=60, deadline=None)
@given(ties)
def test_mann_whitney_with_ties_counts_every_split(pairs):
    masked, baseline = np.array(pairs, dtype=float).T / 4
    assert rank_sum_p(masked, baseline) == pytest.approx(every_split_p(masked, baseline), rel=1e-12)


def test_mann_whitney_with_ties_is_scipys_permutation_test():
    rng = np.random.default_rng(0)
    masked, baseline = rng.integers(0, 4, 9), rng.integers(1, 5, 9)
    every = stats.PermutationMethod(n_resamples=np.inf)
    expected = stats.mannwhitneyu(masked, baseline, method=every).pvalue
    assert rank_sum_p(masked, baseline) == pytest.approx(expected, rel=1e-12)


def test_mann_whitney_of_twenty_subjects_with_ties_agrees_with_random_splits():
    rng = np.random.default_rng(1)
    masked, baseline = rng.integers(0, 12, 20), rng.integers(2, 14, 20)
    pooled, n_splits = stats.rankdata(np.concatenate([masked, baseline])), 200_000
    sums = rng.permuted(np.tile(pooled, (n_splits, 1)), axis=1)[:, :20].sum(axis=1)
    centre = pooled.sum() / 2
    drawn = (np.abs(sums - centre) >= abs(pooled[:20].sum() - centre) - 1e-9).mean()
    exact = rank_sum_p(masked, baseline)
    assert 0.001 < exact < 0.2, "the example must not be trivial"
    assert exact == pytest.approx(drawn, abs=4 * np.sqrt(exact / n_splits))


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 20), st.data())
def test_mann_whitney_depends_on_order_alone_and_is_the_same_from_either_side(n, data):
    vectors = st.lists(st.integers(0, 9), min_size=n, max_size=n).map(np.array)
    masked, baseline = data.draw(vectors), data.draw(vectors)
    p = rank_sum_p(masked, baseline)
    assert 0 < p <= 1
    assert p == pytest.approx(rank_sum_p(baseline, masked), rel=1e-12)
    assert p == rank_sum_p(np.exp(masked[::-1].astype(float)), np.exp(baseline.astype(float)))
    assert rank_sum_p(masked, masked[::-1]) == 1


@settings(max_examples=60, deadline=None)
@given(changes)
def test_wilcoxon_counts_every_sign_of_the_ranks(some):
    changed = np.array([c for c in some if c] or [2], dtype=float)
    ranks = np.sign(changed) * stats.rankdata(np.abs(changed))
    assert signed_rank_p(changed) == pytest.approx(every_sign_p(ranks), rel=1e-12)


@pytest.mark.parametrize("n", [1, 6, 12, 17, 20, 50])
def test_wilcoxon_is_scipys_exact_one_where_there_are_no_ties(n):
    changed = np.random.default_rng(n).normal(0.3, 1, n)
    assert signed_rank_p(changed) == pytest.approx(stats.wilcoxon(changed, method="exact").pvalue, rel=1e-9)


@settings(max_examples=60, deadline=None)
@given(changes, st.sampled_from([1.0, 1 / 34, 0.1]))
def test_a_sign_flip_counts_every_sign(some, unit):
    change = np.round(unit * np.array(some, dtype=float), 12)
    assert sign_flip_p(change) == pytest.approx(every_sign_p(change), rel=1e-12)


def test_a_sign_flip_of_seventeen_subjects_counts_every_sign():
    """From here on it drew random ones."""
    change = np.round(np.random.default_rng(2).integers(-5, 8, 17) / 34, 12)
    assert sign_flip_p(change) == every_sign_p(change)


@pytest.mark.parametrize(("n", "n_up"), [(7, 1), (12, 6), (20, 17), (31, 10)])
def test_equal_absolute_changes_give_the_sign_test(n, n_up):
    change = np.where(np.arange(n) < n_up, 1.0, -1.0) / 34
    assert sign_flip_p(change) == pytest.approx(sign_test(change)[1], rel=1e-9)
    assert signed_rank_p(change) == pytest.approx(sign_test(change)[1], rel=1e-9)


def test_nobody_who_changed_is_no_evidence():
    assert signed_rank_p(np.array([])) == 1
    assert sign_flip_p(np.zeros(5)) == 1


def test_twenty_subjects_take_milliseconds():
    rng = np.random.default_rng(3)
    cohorts = rng.integers(0, 34, (50, 2, 20)).astype(float)  # ties of another pattern each
    started = time.process_time()
    for masked, baseline in cohorts:
        rank_sum_p(masked, baseline)
        signed_rank_p(masked - baseline)
        sign_flip_p(masked - baseline)
    assert (time.process_time() - started) / len(cohorts) < 0.05
