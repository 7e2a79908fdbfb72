"""Read NinaPro `.mat` files: the loader of all data bases, which `ninapro_bases` describes.

Source: docs/data-sets.md §2.2 and §2.3.
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
from emg_lens.data.sources.axis_order import AXES, AxisOrder, electrode_major, order_from_gravity
from emg_lens.data.sources.file_values import checked_signal
from emg_lens.data.sources.ninapro_labels import (
    REPETITION_OF,
    Exercise,
    LabelVector,
    Numbering,
    check_length,
    fit_length,
    read_labels,
)

FILE_NAME = re.compile(r"S(?P<subject>\d+)_(?:A\d_)?E(?P<exercise>\d)(?:_A(?P<part>\d))?\.mat", re.IGNORECASE)
SCALARS = ("subject", "exercise", "frequency")


@dataclass(frozen=True)
class Sensor:
    """One variable of the file: the channels of one kind of sensor.

    Attributes:
        units: Unit of the samples.
        native_fs: The sensor's own sampling rate (Hz).
        ch_names: One name per column; with `three_axes`, one name for three columns.
        placement: Position of the sensor.
        three_axes: Whether every name has an x, a y and a z column.
        key: Name of the variable in the file; default the modality's name.
        weights: For each channel, the columns (from 0) and weights of the sum that it is. Default: each column is a
            channel.
        may_be_nan: Whether NaN may occur; rows with NaN are excluded.
    """

    units: str
    native_fs: float
    ch_names: tuple[str, ...]
    placement: str
    three_axes: bool = False
    key: str = ""
    weights: tuple[Mapping[int, float], ...] = ()
    may_be_nan: bool = False

    @property
    def n_columns(self) -> int:
        """Number of columns in the file, at least."""
        if self.weights:
            return 1 + max(column for weights in self.weights for column in weights)
        return len(self.channels(len(self.ch_names)))

    def channels(self, n_sensors: int) -> tuple[str, ...]:
        """Names of the channels of the first sensors."""
        names = self.ch_names[:n_sensors]
        return tuple(f"{name} {axis}" for name in names for axis in AXES) if self.three_axes else names


@dataclass(frozen=True)
class Family:
    """Description of one NinaPro data base.

    Attributes:
        name: Name of the data set.
        description: One line for lists.
        fs: Rows per second (Hz).
        exercises: Exercises by the number in the file's name.
        sensors: Sensors by modality.
        default: Modalities that are read by default.
        gestures: Names of the gestures, from gesture 1.
        notes: Assumptions about every recording.
        file_name: Pattern with a group `subject`, and `exercise`, `part`, `day` and `time` if file names have them.
        fewest_electrodes: Smallest number of electrodes of a subject; `None` = all subjects have all electrodes.
    """

    name: str
    description: str
    fs: float
    exercises: Mapping[int, Exercise]
    sensors: Mapping[str, Sensor]
    default: tuple[str, ...] = ("emg", "acc")
    gestures: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    file_name: re.Pattern = FILE_NAME
    fewest_electrodes: int | None = None

    def place(self, match: re.Match) -> tuple[int, int]:
        """Exercise and part of a file, from its name; parts of an exercise are numbered from 1."""
        groups = match.groupdict()
        if groups.get("day"):
            return 1, 2 * int(groups["day"]) + int(groups["time"]) - 2
        parts = any(len(exercise.repetitions) > 1 for exercise in self.exercises.values())
        return int(groups["exercise"]), int(groups["part"] or 1) if parts else 1

    def data_set(self) -> DataSet:
        """Make the data base's entry in the registry."""
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
        family: The data base.
        root: Folder, searched at any depth.
        subjects: Names (`"S3"`) or numbers; default all.
        exercises: Numbers of the exercises to read.
        parts: For data bases with several files for an exercise: the acquisitions, or sessions in order of time, to
            read; default all. Repetition numbers continue through them.
        sensors: Modalities to read; default: EMG and the accelerometer, as in the data base's papers.
        labels: `"restimulus"`: corrected to the real movement; or `"stimulus"`: what the screen showed. Onsets of the
            first are 0.4 to 2.1 s later (docs/data-sets.md §2.2).
        label_numbering: Whether the files number gestures within the exercise (`"local"`) or the data base
            (`"global"`); `"auto"` determines it. Recordings always have global numbers.
        acc_order: Column order of three-axis sensors; `"auto"` determines it from gravity.
        fs: Another sampling rate (Hz) than the publisher's, to reproduce studies that assumed it.
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
    return (
        read(path, family, subject, tuple(wanted), labels, label_numbering, acc_order, fs)
        for subject, paths in index.items()
        for path in paths
    )


