"""Metrics equal those of scikit-learn and scipy. Undefined values are NaN; invalid input gives a one-line error."""

import math

import numpy as np
import pytest
import scipy.special
import scipy.stats
import sklearn.metrics as reference
from hypothesis import given
from hypothesis import strategies as st

from emg_lens.errors import EmgLensError
from emg_lens.registry import UnknownNameError
from emg_lens.scoring import METRICS, Metric, MetricError, chances, measure

CLASSIFICATION = ("accuracy", "repetition_accuracy", "balanced_accuracy", "macro_f1", "log_prob")
REGRESSION = ("mae", "rmse", "r2", "pearson")


@given(n=st.integers(1, 60), n_classes=st.integers(2, 6), seed=st.integers(0, 10_000))
@pytest.mark.filterwarnings("ignore::UserWarning")  # scikit-learn's, about classes that only the predictions have
def test_classification_metrics_equal_scikit_learn(n, n_classes, seed):
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 5, (n, n_classes)).astype(np.float32)
    y = rng.integers(0, rng.integers(1, n_classes + 1), n)  # often without the last classes
    predicted = logits.argmax(1)
    scores = measure(CLASSIFICATION, logits, y)
    assert scores["accuracy"] == pytest.approx(reference.accuracy_score(y, predicted))
    assert scores["balanced_accuracy"] == pytest.approx(reference.balanced_accuracy_score(y, predicted))
    assert scores["macro_f1"] == pytest.approx(reference.f1_score(y, predicted, average="macro", zero_division=0))
    log_p = scipy.special.log_softmax(logits.astype(float), axis=1)
    assert scores["log_prob"] == pytest.approx(log_p[np.arange(n), y].mean())
    assert scores["log_prob"] == pytest.approx(-reference.log_loss(y, np.exp(log_p), labels=range(n_classes)), rel=1e-4)


@given(n=st.integers(2, 60), n_targets=st.integers(1, 4), seed=st.integers(0, 10_000))
def test_regression_metrics_equal_scikit_learn_and_scipy(n, n_targets, seed):
    rng = np.random.default_rng(seed)
    targets = rng.normal(3, 2, (n, n_targets)).astype(np.float32)
    outputs = (targets + rng.normal(0, 1, (n, n_targets))).astype(np.float32)
    scores = measure(REGRESSION, outputs, targets)
    wide = outputs.astype(float), targets.astype(float)
    assert scores["mae"] == pytest.approx(reference.mean_absolute_error(wide[1], wide[0]))
    assert scores["rmse"] == pytest.approx(reference.root_mean_squared_error(wide[1], wide[0]))
    assert scores["r2"] == pytest.approx(reference.r2_score(wide[1], wide[0]))
    each = [scipy.stats.pearsonr(wide[0][:, t], wide[1][:, t]).statistic for t in range(n_targets)]
    assert scores["pearson"] == pytest.approx(np.mean(each), abs=1e-9)


def test_reconstruction_error_is_the_mean_square_over_all_values():
    rng = np.random.default_rng(0)
    signal, reconstruction = rng.normal(size=(2, 5, 3, 7))
    error = reference.mean_squared_error(signal.ravel(), reconstruction.ravel())
    assert measure(["reconstruction_error"], reconstruction, signal)["reconstruction_error"] == pytest.approx(error)


@given(n=st.integers(1, 60), n_repetitions=st.integers(1, 20), seed=st.integers(0, 10_000))
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_each_repetition_has_the_same_weight_however_many_windows_it_has(n, n_repetitions, seed):
    rng = np.random.default_rng(seed)
    repetition_id = rng.integers(0, n_repetitions, n)
    y = (repetition_id % 3).astype(int)
    logits = rng.normal(0, 5, (n, 3)).astype(np.float32)
    predicted, counts = logits.argmax(1), np.bincount(repetition_id)
    weights = 1 / counts[repetition_id]
    scores = measure(CLASSIFICATION, logits, y, repetition_id)
    assert scores["accuracy"] == pytest.approx(reference.accuracy_score(y, predicted, sample_weight=weights))
    assert scores["balanced_accuracy"] == pytest.approx(
        reference.balanced_accuracy_score(y, predicted, sample_weight=weights)
    )
    f1 = reference.f1_score(y, predicted, average="macro", zero_division=0, sample_weight=weights)
    assert scores["macro_f1"] == pytest.approx(f1)
    log_p = scipy.special.log_softmax(logits.astype(float), axis=1)
    assert scores["log_prob"] == pytest.approx(np.average(log_p[np.arange(n), y], weights=weights))
    pooled = np.stack([log_p[repetition_id == m].mean(0) for m in np.unique(repetition_id)])
    right = pooled.argmax(1) == np.unique(repetition_id) % 3
    assert measure(["repetition_accuracy"], logits, y, repetition_id)["repetition_accuracy"] == pytest.approx(
        right.mean()
    )


