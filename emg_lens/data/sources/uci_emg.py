"""UCI "EMG data for gestures" (data set 481): eight EMG channels of a Myo band, two series a subject.

Source: docs/data-sets.md §2.5. Sampling rate: there is a row every 1.04 ms, but nine in ten rows repeat the row before,
so the signal changes only about 104 times a second. Rows stay as they are: `fs` is the rate of rows from the time
column, `native_fs` the rate of changes, and a note gives both.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from emg_lens.data.files import index_files, select_subjects
from emg_lens.data.recording import UNLABELLED, DataError, Recording, Signal
from emg_lens.data.registry import DataSet
from emg_lens.data.sources.file_values import number_runs, rising_steps
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

    Class 0 (unmarked) becomes -1, unlabelled: it is not rest, because the movement starts in it. Class 1 is a posture
    that subjects had to hold, and is a class like the others. Repetition numbers count the runs of a class through both
    series of a subject, from 1. `root` is the folder with one folder a subject; `subjects` are names (`"03"`) or
    numbers.
    """
    index = select_subjects(find(root), subjects)
    return (read(path, subject, done) for subject, paths in index.items() for done in [Counter()] for path in paths)


def find(root: str | Path) -> dict[str, list[Path]]:
    """Find the files of each subject, by series."""

    def place(match: re.Match, path: Path) -> tuple[str, str]:
        return (path.parent.name, f"series {match[1]}") if path.parent.name.isdecimal() else ("", "")

    return index_files(root, FILE_NAME, place, EXPECTED)


LONGEST_CELL = 40
"""Letters of a damaged cell in a message."""


def read(path: Path, subject: str, done: Counter[int]) -> Recording:
    """Read one series; `done` has the number of runs of each class in earlier series, and is updated in place."""
    text = read_bytes(path)
    check_columns(first_line(text)[1], "\t", path)
    try:
        table = read_rows(text, sep="\t")
    except ValueError as error:  # includes parser errors of pandas
        raise DataError(f"{path}: cannot be read ({str(error).strip().splitlines()[0]}); is it complete?") from None
    if tuple(table.columns) != COLUMNS:
        present = ", ".join(str(column)[:LONGEST_CELL] for column in table.columns[:12])
        raise DataError(f"{path}: columns {present}, expected {', '.join(COLUMNS)}")
    numbers = table.apply(pd.to_numeric, errors="coerce").to_numpy(float)
    valid = np.abs(numbers) < np.finfo(np.float32).max  # false for NaN
    valid[:, -1] &= np.isin(numbers[:, -1], [UNMARKED, *CLASSES, *OPTIONAL_CLASSES])
    if not valid.all():
        row, column = np.argwhere(~valid)[0]
        expected = f"{UNMARKED} to {max(OPTIONAL_CLASSES)}" if COLUMNS[column] == "class" else "a number"
        value = str(table.iloc[row, column])[:LONGEST_CELL]
        raise DataError(f"{path}: {COLUMNS[column]} in line {row + 2} is {value}, expected {expected}; is it complete?")
    time, label = numbers[:, 0], numbers[:, -1].astype(int)
    steps = rising_steps(time, f"{path}: time")
    data = numbers[:, 1:-1].astype(np.float32)
    seconds = (time[-1] - time[0]) / 1000
    fs = len(steps) / seconds
    drift = np.abs((time - time[0]) - np.arange(len(time)) * seconds / len(steps) * 1000)
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
    runs: Counter[int] = Counter()
    number_runs(label, runs)
    other_counts = [f"{name} {runs[i]}" for i, name in CLASSES.items() if runs[i] != RUNS]
    if other_counts:
        notes.append(f"gestures without {RUNS} repetitions ({', '.join(other_counts)}): is the file complete?")
    signal = Signal(data, fs, native_fs, "V", COLUMNS[1:-1], "Myo band on the forearm")
    names = CLASSES | {i: name for i, name in OPTIONAL_CLASSES.items() if runs[i]}
    meta = {"dataset": NAME, "file": str(path), "class_names": names, "notes": tuple(notes)}
    repetition = np.where(label == UNMARKED, 0, number_runs(label, done))
    return Recording(subject, {"emg": signal}, np.where(label == UNMARKED, UNLABELLED, label), repetition, fs, meta)


UCI_EMG = DataSet(NAME, load, f"UCI EMG data for gestures, eight EMG channels: {EXPECTED}", find)
