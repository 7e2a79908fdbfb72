"""Match detected events with labels of the same stream, one to one and in order (docs/events-and-text.md §2).

Both are lists of (name, time in s). A match costs nothing if the names are equal and one error otherwise, and an event
or label without a partner costs one error. The matching has the fewest errors and, among those, the smallest sum of
time differences. Times are compared in whole microseconds, so that the limits of the collar are exact.
"""

from collections.abc import Sequence
from typing import Annotated, NamedTuple

import numpy as np
from jaxtyping import Int
from pydantic import Field

from emg_lens.errors import EmgLensError
from emg_lens.validation import checked

Events = Sequence[tuple[str, float]]
"""Names and times in seconds, in any order."""
Seconds = Annotated[float, Field(ge=0, le=60)]
Pairs = list[tuple[int | None, int | None]]

COLLAR_S = (0.05, 0.25)
"""How long before and after its label an event may come, in s (Kaifosh et al. 2025)."""
ERROR = 1 << 40
"""One error, in microseconds: more than the time differences of three million matches together."""
IMPOSSIBLE = 1 << 62
UNMATCHED_LEFT, UNMATCHED_RIGHT, MATCH = 0, 1, 2


class ScoreError(EmgLensError, ValueError):
    """Events, texts or alignments that cannot be compared."""


class Timed(NamedTuple):
    """Events in order of time: place in the given list, time in microseconds, number of the name."""

    place: Int[np.ndarray, " event"]
    time: Int[np.ndarray, " event"]
    name: Int[np.ndarray, " event"]


@checked
def match_events(labels: Events, events: Events, collar_s: tuple[Seconds, Seconds] = COLLAR_S) -> Pairs:
    """Match labels and events one to one.

    Args:
        labels: What happened: (name, time in s), in any order.
        events: What was detected: (name, time in s), in any order.
        collar_s: How long before and after a label its event may come, in s; both limits included.

    Returns:
        Pairs (index of the label, index of the event) in order of time; None where a label or an event has no partner.
        A matched pair may have two names: the event is then a confusion. Between two matches, labels without a partner
        come before events without one.

    Example:
        >>> from emg_lens.scoring import match_events
        >>> labels = [("thumb_down", 1.0), ("thumb_up", 3.0)]
        >>> match_events(labels, [("thumb_up", 1.1), ("thumb_up", 3.1), ("thumb_up", 3.4)])
        [(0, 0), (1, 1), (None, 2)]
    """
    names = {name for name, _ in (*labels, *events)}
    numbers = {name: number for number, name in enumerate(sorted(names))}
    return align(in_time(labels, numbers), in_time(events, numbers), collar_s, events_first=True)


def in_time(events: Events, numbers: dict[str, int]) -> Timed:
    """Sort events by time; events at the same time keep their order."""
    times = np.rint(np.array([time for _, time in events], float) * 1e6).astype(np.int64)
    order = np.argsort(times, kind="stable")
    return Timed(order, times[order], np.array([numbers[name] for name, _ in events], np.int64)[order])


def align(labels: Timed, events: Timed, collar_s: tuple[float, float], events_first: bool) -> Pairs:
    """Align by dynamic programming; of equal solutions, take the one that the side given first leaves unmatched."""
    before, after = (round(limit * 1e6) for limit in collar_s)
    if events_first:
        pairs = _align(events, labels, -after, before)
        return [(label, event) for event, label in pairs]
    return _align(labels, events, -before, after)


def _align(left: Timed, right: Timed, low: int, high: int) -> Pairs:
    """Align two streams; a match needs low <= right - left <= high. One row of the table at a time."""
    n, m = len(left.time), len(right.time)
    moves = np.full((n + 1, m + 1), UNMATCHED_RIGHT, np.uint8)
    moves[:, 0] = UNMATCHED_LEFT
    gaps = ERROR * np.arange(m + 1)
    row, match = gaps, np.full(m + 1, IMPOSSIBLE)
    for i in range(n):
        lag = right.time - left.time[i]
        cost = np.abs(lag) + ERROR * (right.name != left.name[i])
        match[1:] = np.where((low <= lag) & (lag <= high), row[:-1] + cost, IMPOSSIBLE)
        above = row + ERROR
        row = np.minimum.accumulate(np.minimum(above, match) - gaps) + gaps
        after_gap = row[1:] == row[:-1] + ERROR
        moves[i + 1, 1:] = np.where(after_gap, UNMATCHED_RIGHT, MATCH)
        moves[i + 1, row == above] = UNMATCHED_LEFT
    pairs: Pairs = []
    i, j = n, m
    while i or j:
        move = moves[i, j]
        i, j = i - (move != UNMATCHED_RIGHT), j - (move != UNMATCHED_LEFT)
        first = None if move == UNMATCHED_RIGHT else int(left.place[i])
        second = None if move == UNMATCHED_LEFT else int(right.place[j])
        pairs.append((first, second))
    return pairs[::-1]
