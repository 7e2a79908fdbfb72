"""What a data set's recordings hold: repetitions, lengths, sensors, and what looks wrong."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool

from emg_lens.data.discovery.columns import FEW_VALUES
from emg_lens.data.discovery.label_classes import Progress
from emg_lens.data.recording import Recording, Signal
from emg_lens.data.registry import load_dataset, subjects
from emg_lens.data.segment import notes_by_kind, unique_notes

CLIPPED = 0.02
"""Fraction of samples at the largest or smallest value, above which a channel is clipped."""
SHORT = 64
"""Fewest different values of a channel that can be called clipped."""
LOUD = 20
"""A channel with this many times the median spread of its sensor is odd."""
OddChannels = defaultdict[tuple[str, str], defaultdict[str, list[str]]]
"""(sensor, what is odd) -> channel -> recordings."""


@dataclass
class RecordedData:
    """What the recordings of a data set hold.

    Attributes:
        repetitions: One row per repetition: subject, label, repetition, seconds, recording.
        sensors: For each modality: number of channels, rate (Hz), the sensor's own rate, whether samples are never
            negative.
        odd: Sentences on what looks wrong.
        n_recordings: Number of recordings.
        seconds: Their duration in all.
        class_names: Name of each label.
    """

    repetitions: pd.DataFrame
    sensors: dict[str, tuple[int, float, float, bool]]
    odd: list[str] = field(default_factory=list)
    n_recordings: int = 0
    seconds: float = 0.0
    class_names: dict[int, str] = field(default_factory=dict)


def read_recorded(dataset: str, root: Path, options: Mapping[str, Any], progress: Progress) -> RecordedData:
    """Read all recordings of a data set once, subject by subject, and count what they hold."""
    tables, sensors, class_names = [], {}, {}
    notes: list[str] = []
    odd: OddChannels = defaultdict(lambda: defaultdict(list))
    seconds = 0.0
    names = subjects(dataset, root, **options)
    bar, last = iter(progress("reading recordings", names, len(names))), ""
    for k, recording in enumerate(load_dataset(dataset, root, **options)):
        if recording.subject != last:
            last = next(bar, recording.subject)
        class_names |= recording.meta.get("class_names", {})
        table = recording.trials
        tables.append(table.assign(subject=recording.subject, seconds=table["stop"] - table["start"], recording=k))
        notes += recording.notes
        seconds += max(signal.duration for signal in recording.signals.values())
        _look_at_signals(recording, sensors, odd)
    for _ in bar:
        pass
    every = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()
    found = _in_one_line(odd)
    found += unique_notes(same[0] for same in notes_by_kind(notes))
    return RecordedData(every, sensors, found, len(tables), seconds, class_names)


def _look_at_signals(recording: Recording, sensors: dict, odd: OddChannels) -> None:
    for name, signal in recording.signals.items():
        n, fs, native, positive = sensors.get(name, (signal.data.shape[1], signal.fs, signal.native_fs, True))
        sensors[name] = n, fs, min(native, signal.native_fs), bool(positive and signal.data.min() >= 0)
        for why, channels in _odd_channels(signal).items() if name.startswith("emg") else ():
            for channel in np.flatnonzero(channels):
                odd[name, why][signal.ch_names[channel]].append(recording.source)


def _odd_channels(signal: Signal) -> dict[str, Bool[np.ndarray, " channel"]]:
    """Which channels of EMG are often at their limits, hold few values, or are much stronger than the others."""
    data, spread = signal.data, signal.data.std(axis=0)
    low, high = data.min(axis=0), data.max(axis=0)
    at_limit = ((data == low) | (data == high)).mean(axis=0)
    n_values = np.array([len(np.unique(column[:2000])) for column in data.T])
    fine = n_values > SHORT  # not recorded with few bits
    few = (n_values <= FEW_VALUES) & (len(data) > FEW_VALUES) & (spread > 0) & fine.any()
    return {
        "often at its largest or smallest value, is it clipped": (at_limit > CLIPPED) & (low < 0) & fine,
        f"of {FEW_VALUES} different values or fewer, is it a channel": few,
        f"more than {LOUD} times as strong as the others": spread > LOUD * max(np.median(spread), 1e-30),
    }


def _in_one_line(odd: OddChannels) -> list[str]:
    """One sentence for all channels of which the same is true."""
    lines = []
    for (sensor, why), channels in odd.items():
        places = [*dict.fromkeys(place for some in channels.values() for place in some)]
        some = ", ".join([*channels][:4]) + (", ..." if len(channels) > 4 else "")
        where = places[0] + (f" and {len(places) - 1} other recordings" if len(places) > 1 else "")
        lines.append(f"{sensor}: channel {some} is {why} [{where}]")
    return lines
