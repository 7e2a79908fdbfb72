"""Compute metrics by name, with numpy alone: processes that fit models need not import scikit-learn."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from emg_lens.scoring import classification, regression  # noqa: F401 - they register their metrics
from emg_lens.scoring.metric_registry import METRICS, MetricError, Predictions, Targets, repetition_weights
from emg_lens.validation import checked


@checked
def measure(
    names: Sequence[str],
    outputs: Predictions,
    targets: Targets,
    repetition_id: Int[np.ndarray, " trial"] | None = None,
    output_names: Sequence[str] = (),
) -> dict[str, float]:
    """Compute several metrics of the same trials.

    Args:
        names: Metrics by name.
        outputs: Outputs of the model: class logits `[trial, class]`, or values of the shape of the targets.
        targets: Class index of each trial `[trial]`, or values `[trial, target]`.
        repetition_id: Repetition that each trial was cut from; default: every trial is a separate repetition.
        output_names: Names of the outputs. Metrics of events find presses and releases by their names.

    Returns:
        Value of each metric, by its name; NaN where it is undefined.

    Raises:
        UnknownNameError: No metric has this name.
        MetricError: No trial, another number of targets, or targets that the metric cannot compare.

    Example:
        >>> import numpy as np
        >>> from emg_lens.scoring import measure
        >>> logits = np.array([[2.0, 0.0], [2.0, 0.0], [2.0, 0.0], [0.0, 2.0]])
        >>> y, repetition_id = np.array([0, 0, 1, 1]), np.array([1, 1, 2, 3])
        >>> measure(["accuracy"], logits, y)
        {'accuracy': 0.75}
        >>> values = measure(["accuracy", "log_prob"], logits, y, repetition_id)  # each repetition counts the same
        >>> {name: round(value, 2) for name, value in values.items()}
        {'accuracy': 0.67, 'log_prob': -0.79}
    """
    metrics = [METRICS[name] for name in names]
    outputs, targets = np.atleast_1d(outputs), np.atleast_1d(targets)
    if len(outputs) == 0 or len(outputs) != len(targets):
        raise MetricError(f"{len(outputs)} outputs and {len(targets)} targets; expected one of each per trial")
    for what, values in (("outputs", outputs), ("targets", targets)):
        if values.dtype.kind not in "iuf" or np.isnan(values).any():
            raise MetricError(f"{what} ({values.dtype}) contain NaN or are not numbers; expected numbers")
    _check_repetitions(repetition_id, len(outputs))
    values, counted = {}, {}
    for metric in metrics:
        key = metric.function, metric.kind, metric.repetitions  # metrics of the same counts are counted once
        try:
            if key not in counted:
                counted[key] = metric.counts(outputs, targets, repetition_id, names=output_names).sum(0)
            values[metric.name] = float(metric.value(counted[key]))
        except MetricError as error:
            raise MetricError(f"metric {metric.name!r}: {error}") from None
    return values


@checked
def chances(
    names: Sequence[str], targets: Targets, n_outputs: int, repetition_id: Int[np.ndarray, " trial"] | None = None
) -> dict[str, float]:
    """Compute the chance level of each metric that has a known one. Arguments as in `measure`.

    Raises:
        UnknownNameError: No metric has this name.
        MetricError: No trial, or targets that are no class indices where the metric needs them.
    """
    targets = np.atleast_1d(targets)
    known = [metric for metric in (METRICS[name] for name in names) if metric.chance is not None]
    if len(targets) == 0:
        raise MetricError("0 targets; expected one per trial")
    _check_repetitions(repetition_id, len(targets))
    if any(metric.kind == "classes" for metric in known):
        is_index = targets.dtype.kind in "iu" and targets.ndim == 1
        if not is_index or targets.min() < 0 or targets.max() >= n_outputs:
            raise MetricError(
                f"targets ({targets.dtype} {list(targets.shape)}) are no class indices; expected one whole number from"
                f" 0 to {n_outputs - 1} for each trial"
            )
    weights = repetition_weights(len(targets), repetition_id)
    return {metric.name: float(metric.chance(targets, weights, n_outputs)) for metric in known if metric.chance}


def _check_repetitions(repetition_id: np.ndarray | None, n_trials: int) -> None:
    if repetition_id is not None and np.shape(repetition_id) != (n_trials,):
        raise MetricError(f"{np.shape(repetition_id)} repetition ids for {n_trials} trials; expected one per trial")
