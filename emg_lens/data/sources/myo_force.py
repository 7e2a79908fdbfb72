"""Grasp force and the EMG of a Myo band: twelve recordings of a force that rises and falls, without gesture labels.

One MATLAB file per recording: `emg` (eight channels) and `Force` (a force-sensing resistor in a ball, counts of a
10-bit converter), both at 200 Hz. The files do not name the volunteer, so each recording counts as a subject of its
own. The force in newtons is unknown.
"""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from emg_lens.data.files import index_files, select_subjects
from emg_lens.data.matlab import read_mat
from emg_lens.data.recording import DataError, Recording
from emg_lens.data.registry import DataSet
from emg_lens.data.sources.file_values import checked_signal

NAME = "myo-force"
EXPECTED = "files recording_force_<name>.mat"
FILE_NAME = re.compile(r"recording_force_(v\w+)\.mat", re.IGNORECASE)
FS = 200.0
SIGNALS = {  # modality -> key in the file, channel names, position of the sensor
    "emg": ("emg", tuple(f"pod {i}" for i in range(1, 9)), "Myo band on the forearm"),
    "force": ("Force", ("grasp force",), "in the ball that is grasped"),
}
GRASP = 1
NOTES = (
    "the files do not name the volunteer: each recording counts as a subject, and some may be of the same person",
    "force in counts of the converter, not in newtons",
)


def load(root: str | Path, *, subjects: Iterable[str | int] | None = None) -> Iterator[Recording]:
    """Read the recordings. Each is one repetition of one class, `grasp` (label 1, repetition 1).

    `root` is searched at any depth; `subjects` are names of recordings (`"v10"`, `"v11_2"`) or numbers (10).
    """
    index = select_subjects(find(root), subjects)
    return (read(path, subject) for subject, paths in index.items() for path in paths)


def find(root: str | Path) -> dict[str, list[Path]]:
    """Find the file of each recording, by the recording's name."""
    return index_files(root, FILE_NAME, lambda match, _: (match[1].lower(), "force"), EXPECTED)


def read(path: Path, subject: str) -> Recording:
    """Read one file."""
    content = read_mat(path, [key for key, *_ in SIGNALS.values()])
    signals = {
        modality: checked_signal(f"{path}: {key}", content[key], FS, FS, "adc", names, placement)
        for modality, (key, names, placement) in SIGNALS.items()
    }
    rows = {modality: len(signal.data) for modality, signal in signals.items()}
    if len(set(rows.values())) > 1:
        listed = ", ".join(f"{modality} {n}" for modality, n in rows.items())
        raise DataError(f"{path}: signals differ in length ({listed} rows), expected the same; is the file complete?")
    ones = np.ones(rows["emg"], np.int64)
    meta = {"dataset": NAME, "file": str(path), "class_names": {GRASP: "grasp"}, "notes": NOTES}
    return Recording(subject, signals, ones * GRASP, ones, FS, meta)


MYO_FORCE = DataSet(NAME, load, f"grasp force and eight EMG channels of a Myo band: {EXPECTED}", find)
