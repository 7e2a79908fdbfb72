"""Metrics by name: how well outputs fit targets, as one number.

Definitions are scikit-learn's, in numpy: workers that fit models need not wait for it. What is undefined is NaN, and
said so here; what makes no sense is an error. Windows of one movement are no independent trials: where it is known
which trials are, metrics of classification give each movement the same weight, and `repetition_accuracy` makes one
decision of its windows (docs/statistics.md §5.1).
"""

import functools
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, Int, Shaped

from emg_lens.errors import EmgLensError
from emg_lens.registry import Registry
from emg_lens.validation import checked

Values = Float[np.ndarray, "trial *output"]
Targets = Shaped[np.ndarray, " *target"]


class MetricError(EmgLensError, ValueError):
    """Outputs and targets that a metric cannot compare."""


@dataclass(frozen=True)
class Metric:
    """One entry of the registry.

    Attributes:
        name: What users call it; the column in tables.
        function: From outputs and targets to a number; where `weighted`, also from the weight of each trial.
        better: Whether more is better, or less.
        unit: Of the number: `""` = none, `"share"` = a share of trials (told in percentage points), `"nat"`, `"target"`
            = that of the target.
        weighted: Whether the function takes weights, so that each movement can count the same.
        of: `"trial"`, or `"movement"`: the function gets one row a movement, the mean log-probabilities of its trials.
        chance: From targets, their weights and the number of outputs, what guessing gives; `None` where that is not
            known.
    """

    name: str
    function: Callable[..., float]
    better: Literal["higher", "lower"] = "higher"
    unit: str = ""
    weighted: bool = False
    of: Literal["trial", "repetition_id"] = "trial"
    chance: Callable[[np.ndarray, np.ndarray, int], float] | None = None


METRICS: Registry[Metric] = Registry("metric", "emg_lens.metrics")


@checked
def measure(
    names: Sequence[str], outputs: Values, targets: Targets, repetition_id: Int[np.ndarray, " trial"] | None = None
) -> dict[str, float]:
    """Several metrics of the same trials, by name.

    Args:
        names: Metrics of the registry.
        outputs: What the model gives: class logits `[trial, class]`, or values of the shape of the targets.
        targets: Class index of each trial, or values.
        movement: The movement each trial was cut from; default, each is one of its own.

    Raises:
        UnknownNameError: No such metric.
        MetricError: No trial, another number of targets, or targets of a kind that the metric does not compare.
    """
    metrics = [METRICS[name] for name in names]
    outputs, targets = np.atleast_1d(outputs), np.atleast_1d(targets)
    if len(outputs) == 0 or len(outputs) != len(targets):
        raise MetricError(
            f"{len(outputs)} outputs and {len(targets)} targets; expected one target a trial, and a trial"
        )
    for what, values in (("outputs", outputs), ("targets", targets)):
        if values.dtype.kind not in "iuf" or np.isnan(values).any():
            raise MetricError(f"{what} hold NaN, or something else than numbers ({values.dtype})")
    if repetition_id is not None and np.shape(repetition_id) != (len(outputs),):
        raise MetricError(f"{np.shape(repetition_id)} repetition ids for {len(outputs)} trials; expected one a trial")
    weights = repetition_weights(len(outputs), repetition_id)
    found = {}
    for metric in metrics:
        try:
            found[metric.name] = float(_value(metric, outputs, targets, weights, repetition_id))
        except MetricError as error:
            raise MetricError(f"metric {metric.name!r}: {error}") from None
    return found


def chances(
    names: Sequence[str], targets: Targets, n_outputs: int, repetition_id: Int[np.ndarray, " trial"] | None = None
) -> dict[str, float]:
    """What guessing gives, for each of these metrics of which it is known.

    Args:
        names: Metrics of the registry.
        targets: Class index of each trial, or values.
        n_outputs: Classes of the model.
        movement: As in `measure`.
    """
    targets = np.asarray(targets)
    weights = repetition_weights(len(targets), repetition_id)
    known = {metric.name: metric.chance for metric in (METRICS[name] for name in names)}
    return {name: float(chance(targets, weights, n_outputs)) for name, chance in known.items() if chance is not None}


def repetition_weights(n: int, repetition_id: Int[np.ndarray, " trial"] | None) -> Float[np.ndarray, " trial"]:
    """Weights of n trials, 1 in the mean, with which every movement counts the same."""
    if repetition_id is None:
        return np.ones(n)
    _, of, counts = np.unique(repetition_id, return_inverse=True, return_counts=True)
    return n / (len(counts) * counts[of])


