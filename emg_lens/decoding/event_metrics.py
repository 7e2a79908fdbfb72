"""Metrics of a model that detects events in a stream, for `fit` and studies (docs/sequences.md §3).

Outputs are logits `[window, step, gesture]`, targets those of `emg_lens.data.pulses`. The windows of a recording
are joined, events are decoded at the fixed threshold, and the counts of `emg_lens.scoring.event_table` add up.
"""

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
from jaxtyping import Float
from scipy.special import expit

from emg_lens.data.pulses import PRESS, RELEASE, labels_of
from emg_lens.data.windowing import join_steps
from emg_lens.decoding.events import decode_events
from emg_lens.scoring.detection import event_table
from emg_lens.scoring.metric_registry import Metric, MetricError
from emg_lens.scoring.score_table import CountScore, Sums

PARTS = ("classified", "hours", "latencies", "pairs")


def stream_events(
    logits: Float[np.ndarray, "window step gesture"],
    targets: Float[np.ndarray, "window step column"],
    names: Sequence[str],
) -> tuple[list[tuple[str, float]], list[tuple[str, float]], float]:
    """Return labels, detected events, and duration (s) of a recording.

    Args:
        logits: Outputs of the model for all windows of the recording.
        targets: From `event_targets`.
        names: Names of the gestures.
    """
    times, joined = join_steps(logits, targets[..., -1].astype(np.float64))
    if not len(times):
        return labels_of(targets, names), [], 0.0
    events = without_lone_releases(decode_events(expit(joined.astype(np.float64)), times, names))
    return labels_of(targets, names), events, stream_duration_s(times)


def stream_duration_s(times: Float[np.ndarray, " time"]) -> float:
    """Return the duration that the output steps of a recording cover (s), the last step included."""
    return float(times[-1] - times[0] + np.diff(times).min()) if len(times) > 1 else 0.0


def without_lone_releases(events: Sequence[tuple[str, float]]) -> list[tuple[str, float]]:
    """Keep the release of a finger only after a press of this finger that was detected and not yet released.

    A model is not trained on releases of a finger that is not held down, so its answers there have no meaning. This
    rule uses only what was detected, so that it also works online.

    Args:
        events: Detected events (name, time in s) in order of time.

    Example:
        >>> without_lone_releases([("index_release", 0.5), ("index_press", 1.0), ("index_release", 1.4),
        ...                        ("index_release", 1.6)])
        [('index_press', 1.0), ('index_release', 1.4)]
    """
    held, kept = set(), []
    for name, time in events:
        if name.endswith(RELEASE):
            if name.removesuffix(RELEASE) not in held:
                continue
            held.remove(name.removesuffix(RELEASE))
        elif name.endswith(PRESS):
            held.add(name.removesuffix(PRESS))
        kept.append((name, time))
    return kept


def _counts(logits: np.ndarray, targets: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """Counts of a recording, as one row."""
    if logits.ndim != 3 or targets.shape != (*logits.shape[:2], logits.shape[2] + 1):
        raise MetricError(
            f"outputs are {list(logits.shape)} and targets {list(targets.shape)}; metrics of events compare logits"
            " [window, step, gesture] with event targets [window, step, gesture + 1]"
        )
    names = tuple(names) or tuple(f"gesture {k:04d}" for k in range(logits.shape[2]))
    labels, events, duration_s = stream_events(logits, targets, names)
    table = event_table({"all": [(labels, events, max(duration_s, 1e-9))]}, gestures=names)
    return np.concatenate([np.ravel(table.counts[name]) for name in PARTS])


def _sums(row: np.ndarray) -> Sums:
    """Undo the concatenation of `_counts`."""
    n_latencies = len(_EMPTY.counts["latencies"][0])
    n = round((np.sqrt(2 * (row.shape[-1] - n_latencies) - 3) - 1) / 2)  # 2 n² + 2 n + 2 other numbers
    shapes = {"classified": (n, n), "hours": (), "latencies": (n_latencies,), "pairs": (n + 1, n + 1)}
    ends = np.cumsum([int(np.prod(shapes[name])) for name in PARTS])[:-1]
    parts = np.split(row, ends, axis=-1)
    return {name: part.reshape((*row.shape[:-1], *shapes[name])) for name, part in zip(PARTS, parts, strict=True)}


_EMPTY = event_table({"all": [((), (), 1.0)]}, gestures=("a",))
_SCORES: dict[str, CountScore] = {score.name: score for score in _EMPTY.scores}


def _value_of(score: CountScore) -> Callable[[np.ndarray], np.ndarray]:
    return lambda row: score.value(_sums(row[None]))[0]


def _metric(name: str, of: str, better: Literal["higher", "lower"], unit: str) -> Metric:
    return Metric(name, _counts, "events", _value_of(_SCORES[of]), better, unit, repetitions="joined")


EVENT_F1 = _metric("event_f1", "f1", "higher", "fraction")
DETECTED = _metric("detected", "detected", "higher", "fraction")
RIGHT = _metric("right", "right", "higher", "fraction")
CLER = _metric("cler", "cler", "lower", "fraction")
MISSED_PER_HOUR = _metric("missed_per_hour", "missed_per_hour", "lower", "")
FALSE_PER_HOUR = _metric("false_per_hour", "false_per_hour", "lower", "")
LATENCY_MS = _metric("latency_ms", "latency_ms", "lower", "")
