"""Stretches in which every channel of a sensor is exactly zero: a sensor that was on has noise, so data may be lost."""

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
    notes = [
        note for name, signal in recording.signals.items() if name.startswith(SENSORS) and (note := _note(name, signal))
    ]
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
