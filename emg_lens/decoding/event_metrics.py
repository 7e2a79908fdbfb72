"""Metrics of a model that detects events in a stream, for `fit` and studies (docs/sequences.md §3).

Outputs are logits `[window, step, gesture]`, targets those of `emg_lens.data.pulses`. The windows of a recording
are joined, events are decoded at the fixed threshold, and the counts of `emg_lens.scoring.event_table` add up.
"""

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
from jaxtyping import Float
from scipy.special import expit

from emg_lens.data.pulses import labels_of
from emg_lens.data.windowing import join_steps
from emg_lens.decoding.events import decode_events
from emg_lens.scoring.detection import Stream, event_table
from emg_lens.scoring.metric_registry import Metric, MetricError
from emg_lens.scoring.score_table import CountScore, Sums

PARTS = ("classified", "hours", "latencies", "pairs")
SHORTEST_S = 1e-9


def joined_stream(
    logits: Float[np.ndarray, "window step gesture"], targets: Float[np.ndarray, "window step column"]
) -> tuple[Float[np.ndarray, " time"], Float[np.ndarray, "time gesture"], float]:
    """Join the windows of a recording: time of each output step (s), probabilities, and duration (s).

    The duration is the time that the steps cover, the last step included; 1 ns if there is no second step.

    Args:
        logits: Outputs of the model for all windows of the recording.
        targets: From `event_targets`.
    """
    times, joined = join_steps(logits, targets[..., -1].astype(np.float64))
    duration_s = float(times[-1] - times[0] + np.diff(times).min()) if len(times) > 1 else SHORTEST_S
    return times, expit(joined.astype(np.float64)), duration_s


def stream_events(
    logits: Float[np.ndarray, "window step gesture"],
    targets: Float[np.ndarray, "window step column"],
    names: Sequence[str],
) -> Stream:
    """Return labels, detected events, and duration (s) of a recording.

    Releases without a detected press are left out (`decode_events` with `lone_releases=False`).

    Args:
        logits: Outputs of the model for all windows of the recording.
        targets: From `event_targets`.
        names: Names of the gestures.
    """
    times, probabilities, duration_s = joined_stream(logits, targets)
    return labels_of(targets, names), decode_events(probabilities, times, names, lone_releases=False), duration_s


def _counts(logits: np.ndarray, targets: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """Counts of a recording, as one row."""
    if logits.ndim != 3 or targets.shape != (*logits.shape[:2], logits.shape[2] + 1):
        raise MetricError(
            f"outputs are {list(logits.shape)} and targets {list(targets.shape)}; metrics of events compare logits"
            " [window, step, gesture] with event targets [window, step, gesture + 1]"
        )
    names = tuple(names) or tuple(f"gesture {k:04d}" for k in range(logits.shape[2]))
    table = event_table({"all": [stream_events(logits, targets, names)]}, gestures=names)
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