def find(
    family: Family, root: str | Path, *, exercises: Sequence[int] = (1,), parts: Sequence[int] | None = None
) -> dict[str, list[Path]]:
    """Find the files of each subject (`"S1"`, `"S2"`, ...), by exercise and part."""
    if not isinstance(exercises, Sequence) or not exercises or not set(exercises) <= set(family.exercises):
        raise DataError(f"{family.name}: exercises must be a list from {[*family.exercises]}, got {exercises!r}")
    n_parts = max(len(family.exercises[number].repetitions) for number in exercises)
    if parts is not None and (not isinstance(parts, Sequence) or not set(parts) <= set(range(1, n_parts + 1))):
        raise DataError(f"{family.name}: parts must be a list from {[*range(1, n_parts + 1)]}, got {parts!r}")

    def key(match: re.Match, _: Path) -> tuple[str, str]:
        exercise, part = family.place(match)
        wanted = exercise in exercises and part <= n_parts and (parts is None or part in parts)
        where = f"exercise {exercise}{f', part {part:02}' * (n_parts > 1)}"
        return (f"S{int(match['subject'])}", where) if wanted else ("", "")

    example = f"S<n>_E<{'|'.join(map(str, exercises))}>_A1.mat"
    if "day" in family.file_name.groupindex:
        example = "S<n>_D<day>_T<1|2>.mat"
    return index_files(root, family.file_name, key, f"{family.name} files {example} at any depth")


def read(
    path: Path,
    family: Family,
    subject: str,
    sensors: tuple[str, ...],
    labels: LabelVector,
    label_numbering: Numbering,
    acc_order: str,
    fs: float | None,
) -> Recording:
    """Read one file; notes list every repair and assumption."""
    match = family.file_name.fullmatch(path.name)
    assert match is not None  # `find` has matched it
    number, part = family.place(match)
    exercise, notes = family.exercises[number], list(family.notes)
    needed = (*(family.sensors[name].key or name for name in sensors), labels, REPETITION_OF[labels])
    content = read_mat(path, needed, SCALARS)
    named = {"subject": int(subject[1:]), "exercise": number, "frequency": int(family.fs)}
    inside = {key: float(content[key].flat[0]) for key in named if key in content and content[key].size}
    notes += [f"variable {k!r} is {v:g}, taken as {named[k]}" for k, v in inside.items() if v != named[k]]
    if fs is not None:
        notes.append(f"sampling rate taken as {fs:g} Hz instead of the publisher's {family.fs:g} Hz")

    tables = {name: _table(content, name, family, path) for name in sensors}
    n_rows = len(next(iter(tables.values())))
    if not n_rows:
        raise DataError(f"{path}: {sensors[0]} has no rows; is the file complete?")
    for name, data in tables.items():
        if len(data) != n_rows:
            check_length(len(data), n_rows, name, path)
            notes.append(f"{name} has {len(data)} rows and {sensors[0]} {n_rows}")
    label, repetition = (fit_length(content[k], n_rows, k, path, notes) for k in (labels, REPETITION_OF[labels]))
    label, changed = read_labels(label, exercise, label_numbering, f"{path}: {labels}")
    notes += changed
    if acc_order == "auto" and any(family.sensors[name].three_axes for name in sensors):
        acc_order, note = "electrode_major", "column order electrode_major assumed; read acc to determine it"
        if "acc" in tables:
            acc_order, note = order_from_gravity(tables["acc"], (label == REST)[: len(tables["acc"])])
        notes += [note] if note else []
    signals = {}
    for name in sensors:
        data, sensor = tables.pop(name), family.sensors[name]
        if sensor.may_be_nan:
            data, label = _exclude_nan(data, label, name, notes)
        signals[name] = _signal(data, name, sensor, acc_order, path, fs or family.fs, notes)

    active = (label > REST) & (repetition > 0)
    n_performed = len(np.unique(label[active] * 2**31 + repetition[active]))
    n_expected = len(exercise.gestures) * exercise.repetitions[part - 1]
    if n_performed != n_expected:
        notes.append(f"{n_performed} repetitions, expected {n_expected}: is the file complete?")
    unnumbered = int(((label > REST) & (repetition <= 0)).sum())
    if unnumbered:
        notes.append(f"{unnumbered} rows have a gesture but no repetition number")
    repetition = np.where(repetition > 0, repetition + sum(exercise.repetitions[: part - 1]), repetition)
    names = dict(enumerate(family.gestures, start=1))
    meta = {
        "dataset": family.name,
        "file": str(path),
        "exercise": number,
        "labels": labels,
        "class_names": {i: names.get(i, str(i)) for i in exercise.gestures},
        "notes": tuple(notes),
    }
    return Recording(subject, signals, label, repetition, fs or family.fs, meta)


