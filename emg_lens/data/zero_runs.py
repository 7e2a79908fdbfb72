"""Notes on lost data: stretches in which a whole sensor is exactly zero, and channels of one value.

A sensor that is on has noise.
"""

from dataclasses import replace

import numpy as np

from emg_lens.data.recording import Recording, Signal
from emg_lens.validation import check_argument

LONG_ENOUGH_S = 0.1
"""Shorter stretches of zeros occur in recordings of few bits."""
SENSORS = ("emg", "acc", "gyro")
"""Modalities (or beginnings of their names) that are noisy at rest. A force may be exactly zero."""


def with_zero_notes(recording: Recording) -> Recording:
    """Add a note for each modality with stretches of zeros; `recording` is as it was loaded, not filtered."""
    check_argument("recording", recording, Recording)
    noisy = [(name, signal) for name, signal in recording.signals.items() if name.startswith(SENSORS)]
    notes = [note for name, signal in noisy for note in (_note(name, signal), _constant(name, signal)) if note]
    if not notes:
        return recording
    return replace(recording, meta={**recording.meta, "notes": (*recording.notes, *notes)})


def _note(name: str, signal: Signal) -> str:
    rows = np.flatnonzero(signal.data[:, 0] == 0) if signal.data.shape[1] else np.empty(0, int)
    rows = rows[(signal.data[rows] == 0).all(axis=1)]
    runs = np.split(rows, np.flatnonzero(np.diff(rows) > 1) + 1)
    long = [run for run in runs if len(run) >= max(2, LONG_ENOUGH_S * signal.fs)]
    if not long:
        return ""
    total, longest = sum(map(len, long)) / signal.fs, max(long, key=len)
    first_s, end_s = longest[0] / signal.fs, (longest[-1] + 1) / signal.fs
    return (
        f"{name}: all channels are exactly 0 in {len(long)} stretch{'es' * (len(long) > 1)}, {total:.2g} s in total,"
        f" the longest from {first_s:.1f} s to {end_s:.1f} s: data may be lost there"
    )


def _constant(name: str, signal: Signal) -> str:
    """A note on single channels that never change."""
    if len(signal.data) < max(2, LONG_ENOUGH_S * signal.fs):
        return ""
    same = (signal.data == signal.data[0]).all(axis=0)
    if not same.any() or same.all():
        return ""
    names = ", ".join(signal.ch_names[i] for i in np.flatnonzero(same))
    return f"{name}: channel {names} has one value in the whole recording: is it connected?"
