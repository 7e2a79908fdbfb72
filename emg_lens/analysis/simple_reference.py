"""Simple reference: what a linear model predicts from two features of each channel (docs/statistics.md §5.7).

The features are the mean and the log-variance of a channel over the trial. A trained model that predicts worse than
this did not learn the task well, and its attention should not be interpreted.
"""

import warnings
from collections.abc import Mapping

import numpy as np
from jaxtyping import Float, Int, Shaped
from threadpoolctl import threadpool_limits

from emg_lens.scoring.metric_registry import log_probabilities

TrainFeatures = Float[np.ndarray, "train feature"]
TestFeatures = Float[np.ndarray, "test feature"]

REFERENCE = "reference"
"""Name of the reference on all channels; on one modality: `reference_<modality>`."""
SILENT = 1e-4
"""Smallest variance, as a fraction of the channel's mean variance in training trials: 40 dB below it."""
LOWEST = float(np.log(np.finfo(np.float64).tiny))
"""Log-probability of a class without training trials."""
PENALTIES = np.logspace(-6, 3, 19)
"""Ridge penalties that are tried, per training trial."""
FEWEST_VALUES = 3
"""With fewer training trials, the ridge reference is the mean of their targets."""
TRIALS_IN_FLOAT64 = 64
"""Trials that are converted to double precision at once."""


def reference_outputs(
    train_x: Float[np.ndarray, "train channel time"],
    train_y: Shaped[np.ndarray, "train *target"],
    test_x: Float[np.ndarray, "test channel time"],
    modalities: Mapping[str, int],
    kind: str,
    n_outputs: int,
) -> dict[str, Float[np.ndarray, "test output"]]:
    """Fit the reference on all channels and on each modality, and predict the test trials.

    Features are standardized on training trials. Classes: linear discriminant analysis with automatic (Ledoit-Wolf)
    shrinkage. Values: ridge regression, whose penalty is chosen for each target by leave-one-out over training trials.
    One thread computes, so that the numbers do not depend on the number of workers.

    Args:
        train_x: Training trials, prepared as for the model.
        train_y: Class index of each training trial, or its target values.
        test_x: Test trials.
        modalities: Number of channels of each modality, in channel order.
        kind: Kind of output: `"classes"` or `"values"`.
        n_outputs: Number of classes or targets.

    Returns:
        Log-probabilities `[trial, class]` or values `[trial, target]`, by `reference` and `reference_<modality>`. Empty
        for other kinds of output and for targets with more than one axis, such as reconstructed signals.

    Example:
        >>> import numpy as np
        >>> rng = np.random.default_rng(0)
        >>> y = np.repeat([0, 1], 20)
        >>> emg = rng.normal(size=(40, 2, 100)) * (1 + y[:, None, None])  # class 1 has twice the amplitude
        >>> x = np.concatenate([emg, rng.normal(size=(40, 1, 100))], axis=1)
        >>> outputs = reference_outputs(x[::2], y[::2], x[1::2], {"emg": 2, "acc": 1}, "classes", 2)
        >>> {name: float((out.argmax(1) == y[1::2]).mean()) for name, out in outputs.items()}
        {'reference': 1.0, 'reference_emg': 1.0, 'reference_acc': 0.6}
    """
    if not (kind == "classes" or (kind == "values" and train_y.ndim == 2)):
        return {}
    owner = np.repeat([*modalities], [*modalities.values()])
    chosen = {REFERENCE: np.ones(len(owner), bool)} | {f"{REFERENCE}_{name}": owner == name for name in modalities}
    outputs = {}
    with threadpool_limits(1):
        train, test = _standardized_features(train_x, test_x)
        for name, channels in chosen.items():
            known, new = (features[:, :, channels].reshape(len(features), -1) for features in (train, test))
            if kind == "classes":
                outputs[name] = _log_probabilities(known, train_y, new, n_outputs)
            else:
                outputs[name] = _values(known, train_y, new)
    return outputs


def _standardized_features(
    train_x: Float[np.ndarray, "train channel time"], test_x: Float[np.ndarray, "test channel time"]
) -> tuple[Float[np.ndarray, "train 2 channel"], Float[np.ndarray, "test 2 channel"]]:
    """Mean and log-variance of each channel over time, z-scored over training trials; constant features are 0."""
    (train, train_variance), (test, test_variance) = _moments(train_x), _moments(test_x)
    floor = SILENT * train_variance.mean(axis=0)
    parts = []
    for mean, variance in ((train, train_variance), (test, test_variance)):
        log_variance = np.log(np.maximum(variance, floor) + np.finfo(np.float64).tiny)
        parts.append(np.stack([mean, log_variance], axis=1))
    known, new = parts
    constant = np.isclose(known, known[0], rtol=1e-9, atol=1e-12).all(axis=0)
    scale = np.where(constant, np.inf, known.std(axis=0))
    return (known - known.mean(axis=0)) / scale, (new - known.mean(axis=0)) / scale


def _moments(
    x: Float[np.ndarray, "trial channel time"],
) -> tuple[Float[np.ndarray, "trial channel"], Float[np.ndarray, "trial channel"]]:
    """Mean and variance over time."""
    means, variances = np.empty(x.shape[:2]), np.empty(x.shape[:2])
    for first in range(0, len(x), TRIALS_IN_FLOAT64):
        some = slice(first, first + TRIALS_IN_FLOAT64)
        samples = x[some].astype(np.float64)
        means[some], variances[some] = samples.mean(axis=2), samples.var(axis=2)
    return means, variances


def _log_probabilities(
    train: TrainFeatures, y: Int[np.ndarray, " train"], test: TestFeatures, n_classes: int
) -> Float[np.ndarray, "test class"]:
    """Log-probabilities of a linear discriminant analysis; of the nearest trial if no class has two."""
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis  # the import takes a second

    classes, first = np.unique(y, return_index=True)
    outputs = np.full((len(test), n_classes), LOWEST)
    if 1 < len(classes) < len(y):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Only one sample")  # of a class: its covariance is then 0
            fitted = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto").fit(train, y)
        outputs[:, classes] = fitted.predict_log_proba(test)
    else:  # no class shows its covariance
        outputs[:, classes] = log_probabilities(-((test[:, None] - train[first]) ** 2).sum(axis=2) / 2)
    return outputs


def _values(
    train: TrainFeatures, targets: Float[np.ndarray, "train target"], test: TestFeatures
) -> Float[np.ndarray, "test target"]:
    """Predictions of a ridge regression."""
    from sklearn.linear_model import RidgeCV  # the import takes a second

    if len(targets) < FEWEST_VALUES:
        return np.repeat(targets.mean(axis=0, dtype=np.float64)[None], len(test), axis=0)
    fitted = RidgeCV(len(targets) * PENALTIES, alpha_per_target=True).fit(train, targets)
    return fitted.predict(test).reshape(len(test), -1)
