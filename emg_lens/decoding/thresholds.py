"""Thresholds at which conditions raise no more false alarms than the baseline (docs/events-and-text.md §2.3).

A cut that lowers all logits lowers the number of events, right and false ones. At a fixed threshold this looks like a
loss of information. At equal false alarms it does not.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import pandas as pd
from pydantic import Field

from emg_lens.decoding.events import DEBOUNCE_S, THRESHOLD, Rises, Threshold, check_threshold, find_rises
from emg_lens.scoring.condition_scores import ConditionScores, check_baseline, unit_names
from emg_lens.scoring.detection import Duration, Stream, event_table
from emg_lens.scoring.event_matching import COLLAR_S, Events, ScoreError, Seconds, Timed, align, in_time
from emg_lens.validation import checked

LabelledTimes = tuple[Events, np.ndarray, Duration]
"""Labels, time of each step `[step]` in s, and duration in s of one recording."""
PerHour = Annotated[float, Field(ge=0)]
MOST_CANDIDATES, SCAN_RATIO = 1000, 1.1
"""Up to this number of candidates, all are tried. Otherwise the ratio of the numbers of peaks above two thresholds
that are tried one after the other."""
FEWEST_ALLOWED = 0.01
"""False alarms that are always allowed, as a fraction of the labels. Otherwise a single one could decide."""
REFINEMENTS, BETWEEN = 2, 12
"""How often the surroundings of the best threshold are searched again, and with how many candidates."""


@dataclass(frozen=True)
class MatchedThreshold:
    """A threshold that was chosen for a rate of false alarms.

    Attributes:
        threshold: The threshold.
        false_per_hour: False alarms per hour at this threshold.
        right: Number of labels that are detected under their name at this threshold.
        target_per_hour: The largest rate that was allowed.
    """

    threshold: float
    false_per_hour: float
    right: int
    target_per_hour: float


@dataclass(frozen=True)
class EventComparison:
    """Events of several conditions, scored twice.

    Attributes:
        fixed: Scores with the same threshold for all conditions.
        matched: Scores with a threshold for each condition, at no more false alarms than the baseline.
        thresholds: One row a condition: the fields of `MatchedThreshold`.
    """

    fixed: ConditionScores
    matched: ConditionScores
    thresholds: pd.DataFrame


@checked
def matched_threshold(
    recordings: Sequence[LabelledTimes],
    probabilities: Sequence[np.ndarray],
    names: Sequence[str],
    false_per_hour: PerHour,
    debounce_s: Seconds = DEBOUNCE_S,
    collar_s: tuple[Seconds, Seconds] = COLLAR_S,
    lone_releases: bool = True,
) -> MatchedThreshold:
    """Find the threshold with the most right detections, among those with at most a given rate of false alarms.

    Right and false detections can change only at the probabilities that occur, so only these are candidates. All of
    them are tried if there are at most 1,000. Otherwise about a hundred peaks are tried first, close together at the
    top, and then candidates around the best of them. With equal numbers of right detections, fewer false alarms win,
    then the higher threshold.

    The rate alone does not define a threshold: it is not monotone. Near the top, the probability of a true event may
    cross the threshold twice, and the second event is a false alarm. Far below, events merge.

    Args:
        recordings: Labels, time of each step in s, and duration in s of each recording.
        probabilities: Probability of each gesture in each recording, `[step, class]`.
        names: Name of each gesture.
        false_per_hour: The rate of false alarms, over all recordings together.
        debounce_s: As in `decode_events`.
        collar_s: How long before and after a label its event may come, in s; both limits included.
        lone_releases: As in `decode_events`.

    Returns:
        The threshold. It is above all probabilities, so that nothing is detected, if no other one is better.

    Raises:
        ArgumentError: Values are no probabilities, or do not belong to the recordings.

    Example:
        >>> import numpy as np
        >>> from emg_lens.decoding import matched_threshold
        >>> probabilities = np.array([[0.0], [0.5], [0.0], [0.2], [0.0], [0.1]])
        >>> recording = ([("tap", 1.0)], np.arange(6.0), 3600.0)
        >>> matched_threshold([recording], [probabilities], ["tap"], false_per_hour=1.0).threshold
        0.5
    """
    return _search(_Searched.of(recordings, probabilities, names, debounce_s, collar_s, lone_releases), false_per_hour)


@checked
def score_event_conditions(
    recordings: Mapping[str, Sequence[LabelledTimes]],
    probabilities: Mapping[str, Mapping[str, Sequence[np.ndarray]]],
    names: Sequence[str],
    baseline: str = "baseline",
    threshold: Threshold = THRESHOLD,
    false_per_hour: PerHour | None = None,
    debounce_s: Seconds = DEBOUNCE_S,
    collar_s: tuple[Seconds, Seconds] = COLLAR_S,
    lone_releases: bool = True,
) -> EventComparison:
    """Score the events of several conditions at one threshold, and at thresholds with equal false alarms.

    Args:
        recordings: For each user, the recordings: labels, time of each step in s, duration in s.
        probabilities: For each condition and user, the probabilities of each recording, `[step, class]`.
        names: Name of each gesture.
        baseline: The condition with the intact model.
        threshold: Threshold of all conditions in `fixed`.
        false_per_hour: Rate of false alarms in `matched`. Default: the rate of the baseline at `threshold`,
            or 1 % of the number of labels if that is more. The threshold of the baseline is searched in the same way as
            the others.
        debounce_s: As in `decode_events`.
        collar_s: How long before and after a label its event may come, in s; both limits included.
        lone_releases: As in `decode_events`.

    Returns:
        The counts of each condition and user, with the scores of `event_scores`, and the thresholds.

    Raises:
        ArgumentError: Values are no probabilities, or do not belong to the recordings.
        ScoreError: The baseline is missing, or a condition has other users.

    Example:
        >>> import numpy as np
        >>> from emg_lens.decoding import score_event_conditions
        >>> recordings = {"u1": [([("tap", 1.0)], np.arange(4.0), 4.0)]}
        >>> intact = np.array([[0.0], [0.9], [0.0], [0.4]])
        >>> outputs = {"baseline": {"u1": [intact]}, "half": {"u1": [intact / 2]}}
        >>> scored = score_event_conditions(recordings, outputs, ["tap"])
        >>> [part.to_frame()["false_per_hour"].to_dict() for part in (scored.fixed, scored.matched)]
        [{'baseline': 900.0, 'half': 0.0}, {'baseline': 0.0, 'half': 0.0}]
        >>> scored.thresholds["threshold"].to_dict()
        {'baseline': 0.9, 'half': 0.45}
    """
    check_baseline(baseline, probabilities)
    check_threshold(threshold)
    rate, found, fixed, matched = false_per_hour, {}, {}, {}
    for condition in sorted(probabilities, key=lambda name: name != baseline):  # one at a time in memory
        outputs = probabilities[condition]
        if set(outputs) != set(recordings) or any(len(outputs[u]) != len(recordings[u]) for u in recordings):
            raise ScoreError(f"condition {condition!r} has other users or recordings; expected those of `recordings`")
        flat = [one for parts in recordings.values() for one in parts]
        arrays = [one for user in recordings for one in outputs[user]]
        searched = _Searched.of(flat, arrays, names, debounce_s, collar_s, lone_releases)
        if rate is None:
            allowed = math.ceil(FEWEST_ALLOWED * sum(len(one.name) for one in searched.labels))
            rate = max(searched.right_and_false(threshold)[1], allowed) / searched.hours
        found[condition] = _search(searched, rate)
        fixed[condition] = searched.streams(recordings, threshold)
        matched[condition] = searched.streams(recordings, found[condition].threshold)
    found = {condition: found[condition] for condition in probabilities}
    return EventComparison(
        _scored(fixed, baseline, found, collar_s),
        _scored(matched, baseline, found, collar_s),
        pd.DataFrame([vars(one) for one in found.values()], index=pd.Index(found, name="condition")),
    )


@dataclass(frozen=True)
class _Searched:
    """Recordings with everything that counting false alarms at many thresholds needs."""

    rises: list[Rises]
    labels: list[Timed]
    numbers: np.ndarray
    hours: float
    debounce_us: int
    collar_s: tuple[float, float]
    lone_releases: bool

    @classmethod
    def of(
        cls,
        recordings: Sequence[LabelledTimes],
        probabilities: Sequence[np.ndarray],
        names: Sequence[str],
        debounce_s: float,
        collar_s: tuple[float, float],
        lone_releases: bool,
    ) -> "_Searched":
        if not recordings or len(recordings) != len(probabilities):
            raise ScoreError(
                f"{len(recordings)} recordings and {len(probabilities)} arrays of probabilities; expected one array for"
                " each recording, and at least one"
            )
        rises = [find_rises(one, times, names) for one, (_, times, _) in zip(probabilities, recordings, strict=True)]
        known = {*names, *(name for labels, _, _ in recordings for name, _ in labels)}
        numbers = {name: number for number, name in enumerate(sorted(known))}
        labels = [in_time(labels, numbers) for labels, _, _ in recordings]
        hours = sum(duration for _, _, duration in recordings) / 3600
        of_names, debounce_us = np.array([numbers[name] for name in names]), round(debounce_s * 1e6)
        return cls(rises, labels, of_names, hours, debounce_us, collar_s, lone_releases)

    def right_and_false(self, threshold: float, most_false: int | None = None) -> tuple[int, int]:
        """Count labels that are detected under their name, and events without a label.

        With more than `most_false` false alarms for sure, the events are not matched: (0, the fewest possible number).
        """
        kept = [one.kept(threshold, self.debounce_us, self.lone_releases) for one in self.rises]
        fewest = sum(max(0, len(chosen) - len(labels.name)) for chosen, labels in zip(kept, self.labels, strict=True))
        if most_false is not None and fewest > most_false:
            return 0, fewest
        n_right, n_false = 0, 0
        for rises, labels, chosen in zip(self.rises, self.labels, kept, strict=True):
            events = rises.events(chosen, self.numbers)
            names = [dict(zip(some.place.tolist(), some.name.tolist(), strict=True)) for some in (labels, events)]
            for label, event in align(labels, events, self.collar_s, events_first=True):
                n_false += label is None
                n_right += label is not None and event is not None and names[0][label] == names[1][event]
        return n_right, n_false

    def streams(self, recordings: Mapping[str, Sequence[LabelledTimes]], threshold: float) -> dict[str, list[Stream]]:
        """Return labels, events at a threshold, and duration of each recording of each user."""
        rises, options = iter(self.rises), (threshold, self.debounce_us, self.lone_releases)
        return {
            user: [(labels, next(rises).named(times, *options), duration) for labels, times, duration in parts]
            for user, parts in recordings.items()
        }


def _search(searched: _Searched, per_hour: float) -> MatchedThreshold:
    target = math.floor(per_hour * searched.hours + 1e-6)
    values = np.concatenate([part for one in searched.rises for part in (one.low, one.high)])
    candidates = np.unique(values[values > 0])
    above_all = float(np.nextafter(candidates.max(initial=0.0), 2))
    tried: dict[float, tuple[int, int]] = {}

    def best_of(levels: Iterable[float]) -> float:
        """Try thresholds; of all tried ones, return the best."""
        tried.update({level: searched.right_and_false(level, target) for level in levels if level not in tried})
        allowed = [level for level, (_, false) in tried.items() if false <= target]
        return max(allowed, key=lambda level: (tried[level][0], -tried[level][1], level))

    best = best_of([above_all, *_levels(searched, candidates)])
    for _ in range(REFINEMENTS if len(candidates) > MOST_CANDIDATES else 0):
        near = np.sort(list(tried))
        place = int(np.searchsorted(near, best))
        low, high = near[max(place - 1, 0)], near[min(place + 1, len(near) - 1)]
        between = candidates[(low < candidates) & (candidates < high)]
        best = best_of(between[np.unique(np.linspace(0, len(between) - 1, BETWEEN).round().astype(int))].tolist())
    right, false = tried[best]
    return MatchedThreshold(best, false / searched.hours, right, per_hour)


def _levels(searched: _Searched, candidates: np.ndarray) -> list[float]:
    """Return the thresholds to try: all candidates, or peaks at growing distances from the highest."""
    if len(candidates) <= MOST_CANDIDATES:
        return candidates.tolist()
    peaks = np.sort(np.concatenate([one.high[one.peak & (one.high > 0)] for one in searched.rises]))[::-1]
    steps = 1 + math.ceil(math.log(len(peaks)) / math.log(SCAN_RATIO))
    at = np.rint(np.geomspace(1, len(peaks), steps)).astype(int) - 1
    return list(dict.fromkeys(peaks[at].tolist()))


def _scored(
    streams: Mapping[str, Mapping[str, Sequence[Stream]]],
    baseline: str,
    order: Iterable[str],
    collar_s: tuple[float, float],
) -> ConditionScores:
    """Count the events of each condition."""
    conditions, users = tuple(order), tuple(streams[baseline])
    parts = [streams[condition][user] for condition in conditions for user in users]
    table = event_table(dict(zip(unit_names(conditions, users), parts, strict=True)), collar_s)
    return ConditionScores(table, conditions, users, baseline)
