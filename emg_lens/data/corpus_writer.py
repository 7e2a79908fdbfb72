"""Write shards: windows of registered data sets, filtered and cut like trials, one file per subject.

One recording is in memory at a time. A shard appears only when it is complete, and a complete shard is not written
again. The layout is the published one (`emg_lens.data.shards`), with facts about the windows as additional attributes.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from pydantic import Field, PositiveFloat

from emg_lens.data.files import select_subjects
from emg_lens.data.preprocessing import Recipe, preprocess
from emg_lens.data.recording import EXACT, UNLABELLED, DataError, Recording, rounded_by_float32
from emg_lens.data.registry import data_fingerprint, describe_dataset, duplicate_files, load_dataset, subjects
from emg_lens.data.segment import Segment
from emg_lens.data.shards import shard_files
from emg_lens.io.checksums import CHECKSUMS, DamagedFileError, check_checksums, write_checksums
from emg_lens.io.files import remove_abandoned, replacing, write_text
from emg_lens.io.hdf5_writing import new_hdf5_file
from emg_lens.io.locking import exclusive_lock
from emg_lens.io.os_errors import reason_of, remedy
from emg_lens.validation import Name, SpecModel, checked

CHUNK_BYTES = 1 << 20
"""Size of an HDF5 chunk of a shard."""
NOTE = "corpus.json"
"""File with the data sets and options that a folder of shards was written from."""


class CorpusPart(SpecModel):
    """Windows of one registered data set.

    Attributes:
        dataset: A known data set of recordings (`emg-lens list`).
        folder: Its folder, relative to the folder of all data sets, or an absolute path; `null` if it needs none.
        options: Options of its loader.
        subjects: Use only these subjects; default all.
        modalities: Use only these modalities; default all.
        recipe: Filters and common sampling rate.
        window_s: Length of a window (s).
        stride_s: Time between the starts of successive windows (s); default the window's length.
        inside_repetitions: Whether windows must lie inside one repetition of a gesture. Default: windows of whole
            recordings, with rest and unlabelled rows.
    """

    dataset: str
    folder: str | None = "."
    options: dict[str, Any] = {}
    subjects: tuple[str | int, ...] | None = None
    modalities: tuple[str, ...] | None = None
    recipe: Recipe = Recipe()
    window_s: PositiveFloat = Field(default=5.0, le=3600)
    stride_s: PositiveFloat | None = None
    inside_repetitions: bool = False


@checked
def write_corpus(parts: Mapping[Name, CorpusPart], data: str | Path | None, out: str | Path) -> pd.DataFrame:
    """Write shards `<part>-<subject>.h5` with `data [window, channel, time]` (float32) and `label [window]`.

    The label of a window is the label of its middle row (0 = rest, -1 = unlabelled). Windows in which every channel is
    constant are left out and counted. A folder with part of the shards is completed.

    Args:
        parts: The data sets, by names of your choice.
        data: Folder that the parts' folders are relative to; `None` if no part needs one.
        out: Folder of the shards.

    Returns:
        One row per subject: dataset (name of the part), subject, windows, channels, constant (windows left out).

    Raises:
        DataError: A recording cannot be read or filtered, recordings differ in rate or channels, or the folder contains
            another corpus or is not writable.
        BusyError: Another process writes to the folder.
    """
    if not parts:
        raise DataError("a corpus needs at least one part: {name: {dataset: ..., folder: ...}}")
    folder = Path(out).expanduser()
    identity = _identity(parts, data)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with exclusive_lock(folder / ".lock", instead="wait until it is finished, or give another folder"):
            _claim(folder, identity)
            remove_abandoned(folder)
            present = {path.name for path in folder.glob("*.h5")}
            rows = [
                _write_subject(folder / f"{_file_name(name)}-{_file_name(subject)}.h5", name, part, place, subject)
                for name, part in parts.items()
                for place in [_place(part, data)]
                for subject in _subjects_of(part, place)
            ]
            _check_unchanged(folder, present)
    except OSError as error:
        advice = remedy(error, "give another folder")
        raise DataError(f"cannot write to {str(folder)!r}: {reason_of(error)}; {advice}") from None
    return pd.DataFrame(rows, columns=["dataset", "subject", "windows", "channels", "constant"])


def _subjects_of(part: CorpusPart, place: Path | None) -> list[str]:
    """Return the subjects of a part. No two of them may have the same file, or a held-out person is in training."""
    known = dict.fromkeys(subjects(part.dataset, place, **part.options), ())
    chosen = [*select_subjects(known, part.subjects)]
    for one, other in duplicate_files(part.dataset, place, among=chosen, **part.options):
        raise DataError(
            f"{one} and {other} are the same file of two subjects, so a held-out person would be in the training data;"
            " choose one of the two with subjects: [...]"
        )
    return chosen


def corpus_digest(parts: Mapping[str, CorpusPart], data: str | Path | None) -> str:
    """Return a hash (16 hexadecimal digits) of the parts and of the data sets' files."""
    return hashlib.sha256(json.dumps(_identity(parts, data), sort_keys=True).encode()).hexdigest()[:16]


def _place(part: CorpusPart, data: str | Path | None) -> Path | None:
    entry = describe_dataset(part.dataset)
    if entry.finished:
        raise DataError(
            f"{part.dataset!r} is a file of trials, which pre-training reads directly; list its folder under folders"
        )
    if part.folder is None or not entry.needs_root:
        return None
    place = Path(part.folder).expanduser()
    if place.is_absolute():
        return place
    if data is None:
        raise DataError(f"data set {part.dataset!r} needs a folder ({entry.description}); give --data")
    return Path(data).expanduser() / place