def _value(
    metric: Metric, outputs: np.ndarray, targets: np.ndarray, weights: np.ndarray, repetition_id: np.ndarray | None
) -> float:
    if metric.of == "repetition_id" and repetition_id is not None:
        outputs, targets = _by_repetition(outputs, targets, repetition_id)
        weights = np.ones(len(targets))
    return metric.function(outputs, targets, weights) if metric.weighted else metric.function(outputs, targets)


def _by_repetition(
    logits: np.ndarray, y: np.ndarray, repetition_id: Int[np.ndarray, " trial"]
) -> tuple[Float[np.ndarray, "movement class"], Int[np.ndarray, " movement"]]:
    """Mean log-probabilities of each movement's trials, and its class."""
    _check_classes(logits, y)
    _, first, of, counts = np.unique(repetition_id, return_index=True, return_inverse=True, return_counts=True)
    if (y != y[first][of]).any():
        raise MetricError("trials of one movement are of different classes; number movements by what was performed")
    sums = np.zeros((len(first), logits.shape[1]))
    np.add.at(sums, of, _log_probabilities(logits))
    return sums / counts[:, None], y[first]


Function = Callable[..., float]


def add_metric(
    name: str,
    better: Literal["higher", "lower"] = "higher",
    unit: str = "",
    check: Callable[[np.ndarray, np.ndarray], None] | None = None,
    of: Literal["trial", "repetition_id"] = "trial",
    chance: Callable[[np.ndarray, np.ndarray, int], float] | None = None,
) -> Callable[[Function], Function]:
    """Decorator: make a function of outputs and targets, which `check` refuses where they do not suit, a metric.

    A function of three arguments takes weights too.
    """

    def add(function: Function) -> Function:
        @functools.wraps(function)
        def suited(outputs: np.ndarray, targets: np.ndarray, *weights: np.ndarray) -> float:
            if check is not None:
                check(outputs, targets)
            return function(outputs, targets, *weights)

        weighted = len(inspect.signature(function).parameters) == 3
        METRICS.add(name, Metric(name, suited, better, unit, weighted, of, chance))
        return suited

    return add


def _check_classes(logits: np.ndarray, y: np.ndarray) -> None:
    if logits.ndim != 2 or y.ndim != 1 or y.dtype.kind not in "iu":
        raise MetricError(
            f"outputs {logits.shape} and targets {y.dtype} {y.shape}; this metric compares logits [trial, class] with"
            " one class index a trial"
        )
    if y.min() < 0 or y.max() >= logits.shape[1]:
        raise MetricError(f"labels run from {y.min()} to {y.max()}; there are logits of {logits.shape[1]} classes")


def _check_values(outputs: np.ndarray, targets: np.ndarray) -> None:
    if outputs.shape != targets.shape or outputs.ndim < 2 or targets.dtype.kind != "f":
        raise MetricError(
            f"outputs {outputs.shape} and targets {targets.dtype} {targets.shape}; this metric compares values of one"
            " shape, [trial, target]"
        )


# --- classification: class logits [trial, class], class index and weight of each trial -----------------------


def _largest_class(y: np.ndarray, weights: np.ndarray, n_classes: int) -> float:
    """What always telling the most frequent class gets right."""
    return np.bincount(y, weights, n_classes).max() / weights.sum()


def _one_in_classes(y: np.ndarray, weights: np.ndarray, n_classes: int) -> float:  # noqa: ARG001
    """What always telling one of the classes that occur gives, averaged over these."""
    return 1 / len(np.unique(y))


@add_metric("accuracy", unit="share", check=_check_classes, chance=_largest_class)
def accuracy(
    logits: Float[np.ndarray, "trial class"],
    y: Int[np.ndarray, " trial"],
    weights: Float[np.ndarray, " trial"] | None = None,
) -> float:
    """Share of trials whose largest logit is that of their class."""
    return float(np.average(logits.argmax(1) == y, weights=weights))


@add_metric("repetition_accuracy", unit="share", check=_check_classes, of="repetition_id", chance=_largest_class)
def repetition_accuracy(logits: Float[np.ndarray, "movement class"], y: Int[np.ndarray, " movement"]) -> float:
    """Share of movements that are told right from the mean log-probabilities of their trials."""
    return accuracy(logits, y)


@add_metric("balanced_accuracy", unit="share", check=_check_classes, chance=_one_in_classes)
def balanced_accuracy(
    logits: Float[np.ndarray, "trial class"],
    y: Int[np.ndarray, " trial"],
    weights: Float[np.ndarray, " trial"] | None = None,
) -> float:
    """Mean over classes of the share of their trials that is told right; classes without a trial do not count."""
    right, _, real = _counts(logits, y, weights)
    there = real > 0
    return float((right[there] / real[there]).mean())


