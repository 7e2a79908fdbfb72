"""Grasp force and the EMG of a Myo band: twelve recordings of a force that rises and falls, without gesture labels.

One MATLAB file a recording: `emg` (eight channels) and `Force` (a force-sensing resistor in a ball, counts of a 10-bit
converter) on one 200 Hz clock. The files do not tell which volunteer made which recording, so each recording stands for
a subject of its own. What the force is in newtons is not known.
"""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from emg_lens.data.files import index_files, select_subjects
from emg_lens.data.matlab import as_float32, read_mat
from emg_lens.data.recording import DataError, Recording, Signal
from emg_lens.data.registry import DataSet

NAME = "myo-force"
EXPECTED = "files recording_force_<name>.mat"
FILE_NAME = re.compile(r"recording_force_(v\w+)\.mat", re.IGNORECASE)
FS = 200.0
SIGNALS = {  # modality -> key in the file, channel names, where the sensor sat
    "emg": ("emg", tuple(f"pod {i}" for i in range(1, 9)), "Myo band on the forearm"),
    "force": ("Force", ("grasp force",), "in the ball that is grasped"),
}
GRASP = 1
NOTES = (
    "the files do not tell the volunteer: each recording counts as a subject, and some may be of the same person",
    "force in counts of the converter, not in newtons",
)


def load(root: str | Path, *, subjects: Iterable[str | int] | None = None) -> Iterator[Recording]:
    """Read the recordings. All of each is one movement, `grasp` (label 1, repetition 1).

    Args:
        root: Folder with the files, searched at every depth.
        subjects: Names of recordings (`"v10"`, `"v11_2"`) or numbers (10); default all.

    Raises:
        DataError: No files, unknown subject; while iterating, a damaged file.
    """
    index = select_subjects(find(root), subjects)
    return (read(path, subject) for subject, paths in index.items() for path in paths)


def find(root: str | Path) -> dict[str, list[Path]]:
    """The file of each recording, by the recording's name.

    Raises:
        DataError: No such folder or file, or two files of one name.
    """
    return index_files(root, FILE_NAME, lambda match, _: (match[1].lower(), "force"), EXPECTED)


def read(path: Path, subject: str) -> Recording:
    """Read one file.

    Raises:
        DataError: The file is truncated, lacks a key, holds NaN, or its signals do not fit together.
    """
    content = read_mat(path, [key for key, *_ in SIGNALS.values()])
    signals = {}
    for modality, (key, names, placement) in SIGNALS.items():
        if key not in content:
            found = ", ".join(content) or "none"
            raise DataError(f"{path}: no key {key!r} (found of those wanted: {found}); is the file complete?")
        data = content[key]
        if data.ndim != 2 or data.shape[1] != len(names) or not len(data):
            raise DataError(f"{path}: {key} is {data.dtype} {data.shape}, expected numbers [time, {len(names)}]")
        data = as_float32(data)
        if not np.isfinite(data).all():
            raise DataError(f"{path}: {key} holds NaN or infinity")
        signals[modality] = Signal(data, FS, FS, "adc", names, placement)
    rows = {modality: len(signal.data) for modality, signal in signals.items()}
    if len(set(rows.values())) > 1:
        listed = ", ".join(f"{modality} {n}" for modality, n in rows.items())
        raise DataError(f"{path}: signals differ in length ({listed} rows), expected one clock; is the file complete?")
    whole = np.ones(rows["emg"], np.int64)
    meta = {"dataset": NAME, "file": str(path), "class_names": {GRASP: "grasp"}, "notes": NOTES}
    return Recording(subject, signals, whole * GRASP, whole, FS, meta)


MYO_FORCE = DataSet(NAME, load, f"grasp force and eight EMG channels of a Myo band: {EXPECTED}", find)
