"""Discrete gestures of the generic neuromotor interface: one HDF5 file per recording, with prompts and stages.

Source: docs/data-sets.md §2.12.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from emg_lens.data.files import check_choices, existing_folder, files_below, read_parts, select_subjects
from emg_lens.data.recording import DataError
from emg_lens.data.registry import DataSet
from emg_lens.data.sequences import SequenceSet, SignalSequence
from emg_lens.data.text import read_bytes, read_rows
from emg_lens.data.trials import TrialSet
from emg_lens.data.windowing import read_windows
from emg_lens.io.binary import hdf5_fields
from emg_lens.io.pandas_frames import frame_columns

NAME = "neuromotor-gestures"
EXPECTED = "the .hdf5 files of discrete gestures, at any depth, and perhaps a corpus table (.csv)"
FS = 2000.0
GESTURES = (
    *("index_press", "index_release", "middle_press", "middle_release"),
    *("thumb_click", "thumb_down", "thumb_in", "thumb_out", "thumb_up"),
)
"""Names of the gestures, in the published order."""
N_CHANNELS = 16
USER = re.compile(r"user_(\d+)")
LONGEST_STEP_S = 0.01
"""A longer time between two rows is a gap."""
MOST_STEPS = 100_000
"""Rows whose distance in time shows the rate."""
PARTS = ("train", "val", "test")
USUAL_RMS = (0.5, 500.0)
"""Usual amplitude: the published range compression halves a value of 32."""
WHAT = f"a recording of {NAME}"


def neuromotor_gestures(
    root: str | Path,
    *,
    subjects: Iterable[str | int] | None = None,
    part: Literal["train", "val", "test"] | None = None,
) -> SequenceSet:
    """Read recordings of discrete gestures (Kaifosh et al. 2025).

    Args:
        root: Folder with the `.hdf5` files, and perhaps a corpus `.csv` with the columns dataset, start, end, split.
        subjects: Users, by the number in the file name; default all.
        part: Read only this part of the corpus table; default everything from the first to the last stage.

    Returns:
        One sequence for each row of the corpus table, or for each recording. EMG as recorded, high-passed at 40 Hz; its
        unit is not documented.

    Raises:
        DataError: A file is missing or damaged, time goes back, or a gesture has an unknown name.
    """
    files = find(root)
    chosen = select_subjects(files, subjects)
    rows = _corpus(Path(root).expanduser()) if part is not None else None
    sequences, notes = [], []
    for subject, paths in chosen.items():
        for path in paths:
            spans = None
            if rows is not None:
                mine = rows[(rows["dataset"] == path.stem) & (rows["split"] == part)]
                spans = list(zip(mine["start"], mine["end"], strict=True))
                if not spans:
                    continue
            some, said = _read(path, subject, spans)
            sequences += some
            notes += said
    if not sequences:
        raise DataError(f"{root}: no recording belongs to part {part!r}; expected {', '.join(PARTS)} in its .csv table")
    channels = {"emg": N_CHANNELS}
    return SequenceSet.of(sequences, channels, FS, event_names=GESTURES, notes=dict.fromkeys(notes))


def find(root: str | Path) -> dict[str, list[Path]]:
    """Find the recordings of each user."""
    folder = existing_folder(root, EXPECTED)
    paths = [path for path in files_below(folder) if path.suffix == ".hdf5"]
    if not paths:
        raise DataError(f"{folder} has no .hdf5 file; expected {EXPECTED}")
    users: dict[str, list[Path]] = {}
    for path in paths:
        number = USER.search(path.stem)
        users.setdefault(number.group(1) if number else path.stem, []).append(path)
    return dict(sorted(users.items()))


def _corpus(folder: Path) -> pd.DataFrame:
    """Read the table of parts."""
    tables = [path for path in files_below(folder) if path.suffix == ".csv" and "corpus" in path.name]
    if len(tables) != 1:
        raise DataError(f"{folder} has {len(tables)} tables *corpus*.csv; a part needs exactly one")
    try:
        return read_rows(read_bytes(tables[0]))[["dataset", "start", "end", "split"]]
    except (ValueError, KeyError) as error:
        raise DataError(f"{tables[0]}: cannot be read ({error}); expected dataset, start, end and split") from None


def _read(
    path: Path, subject: str, spans: Sequence[tuple[float, float]] | None
) -> tuple[list[SignalSequence], list[str]]:
    """Read the sequences of one file, and notes on it."""
    table = read_parts(hdf5_fields, path, WHAT, name="data", fields=["time", "emg"])
    frames = read_parts(frame_columns, path, WHAT, frames=["prompts", "stages"])
    time, emg = table["time"], table["emg"]
    if time.ndim != 1 or emg.shape != (len(time), N_CHANNELS) or not len(time):
        raise DataError(f"{path}: emg is {list(emg.shape)}; expected [row, {N_CHANNELS}] and one time per row")
    if (np.diff(time) < 0).any() or not np.isfinite(time).all():
        raise DataError(f"{path}: time goes back or is not finite; expected rising times in s")
    step = float(np.median(np.diff(time[:MOST_STEPS]))) if len(time) > 1 else 1 / FS
    if abs(step * FS - 1) > 0.05:
        raise DataError(f"{path}: a row every {1000 * step:.3g} ms, {1 / step:.4g} Hz; expected {FS:g} Hz")
    for frame, names in (("prompts", ("name", "time")), ("stages", ("start", "end", "name"))):
        lacking = [name for name in names if name not in frames[frame]]
        if lacking:
            raise DataError(f"{path}: {frame} has no column {lacking[0]!r}; expected {', '.join(names)}")
    unknown = sorted(set(frames["prompts"]["name"]) - {*GESTURES})
    if unknown:
        raise DataError(f"{path}: unknown gesture {unknown[0]!r}; expected {', '.join(GESTURES)}")
    order = np.argsort(frames["prompts"]["time"], kind="stable")
    prompts = [(str(frames["prompts"]["name"][k]), float(frames["prompts"]["time"][k])) for k in order]
    if spans is None:
        spans = [(float(frames["stages"]["start"].min()), float(frames["stages"]["end"].max()))]
    notes, used = [], 0
    rms = float(np.sqrt(np.mean(np.square(emg, dtype=np.float64))))
    if not USUAL_RMS[0] <= rms <= USUAL_RMS[1]:
        notes.append(f"{path.name}: the EMG has an RMS of {rms:.3g}; the published range compression expects about 32")
    sequences = []
    for number, (start, end) in enumerate(spans):
        first, stop = np.searchsorted(time, [start, end], side="left")
        if stop <= first:
            raise DataError(f"{path}: no row between {start:.3f} and {end:.3f} s; is this part of another recording?")
        gap = float(np.diff(time[first:stop]).max()) if stop - first > 1 else 0.0
        if gap > LONGEST_STEP_S:
            notes.append(f"{path.name}: a gap of {gap:.3g} s; the samples on both sides were joined")
        rows = np.minimum(np.searchsorted(time, [one for _, one in prompts], side="left"), len(time) - 1)
        events = tuple(  # a prompt before the recording or inside a gap has no row of its time
            (name, (row - first) / FS)
            for (name, at), row in zip(prompts, rows, strict=True)
            if first <= row < stop and abs(time[row] - at) <= LONGEST_STEP_S
        )
        used += len(events)
        name = path.stem if len(spans) == 1 else f"{path.stem}-{number + 1}"
        x = np.ascontiguousarray(emg[first:stop].T, dtype=np.float32)
        sequences.append(SignalSequence(name, subject, path.stem, x, events=events))
    if used < len(prompts):
        notes.append(f"{path.name}: {len(prompts) - used} of {len(prompts)} prompts are outside the chosen time")
    return sequences, notes


def load(
    root: str | Path,
    *,
    subjects: Iterable[str | int] | None = None,
    part: str | None = None,
    windowing: Mapping[str, Any] | None = None,
    steps: Mapping[str, int] | None = None,
) -> TrialSet:
    """Read recordings and cut them into windows; by default of 8 s, as published."""
    if part is not None:
        check_choices(NAME, "part", [part], dict.fromkeys(PARTS))
    sequences = neuromotor_gestures(root, subjects=subjects, part=part)  # pyright: ignore[reportArgumentType]
    return sequences.windows(*read_windows(windowing, steps, length_s=8.0))


NEUROMOTOR_GESTURES = DataSet(
    NAME, load, "folder with .hdf5 files of discrete gestures (Kaifosh et al. 2025)", find, finished=True
)
