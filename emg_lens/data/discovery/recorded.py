"""What a data set's recordings hold: repetitions, lengths, sensors, and what looks wrong."""

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from emg_lens.data.discovery.label_classes import Progress
from emg_lens.data.recording import Recording, Signal
from emg_lens.data.registry import load_dataset
from emg_lens.data.segment import notes_by_kind, unique_notes

CLIPPED = 0.01
"""Fraction of samples at the largest or smallest value, above which a channel is clipped."""
LOUD = 20
"""A channel with this many times the median spread of its sensor is odd."""


@dataclass
class RecordedData:
    """What the recordings of a data set hold.

    Attributes:
        repetitions: One row per repetition: subject, label, repetition, seconds, recording.
        sensors: For each modality: number of channels, rate (Hz), the sensor's own rate, whether samples are never
            negative.
        classes: Name of each label.
        odd: Sentences on what looks wrong.
        n_recordings: Number of recordings.
        seconds: Their duration in all.
    """

    repetitions: pd.DataFrame
    sensors: dict[str, tuple[int, float, float, bool]]
    classes: dict[int, str] = field(default_factory=dict)
    odd: list[str] = field(default_factory=list)
    n_recordings: int = 0
    seconds: float = 0.0


def read_recorded(
    dataset: str, root: Path | None, options: Mapping[str, Any], n_files: int, progress: Progress
) -> RecordedData:
    """Read all recordings of a data set once, and count what they hold."""
    tables, sensors, classes = [], {}, {}
    notes: list[str] = []
    odd: dict[str, list[str]] = defaultdict(list)
    seconds = 0.0
    for k, recording in enumerate(progress("reading recordings", load_dataset(dataset, root, **options), n_files)):
        table = recording.trials
        tables.append(table.assign(subject=recording.subject, seconds=table["stop"] - table["start"], recording=k))
        notes += recording.notes
        classes |= {int(one): str(name) for one, name in recording.meta.get("class_names", {}).items()}
        seconds += max(signal.duration for signal in recording.signals.values())
        _look_at_signals(recording, sensors, odd)
    every = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()
    found = [f"{what} [{_places(places)}]" for what, places in odd.items()]
    found += unique_notes(same[0] for same in notes_by_kind(notes))
    return RecordedData(every, sensors, classes, found, len(tables), seconds)


def _look_at_signals(recording: Recording, sensors: dict, odd: dict[str, list[str]]) -> None:
    for name, signal in recording.signals.items():
        n, fs, native, positive = sensors.get(name, (signal.data.shape[1], signal.fs, signal.native_fs, True))
        sensors[name] = n, fs, min(native, signal.native_fs), bool(positive and signal.data.min() >= 0)
        for what in _odd_channels(name, signal):
            odd[what].append(recording.source)


def _odd_channels(name: str, signal: Signal) -> list[str]:
    data = signal.data
    spread = data.std(axis=0)
    found = []
    for i in np.flatnonzero(spread == 0):
        found.append(f"{name}: channel {signal.ch_names[i]} is constant ({data[0, i]:g}): is it connected?")
    low, high = data.min(axis=0), data.max(axis=0)
    clipped = ((data == low) | (data == high)).mean(axis=0) if name.startswith("emg") else np.zeros(data.shape[1])
    for i in np.flatnonzero((clipped > CLIPPED) & (spread > 0) & (low < 0)):
        few = len(np.unique(data[:1000, i])) < 10
        if not few:
            found.append(f"{name}: channel {signal.ch_names[i]} is often at its largest or smallest value: clipped?")
    typical = np.median(spread)
    if name.startswith("emg") and typical > 0:
        for i in np.flatnonzero(spread > LOUD * typical):
            found.append(f"{name}: channel {signal.ch_names[i]} is more than {LOUD} times as strong as the others")
    return found


def _places(places: list[str]) -> str:
    times = Counter(places)
    shown = ", ".join([*times][:2])
    return shown if len(times) < 3 else f"{shown}, ... {len(times)} recordings"
