"""NinaPro `.mat` files: the rules all its data bases share, and the table of those we read (DB5 so far).

Facts: docs/protocol.md §2.2 and §2.3. Another data base is one more `Family` in the table and one `register` line.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Int, Shaped

from emg_lens.data.files import choose, index_files
from emg_lens.data.matlab import as_float32, read_mat
from emg_lens.data.recording import REST, UNLABELLED, DataError, Recording, Signal
from emg_lens.data.registry import DataSet

LabelVector = Literal["restimulus", "stimulus"]
Numbering = Literal["auto", "local", "global"]

FILE_NAME = re.compile(r"S(\d+)_(?:A\d_)?E(\d)(?:_A\d)?\.mat", re.IGNORECASE)
REPETITION_OF = {"restimulus": "rerepetition", "stimulus": "repetition"}


@dataclass(frozen=True)
class Exercise:
    """One exercise: how many movements it has, and the number of its first one in the whole data base."""

    size: int
    start: int

    @property
    def stop(self) -> int:
        """Number of its last movement in the whole data base."""
        return self.start + self.size - 1


@dataclass(frozen=True)
class Sensor:
    """What one key of the file holds: unit, the sensor's own rate (Hz), channel names, placement."""

    units: str
    native_fs: float
    ch_names: tuple[str, ...]
    placement: str


@dataclass(frozen=True)
class Family:
    """What sets one NinaPro data base apart: exercises, rate of the rows (Hz), sensors, repetitions, movement names."""

    name: str
    fs: float
    exercises: Mapping[int, Exercise]
    sensors: Mapping[str, Sensor]
    repetitions: int = 6
    movements: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


DB5 = Family(
    name="ninapro-db5",
    fs=200.0,
    exercises={1: Exercise(12, 1), 2: Exercise(17, 13), 3: Exercise(23, 30)},
    sensors={
        "emg": Sensor(
            units="adc",
            native_fs=200.0,
            ch_names=tuple(f"{band}.{i}" for band in ("upper", "lower") for i in range(1, 9)),
            placement="two Myo bands: upper at the radio-humeral joint, lower below it, tilted 22.5°",
        ),
        "acc": Sensor(units="g", native_fs=50.0, ch_names=("x", "y", "z"), placement="upper Myo band"),
    },
    movements=(
        *(f"{finger} {way}" for finger in ("index", "middle", "ring", "little") for way in ("flexion", "extension")),
        *("thumb adduction", "thumb abduction", "thumb flexion", "thumb extension"),
    ),
    notes=("acc: native rate of 50 Hz assumed (the Myo's), the publisher stores it on the 200 Hz grid",),
)


def load(
    family: Family,
    root: str | Path,
    *,
    subjects: Iterable[str | int] | None = None,
    exercises: Sequence[int] = (1,),
    labels: LabelVector = "restimulus",
    label_numbering: Numbering = "auto",
) -> Iterator[Recording]:
    """Read `S<n>_E<e>_A1.mat` files (or `S<n>_A1_E<e>.mat`), one recording each.

    Args:
        family: Which data base.
        root: Folder, searched at every depth.
        subjects: Names (`"S3"`) or numbers; default all.
        exercises: Which exercise files.
        labels: `"restimulus"`, corrected to the real movement, or `"stimulus"`, what the screen showed.
            Onsets of the first lag those of the second by 0.4 to 2.1 s (docs/protocol.md §2.2).
        label_numbering: Whether the files count movements within the exercise (`"local"`) or the data base
            (`"global"`); `"auto"` finds out. Recordings always carry global numbers.

    Raises:
        DataError: Unknown option value, subject or exercise; no files; a file that is damaged (while
        iterating).
    """
    for option, value, known in (
        ("labels", labels, tuple(REPETITION_OF)),
        ("label_numbering", label_numbering, ("auto", "local", "global")),
    ):
        if value not in known:
            raise DataError(f"{family.name}: {option} must be one of {', '.join(known)}, got {value!r}")
    index = choose(find(family, root, exercises=exercises), subjects)
    return (
        read(path, family, subject, labels=labels, label_numbering=label_numbering)
        for subject, paths in index.items()
        for path in paths
    )