def _identity(parts: Mapping[str, CorpusPart], data: str | Path | None) -> dict[str, Any]:
    return {
        name: {**part.model_dump(mode="json", exclude={"folder"}), "fingerprint": data_fingerprint(
            part.dataset, _place(part, data), **part.options)}
        for name, part in parts.items()
    }  # fmt: skip


def _claim(folder: Path, identity: dict[str, Any]) -> None:
    """Write the folder's description; reject a folder with another description."""
    note = folder / NOTE
    text = json.dumps(identity, indent=1)
    if shard_files(folder) and not (note.exists() and note.read_bytes() == text.encode()):
        origin = f"other parts or recordings (see {NOTE})" if note.exists() else "unknown origin"
        raise DataError(f"{folder} contains shards of {origin}; give another folder")
    write_text(note, text)


def _check_unchanged(folder: Path, present: set[str]) -> None:
    """Compare the shards that were already `present` with their checksums, and write checksums of all."""
    try:
        if (folder / CHECKSUMS).exists():
            check_checksums(folder, present, large=True)
    except DamagedFileError as error:
        raise DataError(f"{error}; delete it, and it is written again") from None
    write_checksums(folder, (path.name for path in folder.glob("*.h5")), large=True)


def _write_subject(
    path: Path, name: str, part: CorpusPart, place: Path | None, subject: str
) -> tuple[str, str, int, int, int]:
    """Write one shard unless it exists; return its row of the table."""
    if not path.exists():
        with replacing(path) as partial, new_hdf5_file(partial) as file:
            _fill(file, name, part, place, subject)
    try:
        with h5py.File(path) as file:
            owner, shape, constant = file.attrs["subject"], file["data"].shape, int(file.attrs["constant"])  # pyright: ignore
    except (OSError, KeyError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{path}: cannot be read ({reason}); delete it, and it is written again") from None
    if owner != f"{name}/{subject}":
        raise DataError(f"{path} contains windows of {owner}, not of {name}/{subject}; rename one of the parts")
    return name, subject, shape[0], shape[1], constant


def _fill(file: h5py.File, name: str, part: CorpusPart, place: Path | None, subject: str) -> None:
    constant, data, channels, fs = 0, None, {}, 0.0
    for recording in load_dataset(part.dataset, place, subjects=[subject], **part.options):
        recording = preprocess(recording, part.recipe).keep(part.modalities)
        sizes = {m: signal.data.shape[1] for m, signal in recording.signals.items()}
        if data is None:
            channels, fs = sizes, recording.fs
            shape = (sum(sizes.values()), round(part.window_s * fs))
            rows = max(1, CHUNK_BYTES // (4 * max(1, shape[0] * shape[1])))
            data = file.create_dataset("data", (0, *shape), np.float32, maxshape=(None, *shape), chunks=(rows, *shape))
            file.create_dataset("label", (0,), np.int64, maxshape=(None,), chunks=(1024,))
        if (sizes, recording.fs) != (channels, fs):
            raise DataError(
                f"{recording.source} has {sizes} at {recording.fs:g} Hz, earlier recordings {channels} at {fs:g} Hz;"
                " set the recipe's fs, or make two parts of them"
            )
        for windows, labels in _batches(recording, part, data.chunks[0]):  # pyright: ignore
            varies = (windows.max(axis=2) > windows.min(axis=2)).any(axis=1)
            constant += int((~varies).sum())
            for stored, values in ((data, windows[varies]), (file["label"], labels[varies])):
                stored.resize(len(stored) + len(values), axis=0)  # pyright: ignore
                stored[len(stored) - len(values) :] = values  # pyright: ignore
    if data is None or not data.shape[0]:
        raise DataError(
            f"{name}: subject {subject} has no window of {part.window_s:g} s ({constant} windows are constant); list"
            " the other subjects in `subjects`, or shorten window_s"
        )
    facts = {"subject": f"{name}/{subject}", "fs": fs, "constant": constant, "dataset": part.dataset}
    file.attrs.update({**facts, "modalities": json.dumps(channels), "recipe": part.recipe.digest()})


def _batches(
    recording: Recording, part: CorpusPart, n: int
) -> Iterator[tuple[Float[np.ndarray, "window channel time"], Int[np.ndarray, " window"]]]:
    """Yield the windows of a recording and their labels, at most `n` at a time."""
    rounded = [name for name, signal in recording.signals.items() if rounded_by_float32(signal.data)]
    if rounded:
        raise DataError(
            f"{recording.source}: {rounded[0]} has whole numbers beyond {EXACT}, which float32 rounds; give the recipe"
            " a highpass for it, which removes the offset"
        )
    samples = np.concatenate([signal.data.T for signal in recording.signals.values()]).astype(np.float32)
    segment = Segment(window_s=part.window_s, stride_s=part.stride_s or part.window_s)
    stretches = [(0, samples.shape[1])]
    if part.inside_repetitions:
        times = recording.trials[["start", "stop"]].to_numpy() * recording.fs
        stretches = np.rint(times).astype(int).tolist()
    bounds = np.array([
        (begin + first, begin + last)
        for begin, end in stretches
        for first, last in segment.windows(end - begin, recording.fs)
    ]).reshape(-1, 2)  # fmt: skip
    for some in np.array_split(bounds, range(n, len(bounds), n)):
        if len(some):
            labels = recording.label[np.minimum((some[:, 0] + some[:, 1]) // 2, len(recording.label) - 1)]
            yield np.stack([samples[:, first:last] for first, last in some]), np.maximum(labels, UNLABELLED)


def _file_name(text: str) -> str:
    """Make text safe for a file name; different texts stay different."""
    safe = "".join(letter if letter.isalnum() or letter in "._-" else "_" for letter in text)
    safe = "_" + safe[1:] if safe.startswith(".") else safe  # hidden files are ignored
    return safe if safe == text else f"{safe}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
