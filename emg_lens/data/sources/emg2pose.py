"""EMG2Pose: EMG of a wrist band and joint angles of the hand; one HDF5 file per recording, and a table of all files.

Source: docs/data-sets.md §2.11.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from emg_lens.data.files import (
    check_choices,
    existing_folder,
    files_below,
    natural_key,
    read_parts,
    regular_file,
    select_subjects,
)
from emg_lens.data.recording import UNLABELLED, DataError, Recording
from emg_lens.data.registry import DataSet
from emg_lens.data.sources.file_values import check_times, checked_signal
from emg_lens.data.text import check_columns, first_line, read_bytes, read_rows
from emg_lens.io.binary import hdf5_fields

NAME = "emg2pose"
METADATA = "metadata.csv"
EXPECTED = f"{METADATA} and the .hdf5 files that it lists, at any depth"
TABLE = "emg2pose/timeseries"
FS = 2000.0
LONGEST_STEP = 4
"""A time step of more than this many rows is a gap."""

SIGNALS = {  # modality -> field of the table, channels, unit, position of the sensor
    "emg": ("emg", tuple(f"ch{i}" for i in range(1, 17)), "", "band at the wrist"),
    "angles": ("joint_angles", tuple(f"angle {i}" for i in range(20)), "rad", "joints of the hand, motion capture"),
}


def load(
    root: str | Path, *, subjects: Iterable[str | int] | None = None, sensors: Sequence[str] = ("emg",)
) -> Iterator[Recording]:
    """Read the recordings; each is one repetition, and its stage is the label.

    Args:
        root: Folder with the table and the files.
        subjects: Users; default all.
        sensors: `"emg"`, `"angles"`, or both.
    """
    check_choices(NAME, "sensors", sensors, SIGNALS)
    table, stages, notes = _metadata(root)
    repetition = dict(zip(table["path"], table.groupby(["user", "stage"]).cumcount() + 1, strict=True))
    stage = dict(zip(table["path"], table["stage"], strict=True))
    return (
        read(path, subject, stages, stage[path], int(repetition[path]), tuple(sensors), notes)
        for subject, paths in select_subjects(_by_user(table), subjects).items()
        for path in paths
    )


def find(root: str | Path) -> dict[str, list[Path]]:
    """Find, for each user, the existing recordings and the table of metadata."""
    place = Path(root).expanduser() / METADATA
    return {user: [*paths, place] for user, paths in _by_user(_metadata(root)[0]).items()}


def read(
    path: Path,
    subject: str,
    stages: dict[str, int],
    stage: str,
    repetition: int,
    sensors: tuple[str, ...],
    notes: Sequence[str],
) -> Recording:
    """Read one file; `notes` are those of the whole folder."""
    fields = ["time", *dict.fromkeys(SIGNALS[name][0] for name in (*sensors, "angles"))]
    table = read_parts(hdf5_fields, path, f"a recording of {NAME}", name=TABLE, fields=fields)
    if table["time"].ndim != 1:
        raise DataError(f"{path}: time has shape {table['time'].shape}, expected one number of seconds per row")
    notes = [*notes, *check_times(table["time"], FS, LONGEST_STEP, f"{path}")]
    without_angles = (table["joint_angles"].reshape(len(table["time"]), -1) == 0).all(axis=1)
    if without_angles.any():
        notes.append(f"{without_angles.mean():.1%} of rows have no joint angles (all zero) and are excluded")
    signals = {}
    for name in sensors:
        field, channels, units, placement = SIGNALS[name]
        signals[name] = checked_signal(f"{path}: {field}", table[field], FS, FS, units, channels, placement)
    label = np.where(without_angles, UNLABELLED, stages[stage])
    names = {number: name for name, number in stages.items()}
    meta = {"dataset": NAME, "file": str(path), "class_names": names, "notes": tuple(notes)}
    return Recording(subject, signals, label, np.full(len(label), repetition), FS, meta)


def _metadata(root: str | Path) -> tuple[pd.DataFrame, dict[str, int], list[str]]:
    """One row an existing recording: path, user, stage; the number of each stage of the table; and notes."""
    folder = existing_folder(root, EXPECTED)
    place = folder / METADATA
    if not place.is_file():
        raise DataError(f"{folder} has no {METADATA}; expected {EXPECTED}")
    text = read_bytes(place)
    check_columns(first_line(text)[1], ",", place)
    try:
        table = read_rows(text, dtype=str, keep_default_na=False)[["filename", "user", "stage"]]
    except (ValueError, KeyError) as error:
        raise DataError(f"{place}: cannot be read ({error}); expected filename, user and stage") from None
    stages = {stage: i for i, stage in enumerate(sorted(table["stage"].unique()), start=1)}
    path_of: dict[str, Path] = {}
    for path in files_below(folder):
        if path.suffix != ".hdf5" or path.name.startswith("."):
            continue
        regular_file(path)
        if path.stem in path_of and path_of[path.stem].samefile(path):  # through a link
            continue
        if path.stem in path_of:
            raise DataError(f"two files of one name: {path_of[path.stem]} and {path}; keep one")
        path_of[path.stem] = path
    table = table.assign(path=[path_of.get(Path(name).stem) for name in table["filename"]])
    n_listed = len(table)
    table = table[table["path"].notna()].sort_values("filename", key=lambda names: names.map(natural_key))
    if table.empty:
        raise DataError(f"{place}: none of the files that it lists exists; expected {EXPECTED}")
    if table["path"].duplicated().any():
        raise DataError(f"{place}: {table.loc[table['path'].duplicated(), 'filename'].iloc[0]} is listed twice")
    missing = f"{n_listed - len(table)} of the {n_listed} recordings that {METADATA} lists are not in the folder"
    return table, stages, [missing] * (len(table) < n_listed)


def _by_user(table: pd.DataFrame) -> dict[str, list[Path]]:
    by_user = {str(user): rows["path"].tolist() for user, rows in table.groupby("user")}
    return {user: by_user[user] for user in sorted(by_user, key=natural_key)}


EMG2POSE = DataSet(NAME, load, f"wrist-band EMG and joint angles of the hand: {EXPECTED}", find)
