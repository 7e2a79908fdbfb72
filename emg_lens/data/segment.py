"""Cutting recordings into windows: which part of each movement is used, and what is dropped on the way."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from pydantic import Field, model_validator

from emg_lens.data.recording import REST, DataError, Recording
from emg_lens.validation import SpecModel

CHANNEL_COLUMNS = ("modality", "name", "units", "native_fs")
WHOLE = 1e-6
"""A number of rows is whole if it is off by no more."""
NUMBER = r"\d+(\.\d+)?"
SHOWN = 3
"""How many recordings a note names before it only counts them."""
LONGEST_S = 86_400
"""Seconds: no movement lasts longer than a day."""
Time = Annotated[float, Field(ge=0, le=LONGEST_S)]
Length = Annotated[float, Field(gt=0, le=LONGEST_S)]
"""Seconds."""


class Segment(SpecModel):
    """The part of each movement that is used, and how it is cut into windows.

    Times come to the nearest row, and trials carry a note of those that fell between two.

    Attributes:
        start_s: Start, in seconds after the movement's onset.
        stop_s: End, in seconds after the onset; `None` = the movement's end. A movement that ends earlier is
            dropped.
        window_s: Length of a window; `None` = the whole segment.
        stride_s: Distance between the starts of successive windows; `None` = one window, at the segment's
            start.
        piece_s: Cut the segment into pieces of this length that count as movements of their own, with windows inside a
            piece only; what is left over at the end is dropped. For recordings that are one long movement, such as a
            force that follows the EMG: a split by time then has whole pieces on one side. Neighbouring pieces share
            no sample, but are not independent.
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
            raise ValueError(f"a segment needs start_s < stop_s, got {self.start_s:g} and {self.stop_s:g}")
        if self.piece_s is not None and self.piece_s > length + 1e-9:
            raise ValueError(f"piece_s={self.piece_s:g} is longer than the segment ({length:g} s)")
        length = length if self.piece_s is None else self.piece_s
        if self.window_s is not None and self.window_s > length + 1e-9:
            what = "segment" if self.piece_s is None else "piece"
            raise ValueError(f"window_s={self.window_s:g} is longer than the {what} ({length:g} s)")
        if self.stride_s is not None and self.window_s is None:
            raise ValueError("stride_s needs a window_s")
        return self

    def windows(self, n_rows: int, fs: float) -> list[tuple[int, int]]:
        """First and last row + 1 of each window in a movement of `n_rows` rows; none if it is too short.

        Raises:
            DataError: A window, stride or piece below one row.
        """
        return [window for piece in self.pieces(n_rows, fs) for window in piece]

    def pieces(self, n_rows: int, fs: float) -> list[list[tuple[int, int]]]:
        """The windows of each piece; without `piece_s` the whole segment is the only one.

        Raises:
            DataError: A window, stride or piece below one row.
        """
        start = round(self.start_s * fs)
        stop = n_rows if self.stop_s is None else round(self.stop_s * fs)
        size = stop - start if self.piece_s is None else round(self.piece_s * fs)
        length = size if self.window_s is None else round(self.window_s * fs)
        stride = length if self.stride_s is None else round(self.stride_s * fs)
        if self.stop_s is not None:
            size = min(size, stop - start)  # where rounding to rows makes it one row longer
        if self.stop_s is not None or self.piece_s is not None:
            length = min(length, size)
        fixed = self.window_s is not None or self.stop_s is not None or self.piece_s is not None
        if (fixed and length < 1) or (self.stride_s is not None and stride < 1):
            raise DataError(f"{self.in_words()} is below one row at {fs:g} Hz")
        if stop > n_rows or length < 1 or start + max(length, size) > stop:
            return []
        last = 0 if self.stride_s is None else size - length
        return [
            [(first + offset, first + offset + length) for offset in range(0, last + 1, stride)]
            for first in range(start, stop - size + 1, size)
        ]

    def rounded(self, fs: float) -> str:
        """Which of its times fall between rows, and what they are taken as; empty where none does.

        Args:
            fs: Rows per second (Hz).
        """
        given = {name: value for name, value in self if value is not None}
        taken = {name: round(value * fs) for name, value in given.items()}
        between = [name for name, rows in taken.items() if abs(rows - given[name] * fs) > WHOLE]
        listed = ", ".join(f"{name} {given[name]:g} is {taken[name] / fs:.4g} ({taken[name]} rows)" for name in between)
        return f"the segment's times in whole rows at {fs:.5g} Hz: {listed}" if between else ""

    def in_words(self) -> str:
        """The segment in a few words."""
        stop = "the end" if self.stop_s is None else f"{self.stop_s:g} s"
        window = "" if self.window_s is None else f", windows of {self.window_s:g} s"
        stride = "" if self.stride_s is None else f" every {self.stride_s:g} s"
        piece = "" if self.piece_s is None else f" in pieces of {self.piece_s:g} s"
        return f"segment {self.start_s:g} s to {stop}{piece}{window}{stride}"


