"""Scores of gestures that are detected in a stream (docs/events-and-text.md §2).

CLER, the classification error rate of Kaifosh et al. (2025), ignores misses and false alarms: a detector that detects
nothing has no errors. Therefore it is reported together with the numbers of missed and false events.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated

import numpy as np
import pandas as pd
from jaxtyping import Float
from pydantic import Field

from emg_lens.scoring.event_matching import COLLAR_S, Events, Pairs, ScoreError, Seconds, Timed, align, in_time
from emg_lens.scoring.score_table import CountScore, ScoreTable, Sums, mean_of_defined, ratio
from emg_lens.validation import checked

Duration = Annotated[float, Field(gt=0)]
Stream = tuple[Events, Events, Duration]
"""Labels, detected events, and duration in s of one recording."""
PRESS, RELEASE = "_press", "_release"
"""Ends of the names of two gestures of a finger. A finger is held down between them."""


@checked
def cler(labels: Events, events: Events, collar_s: tuple[Seconds, Seconds] = COLLAR_S) -> float:
    """Compute the classification error rate (CLER) of a stream: how often matched events have the wrong name.

    For each gesture among the labels: 1 − events of this gesture / events of any gesture among the labels, of the
    events that are matched to it; then the mean over the gestures with matched events. A release counts only while its
    finger is down according to the labels (Kaifosh et al. 2025).

    Misses, false alarms and events of gestures that never occur as labels do not change it. `event_scores` counts them.

    Args:
        labels: What happened: (name, time in s), in any order. Names end in `_press` and `_release` for a finger that
            is held down.
        events: What was detected, after debouncing: (name, time in s), in any order.
        collar_s: How long before and after a label its event may come, in s; both limits included.

    Returns:
        The error rate; NaN if no event is matched, because nothing was classified.

    Example:
        >>> from emg_lens.scoring import cler
        >>> cler([("thumb_down", 1.0), ("thumb_up", 3.0)], [("thumb_up", 1.1), ("thumb_up", 3.1)])
        0.5
        >>> cler([("thumb_up", 3.0)], [])
        nan
    """
    return event_table({"all": [(labels, events, 1.0)]}, collar_s).pooled()["cler"]


@checked
def event_scores(
    labels: Events, events: Events, duration_s: Duration, collar_s: tuple[Seconds, Seconds] = COLLAR_S
) -> dict[str, float]:
    """Score the events that were detected in one recording.

    Args:
        labels: What happened: (name, time in s), in any order.
        events: What was detected: (name, time in s), in any order.
        duration_s: Duration of the recording in s.
        collar_s: How long before and after a label its event may come, in s; both limits included.

    Returns:
        A value for each name, NaN where it is undefined:

        * `cler`: see `cler`;
        * `detected`: fraction of labels that are matched to an event of any name;
        * `right`: fraction of labels that are matched to an event of their name;
        * `missed_per_hour`, `false_per_hour`: labels without an event, events without a label, per hour;
        * `f1`: 2 × right / (labels + events), so that misses, false alarms and confusions all count;
        * `latency_ms`, `latency_iqr_ms`: median and interquartile range of event time − label time in ms, over labels
          that are matched to an event of their name, rounded to 1 ms.

    Example:
        >>> from emg_lens.scoring import event_scores
        >>> labels = [("thumb_up", 1.0), ("thumb_up", 3.0), ("thumb_down", 5.0)]
        >>> scores = event_scores(labels, [("thumb_up", 1.1), ("thumb_up", 5.1), ("thumb_up", 9.0)], duration_s=3600.0)
        >>> {name: round(value, 2) for name, value in scores.items()}
        {'cler': 0.5, 'detected': 0.67, 'right': 0.33, 'missed_per_hour': 1.0, 'false_per_hour': 1.0, 'f1': 0.33,
         'latency_ms': 100.0, 'latency_iqr_ms': 0.0}
    """
    return event_table({"all": [(labels, events, duration_s)]}, collar_s).pooled()


@checked
def event_table(
    streams: Mapping[str, Sequence[Stream]], collar_s: tuple[Seconds, Seconds] = COLLAR_S, gestures: Sequence[str] = ()
) -> ScoreTable:
    """Count the events of several users. Each recording is matched separately, so their order has no effect.

    Args:
        streams: For each user, the recordings: (labels, events, duration in s).
        collar_s: How long before and after a label its event may come, in s; both limits included.
        gestures: Gestures that have a row even if they do not occur.

    Returns:
        The counts of each user, with the scores that `event_scores` explains.

    Raises:
        ScoreError: There is no user, or a user without a recording.

    Example:
        >>> from emg_lens.scoring import event_table
        >>> labels = [("thumb_up", 1.0), ("thumb_down", 3.0)]
        >>> table = event_table({"a": [(labels, labels, 10.0)], "b": [(labels, [("thumb_down", 1.0)], 10.0)]})
        >>> table.by_unit()["right"].tolist(), table.pooled()["right"]
        ([1.0, 0.0], 0.5)
    """
    empty = [user for user, recordings in streams.items() if not recordings]
    if empty or not streams:
        raise ScoreError(f"no recordings of {', '.join(empty) or 'any user'}; expected (labels, events, duration_s)")
    named = {name for recordings in streams.values() for one in recordings for part in one[:2] for name, _ in part}
    classes = tuple(sorted(named | {*gestures}))
    rows = []
    for recordings in streams.values():
        parts = [_stream_counts(*one, collar_s, classes) for one in recordings]
        rows.append({key: sum(part[key] for part in parts) for key in parts[0]})
    counts = {key: np.stack([row[key] for row in rows]).astype(np.float64) for key in rows[0]}
    return ScoreTable(tuple(streams), counts, _scores(collar_s), classes)


@checked
def by_gesture(table: ScoreTable) -> pd.DataFrame:
    """Return the counts of each gesture, summed over all users.

    Args:
        table: From `event_table`.

    Returns:
        One row a gesture: `labels`; `detected`, matched to an event of any name; `right`, matched to an event of its
        name; `missed`; `events` of this name; `false`, events of this name that are matched to no label.

    Example:
        >>> from emg_lens.scoring import by_gesture, event_table
        >>> table = event_table({"a": [([("thumb_up", 1.0)], [("thumb_down", 1.0), ("thumb_down", 2.0)], 10.0)]})
        >>> by_gesture(table).loc["thumb_down"].to_dict()
        {'labels': 0, 'detected': 0, 'right': 0, 'missed': 0, 'events': 2, 'false': 1}
    """
    pairs = table.counts["pairs"].sum(0).astype(np.int64)
    inner = pairs[:-1, :-1]
    columns = {
        "labels": pairs[:-1].sum(1),
        "detected": inner.sum(1),
        "right": inner.diagonal(),
        "missed": pairs[:-1, -1],
        "events": pairs[:, :-1].sum(0),
        "false": pairs[-1, :-1],
    }
    return pd.DataFrame(columns, index=pd.Index(table.classes, name="gesture"))


def _stream_counts(
    labels: Events, events: Events, duration_s: float, collar_s: tuple[float, float], classes: Sequence[str]
) -> dict[str, np.ndarray]:
    """Count one recording: pairs of label and event with a last row and column for none, latencies, hours."""
    numbers = {name: number for number, name in enumerate(classes)}
    given, detected = in_time(labels, numbers), in_time(events, numbers)
    matched = align(given, detected, collar_s, events_first=True)
    name_of_label, name_of_event = ([numbers[name] for name, _ in named] for named in (labels, events))
    pairs, n = np.zeros((len(classes) + 1, len(classes) + 1)), len(classes)
    first, last = _latency_range(collar_s)
    latencies = np.zeros(last - first + 1)
    for label, event in matched:
        row, column = (n if label is None else name_of_label[label]), (n if event is None else name_of_event[event])
        pairs[row, column] += 1
        if row == column and label is not None and event is not None:
            lag_ms = 1000 * (events[event][1] - labels[label][1])
            latencies[min(max(round(lag_ms), first), last) - first] += 1
    classified = np.zeros((n, n))
    kept = _without_releases_of_other_fingers(labels, events, matched)
    detected = Timed(*(part[np.isin(detected.place, kept)] for part in detected))
    for label, event in align(given, detected, collar_s, events_first=False):
        if label is not None and event is not None:
            classified[name_of_label[label], name_of_event[event]] += 1
    return {"pairs": pairs, "classified": classified, "latencies": latencies, "hours": np.array(duration_s / 3600)}


def _without_releases_of_other_fingers(labels: Events, events: Events, matched: Pairs) -> list[int]:
    """Return the events without releases of a finger that the labels before them do not hold down."""
    held, kept = None, []
    for label, event in matched:
        if event is not None:
            name = events[event][0]
            if not name.endswith(RELEASE) or name.removesuffix(RELEASE) == held:
                kept.append(event)
        if label is not None:
            name = labels[label][0]
            held = name.removesuffix(PRESS) if name.endswith(PRESS) else None
    return kept


# --- scores of summed counts ------------------------------------------------------------------------------


def _scores(collar_s: tuple[float, float]) -> tuple[CountScore, ...]:
    unmatched, unlabelled = "no event is matched to a label", "there is no label"
    first, _ = _latency_range(collar_s)
    right = "no event is matched to a label of its name"
    return (
        CountScore("cler", _error_rate, unmatched),
        CountScore("detected", _detected, unlabelled, "higher"),
        CountScore("right", _right, unlabelled, "higher"),
        CountScore("missed_per_hour", lambda sums: ratio(sums["pairs"][..., :-1, -1].sum(-1), sums["hours"]), ""),
        CountScore("false_per_hour", lambda sums: ratio(sums["pairs"][..., -1, :-1].sum(-1), sums["hours"]), ""),
        CountScore("f1", _f1, "there is neither a label nor an event", "higher"),
        CountScore("latency_ms", lambda sums: first + _quantile(sums["latencies"], 0.5), right, "neither"),
        CountScore("latency_iqr_ms", _interquartile_range, right, "neither"),
    )


def _error_rate(sums: Sums) -> np.ndarray:
    classified, occurs = sums["classified"], sums["pairs"][..., :-1, :].sum(-1) > 0
    among = np.where(occurs[..., None, :], classified, 0.0).sum(-1)
    return mean_of_defined(1 - ratio(np.diagonal(classified, axis1=-2, axis2=-1), among))


def _labels(sums: Sums) -> np.ndarray:
    return sums["pairs"][..., :-1, :].sum((-2, -1))


def _count_right(sums: Sums) -> np.ndarray:
    return np.trace(sums["pairs"][..., :-1, :-1], axis1=-2, axis2=-1)


def _detected(sums: Sums) -> np.ndarray:
    return ratio(sums["pairs"][..., :-1, :-1].sum((-2, -1)), _labels(sums))


def _right(sums: Sums) -> np.ndarray:
    return ratio(_count_right(sums), _labels(sums))


def _f1(sums: Sums) -> np.ndarray:
    return ratio(2 * _count_right(sums), _labels(sums) + sums["pairs"][..., :-1].sum((-2, -1)))


def _latency_range(collar_s: tuple[float, float]) -> tuple[int, int]:
    """Smallest and largest latency in ms."""
    return -round(1000 * collar_s[0]), round(1000 * collar_s[1])


def _quantile(histogram: Float[np.ndarray, "*many bin"], q: float) -> np.ndarray:
    """The first bin at which the cumulative count reaches the quantile; NaN if the histogram is empty."""
    total = histogram.sum(-1)
    reached = histogram.cumsum(-1) >= q * total[..., None] - 1e-9
    return np.where(total > 0, reached.argmax(-1), np.nan)


def _interquartile_range(sums: Sums) -> np.ndarray:
    return _quantile(sums["latencies"], 0.75) - _quantile(sums["latencies"], 0.25)
