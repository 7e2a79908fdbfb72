"""The simple reference equals a scikit-learn pipeline, and is finite where training trials are few or constant."""

import warnings

import numpy as np
import pytest
import threadpoolctl
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import Ridge
from sklearn.model_selection import LeaveOneOut, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from emg_lens.analysis.simple_reference import LOWEST, reference_outputs

MODALITIES = {"emg": 3, "acc": 2}
PARTS = {"reference": [0, 1, 2, 3, 4], "reference_emg": [0, 1, 2], "reference_acc": [3, 4]}


def trials(y, seed=0, n_samples=50):
    """Amplitudes of EMG and means of ACC depend on the class."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(len(y), 5, n_samples))
    x[:, :3] *= 1 + 0.3 * np.asarray(y)[:, None, None] * rng.uniform(0.5, 1.5, (len(y), 3, 1))
    x[:, 3:] += 0.05 * np.asarray(y)[:, None, None]
    return x.astype(np.float32)


def features(x):
    x = x.astype(np.float64)
    return np.hstack([x.mean(axis=2), np.log(x.var(axis=2))])


def test_classes_are_those_of_a_linear_discriminant_analysis_of_each_modality():
    y, test_y = np.repeat([0, 1, 2], 20), np.repeat([0, 1, 2], 9)
    x, test_x = trials(y), trials(test_y, seed=1)
    outputs = reference_outputs(x, y, test_x, MODALITIES, "classes", 3)
    assert list(outputs) == list(PARTS)
    for name, channels in PARTS.items():
        pipeline = make_pipeline(StandardScaler(), LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto"))
        expected = pipeline.fit(features(x[:, channels]), y).predict_log_proba(features(test_x[:, channels]))
        np.testing.assert_allclose(outputs[name], expected, rtol=1e-6, atol=1e-6)
    assert (outputs["reference"].argmax(1) == test_y).mean() > 0.8


def test_values_are_those_of_a_ridge_whose_penalty_leaves_one_trial_out():
    rng = np.random.default_rng(0)
    x, test_x = trials(np.zeros(30)), trials(np.zeros(10), seed=1)
    targets = np.stack([features(x) @ rng.normal(size=10) + 0.5 * rng.normal(size=30), rng.normal(size=30)], axis=1)
    found = reference_outputs(x, targets, test_x, MODALITIES, "values", 2)["reference"]
    scaler = StandardScaler().fit(features(x))
    known, new = scaler.transform(features(x)), scaler.transform(features(test_x))
    for column, target in enumerate(targets.T):
        penalties = [30 * 10.0**k for k in np.arange(-6, 3.5, 0.5)]
        errors = [
            ((cross_val_predict(Ridge(p), known, target, cv=LeaveOneOut()) - target) ** 2).sum() for p in penalties
        ]
        expected = Ridge(penalties[int(np.argmin(errors))]).fit(known, target).predict(new)
        np.testing.assert_allclose(found[:, column], expected, rtol=1e-5, atol=1e-6)


def test_targets_with_other_units_are_predicted_in_these_units():
    x, targets = trials(np.zeros(20)), np.random.default_rng(0).normal(size=(20, 1))
    one = reference_outputs(x, targets, x, MODALITIES, "values", 1)["reference"]
    other = reference_outputs(x, 1000 * targets + 7, x, MODALITIES, "values", 1)["reference"]
    np.testing.assert_allclose(other, 1000 * one + 7, rtol=1e-6)


def test_a_channel_that_is_constant_in_training_has_no_influence():
    y, test_y = np.repeat([0, 1], 10), np.repeat([0, 1], 5)
    x, test_x = trials(y), trials(test_y, seed=1)
    x[:, 1] = 0.1
    outputs = reference_outputs(x, y, test_x, MODALITIES, "classes", 2)["reference"]
    test_x[:, 1] *= 100
    moved = reference_outputs(x, y, test_x, MODALITIES, "classes", 2)["reference"]
    assert np.isfinite(moved).all()
    np.testing.assert_allclose(moved, outputs, atol=1e-9)


def test_a_silent_trial_counts_as_40_db_below_the_mean_of_its_channel():
    y, test_x = np.repeat([0, 1], 30), trials(np.repeat([0, 1], 50), seed=1)
    x = trials(y)
    x[0, :3] = 0
    quiet = x.copy()
    quiet[0, :3] = 0.01 * np.sqrt(x[:, :3].var(axis=2).mean(axis=0))[:, None] * np.tile([1, -1], 25)
    outputs = [reference_outputs(one, y, test_x, MODALITIES, "classes", 2)["reference"] for one in (x, quiet)]
    np.testing.assert_allclose(*outputs, atol=1e-3)


@pytest.mark.parametrize("y", [[2, 0], [0, 0, 2, 2], [0, 0, 0, 2], [1, 1, 1], [1]])
def test_few_trials_and_missing_classes_give_finite_log_probabilities(y):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        outputs = reference_outputs(trials(y), np.array(y), trials([0, 1, 2], seed=1), MODALITIES, "classes", 3)
    for found in outputs.values():
        assert np.isfinite(found).all()
        np.testing.assert_allclose(np.exp(found).sum(1), 1)
        missing = [k for k in range(3) if k not in y]
        assert (found[:, missing] == LOWEST).all() and not set(found.argmax(1)) & set(missing)


def test_with_one_trial_a_class_the_nearest_trial_decides():
    x = trials([0, 0, 0])
    outputs = reference_outputs(x, np.array([2, 0, 1]), x, MODALITIES, "classes", 3)
    assert outputs["reference"].argmax(1).tolist() == [2, 0, 1]


@pytest.mark.parametrize("n", [1, 2, 3])
def test_few_trials_give_finite_values(n):
    targets = np.arange(n, dtype=np.float32)[:, None]
    found = reference_outputs(trials([0] * n), targets, trials([0, 0], seed=1), MODALITIES, "values", 1)["reference"]
    assert found.shape == (2, 1) and np.isfinite(found).all()
    if n < 3:
        assert (found == targets.mean()).all()


@pytest.mark.parametrize(("kind", "shape"), [("values", (4, 5, 50)), ("frames", (4, 50)), ("events", (4,))])
def test_reconstructions_and_sequences_have_no_reference(kind, shape):
    assert reference_outputs(trials([0] * 4), np.zeros(shape), trials([0]), MODALITIES, kind, 1) == {}


def test_one_thread_computes_so_that_last_digits_do_not_depend_on_the_number_of_workers(monkeypatch):
    seen, fit = set(), LinearDiscriminantAnalysis.fit

    def watched(self, *args):
        seen.update(pool["num_threads"] for pool in threadpoolctl.threadpool_info() if pool["user_api"] == "blas")
        return fit(self, *args)

    monkeypatch.setattr(LinearDiscriminantAnalysis, "fit", watched)
    with threadpoolctl.threadpool_limits(2):
        reference_outputs(trials([0, 0, 1, 1]), np.array([0, 0, 1, 1]), trials([0]), MODALITIES, "classes", 2)
    assert seen == {1}
