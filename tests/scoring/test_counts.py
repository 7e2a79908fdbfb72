"""Counts are additive: one table gives the pooled value, the value of each subject and every bootstrap resample."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from emg_lens.scoring import METRICS, Metric, measure
from emg_lens.scoring.metric_registry import MetricError, repetition_weights

BUILT_IN = [
    "accuracy", "repetition_accuracy", "balanced_accuracy", "macro_f1", "log_prob", "mae", "rmse", "r2", "pearson",
    "reconstruction_error",
]  # fmt: skip


@st.composite
def trials(draw):
    """Outputs and targets of both kinds, the repetition of each trial, and its subject."""
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    n, n_classes, n_targets = draw(st.integers(4, 50)), draw(st.integers(2, 6)), draw(st.integers(1, 3))
    repetition_id = rng.integers(0, draw(st.integers(1, 12)), n)
    y = repetition_id % n_classes
    values = rng.normal(3, 2, (n, n_targets)).astype(np.float32)
    given = {
        "classes": (rng.normal(0, 3, (n, n_classes)).astype(np.float32), y),
        "values": (values + rng.normal(0, 1, values.shape).astype(np.float32), values),
    }
    return given, repetition_id, repetition_id % 3, rng


def counts_of(name, data, repetition_id):
    weights = repetition_weights(len(repetition_id), repetition_id)
    return METRICS[name].counts(*data[METRICS[name].kind], repetition_id, weights)


@pytest.mark.parametrize("name", BUILT_IN)
@given(drawn=trials())
def test_the_value_of_all_counts_is_what_measure_gives(name, drawn):
    data, repetition_id, _, _ = drawn
    counts = counts_of(name, data, repetition_id)
    assert counts.shape[0] == len(repetition_id) and counts.dtype == np.float64
    expected = measure([name], *data[METRICS[name].kind], repetition_id)[name]
    assert float(METRICS[name].value(counts.sum(0))) == pytest.approx(expected, rel=1e-12, nan_ok=True)


@pytest.mark.parametrize("name", BUILT_IN)
@given(drawn=trials())
def test_counts_of_a_union_are_the_sum_of_the_counts(name, drawn):
    data, repetition_id, subject, _ = drawn
    outputs, targets = data[METRICS[name].kind]
    weights = repetition_weights(len(repetition_id), repetition_id)
    parts = []
    for one in np.unique(subject):
        own = subject == one
        parts.append(METRICS[name].counts(outputs[own], targets[own], repetition_id[own], weights[own]).sum(0))
    np.testing.assert_allclose(np.sum(parts, axis=0), counts_of(name, data, repetition_id).sum(0), rtol=1e-12)


@pytest.mark.parametrize("name", BUILT_IN)
@given(drawn=trials())
def test_the_value_of_each_subject_comes_from_the_same_table(name, drawn):
    data, repetition_id, subject, _ = drawn
    outputs, targets = data[METRICS[name].kind]
    counts, subjects = counts_of(name, data, repetition_id), np.unique(subject)
    sums = np.stack([counts[subject == one].sum(0) for one in subjects])
    expected = [
        measure([name], outputs[subject == one], targets[subject == one], repetition_id[subject == one])[name]
        for one in subjects
    ]
    np.testing.assert_allclose(METRICS[name].value(sums), expected, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("name", BUILT_IN)
@given(drawn=trials())
def test_a_bootstrap_from_the_table_equals_resampled_trials(name, drawn):
    data, repetition_id, _, rng = drawn
    outputs, targets = data[METRICS[name].kind]
    counts, repetitions = counts_of(name, data, repetition_id), np.unique(repetition_id)
    sums = np.stack([counts[repetition_id == one].sum(0) for one in repetitions])
    resamples = rng.integers(0, len(repetitions), (5, len(repetitions)))
    from_table = METRICS[name].value(sums[resamples].sum(1))
    expected = []
    for resample in resamples:
        rows = [np.flatnonzero(repetition_id == repetitions[one]) for one in resample]
        copies = np.repeat(np.arange(len(rows)), [len(row) for row in rows])  # a repetition drawn twice counts twice
        chosen = np.concatenate(rows)
        expected.append(measure([name], outputs[chosen], targets[chosen], copies)[name])
    np.testing.assert_allclose(from_table, expected, rtol=1e-8, atol=1e-8)


def test_values_far_from_zero_lose_digits_and_constant_ones_are_nan():
    rng = np.random.default_rng(0)
    wide = rng.normal(0, 1, (500, 2))
    near, far = wide + 1000, wide + 1e8
    noise = rng.normal(0, 0.5, wide.shape)
    for name in ("r2", "pearson"):
        expected = measure([name], wide + noise, wide)[name]
        assert measure([name], near + noise, near)[name] == pytest.approx(expected, abs=1e-8)
        assert np.isnan(measure([name], far + noise, far)[name])  # 1 in 100,000,000 is constant in 32 bits


LOGITS, Y = np.array([[3.0, 2.0], [1.0, 2.0], [2.0, 1.0]]), np.array([0, 1, 1])


@pytest.mark.parametrize(
    "returned", [0.5, [1.0, 0.0, 1.0], None, np.float64(1), np.ones(2), np.ones((2, 3)), np.array(["a"] * 3)]
)
def test_a_function_that_gives_no_score_per_trial_is_refused_by_name(returned):
    metric = Metric("mine", lambda logits, y: returned, kind="classes")
    with pytest.raises(MetricError, match="the function of the metric 'mine' returned .* for 3 trials; expected an"):
        metric.counts(LOGITS, Y)


@pytest.mark.parametrize("weights", [-np.ones(3), np.full(3, np.nan)])
def test_weights_that_are_none_are_refused(weights):
    with pytest.raises(MetricError, match="weights are .*; expected one number of 0 or more for each trial"):
        METRICS["accuracy"].counts(LOGITS, Y, weights=weights)


@pytest.mark.parametrize("field", [{"kind": "class"}, {"better": "upward"}, {"repetitions": "pool"}])
def test_a_field_of_a_metric_with_an_unknown_value_is_refused(field):
    with pytest.raises(MetricError, match=f"{next(iter(field))}='.*' of metric 'mine'; expected '"):
        Metric("mine", lambda logits, y: y, **{"kind": "classes"} | field)
