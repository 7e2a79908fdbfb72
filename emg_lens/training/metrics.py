"""Metrics by name: how well outputs fit targets, as one number.

Definitions are scikit-learn's, in numpy: workers that fit models need not wait for it. What is undefined is NaN, and
said so here; what makes no sense is an error.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, Int, Shaped

from emg_lens.errors import EmgLensError
from emg_lens.registry import Registry

Values = Float[np.ndarray, "trial *output"]
Targets = Shaped[np.ndarray, " *target"]


class MetricError(EmgLensError, ValueError):
    """Outputs and targets that a metric cannot compare."""


@dataclass(frozen=True)
class Metric:
    """One entry of the registry.

    Attributes:
        name: What users call it; the column in tables.
        function: From outputs and targets to a number.
        better: Whether more is better, or less.
        unit: Of the number: `""` = none, `"share"` = a share of trials (told in percentage points), `"nat"`, `"target"`
            = that of the target.
    """

    name: str
    function: Callable[[np.ndarray, np.ndarray], float]
    better: Literal["higher", "lower"] = "higher"
    unit: str = ""


METRICS: Registry[Metric] = Registry("metric", "emg_lens.metrics")


def measure(names: Sequence[str], outputs: Values, targets: Targets) -> dict[str, float]:
    """Several metrics of the same trials, by name.

    Args:
        names: Metrics of the registry.
        outputs: What the model gives: class logits `[trial, class]`, or values of the shape of the targets.
        targets: Class index of each trial, or values.

    Raises:
        UnknownNameError: No such metric.
        MetricError: No trial, another number of targets, or targets of a kind that the metric does not compare.
    """
    metrics = [METRICS[name] for name in names]
    outputs, targets = np.asarray(outputs), np.asarray(targets)
    if len(outputs) == 0 or len(outputs) != len(targets):
        raise MetricError(
            f"{len(outputs)} outputs and {len(targets)} targets; expected one target a trial, and a trial"
        )
    found = {}
    for metric in metrics:
        try:
            found[metric.name] = float(metric.function(outputs, targets))
        except MetricError as error:
            raise MetricError(f"metric {metric.name!r}: {error}") from None
    return found


Function = Callable[[np.ndarray, np.ndarray], float]


def add_metric(
    name: str,
    better: Literal["higher", "lower"] = "higher",
    unit: str = "",
    check: Callable[[np.ndarray, np.ndarray], None] | None = None,
) -> Callable[[Function], Function]:
    """Decorator: make a function of outputs and targets, which `check` refuses where they do not suit, a metric."""

    def add(function: Function) -> Function:
        @functools.wraps(function)
        def checked(outputs: np.ndarray, targets: np.ndarray) -> float:
            if check is not None:
                check(outputs, targets)
            return function(outputs, targets)

        METRICS.add(name, Metric(name, checked, better, unit))
        return checked

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


# --- classification: class logits [trial, class], class index of each trial ---------------------------------


@add_metric("accuracy", unit="share", check=_check_classes)
def accuracy(logits: Float[np.ndarray, "trial class"], y: Int[np.ndarray, " trial"]) -> float:
    """Share of trials whose largest logit is that of their class."""
    return float((logits.argmax(1) == y).mean())


@add_metric("balanced_accuracy", unit="share", check=_check_classes)
def balanced_accuracy(logits: Float[np.ndarray, "trial class"], y: Int[np.ndarray, " trial"]) -> float:
    """Mean over classes of the share of their trials that is told right; classes without a trial do not count."""
    right, _, real = _counts(logits, y)
    there = real > 0
    return float((right[there] / real[there]).mean())


@add_metric("macro_f1", unit="share", check=_check_classes)
def macro_f1(logits: Float[np.ndarray, "trial class"], y: Int[np.ndarray, " trial"]) -> float:
    """Mean over classes of F1; classes that are neither there nor told do not count."""
    right, told, real = _counts(logits, y)
    seen = told + real > 0
    return float((2 * right[seen] / (told + real)[seen]).mean())


@add_metric("log_prob", unit="nat", check=_check_classes)
def log_prob(logits: Float[np.ndarray, "trial class"], y: Int[np.ndarray, " trial"]) -> float:
    """Mean log-probability (natural) of the true class; minus the cross-entropy."""
    shifted = logits.astype(np.float64) - logits.max(1, keepdims=True)
    return float((shifted[np.arange(len(y)), y] - np.log(np.exp(shifted).sum(1))).mean())


def _counts(
    logits: Float[np.ndarray, "trial class"], y: Int[np.ndarray, " trial"]
) -> tuple[Int[np.ndarray, " class"], Int[np.ndarray, " class"], Int[np.ndarray, " class"]]:
    """Of each class: trials told right, trials told to be of it, trials of it."""
    told, n_classes = logits.argmax(1), logits.shape[1]
    right, every, real = (np.bincount(labels, minlength=n_classes) for labels in (y[told == y], told, y))
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