@dataclass
class _Cut:
    """What has been cut so far."""

    windows: list[Float[np.ndarray, "window channel time"]] = field(default_factory=list)
    """Of each recording; none once they differ in length, which is an error."""
    lengths: set[int] = field(default_factory=set)
    rows: list[tuple[int, str, int, int, int, float]] = field(default_factory=list)
    """Label, subject, repetition, movement, recording and start (s) of each window."""
    movements: int = 0
    numbers: int = 0
    """How many movement numbers are taken: more than there are movements where these are cut into pieces."""
    too_short: int = 0
    other_labels: set[int] = field(default_factory=set)
    n_other: int = 0
    recordings: int = 0
    declared: list[Mapping[int, str]] = field(default_factory=list)
    notes: dict[str, list[str]] = field(default_factory=dict)


def cut_recordings(recordings: Iterable[Recording], segment: Segment, classes: Iterable[int] | None) -> dict[str, Any]:
    """The fields of a `TrialSet`; see `TrialSet.from_recordings`.

    Raises:
        DataError: Recordings that do not go together, or nothing that is long enough.
    """
    wanted = None if classes is None else [int(c) for c in classes]
    if wanted is not None and (len(set(wanted)) != len(wanted) or not wanted or min(wanted) < 1):
        raise DataError(f"classes must be different labels above 0, got {wanted}")
    state, fs, channels = _Cut(), 0.0, None
    for recording in recordings:
        table = _channel_table(recording)
        if channels is None:
            fs, channels = recording.fs, table
        if recording.fs != fs:
            raise DataError(f"rates differ between recordings ({fs:.6g}, {recording.fs:.6g} Hz); set the recipe's fs")
        if not same_channels(table, channels):
            raise DataError(f"{recording.source} has other channels than those before it")
        channels["native_fs"] = np.minimum(channels["native_fs"], table["native_fs"])
        _cut_one(recording, segment, wanted, state)
        del recording  # before the next one is read
    if channels is None:
        raise DataError("no recording to cut into trials")
    if not state.rows:
        raise DataError(
            f"no trial for {segment.in_words()}: {state.movements} movements, {state.too_short} too short,"
            f" {state.n_other} of other labels {sorted(state.other_labels)}"
        )
    lengths = sorted(state.lengths)
    if len(lengths) > 1:
        raise DataError(
            f"movements last {lengths[0] / fs:.3g} to {lengths[-1] / fs:.3g} s; give the segment a stop_s or window_s"
        )
    label, subject, repetition, repetition_id, source, start_s = map(np.array, zip(*state.rows, strict=True))
    names = _class_names(state, wanted, label)
    index = {of: i for i, of in enumerate(names)}
    return {
        "x": _together(state.windows),
        "y": np.array([index[of] for of in label.tolist()], dtype=np.int64),
        "subject": subject.astype(str),
        "repetition": repetition.astype(np.int64),
        "repetition_id": repetition_id.astype(np.int64),
        "source": source.astype(np.int64),
        "start_s": start_s.astype(np.float64),
        "channels": channels,
        "fs": float(fs),
        "classes": tuple(names.values()),
        "notes": _notes(state, segment, fs, [of for of in wanted or () if of not in label]),
    }


def same_channels(one: pd.DataFrame, other: pd.DataFrame) -> bool:
    """Whether two channel tables agree, but for native rates, which may be measured file by file."""
    columns = [c for c in CHANNEL_COLUMNS if c != "native_fs"]
    return len(one) == len(other) and bool((one[columns].to_numpy() == other[columns].to_numpy()).all())


def unique_notes(notes: Iterable[str]) -> tuple[str, ...]:
    """Notes; of those that differ by numbers only, the first one, and how many more there are."""
    alike: dict[str, list[str]] = {}
    for note in dict.fromkeys(notes):
        alike.setdefault(re.sub(NUMBER, "#", note), []).append(note)
    return tuple(same[0] + (f" [and alike: {len(same) - 1} more]" if len(same) > 1 else "") for same in alike.values())