def _table(content: Mapping[str, Any], name: str, family: Family, path: Path) -> Float[np.ndarray, "time column"]:
    """The columns of a modality as float32."""
    sensor, data = family.sensors[name], content[family.sensors[name].key or name]
    fewest = family.fewest_electrodes or len(sensor.ch_names)
    few = [len(sensor.channels(n)) for n in range(fewest, len(sensor.ch_names))]
    n_columns = data.shape[1] if data.ndim == 2 else 0
    if n_columns < sensor.n_columns if sensor.weights else n_columns not in (*few, sensor.n_columns):
        more = " or more" * bool(sensor.weights)
        raise DataError(f"{path}: {name} has shape {data.shape}, expected [time, {sensor.n_columns}]{more}")
    return as_float32(data)


def _signal(
    data: Float[np.ndarray, "time column"],
    name: str,
    sensor: Sensor,
    order: str,
    path: Path,
    fs: float,
    notes: list[str],
) -> Signal:
    """The channels of a modality; EMG columns of zeros have no electrode and are left out."""
    names = sensor.channels(len(sensor.ch_names))
    if sensor.weights:
        data = np.stack([sum(w * data[:, c] for c, w in weights.items()) for weights in sensor.weights], axis=1)
    else:
        names = names[: data.shape[1]]
    if sensor.three_axes:
        data = electrode_major(data, order)
    if name == "emg" and not (used := np.any(data, axis=0)).all() and used.any():
        dead = [names[column] for column in np.flatnonzero(~used)]
        notes.append(f"emg: channels of zeros left out: {', '.join(dead)}")
        data, names = data[:, used], tuple(one for one in names if one not in dead)
    return checked_signal(f"{path}: {name}", data, fs, sensor.native_fs, sensor.units, names, sensor.placement)


def _exclude_nan(
    data: Float[np.ndarray, "time column"], label: Int[np.ndarray, " time"], name: str, notes: list[str]
) -> tuple[Float[np.ndarray, "time column"], Int[np.ndarray, " time"]]:
    """Exclude rows with NaN; their samples are interpolated, because filters need numbers."""
    missing: Bool[np.ndarray, " time"] = np.any(np.isnan(data), axis=1)
    if not missing.any() or missing.all():
        return data, label  # NaN in all rows is rejected later
    rows, data, label = np.arange(len(missing)), data.copy(), label.copy()
    for column in data.T:
        column[missing] = np.interp(rows[missing], rows[~missing], column[~missing])
    label[: len(missing)][missing[: len(label)]] = UNLABELLED
    notes.append(f"{name}: {missing.sum()} rows with NaN are excluded")
    return data, label