def find(family: Family, root: str | Path, *, exercises: Sequence[int] = (1,)) -> dict[str, list[Path]]:
    """Files of each subject (`"S1"`, `"S2"`, ...), by exercise.

    Raises:
        DataError: Unknown exercise, no such folder or file, or two files for one subject and exercise.
    """
    if not isinstance(exercises, Sequence) or not exercises or not set(exercises) <= set(family.exercises):
        raise DataError(f"{family.name}: exercises must be a list out of {[*family.exercises]}, got {exercises!r}")
    return index_files(
        root,
        FILE_NAME,
        lambda match, _: (f"S{int(match[1])}", f"exercise {match[2]}") if int(match[2]) in exercises else ("", ""),
        expected=f"{family.name} files S<n>_E<{'|'.join(str(e) for e in exercises)}>_A1.mat at any depth",
    )


def read(
    path: Path,
    family: Family,
    subject: str,
    *,
    labels: LabelVector = "restimulus",
    label_numbering: Numbering = "auto",
) -> Recording:
    """Read one file; every repair and assumption becomes a note.

    Raises:
        DataError: The file is truncated, lacks a key, holds NaN or infinity, or its labels do not fit.
    """
    name = path.name
    match = FILE_NAME.fullmatch(name)
    if match is None or int(match[2]) not in family.exercises:
        raise DataError(f"{path}: not named like a file of {family.name}, S<n>_E<e>_A1.mat")
    number = int(match[2])
    exercise, notes = family.exercises[number], list(family.notes)
    scalars = ("subject", "exercise", "frequency")
    content = read_mat(path, (*family.sensors, labels, REPETITION_OF[labels], *scalars))
    for key in (*family.sensors, labels, REPETITION_OF[labels]):
        if key not in content:
            found = ", ".join(content) or "none"
            raise DataError(f"{path}: no key {key!r} (found of those wanted: {found}); is the file complete?")

    expected = {"subject": int(subject[1:]), "exercise": number, "frequency": int(family.fs)}
    for key, value in expected.items():
        inside = float(content[key].flat[0]) if key in content and content[key].size else value
        if inside != value:
            notes.append(f"field {key!r} says {inside:g}, taken as {value}")

    signals = {key: _signal(content[key], sensor, key, path, family.fs) for key, sensor in family.sensors.items()}
    n_rows = len(signals["emg"].data)
    if not n_rows:
        raise DataError(f"{path}: emg has no rows; is the file complete?")
    for key, signal in signals.items():
        if len(signal.data) != n_rows:
            _check_length(len(signal.data), n_rows, key, path)
            notes.append(f"{key} has {len(signal.data)} rows, emg {n_rows}")
    label, repetition = (_fit(content[key], n_rows, key, path, notes) for key in (labels, REPETITION_OF[labels]))
    offset = label_offset(label[label > REST], exercise, label_numbering, f"{path}: {labels}")
    if offset:
        notes.append(f"labels are numbered within the exercise; {offset} added")
    label[label > REST] += offset
    unnumbered = int(((label > REST) & (repetition <= 0)).sum())
    if unnumbered:
        notes.append(f"{unnumbered} rows carry a movement but no repetition")
    active = (label > REST) & (repetition > 0)
    n_performed = len(np.unique(label[active] * 2**31 + repetition[active]))
    if n_performed != (n_expected := exercise.size * family.repetitions):
        notes.append(f"{n_performed} repetitions of movements, expected {n_expected}: is the file complete?")
    names = dict(enumerate(family.movements, start=1))
    meta = {
        "dataset": family.name,
        "file": str(path),
        "exercise": number,
        "labels": labels,
        "class_names": {i: names.get(i, str(i)) for i in range(exercise.start, exercise.stop + 1)},
        "notes": tuple(notes),
    }
    return Recording(subject, signals, label, repetition, family.fs, meta)


