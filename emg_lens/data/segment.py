"""Cut recordings into windows: the part of each repetition that is used, and notes on what was dropped."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from pydantic import Field, model_validator

from emg_lens.data.recording import EXACT, REST, DataError, Recording, rounded_by_float32
from emg_lens.validation import SpecModel, check_argument, checked

CHANNEL_COLUMNS = ("modality", "name", "units", "native_fs")
ROW_TOLERANCE = 1e-6
"""A number of rows counts as whole within this tolerance."""
NUMBER = r"\d+(\.\d+)?"
SHOWN = 3
"""Number of recordings that a note names; more are counted."""
LONGEST_S = 86_400
"""Longest time of a segment (s): one day."""
Time = Annotated[float, Field(ge=0, le=LONGEST_S)]
Length = Annotated[float, Field(gt=0, le=LONGEST_S)]
"""Seconds."""


class Segment(SpecModel):
    """The part of each repetition that is used, and how it is cut into windows.

    Times are rounded to the nearest row; a note lists the times that were rounded.

    Attributes:
        start_s: Start of the segment, in seconds after the onset of the repetition.
        stop_s: End of the segment, in seconds after the onset; `None` = end of the repetition. Repetitions that end
            earlier are dropped.
        window_s: Length of a window (s); `None` = the whole segment.
        stride_s: Time between the starts of successive windows (s); `None` = one window, at the segment's start.
        piece_s: Cut the segment into pieces of this length (s); each piece counts as a repetition of its own. Windows
            stay inside a piece, and an incomplete piece at the end is dropped. Use it for recordings of one long
            repetition: a split by time then keeps each piece in one set. Neighbouring pieces share no sample but are
            not independent.

    Example:
        Windows of 0.2 s, every 0.1 s, from the first half second of each repetition, as rows at 200 Hz:

        >>> from emg_lens.data import Segment
        >>> segment = Segment(stop_s=0.5, window_s=0.2, stride_s=0.1)
        >>> segment.windows(n_rows=300, fs=200)
        [(0, 40), (20, 60), (40, 80), (60, 100)]
        >>> segment.in_words()
        'segment 0 s to 0.5 s, windows of 0.2 s every 0.1 s'
    """

    start_s: Time = 0.0
    stop_s: Length | None = None
    window_s: Length | None = None
    stride_s: Length | None = None
    piece_s: Length | None = None

    @model_validator(mode="after")
    def _fits(self) -> "Segment":
        length = np.inf if self.stop_s is None else self.stop_s - self.start_s
        if length <= 0:
            raise ValueError(f"start_s must be below stop_s, got {self.start_s:g} and {self.stop_s:g}")
        if self.piece_s is not None and self.piece_s > length + 1e-9:
            raise ValueError(f"piece_s={self.piece_s:g} is longer than the segment ({length:g} s); give a shorter one")
        length = length if self.piece_s is None else self.piece_s
        if self.window_s is not None and self.window_s > length + 1e-9:
            what = "segment" if self.piece_s is None else "piece"
            raise ValueError(f"window_s={self.window_s:g} is longer than the {what} ({length:g} s); give a shorter one")
        if self.stride_s is not None and self.window_s is None:
            raise ValueError("stride_s needs a window_s; give both")
        return self

    @checked
    def windows(self, n_rows: int, fs: float) -> list[tuple[int, int]]:
        """Return the first row and the end row (exclusive) of each window.

        Args:
            n_rows: Rows of the repetition. No window is returned if there are too few.
            fs: Rows per second (Hz).
        """
        return [window for piece in self.pieces(n_rows, fs) for window in piece]

    @checked
    def pieces(self, n_rows: int, fs: float) -> list[list[tuple[int, int]]]:
        """Return the windows of each piece, as `windows` does; without `piece_s` the whole segment is one piece."""
        start = round(self.start_s * fs)
        stop = n_rows if self.stop_s is None else round(self.stop_s * fs)
        size = stop - start if self.piece_s is None else round(self.piece_s * fs)
        length = size if self.window_s is None else round(self.window_s * fs)
        stride = length if self.stride_s is None else round(self.stride_s * fs)
        if self.stop_s is not None:
            size = min(size, stop - start)  # rounding to rows may make it one row longer
        if self.stop_s is not None or self.piece_s is not None:
            length = min(length, size)
        fixed = self.window_s is not None or self.stop_s is not None or self.piece_s is not None
        if (fixed and length < 1) or (self.stride_s is not None and stride < 1):
            raise DataError(f"{self.in_words()} is shorter than one row at {fs:g} Hz; give longer times")
        if stop > n_rows or length < 1 or start + max(length, size) > stop:
            return []
        last = 0 if self.stride_s is None else size - length
        return [
            [(first + offset, first + offset + length) for offset in range(0, last + 1, stride)]
            for first in range(start, stop - size + 1, size)
        ]

    @checked
    def rounding_note(self, fs: float) -> str:
        """Return a note on the times that were rounded to rows at `fs` Hz; empty if none was."""
        given = {name: value for name, value in self if value is not None}
        n_rows = {name: round(value * fs) for name, value in given.items()}
        rounded = [name for name, rows in n_rows.items() if abs(rows - given[name] * fs) > ROW_TOLERANCE]
        listed = ", ".join(
            f"{name} {given[name]:g} to {n_rows[name] / fs:.4g} ({n_rows[name]} rows)" for name in rounded
        )
        return f"times rounded to whole rows at {fs:.5g} Hz: {listed}" if rounded else ""

    def in_words(self) -> str:
        """Describe the segment in a few words."""
        stop = "the end" if self.stop_s is None else f"{self.stop_s:g} s"
        window = "" if self.window_s is None else f", windows of {self.window_s:g} s"
        stride = "" if self.stride_s is None else f" every {self.stride_s:g} s"
        piece = "" if self.piece_s is None else f" in pieces of {self.piece_s:g} s"
        return f"segment {self.start_s:g} s to {stop}{piece}{window}{stride}"


@dataclass
class _Cut:
    """Windows and counts so far, while recordings are read one by one."""

    windows: list[Float[np.ndarray, "window channel time"]] = field(default_factory=list)
    """One array per recording; emptied when lengths differ, which becomes an error."""
    lengths: set[int] = field(default_factory=set)
    rows: list[tuple[int, str, int, int, int, float]] = field(default_factory=list)
    """Label, subject, repetition number, repetition_id, recording and start (s) of each window."""
    repetitions: int = 0
    next_id: int = 0
    """The next free `repetition_id`. Each piece takes one, so it may exceed the number of repetitions."""
    too_short: int = 0
    other_labels: set[int] = field(default_factory=set)
    n_other: int = 0
    recordings: int = 0
    declared: list[Mapping[int, str]] = field(default_factory=list)
    notes: dict[str, list[str]] = field(default_factory=dict)


def cut_recordings(recordings: Iterable[Recording], segment: Segment, classes: Iterable[int] | None) -> dict[str, Any]:
    """Make the fields of a `TrialSet`; see `TrialSet.from_recordings`."""
    try:
        wanted = None if classes is None else [int(c) for c in classes]
    except (TypeError, ValueError):
        given = " ".join(repr(classes).split())
        raise DataError(f"classes={given[:60]}; expected whole numbers above 0, such as [1, 2]") from None
    if wanted is not None and (len(set(wanted)) != len(wanted) or not wanted or min(wanted) < 1):
        raise DataError(f"classes must be different labels above 0, got {wanted}")
    state, fs, channels = _Cut(), 0.0, None
    for recording in recordings:
        check_argument("recording", recording, Recording)
        table = _channel_table(recording)
        if channels is None:
            fs, channels = recording.fs, table
        if recording.fs != fs:
            raise DataError(
                f"recordings have different rates ({fs:.6g} and {recording.fs:.6g} Hz); set the recipe's fs"
            )
        if not same_channels(table, channels):
            raise DataError(f"{recording.source} has other channels than the recordings before it; leave it out")
        channels["native_fs"] = np.minimum(channels["native_fs"], table["native_fs"])
        _cut_one(recording, segment, wanted, state)
        del recording  # before the next one is read
    if channels is None:
        raise DataError("no recording to cut into trials; choose at least one subject")
    if not state.rows:
        raise DataError(
            f"no trial for {segment.in_words()}: of {state.repetitions} repetitions, {state.too_short} are too short"
            f" and {state.n_other} have labels outside `classes` {sorted(state.other_labels)}; give a shorter segment"
        )
    lengths = sorted(state.lengths)
    if len(lengths) > 1:
        raise DataError(
            f"repetitions last {lengths[0] / fs:.3g} to {lengths[-1] / fs:.3g} s; give the segment a stop_s or window_s"
        )
    label, subject, repetition, repetition_id, source, start_s = map(np.array, zip(*state.rows, strict=True))
    names = _class_names(state, wanted, label)
    index = {label: i for i, label in enumerate(names)}
    return {
        "x": _together(state.windows),
        "y": np.array([index[one] for one in label.tolist()], dtype=np.int64),
        "subject": subject.astype(str),
        "repetition": repetition.astype(np.int64),
        "repetition_id": repetition_id.astype(np.int64),
        "source": source.astype(np.int64),
        "start_s": start_s.astype(np.float64),
        "channels": channels,
        "fs": float(fs),
        "classes": tuple(names.values()),
        "notes": _notes(state, segment, fs, [one for one in wanted or () if one not in label]),
    }


def same_channels(one: pd.DataFrame, other: pd.DataFrame) -> bool:
    """Whether two channel tables agree; native rates may differ, because they may be measured file by file."""
    columns = [c for c in CHANNEL_COLUMNS if c != "native_fs"]
    return len(one) == len(other) and bool((one[columns].to_numpy() == other[columns].to_numpy()).all())


def unique_notes(notes: Iterable[str]) -> tuple[str, ...]:
    """Shorten a list of notes: of notes that differ in numbers only, keep the first and count the others."""
    groups = notes_by_kind(dict.fromkeys(notes))
    return tuple(same[0] + (f" [{len(same) - 1} more of this kind]" if len(same) > 1 else "") for same in groups)


def notes_by_kind(notes: Iterable[str]) -> list[list[str]]:
    """Groups of notes that differ in numbers only."""
    groups: dict[str, list[str]] = {}
    for note in notes:
        groups.setdefault(re.sub(NUMBER, "#", note), []).append(note)
    return list(groups.values())


def _cut_one(recording: Recording, segment: Segment, wanted: list[int] | None, state: _Cut) -> None:
    state.recordings += 1
    state.declared.append(recording.meta.get("class_names", {}))
    for note in (*recording.notes, *_rounding_notes(recording)):
        state.notes.setdefault(note, []).append(recording.source)
    bounds: list[tuple[int, int]] = []
    for trial in recording.trials.itertuples():
        label, number = int(trial.label), state.next_id  # pyright: ignore
        state.repetitions += 1
        state.next_id += 1
        if wanted is not None and label not in wanted:
            state.n_other += 1
            state.other_labels.add(label)
            continue
        first, last = round(trial.start * recording.fs), round(trial.stop * recording.fs)  # pyright: ignore
        pieces = segment.pieces(last - first, recording.fs)
        state.too_short += not pieces
        state.next_id = number + max(1, len(pieces))
        for repetition_id, windows in enumerate(pieces, number):
            for start, stop in windows:
                bounds.append((first + start, first + stop))
                begin, repetition = (first + start) / recording.fs, int(trial.repetition)  # pyright: ignore
                state.rows.append((label, recording.subject, repetition, repetition_id, state.recordings - 1, begin))
    state.lengths |= {stop - start for start, stop in bounds}
    if len(state.lengths) > 1:
        state.windows.clear()
    elif bounds:
        state.windows.append(_windows(recording, bounds))


def _rounding_notes(recording: Recording) -> list[str]:
    """Notes on samples that lose digits, because trials are float32."""
    return [
        f"{name}: whole numbers beyond {EXACT} are rounded, because trials are float32; remove the offset (highpass)"
        for name, signal in recording.signals.items()
        if rounded_by_float32(signal.data)
    ]


def _windows(recording: Recording, bounds: list[tuple[int, int]]) -> Float[np.ndarray, "window channel time"]:
    """Samples of windows of one length, given by first and end row; channels of all modalities together."""
    signals = [signal.data.T for signal in recording.signals.values()]
    windows = np.empty((len(bounds), sum(map(len, signals)), bounds[0][1] - bounds[0][0]), np.float32)
    for window, (start, stop) in zip(windows, bounds, strict=True):
        np.concatenate([channels[:, start:stop] for channels in signals], out=window, casting="same_kind")
    return windows


def _together(parts: list[Float[np.ndarray, "window channel time"]]) -> Float[np.ndarray, "window channel time"]:
    """Concatenate the windows; each part is freed as soon as it is copied, to save memory."""
    if len(parts) == 1:
        return parts.pop()
    windows, start = np.empty((sum(map(len, parts)), *parts[0].shape[1:]), np.float32), 0
    while parts:
        part = parts.pop(0)
        windows[start : start + len(part)] = part
        start += len(part)
    return windows


def _channel_table(recording: Recording) -> pd.DataFrame:
    sizes = {name: (len(s.data), s.fs) for name, s in recording.signals.items()}
    if len(set(sizes.values())) > 1 or next(iter(sizes.values())) != (len(recording.label), recording.fs):
        listed = ", ".join(f"{name} {n} rows at {fs:g} Hz" for name, (n, fs) in sizes.items())
        raise DataError(f"signals of {recording.source} differ in rate or length ({listed}); set the recipe's fs")
    rows = [(m, name, s.units, s.native_fs) for m, s in recording.signals.items() for name in s.ch_names]
    return pd.DataFrame(rows, columns=list(CHANNEL_COLUMNS)).astype({"native_fs": float})


def _class_names(state: _Cut, wanted: list[int] | None, label: np.ndarray) -> dict[int, str]:
    """Names of the classes by label, in order of class index."""
    declared = {int(one): str(name) for names in state.declared for one, name in names.items()}
    if wanted is None:
        gestures = {one for one in declared if one > REST}  # a loader may name rest too, which is not a class
        wanted = sorted({*gestures, *label.tolist()} if all(state.declared) else set(label.tolist()))
    names = {one: declared.get(one, str(one)) for one in wanted}
    return names if len(set(names.values())) == len(names) else {one: f"{one} {name}" for one, name in names.items()}


def _notes(state: _Cut, segment: Segment, fs: float, missing: list[int]) -> tuple[str, ...]:
    """The recordings' notes, each kind once, and what was rounded or dropped."""
    notes = []
    for same in notes_by_kind(state.notes):
        sources = [s for note in same for s in state.notes[note]]
        if len(same) > 1:
            notes.append(f"{same[0]} [{sources[0]}; {len(sources) - 1} more of this kind]")
        elif len(sources) < state.recordings:
            more = "" if len(sources) <= SHOWN else f", ... {len(sources)} of {state.recordings} recordings"
            notes.append(f"{same[0]} [{', '.join(sources[:SHOWN])}{more}]")
        else:
            notes.append(same[0])
    if segment.rounding_note(fs):
        notes.append(segment.rounding_note(fs))
    if state.too_short:
        notes.append(
            f"{state.too_short} of {state.repetitions} repetitions are too short for {segment.in_words()}: dropped"
        )
    if missing:
        notes.append(f"no repetition has the labels {missing} of `classes`: these classes have no trial")
    if state.n_other:
        notes.append(
            f"{state.n_other} repetitions left out: their labels {sorted(state.other_labels)} are not in `classes`"
        )
    return tuple(notes)
