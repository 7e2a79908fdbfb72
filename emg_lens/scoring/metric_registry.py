"""Metrics by name. Each metric is a function of sums over trials (docs/training.md §7.3).

Because the sums are additive, one table of counts gives the pooled value, the value of each subject and every bootstrap
resample. Trials of one repetition are not independent, so metrics of classes give each repetition the same weight
(docs/statistics.md §5.1).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from emg_lens.errors import EmgLensError
from emg_lens.registry import Registry
from emg_lens.validation import short

OutputKind = Literal["classes", "values", "frames", "events", "tokens"]
"""The output of a model for one trial: class scores `[class]`, numbers of the targets' shape, numbers at each time
step, events with times, or a sequence of symbols."""
Repetitions = Literal["weighted", "pooled", "ignored", "joined"]
Predictions = Float[np.ndarray, "trial *output"]
Targets = Shaped[np.ndarray, " *target"]
Counts = Float[np.ndarray, "trial part"]
Scores = Bool[np.ndarray, " trial"] | Float[np.ndarray, " trial"]
CountFunction = Callable[..., Counts | Scores]


class MetricError(EmgLensError, ValueError):
    """Predictions and targets that a metric cannot compare."""


def weighted_mean(sums: Float[np.ndarray, "*many part"]) -> Float[np.ndarray, "*many"]:
    """Divide the first part by the second: a sum of scores by a sum of weights."""
    return np.asarray(sums[..., 0] / sums[..., 1])


@dataclass(frozen=True)
class Metric:
    """A measure of the agreement of outputs and targets, computed from counts that can be added.

    Attributes:
        name: Name in study files and column in tables.
        function: From outputs and targets, one score per trial `[trial]` (the metric is their mean), or several counts
            per trial `[trial, part]`, which `value` combines. With `repetitions="joined"`, from the outputs and targets
            of all windows of one recording, and the names of the outputs, to counts `[part]`.
        kind: Kind of output that the metric scores.
        value: From summed counts `[..., part]` to the metric `[...]`; default, the mean of the scores.
        better: Whether higher or lower values are better.
        unit: `"fraction"` (0 to 1, reported in percentage points), `"nat"`, `"target"` (the unit of the targets) or
            `""` (no unit).
        repetitions: How trials of one repetition count. `"weighted"`: each repetition has the same weight. `"pooled"`:
            their mean log-probabilities count as one trial. `"ignored"`: each trial has the same weight. `"joined"`:
            they are windows of one recording, which is scored as a whole.
        chance: From targets, trial weights and the number of outputs to the value that guessing reaches; None where
            this value is not known.
        largest: Largest value of a fraction: infinite for an error rate, which counts insertions too.
    """

    name: str
    function: CountFunction
    kind: OutputKind
    value: Callable[[np.ndarray], np.ndarray] = weighted_mean
    better: Literal["higher", "lower"] = "higher"
    unit: str = ""
    repetitions: Repetitions = "weighted"
    chance: Callable[[np.ndarray, np.ndarray, int], float] | None = None
    largest: float = 1.0

    def __post_init__(self) -> None:
        allowed = {"kind": OutputKind, "better": Literal["higher", "lower"], "repetitions": Repetitions}
        for field, values in allowed.items():
            if getattr(self, field) not in get_args(values):
                expected = ", ".join(map(repr, get_args(values)))
                raise MetricError(f"{field}={getattr(self, field)!r} of metric {self.name!r}; expected {expected}")

    def counts(
        self,
        outputs: Predictions,
        targets: Targets,
        repetition_id: Int[np.ndarray, " trial"] | None = None,
        weights: Float[np.ndarray, " trial"] | None = None,
        names: Sequence[str] = (),
    ) -> Counts:
        """Count each trial. `value` of the sum over any set of whole repetitions is the metric of this set.

        Args:
            outputs: What the model predicts.
            targets: The correct values.
            repetition_id: Repetition that each trial was cut from; default: every trial is a separate repetition.
            weights: Weight of each trial; default, `repetition_weights`. Give the weights of the whole table to count a
                part of it. Only metrics with `repetitions="weighted"` use them.
            names: Names of the outputs. Only metrics with `repetitions="joined"` use them.
        """
        if self.kind in CHECKS:
            CHECKS[self.kind](outputs, targets)
        if self.repetitions == "joined":
            return self._joined(outputs, targets, repetition_id, names)
        if self.repetitions == "pooled" and repetition_id is not None:
            pooled, classes, first = pool_repetitions(outputs, targets, repetition_id)
            rows = self._table(pooled, classes)
            table = np.zeros((len(outputs), rows.shape[1]))
            table[first] = rows  # the first trial of a repetition holds its counts
            return table
        table = self._table(outputs, targets)
        if self.repetitions != "weighted" or (weights is None and repetition_id is None):
            return table
        weights = repetition_weights(len(outputs), repetition_id) if weights is None else np.asarray(weights)
        if weights.shape != (len(outputs),) or not (weights >= 0).all():
            raise MetricError(f"weights are {short(weights)}; expected one number of 0 or more for each trial")
        return table * weights[:, None]

    def _joined(
        self, outputs: Predictions, targets: Targets, repetition_id: np.ndarray | None, names: Sequence[str]
    ) -> Counts:
        """Count each recording. Its first window holds the counts, and its other windows have none."""
        of = np.arange(len(outputs)) if repetition_id is None else repetition_id
        recordings, first = np.unique(of, return_index=True)
        rows = [self.function(outputs[of == one], targets[of == one], names) for one in recordings]
        table = np.zeros((len(outputs), len(rows[0])))
        table[first] = rows
        return table

    def _table(self, outputs: np.ndarray, targets: np.ndarray) -> Counts:
        counts = self.function(outputs, targets)
        if not isinstance(counts, np.ndarray) or counts.dtype.kind not in "biuf" or counts.shape[:1] != (len(outputs),):
            raise MetricError(
                f"the function of the metric {self.name!r} returned {short(counts)} for {len(outputs)} trials; expected"
                " an array with one score per trial, or with several counts per trial [trial, part]"
            )
        return counts if counts.ndim > 1 else columns_of(counts, np.ones(len(counts)))


METRICS: Registry[Metric] = Registry("metric", "emg_lens.metrics", Metric)


def add_metric(
    name: str,
    kind: OutputKind,
    value: Callable[[np.ndarray], np.ndarray] = weighted_mean,
    better: Literal["higher", "lower"] = "higher",
    unit: str = "",
    repetitions: Repetitions = "weighted",
    chance: Callable[[np.ndarray, np.ndarray, int], float] | None = None,
) -> Callable[[CountFunction], CountFunction]:
    """Register the decorated function as a metric. The arguments are the fields of `Metric`.

    Example:
        >>> import numpy as np
        >>> from emg_lens.scoring import add_metric, measure
        >>> @add_metric("top2_accuracy_example", kind="classes", unit="fraction")
        ... def in_top2(logits, y):  # one score per trial; the metric is their mean
        ...     return (np.argsort(-logits, axis=1)[:, :2] == y[:, None]).any(axis=1)
        >>> logits = np.array([[3.0, 2.0, 1.0], [3.0, 2.0, 1.0]])
        >>> measure(["accuracy", "top2_accuracy_example"], logits, np.array([1, 2]))
        {'accuracy': 0.0, 'top2_accuracy_example': 0.5}
    """

    def add(function: CountFunction) -> CountFunction:
        METRICS.add(name, Metric(name, function, kind, value, better, unit, repetitions, chance))
        return function

    return add


def repetition_weights(n: int, repetition_id: Int[np.ndarray, " trial"] | None) -> Float[np.ndarray, " trial"]:
    """Weight n trials so that each repetition counts the same; the mean weight is 1."""
    if repetition_id is None:
        return np.ones(n)
    _, of, sizes = np.unique(repetition_id, return_inverse=True, return_counts=True)
    return n / (len(sizes) * sizes[of])


def pool_repetitions(
    logits: Float[np.ndarray, "trial class"], y: Int[np.ndarray, " trial"], repetition_id: Int[np.ndarray, " trial"]
) -> tuple[Float[np.ndarray, "repetition class"], Int[np.ndarray, " repetition"], Int[np.ndarray, " repetition"]]:
    """Return mean log-probabilities, class, and index of the first trial of each repetition."""
    _, first, of, sizes = np.unique(repetition_id, return_index=True, return_inverse=True, return_counts=True)
    if (y != y[first][of]).any():
        mixed = repetition_id[y != y[first][of]][0]
        raise MetricError(
            f"trials of repetition {mixed} are of different classes; give each performed gesture its own repetition_id"
        )
    sums = np.zeros((len(first), logits.shape[1]))
    np.add.at(sums, of, log_probabilities(logits))
    return sums / sizes[:, None], y[first], first


def log_probabilities(logits: Float[np.ndarray, "trial class"]) -> Float[np.ndarray, "trial class"]:
    """Natural logarithm of the softmax."""
    shifted = logits.astype(np.float64) - logits.max(1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(1, keepdims=True))


def columns_of(*parts: Shaped[np.ndarray, " trial"]) -> Counts:
    """Join parts to a table. Its memory layout lets numpy sum columns pairwise, with the smallest rounding error."""
    return np.stack([part.astype(np.float64) for part in parts]).T


def _check_classes(logits: np.ndarray, y: np.ndarray) -> None:
    if logits.ndim != 2 or y.ndim != 1 or y.dtype.kind not in "iu":
        raise MetricError(
            f"outputs are {list(logits.shape)} and targets {y.dtype} {list(y.shape)}; this metric compares logits"
            " [trial, class] with one class index per trial"
        )
    if y.min() < 0 or y.max() >= logits.shape[1]:
        raise MetricError(
            f"labels run from {y.min()} to {y.max()}; the outputs have {logits.shape[1]} classes, numbered from 0"
        )


def _check_values(outputs: np.ndarray, targets: np.ndarray) -> None:
    if outputs.shape != targets.shape or outputs.ndim < 2 or targets.dtype.kind != "f":
        raise MetricError(
            f"outputs are {list(outputs.shape)} and targets {targets.dtype} {list(targets.shape)}; this metric compares"
            " floating-point values of one shape [trial, target]"
        )


CHECKS: dict[str, Callable[[np.ndarray, np.ndarray], None]] = {"classes": _check_classes, "values": _check_values}
"""The check of outputs and targets for each kind of metric; it raises a `MetricError`."""
