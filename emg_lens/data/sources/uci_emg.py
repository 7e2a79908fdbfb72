"""UCI "EMG data for gestures" (data set 481): eight EMG channels of a Myo band, two series a subject.

Source: docs/data-sets.md §2.5. Sampling rate: there is a row every 1.04 ms, but nine in ten rows repeat the row before,
so the signal changes only about 105 times a second. Rows stay as they are: `fs` is the rate of rows from the time
column, `native_fs` the rate of changes, and a note gives both.
"""

import re
import textwrap
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from emg_lens.data.files import index_files, select_subjects
from emg_lens.data.recording import UNLABELLED, DataError, Recording, Signal
from emg_lens.data.registry import DataSet
from emg_lens.data.sources.repetition_numbers import number_runs
from emg_lens.data.text import check_columns, first_line, read_bytes, read_rows

NAME = "uci-emg"
EXPECTED = "folders 01, 02, ... with files '<1|2>_raw_data_*.txt' (or .txt.gz)"
FILE_NAME = re.compile(r"(\d+)_raw_data_.*\.txt(\.gz)?", re.IGNORECASE)
COLUMNS = ("time", *(f"channel{i}" for i in range(1, 9)), "class")
UNMARKED = 0
CLASSES = {
    1: "hand at rest",
    2: "fist",
    3: "wrist flexion",
    4: "wrist extension",
    5: "radial deviation",
    6: "ulnar deviation",
}
RUNS = 2
"""Number of repetitions of each gesture in a series."""
LONGEST_STEP_MS = 100.0
"""Longest time between two rows without a note (ms); intact files stay below 40."""
OPTIONAL_CLASSES = {7: "extended palm"}
"""Not performed by all subjects; a class only in recordings that contain it."""


def load(root: str | Path, *, subjects: Iterable[str | int] | None = None) -> Iterator[Recording]:
    """Read the series, one recording each.

    Class 0 (unmarked) becomes -1, unlabelled. Class 1 is a posture that subjects had to hold, and is a class like the
    others. Repetition numbers count the runs of a class through both series of a subject, from 1.

    Args:
        root: Folder with one folder a subject.
        subjects: Names (`"03"`) or numbers; default all.
    """
    index = select_subjects(find(root), subjects)
    return (read(path, subject, done) for subject, paths in index.items() for done in [{}] for path in paths)


def find(root: str | Path) -> dict[str, list[Path]]:
    """Find the files of each subject, by series."""

    def place(match: re.Match, path: Path) -> tuple[str, str]:
        return (path.parent.name, f"series {match[1]}") if path.parent.name.isdecimal() else ("", "")

    return index_files(root, FILE_NAME, place, EXPECTED)


def read(path: Path, subject: str, done: dict[int, int] | None = None) -> Recording:
    """Read one series.

    Args:
        path: The file.
        subject: Name of the subject.
        done: Number of runs of each class in earlier series; updated in place.
    """
    table = _table(path)
    time, label = table["time"].to_numpy(float), table["class"].to_numpy(int)
    steps = np.diff(time)
    if len(time) < 2 or (steps <= 0).any():
        row = int(np.argmax(steps <= 0)) + 3 if len(time) > 1 else 2
        raise DataError(f"{path}: time does not rise in line {row}; is the file damaged?")
    unknown = sorted(set(label.tolist()) - {UNMARKED, *CLASSES, *OPTIONAL_CLASSES})
    if unknown:
        raise DataError(f"{path}: unknown class {unknown[0]}; expected {UNMARKED} to {max(OPTIONAL_CLASSES)}")
    data = table[list(COLUMNS[1:-1])].to_numpy(np.float32)
    seconds = (time[-1] - time[0]) / 1000
    fs, drift = (
        len(steps) / seconds,
        np.abs((time - time[0]) - np.arange(len(time)) * seconds / len(steps) * 1000),
    )
    changes = (np.diff(data, axis=0) != 0).any(axis=1)
    native_fs = min(fs, max(1, changes.sum()) / seconds)
    notes = [f"{fs:.1f} rows per second by the time column, off uniform times by {drift.max():.0f} ms at most"]
    if native_fs < 0.9 * fs:
        notes.append(
            f"{1 - changes.mean():.0%} of rows repeat the row before; the signal changes at"
            f" {native_fs:.0f} Hz and has no content above {native_fs / 2:.0f} Hz"
        )
    gap = int(np.argmax(steps))
    if steps[gap] > LONGEST_STEP_MS:
        notes.append(f"time jumps by {steps[gap]:.0f} ms after line {gap + 2}: rows are missing")
    signal = Signal(data, fs, native_fs, "V", COLUMNS[1:-1], "Myo band on the forearm")
    present = {i: name for i, name in OPTIONAL_CLASSES.items() if (label == i).any()}
    meta = {"dataset": NAME, "file": str(path), "class_names": {**CLASSES, **present}, "notes": tuple(notes)}
    runs: dict[int, int] = {}
    number_runs(label, runs)
    other_counts = [f"{name} {runs.get(i, 0)}" for i, name in CLASSES.items() if runs.get(i, 0) != RUNS]
    if other_counts:
        meta["notes"] += (f"gestures without {RUNS} repetitions ({', '.join(other_counts)}): is the file complete?",)
    repetition = np.where(label == UNMARKED, 0, number_runs(label, {} if done is None else done))
    return Recording(subject, {"emg": signal}, np.where(label == UNMARKED, UNLABELLED, label), repetition, fs, meta)


def _table(path: Path) -> pd.DataFrame:
    text = read_bytes(path)
    check_columns(first_line(text), "\t", path)
    try:
        table = read_rows(text, sep="\t")
    except ValueError as error:  # includes parser errors of pandas
        reason = str(error).strip().splitlines()[0]
        raise DataError(f"{path}: cannot be read ({reason}); is it complete?") from None
    if tuple(table.columns) != COLUMNS:
        present = textwrap.shorten(", ".join(table.columns), 200)
        raise DataError(f"{path}: columns {present}, expected {', '.join(COLUMNS)}")
    for column in COLUMNS:
        numbers = np.asarray(pd.to_numeric(table[column], errors="coerce"), float)
        valid = np.abs(numbers) < np.finfo(np.float32).max  # false for NaN
        if column == "class":
            valid &= numbers == np.round(numbers)
        if not valid.all():
            line = int(np.argmin(valid)) + 2
            what = "not a whole number" if column == "class" else "not a number"
            raise DataError(f"{path}: {column} is {what} in line {line}; is the file complete?")
    return table


UCI_EMG = DataSet(NAME, load, f"UCI EMG data for gestures, eight EMG channels: {EXPECTED}", find)
