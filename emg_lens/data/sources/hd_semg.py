"""High-density EMG of 65 hand gestures (Malešević et al. 2021): 128 channels and nine forces, MATLAB 7.3.

A subject's file is an hour of float64, about 7 GB, and is never read as a whole. Each repetition becomes a recording of
its own, with some rest on both sides for the filters. Source: docs/data-sets.md §2.9.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Int

from emg_lens.data.files import check_choice, check_choices, index_files, read_parts, select_subjects
from emg_lens.data.recording import REST, UNLABELLED, DataError, Recording, Signal
from emg_lens.data.registry import DataSet
from emg_lens.data.sources.file_values import checked_signal, whole_numbers
from emg_lens.io.binary import hdf5_rows

Onset = Literal["cue", "adjusted"]
NAME = "hd-semg"
EXPECTED = "files s<n>.mat of the high-density data set (MATLAB 7.3)"
FILE_NAME = re.compile(r"s(\d+)\.mat", re.IGNORECASE)
FS = 2048.0
LABELS = {"cue": ("class", "repetition"), "adjusted": ("adjusted_class", "adjusted_repetition")}
REPEATED, ORIGINAL = 60, 58
"""A gesture that was recorded under two numbers."""
MARGIN_S = 1.0

SIGNALS = {  # modality -> variables of the file, unit, native rate (Hz), channels, position of the sensors
    "emg": (
        ("emg_extensors", "emg_flexors"),
        "V",
        FS,
        tuple(f"{side} {row}.{column}" for side in ("extensor", "flexor") for row, column in np.ndindex(8, 8)),
        "8 x 8 arrays over extensors and flexors of the forearm",
    ),
    "force": (("force",), "V", 200.0, tuple(f"force {i}" for i in range(1, 10)), "thumb, digits and wrist"),
}


def load(
    root: str | Path,
    *,
    subjects: Iterable[str | int] | None = None,
    onset: Onset = "cue",
    merge_duplicates: bool = True,
    sensors: Sequence[str] = ("emg", "force"),
    margin_s: float = MARGIN_S,
) -> Iterator[Recording]:
    """Read the repetitions, one recording each, in order of time.

    Args:
        root: Folder with the files, searched at any depth.
        subjects: Names (`"s3"`) or numbers; default all.
        onset: `"cue"`: when the screen showed the gesture; or `"adjusted"`: corrected by the publishers to the time
            when the force has risen half-way, 0.24 s after the cue on average.
        merge_duplicates: Whether gesture 60, which repeats 58, counts as 58.
        sensors: `"emg"`, `"force"`, or both.
        margin_s: Rest that is kept on both sides of each repetition (s). Rows of the margin that belong to another
            repetition are unlabelled, and a note counts them.
    """
    check_choice(NAME, "onset", onset, get_args(Onset))
    check_choices(NAME, "sensors", sensors, SIGNALS)
    if not 0 <= margin_s < 60:
        raise DataError(f"{NAME}: margin_s must be 0 to 60 s, got {margin_s}")
    index = select_subjects(find(root), subjects)
    margin = round(margin_s * FS)
    return (
        recording
        for subject, paths in index.items()
        for path in paths
        for recording in _recordings(path, subject, onset, merge_duplicates, tuple(sensors), margin)
    )


def find(root: str | Path) -> dict[str, list[Path]]:
    """Find the file of each subject (`"s1"`, `"s2"`, ...)."""
    return index_files(root, FILE_NAME, lambda match, _: (f"s{int(match[1])}", "recording"), EXPECTED)


def _recordings(
    path: Path, subject: str, onset: Onset, merge: bool, sensors: tuple[str, ...], margin: int
) -> Iterator[Recording]:
    label, repetition = _labels(path, onset)
    notes = [{"cue": "repetitions start at the cue", "adjusted": "repetitions start at half the rise of force"}[onset]]
    if "force" in sensors:
        notes.append("force: recorded at 200 Hz, stored at the rate of the EMG")
    if merge and (label == REPEATED).any():
        label[label == REPEATED] = ORIGINAL
        notes.append(f"gestures with two numbers are merged: {REPEATED} counts as {ORIGINAL}")
    names = {int(i): f"gesture {i}" for i in np.unique(label[label > REST])}
    changes = np.flatnonzero(np.diff(label) | np.diff(repetition)) + 1
    starts, stops = np.append(0, changes), np.append(changes, len(label))
    for start, stop in zip(starts.tolist(), stops.tolist(), strict=True):
        if label[start] <= REST:
            continue
        first, last = max(0, start - margin), min(len(label), stop + margin)
        own = np.zeros(last - first, bool)
        own[start - first : stop - first] = True
        others = (label[first:last] > REST) & ~own  # not rest, and a recording of their own
        near = [f"{others.sum()} rows of the margin belong to other repetitions and are excluded"] * int(others.any())
        signals = {name: _signal(path, name, first, last) for name in sensors}
        meta = {
            "dataset": NAME,
            "file": str(path),
            "class_names": names,
            "notes": (*notes, *near),
        }
        gestures = np.where(others, UNLABELLED, own * label[start])
        yield Recording(subject, signals, gestures, own * repetition[start], FS, meta)


def _labels(path: Path, onset: Onset) -> tuple[Int[np.ndarray, " row"], Int[np.ndarray, " row"]]:
    columns = _rows(path, LABELS[onset], None, None)
    vectors = [whole_numbers(columns[key].ravel(), f"{path}: {key}") for key in LABELS[onset]]
    if len({len(vector) for vector in vectors}) > 1:
        raise DataError(f"{path}: {' and '.join(LABELS[onset])} differ in length; is the file complete?")
    return vectors[0], vectors[1]


def _signal(path: Path, name: str, first: int, last: int) -> Signal:
    keys, units, native_fs, ch_names, placement = SIGNALS[name]
    variables = _rows(path, keys, first, last)
    if any(variables[key].shape[:1] != (last - first,) for key in keys):
        raise DataError(f"{path}: {name} is shorter than the labels; is the file complete?")
    data = np.concatenate([variables[key].reshape(last - first, -1) for key in keys], axis=1)
    return checked_signal(f"{path}: {name}", data, FS, native_fs, units, ch_names, placement)


def _rows(path: Path, keys: tuple[str, ...], first: int | None, last: int | None) -> dict[str, Any]:
    """Some rows of some variables, `[time, ...]` in MATLAB's order of axes."""
    variables = read_parts(hdf5_rows, path, "a MATLAB 7.3 file", names=keys, first=first, last=last)
    missing = [key for key in keys if key not in variables]
    if missing:
        raise DataError(f"{path}: no variable {missing[0]!r}; is the file complete?")
    return {key: array.T for key, array in variables.items()}


HD_SEMG = DataSet(NAME, load, f"high-density EMG of 65 gestures, 128 channels and nine forces: {EXPECTED}", find)