def _cut_one(recording: Recording, segment: Segment, wanted: list[int] | None, state: _Cut) -> None:
    state.recordings += 1
    state.declared.append(recording.meta.get("class_names", {}))
    for note in recording.notes:
        state.notes.setdefault(note, []).append(recording.source)
    bounds: list[tuple[int, int]] = []
    for trial in recording.trials.itertuples():
        label, number = int(trial.label), state.numbers  # pyright: ignore
        state.movements += 1
        state.numbers += 1
        if wanted is not None and label not in wanted:
            state.n_other += 1
            state.other_labels.add(label)
            continue
        first, last = round(trial.start * recording.fs), round(trial.stop * recording.fs)  # pyright: ignore
        pieces = segment.pieces(last - first, recording.fs)
        state.too_short += not pieces
        state.numbers = number + max(1, len(pieces))
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


def _windows(recording: Recording, bounds: list[tuple[int, int]]) -> Float[np.ndarray, "window channel time"]:
    """The samples between first and last row + 1, of windows of one length; channels of all modalities together."""
    signals = [signal.data.T for signal in recording.signals.values()]
    windows = np.empty((len(bounds), sum(map(len, signals)), bounds[0][1] - bounds[0][0]), np.float32)
    for window, (start, stop) in zip(windows, bounds, strict=True):
        np.concatenate([channels[:, start:stop] for channels in signals], out=window, casting="same_kind")
    return windows


def _together(parts: list[Float[np.ndarray, "window channel time"]]) -> Float[np.ndarray, "window channel time"]:
    """All windows; each part is let go as soon as it is copied."""
    if len(parts) == 1:
        return parts.pop()
    found, start = np.empty((sum(map(len, parts)), *parts[0].shape[1:]), np.float32), 0
    while parts:
        part = parts.pop(0)
        found[start : start + len(part)] = part
        start += len(part)
    return found


def _channel_table(recording: Recording) -> pd.DataFrame:
    sizes = {name: (len(s.data), s.fs) for name, s in recording.signals.items()}
    if len(set(sizes.values())) > 1 or next(iter(sizes.values())) != (len(recording.label), recording.fs):
        listed = ", ".join(f"{name} {n} rows at {fs:g} Hz" for name, (n, fs) in sizes.items())
        raise DataError(f"{recording.source} is not on one grid ({listed}); set the recipe's fs")
    rows = [(m, name, s.units, s.native_fs) for m, s in recording.signals.items() for name in s.ch_names]
    return pd.DataFrame(rows, columns=list(CHANNEL_COLUMNS)).astype({"native_fs": float})


def _class_names(state: _Cut, wanted: list[int] | None, label: np.ndarray) -> dict[int, str]:
    """Names of the classes by label, in order of class index."""
    declared = {int(of): str(name) for names in state.declared for of, name in names.items()}
    if wanted is None:
        movements = {of for of in declared if of > REST}  # a loader may name rest too: it is no class
        wanted = sorted({*movements, *label.tolist()} if all(state.declared) else set(label.tolist()))
    names = {of: declared.get(of, str(of)) for of in wanted}
    return names if len(set(names.values())) == len(names) else {of: f"{of} {name}" for of, name in names.items()}


def _notes(state: _Cut, segment: Segment, fs: float, missing: list[int]) -> tuple[str, ...]:
    """The recordings' notes, those that differ by numbers only told once, and what was rounded or dropped."""
    alike: dict[str, list[str]] = {}
    for note in state.notes:
        alike.setdefault(re.sub(NUMBER, "#", note), []).append(note)
    notes = []
    for same in alike.values():
        sources = [s for note in same for s in state.notes[note]]
        if len(same) > 1:
            notes.append(f"{same[0]} [{sources[0]}; and alike: {len(sources) - 1} more]")
        elif len(sources) < state.recordings:
            more = "" if len(sources) <= SHOWN else f", ... {len(sources)} of {state.recordings} recordings"
            notes.append(f"{same[0]} [{', '.join(sources[:SHOWN])}{more}]")
        else:
            notes.append(same[0])
    if segment.rounded(fs):
        notes.append(segment.rounded(fs))
    short, all_of = state.too_short, state.movements
    if short:
        notes.append(f"{short} of {all_of} movements are too short for {segment.in_words()}: dropped")
    if missing:
        notes.append(f"no movement of the labels {missing} in `classes`: classes without a trial")
    if state.n_other:
        left = sorted(state.other_labels)
        notes.append(f"{state.n_other} movements of labels outside `classes` left out: {left}")
    return tuple(notes)