@add_metric("macro_f1", unit="share", check=_check_classes)
def macro_f1(
    logits: Float[np.ndarray, "trial class"],
    y: Int[np.ndarray, " trial"],
    weights: Float[np.ndarray, " trial"] | None = None,
) -> float:
    """Mean over classes of F1; classes that are neither there nor told do not count."""
    right, told, real = _counts(logits, y, weights)
    seen = told + real > 0
    return float((2 * right[seen] / (told + real)[seen]).mean())


@add_metric("log_prob", unit="nat", check=_check_classes)
def log_prob(
    logits: Float[np.ndarray, "trial class"],
    y: Int[np.ndarray, " trial"],
    weights: Float[np.ndarray, " trial"] | None = None,
) -> float:
    """Mean log-probability (natural) of the true class; minus the cross-entropy."""
    return float(np.average(_log_probabilities(logits)[np.arange(len(y)), y], weights=weights))


def _log_probabilities(logits: Float[np.ndarray, "trial class"]) -> Float[np.ndarray, "trial class"]:
    shifted = logits.astype(np.float64) - logits.max(1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(1, keepdims=True))


def _counts(
    logits: Float[np.ndarray, "trial class"], y: Int[np.ndarray, " trial"], weights: Float[np.ndarray, " trial"] | None
) -> tuple[Float[np.ndarray, " class"], Float[np.ndarray, " class"], Float[np.ndarray, " class"]]:
    """Of each class, by weight: trials told right, trials told to be of it, trials of it."""
    told, n_classes = logits.argmax(1), logits.shape[1]
    weights = np.ones(len(y)) if weights is None else weights
    kept = (y, weights * (told == y)), (told, weights), (y, weights)
    right, every, real = (np.bincount(labels, w, n_classes) for labels, w in kept)
    return right, every, real


# --- regression: outputs and targets [trial, target], each target by itself, then their mean ------------------


@add_metric("mae", better="lower", unit="target", check=_check_values)
def mae(outputs: Float[np.ndarray, "trial target"], targets: Float[np.ndarray, "trial target"]) -> float:
    """Mean absolute error."""
    return float(np.abs(_errors(outputs, targets)).mean())


@add_metric("rmse", better="lower", unit="target", check=_check_values)
def rmse(outputs: Float[np.ndarray, "trial target"], targets: Float[np.ndarray, "trial target"]) -> float:
    """Root of the mean squared error of each target, then their mean."""
    return float(np.sqrt((_errors(outputs, targets) ** 2).mean(0)).mean())


@add_metric("r2", check=_check_values)
def r2(outputs: Float[np.ndarray, "trial target"], targets: Float[np.ndarray, "trial target"]) -> float:
    """Coefficient of determination R² of each target, then their mean; NaN where a target is constant."""
    errors, wide = _errors(outputs, targets), targets.astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        unexplained = (errors**2).sum(0) / ((wide - wide.mean(0)) ** 2).sum(0)
    return float(np.where(_is_constant(wide), np.nan, 1 - unexplained).mean())


@add_metric("pearson", check=_check_values)
def pearson(outputs: Float[np.ndarray, "trial target"], targets: Float[np.ndarray, "trial target"]) -> float:
    """Correlation of each target with its output, then their mean; NaN where one of the two is constant."""
    a, b = (values.astype(np.float64) for values in (outputs, targets))
    constant = _is_constant(a) | _is_constant(b)
    a, b = a - a.mean(0), b - b.mean(0)
    with np.errstate(divide="ignore", invalid="ignore"):
        r = (a * b).sum(0) / np.sqrt((a**2).sum(0) * (b**2).sum(0))
    return float(np.where(constant, np.nan, r).mean())


@add_metric("reconstruction_error", better="lower", check=_check_values)
def reconstruction_error(
    outputs: Float[np.ndarray, "trial *value"], targets: Float[np.ndarray, "trial *value"]
) -> float:
    """Mean squared difference between signals and their reconstruction, over all values."""
    return float((_errors(outputs, targets) ** 2).mean())


def _errors(
    outputs: Float[np.ndarray, "trial *value"], targets: Float[np.ndarray, "trial *value"]
) -> Float[np.ndarray, "trial *value"]:
    return outputs.astype(np.float64) - targets.astype(np.float64)


def _is_constant(values: Float[np.ndarray, "trial target"]) -> np.ndarray:
    return (values == values[0]).all(0)