def test_chance_levels_follow_from_the_class_frequencies():
    y, repetition_id = np.array([0, 0, 0, 0, 2, 2]), np.array([7, 7, 7, 8, 9, 10])
    levels = chances(["accuracy", "repetition_accuracy", "balanced_accuracy", "macro_f1"], y, 5, repetition_id)
    assert levels == {"accuracy": 0.5, "repetition_accuracy": 0.5, "balanced_accuracy": 0.5}
    assert chances(["accuracy"], y, 5)["accuracy"] == pytest.approx(4 / 6)
    assert chances(["mae"], np.ones((3, 1)), 1) == {}
    for targets in (np.zeros(3), np.array([0, 5]), np.array([-1, 0]), np.zeros((3, 1), int)):
        with pytest.raises(MetricError, match="no class indices; expected one whole number from 0 to 4"):
            chances(["accuracy"], targets, 5)
    for call in (lambda: chances(["accuracy"], y * 1j, 5), lambda: chances(["accuracy"], y, 5, repetition_id[:3])):
        with pytest.raises(EmgLensError):
            call()
    with pytest.raises(MetricError, match="0 targets"):
        chances(["accuracy"], np.zeros(0, int), 5)


def test_a_repetition_of_two_classes_is_refused():
    with pytest.raises(MetricError, match="trials of repetition 3 are of different classes"):
        measure(["repetition_accuracy"], np.eye(2), np.array([0, 1]), np.array([3, 3]))


def test_large_logits_do_not_overflow():
    scores = measure(["log_prob"], np.array([[1e4, 0.0], [0.0, 1e4]]), np.array([0, 0]))
    assert scores["log_prob"] == pytest.approx(-5e3)


def test_r2_and_correlation_are_nan_for_a_constant_target():
    outputs, targets = np.array([[1.0], [2.0]]), np.array([[3.0], [3.0]])
    scores = measure(REGRESSION, outputs, targets)
    assert math.isnan(scores["r2"]) and math.isnan(scores["pearson"])
    assert scores["mae"] == scores["rmse"] + (1.5 - math.sqrt(2.5)) == 1.5
    assert math.isnan(measure(["pearson"], targets, outputs)["pearson"])
    assert measure(["r2"], targets, outputs)["r2"] == pytest.approx(reference.r2_score(outputs, targets))


@pytest.mark.parametrize("name", [*CLASSIFICATION, *REGRESSION, "reconstruction_error"])
def test_each_metric_declares_which_direction_is_better(name):
    metric = METRICS[name]
    lower = name in ("mae", "rmse", "reconstruction_error")
    assert metric.name == name and metric.better == ("lower" if lower else "higher")
    right, wrong = (np.eye(3), np.eye(3)[::-1]) if name in CLASSIFICATION else (np.eye(3), 1 - np.eye(3))
    targets = np.arange(3) if name in CLASSIFICATION else np.eye(3)
    good, bad = (measure([name], outputs, targets)[name] for outputs in (right, wrong))
    assert (good > bad) != lower


@pytest.mark.parametrize(
    ("names", "outputs", "targets", "message"),
    [
        (["accuracy"], np.zeros((3, 2)), np.zeros(2, int), "3 outputs and 2 targets"),
        (["accuracy"], np.zeros((0, 2)), np.zeros(0, int), "0 outputs and 0 targets"),
        (["accuracy"], np.zeros((3, 2)), np.zeros(3), "one class index per trial"),
        (["macro_f1"], np.zeros((3, 2)), np.array([0, 1, 2]), "labels run from 0 to 2; the outputs have 2 classes"),
        (
            ["r2"],
            np.zeros((3, 2)),
            np.zeros(3, int),
            "metric 'r2': .* floating-point values of one shape",
        ),
        (["mae"], np.zeros((3, 2)), np.zeros((3, 1)), "this metric compares floating-point values of one shape"),
    ],
)
def test_outputs_and_targets_that_do_not_match_are_refused_in_one_line(names, outputs, targets, message):
    with pytest.raises(MetricError, match=message) as error:
        measure(names, outputs, targets)
    assert "\n" not in str(error.value)


def test_an_unknown_name_lists_the_known_metrics():
    with pytest.raises(UnknownNameError, match=r"unknown metric 'acuracy'; did you mean 'accuracy'\?.*pearson"):
        measure(["acuracy"], np.zeros((1, 2)), np.zeros(1, int))


def test_a_metric_of_your_own_is_one_line(monkeypatch):
    monkeypatch.setattr(METRICS, "_known", dict(METRICS._known))
    METRICS.add("worst", Metric("worst", lambda outputs, targets: abs(outputs - targets).max(1), "values"))
    outputs, targets = np.array([[1.0, 2.0], [5.0, 0.0]]), np.zeros((2, 2))
    assert measure(["worst", "mae"], outputs, targets) == {"worst": 3.5, "mae": 2.0}
