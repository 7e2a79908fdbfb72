"""EMG2Pose: EMG of a wrist band and the joint angles of the hand, one HDF5 file a recording, a table of all of them.

Facts: docs/data-sets.md §2.11.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from emg_lens.data.files import check_choices, check_folder, files_below, natural_key, read_parts, select_subjects
from emg_lens.data.matlab import as_float32
from emg_lens.data.recording import UNLABELLED, DataError, Recording, Signal
from emg_lens.data.registry import DataSet
from emg_lens.data.text import check_columns, first_line, read_bytes, read_rows
from emg_lens.io.binary import hdf5_fields

NAME = "emg2pose"
METADATA = "metadata.csv"
MOST_METADATA = 100_000_000
"""Bytes: a line a recording."""
EXPECTED = f"{METADATA} and the .hdf5 files that it lists, at any depth"
TABLE = "emg2pose/timeseries"
FS = 2000.0
RATE_TOLERANCE = 0.02
LONGEST_STEP = 4
"""Rows: a step of time as long as so many is a gap."""

SIGNALS = {  # modality -> field of the table, channels, unit, where the sensor sits
    "emg": ("emg", tuple(f"ch{i}" for i in range(1, 17)), "", "band at the wrist"),
    "angles": ("joint_angles", tuple(f"angle {i}" for i in range(20)), "rad", "joints of the hand, motion capture"),
}


def load(
    root: str | Path, *, subjects: Iterable[str | int] | None = None, sensors: Sequence[str] = ("emg",)
) -> Iterator[Recording]:
    """Read the recordings; each is one movement, of the label of its stage.

    Args:
        root: Folder with the table and the files.
        subjects: Users; default all.
        sensors: `"emg"`, `"angles"`, or both.

    Raises:
        DataError: Unknown sensor or user, no table or files; while iterating, a damaged file.
    """
    check_choices(NAME, "sensors", sensors, SIGNALS)
    table, stages = _metadata(root)
    repetition = dict(zip(table["path"], table.groupby(["user", "stage"]).cumcount() + 1, strict=True))
    stage = dict(zip(table["path"], table["stage"], strict=True))
    return (
        read(path, subject, stages, stage[path], int(repetition[path]), tuple(sensors))
        for subject, paths in select_subjects(_by_user(table), subjects).items()
        for path in paths
    )


def find(root: str | Path) -> dict[str, list[Path]]:
    """The table, and the files of each user that are there.

    Raises:
        DataError: No such folder, table or file.
    """
    place = Path(root).expanduser() / METADATA
    return {user: [*paths, place] for user, paths in _by_user(_metadata(root)[0]).items()}


def read(
    path: Path, subject: str, stages: dict[str, int], stage: str, repetition: int, sensors: tuple[str, ...]
) -> Recording:
    """Read one file.

    Raises:
        DataError: The file is damaged, lacks a field, holds NaN, or its time does not rise.
    """
    fields = ["time", *dict.fromkeys(SIGNALS[name][0] for name in (*sensors, "angles"))]
    found = read_parts(hdf5_fields, path, f"a recording of {NAME}", name=TABLE, fields=fields)
    if found["time"].ndim != 1 or found["time"].dtype.kind != "f":
        what = f"{found['time'].dtype} {list(found['time'].shape)}"
        raise DataError(f"{path}: time is {what}, expected one number of seconds a row")
    steps = np.diff(found["time"])
    if not len(found["time"]) or not (steps > 0).all():
        raise DataError(f"{path}: time must rise from row to row, and does not; is the file complete?")
    measured = 1 / float(np.median(steps)) if len(steps) else FS
    if abs(measured / FS - 1) > RATE_TOLERANCE:
        raise DataError(f"{path}: rows stand {measured:.6g} a second by their times, expected {FS:g}")
    notes = []
    gaps = int((steps > LONGEST_STEP / FS).sum())
    if gaps:
        notes.append(f"time has {gaps} gaps, the longest of {steps.max():.2f} s: rows are missing")
    for name in dict.fromkeys((*sensors, "angles")):
        field, channels, *_ = SIGNALS[name]
        if found[field].shape != (len(steps) + 1, len(channels)):
            raise DataError(f"{path}: {field} is {list(found[field].shape)}, expected [time, {len(channels)}]")
    lost = (found["joint_angles"] == 0).all(axis=1)
    if lost.any():
        notes.append(f"{lost.mean():.1%} of rows have no joint angles (all zero) and are excluded")
    signals = {}
    for name in sensors:
        field, channels, units, placement = SIGNALS[name]
        data = as_float32(found[field])
        if not np.isfinite(data).all():
            raise DataError(f"{path}: {field} holds NaN or infinity; is the file complete?")
        signals[name] = Signal(data, FS, FS, units, channels, placement)
    label = np.where(lost, UNLABELLED, stages[stage])
    names = {number: name for name, number in stages.items()}
    meta = {"dataset": NAME, "file": str(path), "class_names": names, "notes": tuple(notes)}
    return Recording(subject, signals, label, np.full(len(label), repetition), FS, meta)


def _metadata(root: str | Path) -> tuple[pd.DataFrame, dict[str, int]]:
    """One row a recording that is there: path, user, stage; and the number of each stage, there or not."""
    folder = check_folder(root, EXPECTED)
    place = folder / METADATA
    if not place.is_file():
        raise DataError(f"{folder} holds no {METADATA}; expected {EXPECTED}")
    text = read_bytes(place, MOST_METADATA)
    check_columns(first_line(text), ",", place)
    try:
        table = read_rows(text, dtype=str, keep_default_na=False)[["filename", "user", "stage"]]
    except (ValueError, KeyError) as error:
        raise DataError(f"{place}: cannot be read ({error}); expected filename, user and stage") from None
    stages = {stage: i for i, stage in enumerate(sorted(table["stage"].unique()), start=1)}
    there: dict[str, Path] = {}
    for path in files_below(folder):
        if path.suffix != ".hdf5" or path.name.startswith("."):
            continue
        if path.stem in there:
            raise DataError(f"two files of one name: {there[path.stem]} and {path}; keep one")
        there[path.stem] = path
    table = table.assign(path=[there.get(Path(name).stem) for name in table["filename"]])
    table = table[table["path"].notna()].sort_values("filename", key=lambda names: names.map(natural_key))
    if table.empty:
        raise DataError(f"{place}: none of the files that it lists is there; expected {EXPECTED}")
    if table["path"].duplicated().any():
        raise DataError(f"{place}: {table.loc[table['path'].duplicated(), 'filename'].iloc[0]} is listed twice")
    return table, stages


def _by_user(table: pd.DataFrame) -> dict[str, list[Path]]:
    found = {str(user): rows["path"].tolist() for user, rows in table.groupby("user")}
    return {user: found[user] for user in sorted(found, key=natural_key)}


EMG2POSE = DataSet(NAME, load, f"wrist-band EMG and joint angles of the hand: {EXPECTED}", find)
