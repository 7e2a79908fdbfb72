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
    assert covered(normal, -0.1) == pytest.approx(0.95, abs=0.012)


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
def test_it_is_the_interval_of_the_t_test(confidence):
    skewed = -np.random.default_rng(4).exponential(0.1, 9)
    expected = stats.ttest_1samp(skewed, 0).confidence_interval(confidence)
    assert mean_interval(skewed, confidence) == pytest.approx((expected.low, expected.high), rel=1e-12)


def test_one_subject_that_gets_better_does_not_make_an_improvement_possible():
    """Hall's correction for skewness gave −14.8 [−21.1, 19.8] for such a cohort."""
    low, high = mean_interval(np.array([-18.0, -17.5, -18.2, -17.9, -2.4]))
    assert low < -14.8 < high < 0


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
