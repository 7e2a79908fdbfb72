"""Polish Sign Language with a Myo armband: EMG, accelerometer, gyroscope, orientation, each at its own rate.

One CSV file is one sign of two seconds. EMG rows and IMU rows are interleaved in order of arrival:
`"<received>","emg",e1..e8,"<taken>"` and `"<received>","acc",x,y,z,"gyro",x,y,z,"quat",w,x,y,z,"<taken>"`.

Time base: packets contain several rows, so arrival times vary by 20 ms, sometimes by 70 ms. The mean rate over a file
is 199.7 +- 0.5 Hz (EMG) and 50.0 +- 0.1 Hz (IMU). Rows are therefore treated as uniform at 200 and 50 Hz, and arrival
times only serve to find files with lost rows. Both kinds start at time 0; their first rows arrive within 30 ms of each
other.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from emg_lens.data.files import Index, index_files, select_subjects
from emg_lens.data.recording import DataError, Recording, Signal
from emg_lens.data.registry import DataSet
from emg_lens.data.sources.file_values import rising_steps
from emg_lens.data.text import read_bytes

NAME = "psl-myo"
EXPECTED = "folders person<n> with files '[<number>]<date> <time>_<sign>.csv'"
FILE_NAME = re.compile(r"\[(\d+)\](\d{4}-\d\d-\d\d .+)_(\d+)\.csv", re.IGNORECASE)
N_SIGNS = 18
EMG_FS, IMU_FS = 200.0, 50.0
SECONDS = 2.0
"""Duration of a sign."""
RATE_TOLERANCE, LENGTH_TOLERANCE = 0.015, 0.05
"""Relative deviation of rate and length above which a note is written; intact files stay within .01 and .02."""

N_FIELDS = {"emg": 11, "acc": 15}
"""Number of fields of an EMG row and of an IMU row, by the second field."""
SIGNALS = {  # modality -> columns of a row, counts per unit (Myo SDK), unit, channel names
    "emg": (slice(2, 10), 1.0, "adc", tuple(f"pod {i}" for i in range(1, 9))),
    "acc": (slice(2, 5), 2048.0, "g", ("x", "y", "z")),
    "gyro": (slice(6, 9), 16.0, "deg/s", ("x", "y", "z")),
    "quat": (slice(10, 14), 16384.0, "", ("w", "x", "y", "z")),
}
NOTES = (
    "rows treated as uniform at 200 Hz (emg) and 50 Hz (acc, gyro, quat); arrival times vary by up to 70 ms",
    "emg and IMU rows both start at time 0; their first rows arrive within 30 ms of each other",
)


def load(root: str | Path, *, subjects: Iterable[str | int] | None = None) -> Iterator[Recording]:
    """Read the original CSV files, one recording each, by person and time of recording.

    A recording's label is the sign (1 to 18). Repetition numbers count the recordings of a sign by one person, from 1.
    `root` is the folder with the folders `person<n>`; `subjects` are names (`"person6"`) or numbers.
    """
    return _recordings(select_subjects(find(root), subjects))


def find(root: str | Path) -> dict[str, list[Path]]:
    """Find the files of each person, in order of the time in their names."""

    def place(match: re.Match, path: Path) -> tuple[str, str]:
        person = path.parent.name
        return (person, f"{match[2]} {match[1]}") if person.removeprefix("person").isdecimal() else ("", "")

    return index_files(root, FILE_NAME, place, EXPECTED)


def read(path: Path, subject: str, sign: int, repetition: int) -> Recording:
    """Read one file."""
    try:
        text = read_bytes(path).read().decode()
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: cannot be read ({error}); is the file complete?") from None
    rows = [line.split(",") for line in text.replace('"', "").splitlines()]
    kinds = [row[1] if len(row) > 1 and len(row) == N_FIELDS.get(row[1]) else "" for row in rows]
    if "" in kinds:
        odd = kinds.index("") + 1
        raise DataError(f"{path}: row {odd} is neither an emg nor an acc/gyro/quat row; is the file complete?")
    emg, imu = ([row for row, its in zip(rows, kinds, strict=True) if its == kind] for kind in N_FIELDS)
    if len(emg) < 2 or len(imu) < 2:
        raise DataError(f"{path}: {len(emg)} emg rows and {len(imu)} acc rows; expected at least 2 of each")
    notes: list[str] = [*NOTES]
    for kind, kept, fs in (("emg", emg, EMG_FS), ("acc", imu, IMU_FS)):
        times = _parsed([row[-1] for row in kept], "datetime64[us]", path)
        seconds = (times - times[0]) / np.timedelta64(1, "s")
        measured = len(rising_steps(seconds, f"{path}: {kind} time")) / seconds[-1]
        if abs(len(kept) / fs / SECONDS - 1) > LENGTH_TOLERANCE:
            notes.append(f"{kind} lasts {len(kept) / fs:.2f} s, expected {SECONDS:g} s: is the file complete?")
        if abs(measured / fs - 1) > RATE_TOLERANCE:
            notes.append(f"{kind} rows arrived at {measured:.1f} Hz instead of {fs:g}: its time base is less certain")
    signals = {}
    for modality, (columns, scale, units, names) in SIGNALS.items():
        kept, fs = (emg, EMG_FS) if modality == "emg" else (imu, IMU_FS)
        data = _parsed([row[columns] for row in kept], "int32", path).astype(np.float32) / np.float32(scale)
        signals[modality] = Signal(data, fs, fs, units, names, "Myo band on the forearm")
    constant, names = np.ones(len(emg), np.int64), {i: f"sign {i}" for i in range(1, N_SIGNS + 1)}
    meta = {"dataset": NAME, "file": str(path), "class_names": names, "notes": tuple(notes)}
    return Recording(subject, signals, constant * sign, constant * repetition, EMG_FS, meta)


def _recordings(index: Index) -> Iterator[Recording]:
    for subject, paths in index.items():
        done: Counter[int] = Counter()
        for path in paths:
            sign = int(path.stem.rpartition("_")[2])
            if not 1 <= sign <= N_SIGNS:
                raise DataError(f"{path}: sign {sign} does not exist; expected 1 to {N_SIGNS}")
            done[sign] += 1
            yield read(path, subject, sign, done[sign])


def _parsed(cells: Sequence, dtype: str, path: Path) -> np.ndarray:
    try:
        return np.array(cells, dtype=dtype)
    except (ValueError, OverflowError) as error:
        raise DataError(f"{path}: {error}; is the file complete?") from None


PSL_MYO = DataSet(NAME, load, f"Polish Sign Language, 18 signs with a Myo band: {EXPECTED}", find)
