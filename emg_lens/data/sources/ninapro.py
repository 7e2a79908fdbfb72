"""NinaPro `.mat` files: what all its data bases share. The data bases themselves are in `ninapro_bases`.

Facts: docs/data-sets.md §2.2 and §2.3.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np
from jaxtyping import Bool, Float, Int

from emg_lens.data.files import check_choice, check_choices, index_files, select_subjects
from emg_lens.data.matlab import as_float32, read_mat
from emg_lens.data.recording import REST, UNLABELLED, DataError, Recording, Signal
from emg_lens.data.registry import DataSet
from emg_lens.data.sources.ninapro_labels import (
    REPETITION_OF,
    Exercise,
    LabelVector,
    Numbering,
    check_length,
    fitted,
    read_labels,
)
from emg_lens.data.sources.triads import AXES, AxisOrder, electrode_major, found_order

FILE_NAME = re.compile(r"S(?P<subject>\d+)_(?:A\d_)?E(?P<exercise>\d)(?:_A(?P<part>\d))?\.mat", re.IGNORECASE)
SCALARS = ("subject", "exercise", "frequency")


@dataclass(frozen=True)
class Sensor:
    """What one key of the file holds.

    Attributes:
        units: Of the samples.
        native_fs: The sensor's own rate (Hz).
        ch_names: One a column; of three-axis sensors (`triads`) one for each three columns.
        placement: Where it sits.
        triads: Whether every name has an x, a y and a z.
        key: In the file; default the modality's name.
        weights: Of every channel, the columns it is a weighted sum of, from 0; default: each column is a channel.
        holes: Whether NaN may occur: those rows are excluded.
    """

    units: str
    native_fs: float
    ch_names: tuple[str, ...]
    placement: str
    triads: bool = False
    key: str = ""
    weights: tuple[Mapping[int, float], ...] = ()
    holes: bool = False

    @property
    def n_columns(self) -> int:
        """Columns in the file, at least."""
        if self.weights:
            return 1 + max(column for of in self.weights for column in of)
        return len(self.channels(len(self.ch_names)))

    def channels(self, n_places: int) -> tuple[str, ...]:
        """Names of the channels at the first places."""
        names = self.ch_names[:n_places]
        return tuple(f"{name} {axis}" for name in names for axis in AXES) if self.triads else names


@dataclass(frozen=True)
class Family:
    """What sets one NinaPro data base apart.

    Attributes:
        name: Of the data set.
        description: One line for lists.
        fs: Rows per second (Hz).
        exercises: By the number in the file's name.
        sensors: By modality.
        default: Modalities that are read unless others are asked for.
        movements: Names, from movement 1.
        notes: What is assumed of every recording.
        file_name: With a group `subject`, and `exercise`, `part`, `day` and `time` where files have them.
        fewest_electrodes: Some subjects have fewer electrodes than the others, but not fewer than this.
    """

    name: str
    description: str
    fs: float
    exercises: Mapping[int, Exercise]
    sensors: Mapping[str, Sensor]
    default: tuple[str, ...] = ("emg", "acc")
    movements: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    file_name: re.Pattern = FILE_NAME
    fewest_electrodes: int | None = None

    def place(self, match: re.Match) -> tuple[int, int]:
        """Exercise and part of a file, by its name; parts of one exercise are numbered from 1."""
        found = match.groupdict()
        if found.get("day"):
            return 1, 2 * int(found["day"]) + int(found["time"]) - 2
        parts = any(len(exercise.repetitions) > 1 for exercise in self.exercises.values())
        return int(found["exercise"]), int(found["part"] or 1) if parts else 1

    def data_set(self) -> DataSet:
        """Its entry in the registry."""
        return DataSet(self.name, partial(load, self), self.description, partial(find, self))


def load(
    family: Family,
    root: str | Path,
    *,
    subjects: Iterable[str | int] | None = None,
    exercises: Sequence[int] = (1,),
    parts: Sequence[int] | None = None,
    sensors: Sequence[str] | None = None,
    labels: LabelVector = "restimulus",
    label_numbering: Numbering = "auto",
    acc_order: AxisOrder = "auto",
    fs: float | None = None,
) -> Iterator[Recording]:
    """Read `S<n>_E<e>_A1.mat` files (or `S<n>_A1_E<e>.mat`, or the data base's own names), one recording each.

    Args:
        family: Which data base.
        root: Folder, searched at every depth.
        subjects: Names (`"S3"`) or numbers; default all.
        exercises: Which exercise files.
        parts: Of data bases with several files an exercise, which (acquisitions, or sessions in order of time);
            default all. Repetitions are numbered through them.
        sensors: Which modalities; default those of the data base's papers, EMG and the accelerometer.
        labels: `"restimulus"`, corrected to the real movement, or `"stimulus"`, what the screen showed.
            Onsets of the first lag those of the second by 0.4 to 2.1 s (docs/data-sets.md §2.2).
        label_numbering: Whether the files count movements within the exercise (`"local"`) or the data base
            (`"global"`); `"auto"` finds out. Recordings always carry global numbers.
        acc_order: How the columns of three-axis sensors stand; `"auto"` finds out from gravity.
        fs: Rows per second, to read the files as somebody did who took another rate than the publisher's.

    Raises:
        DataError: Unknown option value, sensor, subject or exercise; no files; a file that is damaged (while
        iterating).
    """
    for option, value, known in (
        ("labels", labels, get_args(LabelVector)),
        ("label_numbering", label_numbering, get_args(Numbering)),
        ("acc_order", acc_order, get_args(AxisOrder)),
    ):
        check_choice(family.name, option, value, known)
    wanted = family.default if sensors is None else sensors
    check_choices(family.name, "sensors", wanted, family.sensors)
    index = select_subjects(find(family, root, exercises=exercises, parts=parts), subjects)
    options = {"labels": labels, "label_numbering": label_numbering, "acc_order": acc_order, "fs": fs}
    return (
        read(path, family, subject, sensors=tuple(wanted), **options)
        for subject, paths in index.items()
        for path in paths
    )


def find(
    family: Family, root: str | Path, *, exercises: Sequence[int] = (1,), parts: Sequence[int] | None = None
) -> dict[str, list[Path]]:
    """Files of each subject (`"S1"`, `"S2"`, ...), by exercise and part.

    Raises:
        DataError: Unknown exercise or part, no such folder or file, or two files for one place.
    """
    if not isinstance(exercises, Sequence) or not exercises or not set(exercises) <= set(family.exercises):
        raise DataError(f"{family.name}: exercises must be a list out of {[*family.exercises]}, got {exercises!r}")
    n_parts = max(len(family.exercises[number].repetitions) for number in exercises)
    if parts is not None and (not isinstance(parts, Sequence) or not set(parts) <= set(range(1, n_parts + 1))):
        raise DataError(f"{family.name}: parts must be a list out of {[*range(1, n_parts + 1)]}, got {parts!r}")

    def key(match: re.Match, _: Path) -> tuple[str, str]:
        exercise, part = family.place(match)
        wanted = exercise in exercises and part <= n_parts and (parts is None or part in parts)
        where = f"exercise {exercise}{f', part {part:02}' * (n_parts > 1)}"
        return (f"S{int(match['subject'])}", where) if wanted else ("", "")

    expected = f"{family.name} files {_example(family, exercises)} at any depth"
    return index_files(root, family.file_name, key, expected)


def read(
    path: Path,
    family: Family,
    subject: str,
    *,
    sensors: tuple[str, ...],
    labels: LabelVector = "restimulus",
    label_numbering: Numbering = "auto",
    acc_order: str = "auto",
    fs: float | None = None,
) -> Recording:
    """Read one file; every repair and assumption becomes a note.

    Raises:
        DataError: The file is truncated, lacks a key, holds NaN or infinity, or its labels do not fit.
    """
    match = family.file_name.fullmatch(path.name)
    number, part = family.place(match) if match else (0, 0)
    if number not in family.exercises:
        raise DataError(f"{path}: not named like a file of {family.name}, {_example(family, (1,))}")
    exercise, notes = family.exercises[number], list(family.notes)
    content = _content(path, family, sensors, labels)
    notes += _odd_scalars(content, {"subject": int(subject[1:]), "exercise": number, "frequency": int(family.fs)})
    if fs is not None:
        notes.append(f"rows taken as {fs:g} Hz instead of the publisher's {family.fs:g}")

    tables = {name: _table(content, name, family, path) for name in sensors}
    n_rows = len(next(iter(tables.values())))
    if not n_rows:
        raise DataError(f"{path}: {sensors[0]} has no rows; is the file complete?")
    for name, data in tables.items():
        if len(data) != n_rows:
            check_length(len(data), n_rows, name, path)
            notes.append(f"{name} has {len(data)} rows, {sensors[0]} {n_rows}")
    label, repetition = (fitted(content[k], n_rows, k, path, notes) for k in (labels, REPETITION_OF[labels]))
    label, changed = read_labels(label, exercise, label_numbering, f"{path}: {labels}")
    notes += changed
    if acc_order == "auto" and any(family.sensors[name].triads for name in sensors):
        acc_order, told = _order(tables, label == REST)
        notes += [told] if told else []
    signals = {}
    for name in sensors:
        data, sensor = tables.pop(name), family.sensors[name]
        if sensor.holes:
            data, label = _without_holes(data, label, name, notes)
        signals[name] = _signal(data, name, sensor, acc_order, path, fs or family.fs, notes)

    active = (label > REST) & (repetition > 0)
    n_performed = len(np.unique(label[active] * 2**31 + repetition[active]))
    n_expected = len(exercise.movements) * exercise.repetitions[part - 1]
    if n_performed != n_expected:
        notes.append(f"{n_performed} repetitions of movements, expected {n_expected}: is the file complete?")
    unnumbered = int(((label > REST) & (repetition <= 0)).sum())
    if unnumbered:
        notes.append(f"{unnumbered} rows carry a movement but no repetition")
    repetition = np.where(repetition > 0, repetition + exercise.first_repetition(part), repetition)
    names = dict(enumerate(family.movements, start=1))
    meta = {
        "dataset": family.name,
        "file": str(path),
        "exercise": number,
        "labels": labels,
        "class_names": {i: names.get(i, str(i)) for i in exercise.movements},
        "notes": tuple(notes),
    }
    return Recording(subject, signals, label, repetition, fs or family.fs, meta)


def _content(path: Path, family: Family, sensors: tuple[str, ...], labels: LabelVector) -> dict[str, Any]:
    needed = [*(family.sensors[name].key or name for name in sensors), labels, REPETITION_OF[labels]]
    content = read_mat(path, (*dict.fromkeys(needed), *SCALARS))
    for key in needed:
        if key not in content:
            found = ", ".join(content) or "none"
            raise DataError(f"{path}: no key {key!r} (found of those wanted: {found}); is the file complete?")
    return content


def _odd_scalars(content: Mapping[str, Any], expected: Mapping[str, int]) -> list[str]:
    inside = {key: float(content[key].flat[0]) for key in expected if key in content and content[key].size}
    return [f"field {k!r} says {v:g}, taken as {expected[k]}" for k, v in inside.items() if v != expected[k]]


def _table(content: Mapping[str, Any], name: str, family: Family, path: Path) -> Float[np.ndarray, "time column"]:
    """The columns of a modality, float32."""
    sensor, data = family.sensors[name], content[family.sensors[name].key or name]
    fewest = family.fewest_electrodes or len(sensor.ch_names)
    few = [len(sensor.channels(n)) for n in range(fewest, len(sensor.ch_names))]
    if data.ndim != 2 or (data.shape[1] not in (*few, sensor.n_columns) and not sensor.weights):
        raise DataError(f"{path}: {name} has shape {data.shape}, expected [time, {sensor.n_columns}]")
    if data.shape[1] < sensor.n_columns and sensor.weights:
        raise DataError(f"{path}: {name} has shape {data.shape}, expected [time, {sensor.n_columns}] or more")
    return as_float32(data)


def _order(
    tables: Mapping[str, Float[np.ndarray, "time column"]], at_rest: Bool[np.ndarray, " time"]
) -> tuple[str, str]:
    """In which order the columns of three-axis sensors stand: all as the accelerometer's, where that is read."""
    if "acc" not in tables:
        return "electrode_major", "columns of three-axis sensors taken as electrode_major; read acc too to find out"
    return found_order(tables["acc"], at_rest[: len(tables["acc"])])


def _signal(
    data: Float[np.ndarray, "time column"],
    name: str,
    sensor: Sensor,
    order: str,
    path: Path,
    fs: float,
    notes: list[str],
) -> Signal:
    """The channels of a modality. EMG columns that are zero throughout belong to no electrode."""
    names = sensor.channels(len(sensor.ch_names))
    if sensor.weights:
        data = np.stack([sum(w * data[:, c] for c, w in of.items()) for of in sensor.weights], axis=1)
    else:
        names = names[: data.shape[1]]
    if sensor.triads:
        data = electrode_major(data, order)
    if name == "emg" and not (used := np.any(data, axis=0)).all() and used.any():
        dead = [names[column] for column in np.flatnonzero(~used)]
        notes.append(f"emg: zero throughout, left out: {', '.join(dead)}")
        data, names = data[:, used], tuple(one for one in names if one not in dead)
    bad = np.flatnonzero(~np.isfinite(data).all(axis=0))
    if len(bad):
        rows = int((~np.isfinite(data[:, bad[0]])).sum())
        raise DataError(f"{path}: {name} holds NaN or infinity in channel {names[bad[0]]} ({rows} rows)")
    return Signal(data, fs, sensor.native_fs, sensor.units, names, sensor.placement)


def _without_holes(
    data: Float[np.ndarray, "time column"], label: Int[np.ndarray, " time"], name: str, notes: list[str]
) -> tuple[Float[np.ndarray, "time column"], Int[np.ndarray, " time"]]:
    """Rows that hold NaN are interpolated, for the filters' sake, and excluded."""
    holes: Bool[np.ndarray, " time"] = np.any(np.isnan(data), axis=1)
    if not holes.any() or holes.all():
        return data, label  # which is refused later
    rows, data, label = np.arange(len(holes)), data.copy(), label.copy()
    for column in data.T:
        column[holes] = np.interp(rows[holes], rows[~holes], column[~holes])
    label[: len(holes)][holes[: len(label)]] = UNLABELLED
    notes.append(f"{name}: {holes.sum()} rows hold NaN and are excluded")
    return data, label


def _example(family: Family, exercises: Sequence[int]) -> str:
    if "day" in family.file_name.groupindex:
        return "S<n>_D<day>_T<1|2>.mat"
    return f"S<n>_E<{'|'.join(str(number) for number in exercises)}>_A1.mat"
