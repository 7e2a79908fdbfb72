"""Labels of NinaPro files: bring the numbering and the length of label columns to one form.

Source: docs/data-sets.md §2.2.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Int, Shaped

from emg_lens.data.recording import REST, UNLABELLED, DataError
from emg_lens.data.sources.file_values import whole_numbers

LabelVector = Literal["restimulus", "stimulus"]
Numbering = Literal["auto", "local", "global"]
REPETITION_OF = {"restimulus": "rerepetition", "stimulus": "repetition"}

LabelRows = Int[np.ndarray, " row"]


@dataclass(frozen=True)
class Exercise:
    """One exercise of a data base.

    Attributes:
        size: Number of gestures.
        start: Number of its first gesture in the whole data base.
        repetitions: Number of repetitions of each gesture in a file; one entry for each file of the exercise.
        performed: Numbers of the gestures that are performed; default all.
        codes: Labels of an early release, in order of the gestures; they rise.
    """

    size: int
    start: int
    repetitions: tuple[int, ...] = (6,)
    performed: tuple[int, ...] = ()
    codes: tuple[int, ...] = ()

    @property
    def stop(self) -> int:
        """Number of the exercise's last gesture, in the numbering of the whole data base."""
        return self.start + self.size - 1

    @property
    def gestures(self) -> tuple[int, ...]:
        """Numbers of the gestures that are performed."""
        return self.performed or tuple(range(self.start, self.stop + 1))


def read_labels(label: LabelRows, exercise: Exercise, numbering: Numbering, what: str) -> tuple[LabelRows, list[str]]:
    """Convert labels to the numbering of the whole data base; also return notes on the change."""
    label, active = label.copy(), label[label > REST]
    if exercise.codes and set(active.tolist()) <= set(exercise.codes) and active.max(initial=0) > exercise.size:
        label[label > REST] = exercise.start + np.searchsorted(exercise.codes, active)
        return label, [f"labels are codes of an early release ({active.min()} to {active.max()}): renumbered"]
    offset = label_offset(active, exercise, numbering, what)
    label[label > REST] += offset
    return label, [f"labels are numbered within the exercise: {offset} added"] if offset else []


def label_offset(active: LabelRows, exercise: Exercise, numbering: Numbering, what: str = "labels") -> int:
    """Return the offset from a file's non-zero labels to numbers of the whole data base (docs/data-sets.md §2.2)."""
    if not len(active) or (exercise.start == 1 and active.max() <= exercise.size):
        return 0
    low, high = int(active.min()), int(active.max())
    fits = {"local": high <= exercise.size, "global": low >= exercise.start and high <= exercise.stop}
    possible = [name for name in fits if fits[name] and numbering in ("auto", name)]
    if len(possible) != 1:
        either = "fit both numberings" if possible else "fit no numbering"
        wrong = either if numbering == "auto" else f"are not {numbering}"
        ranges = f"local 1 to {exercise.size}, global {exercise.start} to {exercise.stop}"
        raise DataError(f"{what} {low} to {high} {wrong} ({ranges}); check the file, or set label_numbering")
    return exercise.start - 1 if possible == ["local"] else 0


def fit_length(column: Shaped[np.ndarray, "..."], n_rows: int, key: str, path: Path, notes: list[str]) -> LabelRows:
    """Pad or cut a label column to the length of the EMG (docs/data-sets.md §2.2)."""
    vector = column.ravel()
    if vector.size != max(column.shape, default=0):
        raise DataError(f"{path}: {key} has shape {column.shape}, expected one value per row")
    check_length(len(vector), n_rows, key, path)
    vector = whole_numbers(vector, f"{path}: {key}")
    missing = n_rows - len(vector)
    if missing > 0:
        notes.append(f"{key} is {missing} rows shorter than emg; those rows are excluded")
        return np.concatenate([vector, np.full(missing, UNLABELLED)])
    if missing < 0:
        notes.append(f"{key} is {-missing} rows longer than emg and was cut")
    return vector[:n_rows]


def check_length(n: int, n_rows: int, key: str, path: Path) -> None:
    """Check that a length differs from the EMG's by at most 5 rows or 1 %."""
    tolerance = max(5, n_rows // 100)
    if abs(n - n_rows) > tolerance:
        raise DataError(f"{path}: {key} has {n} rows and emg {n_rows}; expected a difference of {tolerance} at most")
