"""EPN-612: five gestures and no gesture, recorded with a Myo band; 612 people, one JSON file per person.

Source: docs/data-sets.md §2.10.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from emg_lens.data.files import check_choice, check_choices, index_files, select_subjects
from emg_lens.data.recording import DataError, Recording, Signal
from emg_lens.data.registry import DataSet
from emg_lens.data.sources.file_values import checked_signal
from emg_lens.data.text import read_bytes

Extent = Literal["sample", "marked"]
NAME = "epn-612"
EXPECTED = "folders trainingJSON and testingJSON with user<k>/user<k>.json"
FILE_NAME = re.compile(r"user(\d+)\.json", re.IGNORECASE)
GESTURES = ("noGesture", "waveIn", "waveOut", "pinch", "open", "fist")
"""In order of our labels, 1 to 6; the codes in the files have another order."""
SETS = ("trainingSamples", "testingSamples")
REPETITIONS = 25
"""Number of samples of each gesture in a set."""
EMG_FS, IMU_FS = 200.0, 50.0

SIGNALS = {  # modality -> key in the file, channels, rate (Hz), unit
    "emg": ("emg", tuple(f"ch{i}" for i in range(1, 9)), EMG_FS, "adc"),
    "acc": ("accelerometer", ("x", "y", "z"), IMU_FS, ""),
    "gyro": ("gyroscope", ("x", "y", "z"), IMU_FS, ""),
    "quat": ("quaternion", ("w", "x", "y", "z"), IMU_FS, ""),
}


def load(
    root: str | Path,
    *,
    subjects: Iterable[str | int] | None = None,
    sets: Sequence[str] = SETS,
    sensors: Sequence[str] = ("emg",),
    extent: Extent = "sample",
) -> Iterator[Recording]:
    """Read the samples, one recording of about five seconds each.

    Repetition numbers count the samples of a gesture: 1 to 25 in `trainingSamples`, 26 to 50 in `testingSamples`.

    Args:
        root: Folder with `trainingJSON` and `testingJSON`.
        subjects: `"training.3"`, `"testing.3"`, ...; default all.
        sets: The sets of samples to read of each person.
        sensors: Modalities to read: emg, acc, gyro, quat.
        extent: Rows with the label: `"sample"`: all; `"marked"`: those that the publishers marked as the gesture (for
            `noGesture` all).
    """
    check_choices(NAME, "sets", sets, SETS)
    check_choices(NAME, "sensors", sensors, SIGNALS)
    check_choice(NAME, "extent", extent, get_args(Extent))
    index = select_subjects(find(root), subjects)
    return (
        recording
        for subject, paths in index.items()
        for path in paths
        for recording in _recordings(path, subject, tuple(sets), tuple(sensors), extent)
    )


def find(root: str | Path) -> dict[str, list[Path]]:
    """Find the file of each person, `"training.<k>"` or `"testing.<k>"`; both folders count from 1."""

    def place(match: re.Match, path: Path) -> tuple[str, str]:
        folder = path.parent.parent.name.lower().removesuffix("json")
        return (f"{folder}.{int(match[1])}", "samples") if folder in ("training", "testing") else ("", "")

    return index_files(root, FILE_NAME, place, EXPECTED)


def _recordings(
    path: Path, subject: str, sets: tuple[str, ...], sensors: tuple[str, ...], extent: Extent
) -> Iterator[Recording]:
    try:
        content = json.load(read_bytes(path))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: cannot be read ({error}); is it complete?") from None
    note = "emg, acc, gyro and quat treated as uniform at 200 and 50 Hz, all from time 0"
    names = dict(enumerate(GESTURES, start=1))
    meta = {"dataset": NAME, "file": str(path), "class_names": names, "notes": (note,) * (len(sensors) > 1)}
    for number, name in enumerate(SETS):
        if name not in sets:
            continue
        samples = content.get(name) if isinstance(content, Mapping) else None
        if not isinstance(samples, Mapping) or not all(isinstance(sample, Mapping) for sample in samples.values()):
            raise DataError(f"{path}: no {name}; expected samples idx_1, idx_2, ..., with signals and a gesture")
        done: Counter[str] = Counter()
        for key in sorted(samples, key=lambda key: (len(key), key)):
            where, sample = f"{path}: {name}.{key}", samples[key]
            gesture = sample.get("gestureName")
            if gesture is None:  # the publishers withhold the gestures of the second set of the testing people
                continue
            if gesture not in GESTURES:
                raise DataError(f"{where}: unknown gesture {gesture!r}; expected one of {', '.join(GESTURES)}")
            done[gesture] += 1
            repetition = number * REPETITIONS + done[gesture]
            signals = {name: _signal(sample, name, where) for name in sensors}
            active = np.ones(len(_signal(sample, "emg", where).data), np.int64)
            if extent == "marked" and gesture != "noGesture":
                active[:] = 0
                active[_marked(sample, len(active), where)] = 1
            label = GESTURES.index(gesture) + 1
            yield Recording(subject, signals, active * label, active * repetition, EMG_FS, meta)


def _marked(sample: Mapping[str, Any], n_rows: int, where: str) -> slice:
    """The rows that the publishers marked as the gesture."""
    match sample.get("groundTruthIndex"):
        case [int(first), int(last)] if 1 <= first <= last <= n_rows:
            return slice(first - 1, last)
        case bounds:
            expected = f"the first and last row of the gesture, from 1 to {n_rows}"
            raise DataError(f"{where}: groundTruthIndex is {bounds!r}, expected {expected}")


def _signal(sample: Mapping[str, Any], name: str, where: str) -> Signal:
    key, channels, fs, units = SIGNALS[name]
    table = sample.get(key)
    table = table if isinstance(table, Mapping) else {}
    missing = [channel for channel in channels if channel not in table]
    if missing:
        raise DataError(f"{where}: {key} has no {missing[0]}; is the file complete?")
    try:
        data = np.array([table[channel] for channel in channels], dtype=np.float32).T
    except (TypeError, ValueError):
        raise DataError(f"{where}: the channels of {key} must be numbers, the same number of each") from None
    return checked_signal(f"{where}: {key}", data, fs, fs, units, channels, "Myo band on the forearm")


EPN_612 = DataSet(NAME, load, f"five gestures and no gesture with a Myo band, 612 people: {EXPECTED}", find)
