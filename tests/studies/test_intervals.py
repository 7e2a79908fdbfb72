"""Intervals of a mean over few subjects: what they cover, and what they are."""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from emg_lens.studies.statistics.intervals import FEWEST, mean_interval

values = st.lists(st.integers(-12, 12), min_size=FEWEST, max_size=12).filter(lambda v: len(set(v)) > 1)
N_COHORTS = 3000


def covered(cohorts: np.ndarray, mean: float) -> float:
    """Fraction of cohorts (rows) with an interval that contains the mean."""
    ends = np.array([mean_interval(cohort) for cohort in cohorts])
    return float(((ends[:, 0] <= mean) & (mean <= ends[:, 1])).mean())


@pytest.mark.parametrize("n", [5, 8, 10])
def test_normal_changes_are_covered_as_promised(n):
    """The bootstrap's BCa interval covered .83, .89, .90 of them."""
    normal = np.random.default_rng(n).normal(-0.1, 0.05, (N_COHORTS, n))
    assert covered(normal, -0.1) >= 0.93


@pytest.mark.parametrize(("n", "least"), [(5, 0.90), (8, 0.92), (10, 0.925)])
def test_skewed_changes_are_covered_better_than_by_students_interval(n, least):
    skewed = -np.random.default_rng(n).exponential(0.1, (N_COHORTS, n))
    reach = stats.t.ppf(0.975, n - 1) * skewed.std(axis=1, ddof=1) / np.sqrt(n)
    student = (np.abs(skewed.mean(axis=1) + 0.1) <= reach).mean()
    assert covered(skewed, -0.1) >= max(least, student + 0.02)


def test_below_five_subjects_there_is_none():
    """Two to four got one that covered .52 to .8."""
    for n in range(1, FEWEST):
        assert np.isnan(mean_interval(np.arange(n) / 10)).all()
    assert np.isfinite(mean_interval(np.arange(FEWEST) / 10)).all()


def test_equal_values_have_no_interval():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.isnan(mean_interval(np.zeros(8))).all()
        assert np.isnan(mean_interval(np.full(8, 0.1 + 0.2))).all()
        assert np.isnan(mean_interval(np.array([0.3, 0.1 + 0.2, 0.3, 0.3, 0.3]))).all(), "alike but for rounding"


@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.95, 0.99])
def test_without_skewness_it_is_students(confidence):
    symmetric = np.array([-3.0, -1, -0.5, 0.5, 1, 3]) + 7
    expected = stats.ttest_1samp(symmetric, 0).confidence_interval(confidence)
    assert mean_interval(symmetric, confidence) == pytest.approx((expected.low, expected.high), rel=1e-12)


def test_its_ends_are_where_halls_transformation_meets_students_quantiles():
    changes = -np.random.default_rng(4).exponential(0.1, 9)
    n, mean, sd, skewness = 9, changes.mean(), changes.std(ddof=1), stats.skew(changes)

    def transformed(mu: float) -> float:
        q = (mean - mu) / sd
        return np.sqrt(n) * (q + skewness * q**2 / 3 + skewness**2 * q**3 / 27 + skewness / (6 * n))

    low, high = mean_interval(changes)
    assert transformed(low) == pytest.approx(stats.t.ppf(0.975, n - 1))
    assert transformed(high) == pytest.approx(stats.t.ppf(0.025, n - 1))
    assert mean - low > high - mean, "the tail is below"


@settings(max_examples=100, deadline=None)
@given(values, st.floats(-5, 5), st.floats(0.1, 10))
def test_it_holds_the_mean_and_moves_and_scales_with_the_values(some, shift, scale):
    changes = np.array(some, dtype=float)
    low, high = mean_interval(changes)
    assert low < changes.mean() < high
    assert mean_interval(scale * changes + shift) == pytest.approx((scale * low + shift, scale * high + shift))
    assert mean_interval(-changes) == pytest.approx((-high, -low))
    assert mean_interval(changes, 0.99)[0] < low and mean_interval(changes, 0.99)[1] > high
    assert mean_interval(changes, bounds=(low + 0.01, high)) == (low + 0.01, high)