def label_offset(
    active: Int[np.ndarray, " row"], exercise: Exercise, numbering: Numbering, what: str = "labels"
) -> int:
    """What to add to a file's non-zero labels to count through the whole data base (docs/protocol.md §2.2).

    Raises:
        DataError: The labels fit neither numbering, not the one asked for, or (`"auto"`) both.
    """
    if not len(active) or (exercise.start == 1 and active.max() <= exercise.size):
        return 0
    low, high = int(active.min()), int(active.max())
    fits = {"local": high <= exercise.size, "global": low >= exercise.start and high <= exercise.stop}
    ranges = f"local 1 to {exercise.size}, global {exercise.start} to {exercise.stop}"
    if numbering == "auto":
        if all(fits.values()):
            raise DataError(f"{what} {low} to {high} fits both numberings ({ranges}); set label_numbering")
        if not any(fits.values()):
            raise DataError(f"{what} {low} to {high} fits no numbering of this exercise ({ranges})")
        numbering = "local" if fits["local"] else "global"
    if not fits[numbering]:
        raise DataError(f"{what} {low} to {high} is not {numbering} ({ranges}); check label_numbering")
    return exercise.start - 1 if numbering == "local" else 0


def _signal(data: Shaped[np.ndarray, "time channel"], sensor: Sensor, key: str, path: Path, fs: float) -> Signal:
    if data.ndim != 2 or data.shape[1] != len(sensor.ch_names):
        raise DataError(f"{path}: {key} has shape {data.shape}, expected [time, {len(sensor.ch_names)}]")
    data = as_float32(data)
    bad = np.flatnonzero(~np.isfinite(data).all(axis=0))
    if len(bad):
        rows = int((~np.isfinite(data[:, bad[0]])).sum())
        raise DataError(f"{path}: {key} holds NaN or infinity in channel {sensor.ch_names[bad[0]]} ({rows} rows)")
    return Signal(data, fs, sensor.native_fs, sensor.units, sensor.ch_names, sensor.placement)


def _check_length(n: int, n_rows: int, key: str, path: Path) -> None:
    tolerance = max(5, n_rows // 100)
    if abs(n - n_rows) > tolerance:
        raise DataError(f"{path}: {key} has {n} rows, emg {n_rows}; they may differ by {tolerance} at most")


def _fit(
    column: Shaped[np.ndarray, "..."], n_rows: int, key: str, path: Path, notes: list[str]
) -> Int[np.ndarray, " row"]:
    """Bring a column of labels to the length of the EMG, which is the reference (docs/protocol.md §2.2)."""
    vector = column.ravel()
    if vector.size != max(column.shape, default=0):
        raise DataError(f"{path}: {key} has shape {column.shape}, expected one value a row")
    _check_length(len(vector), n_rows, key, path)
    sound = (vector >= 0) & (vector <= np.iinfo(np.int32).max) & (vector == np.round(vector))  # NaN is neither
    if not sound.all():
        raise DataError(f"{path}: {key} must hold whole numbers from 0 upwards")
    vector = vector.astype(np.int64)
    missing = n_rows - len(vector)
    if missing > 0:
        notes.append(f"{key} is {missing} rows shorter than emg; those rows are excluded")
        return np.concatenate([vector, np.full(missing, UNLABELLED)])
    if missing < 0:
        notes.append(f"{key} is {-missing} rows longer than emg and was cut")
    return vector[:n_rows]


DB5_FILES = DataSet(
    DB5.name,
    partial(load, DB5),
    "NinaPro DB5, folder with S<n>_E<e>_A1.mat: two Myo bands (16 EMG at 200 Hz) and an accelerometer",
    partial(find, DB5),
)
