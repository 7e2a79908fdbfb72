"""Labels of NinaPro files: numbered within the exercise or through the data base, too short, or old codes.

Facts: docs/data-sets.md §2.2.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Int, Shaped

from emg_lens.data.recording import REST, UNLABELLED, DataError

LabelVector = Literal["restimulus", "stimulus"]
Numbering = Literal["auto", "local", "global"]
REPETITION_OF = {"restimulus": "rerepetition", "stimulus": "repetition"}

LabelRows = Int[np.ndarray, " row"]


@dataclass(frozen=True)
class Exercise:
    """One exercise of a data base.

    Attributes:
        size: How many movements it has.
        start: Number of the first one in the whole data base.
        repetitions: Of each movement, in one file; where an exercise has several files, in each.
        performed: Numbers of the movements that are performed; default all.
        codes: Labels that an early release has, in order of the movements.
    """

    size: int
    start: int
    repetitions: tuple[int, ...] = (6,)
    performed: tuple[int, ...] = ()
    codes: tuple[int, ...] = ()

    @property
    def stop(self) -> int:
        """Number of its last movement in the whole data base."""
        return self.start + self.size - 1

    @property
    def movements(self) -> tuple[int, ...]:
        """Numbers of the movements that are performed."""
        return self.performed or tuple(range(self.start, self.stop + 1))

    def first_repetition(self, part: int) -> int:
        """What to add to the repetitions of a part (from 1), so that they are numbered through all parts."""
        return sum(self.repetitions[: part - 1])


def read_labels(label: LabelRows, exercise: Exercise, numbering: Numbering, what: str) -> tuple[LabelRows, list[str]]:
    """Labels that count through the whole data base, and what was done to them.

    Raises:
        DataError: The labels fit neither numbering, not the one asked for, or (`"auto"`) both.
    """
    label, active = label.copy(), label[label > REST]
    if exercise.codes and set(active.tolist()) <= set(exercise.codes) and active.max(initial=0) > exercise.size:
        for repetition_id, code in enumerate(exercise.codes, start=exercise.start):
            label[np.isin(label, code)] = -repetition_id - 1  # below -1, where no code is
        label[label < UNLABELLED] = -label[label < UNLABELLED] - 1
        return label, [f"labels are codes of an early release ({active.min()} to {active.max()}), numbered anew"]
    offset = label_offset(active, exercise, numbering, what)
    label[label > REST] += offset
    return label, [f"labels are numbered within the exercise; {offset} added"] if offset else []


def label_offset(active: LabelRows, exercise: Exercise, numbering: Numbering, what: str = "labels") -> int:
    """What to add to a file's non-zero labels to count through the whole data base (docs/data-sets.md §2.2).

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


def fitted(column: Shaped[np.ndarray, "..."], n_rows: int, key: str, path: Path, notes: list[str]) -> LabelRows:
    """A column of labels, brought to the length of the EMG, which is the reference (docs/data-sets.md §2.2).

    Raises:
        DataError: It is no column of whole numbers, or too short or long.
    """
    vector = column.ravel()
    if vector.size != max(column.shape, default=0):
        raise DataError(f"{path}: {key} has shape {column.shape}, expected one value a row")
    check_length(len(vector), n_rows, key, path)
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


def check_length(n: int, n_rows: int, key: str, path: Path) -> None:
    """Refuse a length that differs from the EMG's by more than 5 rows and 1 %.

    Raises:
        DataError: It does.
    """
    tolerance = max(5, n_rows // 100)
    if abs(n - n_rows) > tolerance:
        raise DataError(f"{path}: {key} has {n} rows, emg {n_rows}; they may differ by {tolerance} at most")
