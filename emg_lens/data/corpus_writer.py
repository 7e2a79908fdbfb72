"""Writing shards: windows of registered data sets, filtered and cut as trials are, one file a subject.

A recording is held in memory at a time. A shard is there whole or not at all, and one that is there is not written
again. The layout is the published one (`emg_lens.data.shards`), with facts about the windows as attributes beside it.
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

from emg_lens.data.files import choose
from emg_lens.data.preprocessing import Recipe, preprocess
from emg_lens.data.recording import UNLABELLED, DataError, Recording
from emg_lens.data.registry import data_fingerprint, describe_dataset, load_dataset, subjects
from emg_lens.data.segment import Segment
from emg_lens.data.shards import shard_files
from emg_lens.io.files import remove_abandoned, replacing
from emg_lens.io.hashing import content_hashes
from emg_lens.io.locking import one_at_a_time
from emg_lens.io.seals import BLANK, DamagedFileError, check_seal, write_sealed
from emg_lens.validation import Name, SpecModel, checked

CHUNK_BYTES = 1 << 20
"""Of a shard, that are read or written together."""
NOTE, WRITTEN = "corpus.json", "shards.json"
"""The files that say what a folder of shards was written from, and what was written."""


class CorpusPart(SpecModel):
    """Windows of one registered data set.

    Attributes:
        dataset: A known data set of recordings (`emg-lens list`).
        folder: Where it is, below the folder of all data sets, or an absolute path; `null` for one that needs none.
        options: Options of its loader.
        subjects: Only these; default all.
        modalities: Only these; default all.
        recipe: Filters and common rate.
        window_s: Length of a window, in seconds.
        stride_s: Between the starts of neighbouring windows; default the window's length.
        movements: Only windows inside one labelled movement; default whole recordings, rest and unlabelled rows too.
    """

    dataset: str
    folder: str | None = "."
    options: dict[str, Any] = {}
    subjects: tuple[str | int, ...] | None = None
    modalities: tuple[str, ...] | None = None
    recipe: Recipe = Recipe()
    window_s: PositiveFloat = Field(default=5.0, le=3600)
    stride_s: PositiveFloat | None = None
    movements: bool = False

    @property
    def segment(self) -> Segment:
        """How a stretch is cut."""
        return Segment(window_s=self.window_s, stride_s=self.stride_s or self.window_s)


@checked
def write_corpus(parts: Mapping[Name, CorpusPart], data: str | Path | None, out: str | Path) -> pd.DataFrame:
    """Write shards `<part>-<subject>.h5` with `data [window, channel, time]` (float32) and `label [window]`.

    A label is that of the window's middle row (0 = rest, -1 = unlabelled). Windows without a change in any channel are
    left out and counted. A folder that was begun is continued.

    Args:
        parts: The data sets, by a name of your own.
        data: Folder that the parts' folders are below; None where no part needs one.
        out: Where the shards go.

    Returns:
        One row a subject: dataset (the part), subject, windows, channels, constant (windows left out).

    Raises:
        DataError: Recordings that cannot be read or go wrong in a filter, parts that differ in rate or length, a folder
            that holds another corpus, or a place that cannot be written to.
        BusyError: Another process writes there.
    """
    if not parts:
        raise DataError("a corpus needs at least one part: {name: {dataset: ..., folder: ...}}")
    places = {name: _place(part, data) for name, part in parts.items()}
    folder = Path(out).expanduser()
    identity = _identity(parts, places)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with one_at_a_time(folder / ".lock", instead="wait until it is done, or give another folder"):
            _claim(folder, identity)
            remove_abandoned(folder)
            there = {path.name for path in folder.glob("*.h5")}
            rows = [
                _write_subject(folder / f"{_file_name(name)}-{_file_name(subject)}.h5", name, part, place, subject)
                for name, part in parts.items()
                for place in [places[name]]
                for subject in _subjects(part, place)
            ]
            _check_unchanged(folder, there)
    except OSError as error:
        raise DataError(f"cannot write to {str(folder)!r}: {error.strerror or error}; give another folder") from None
    return pd.DataFrame(rows, columns=["dataset", "subject", "windows", "channels", "constant"])


def corpus_digest(parts: Mapping[str, CorpusPart], data: str | Path | None) -> str:
    """Sixteen digits that change with the parts, and with the files of the data sets.

    Raises:
        DataError: As `write_corpus`.
    """
    text = json.dumps(_identity(parts, {name: _place(part, data) for name, part in parts.items()}), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _place(part: CorpusPart, data: str | Path | None) -> Path | None:
    entry = describe_dataset(part.dataset)
    if entry.finished:
        raise DataError(f"{part.dataset!r} is a file of trials, which is read as it is; give its folder, not a part")
    if part.folder is None or not entry.needs_root:
        return None
    place = Path(part.folder).expanduser()
    if place.is_absolute():
        return place
    if data is None:
        raise DataError(f"data set {part.dataset!r} needs a folder ({entry.description}); give --data")
    return Path(data).expanduser() / place


def _identity(parts: Mapping[str, CorpusPart], places: Mapping[str, Path | None]) -> dict[str, Any]:
    return {
        name: {**part.model_dump(mode="json", exclude={"folder"}), "fingerprint": data_fingerprint(
            part.dataset, places[name], **part.options)}
        for name, part in parts.items()
    }  # fmt: skip


def _claim(folder: Path, identity: dict[str, Any]) -> None:
    """Say what the folder holds; refuse one that holds something else."""
    note = folder / NOTE
    text = json.dumps(identity, indent=1)
    if note.exists():
        if note.read_bytes() == text.encode():
            return
        if shard_files(folder):  # what was begun and came to nothing is no reason
            raise DataError(f"{folder} holds shards of other parts or other files ({NOTE}); give another folder")
    elif shard_files(folder):
        raise DataError(f"{folder} holds shards of unknown origin; give an empty folder")
    with replacing(note) as partial:
        partial.write_bytes(text.encode())


def _check_unchanged(folder: Path, there: set[str]) -> None:
    """Compare the shards that were `there` with what was written, and take down what is new.

    Raises:
        DataError: One holds something else by now, or the list is damaged.
    """
    note = folder / WRITTEN
    known = {}
    if note.exists():
        try:
            check_seal(note)
        except DamagedFileError:
            raise DataError(f"{note} is damaged; delete {folder}, and its shards are written again") from None
        known = json.loads(note.read_text(encoding="utf-8"))["shards"]
    found = {path.name: told for path, told in content_hashes(sorted(folder.glob("*.h5"))).items()}
    changed = [name for name in there & set(found) if known.get(name, found[name]) != found[name]]
    if changed:
        raise DataError(f"{folder / changed[0]} was changed after it was written; delete it, and it is written again")
    if found != known:
        write_sealed(note, json.dumps({"checksum": BLANK, "shards": found}, indent=1))


def _subjects(part: CorpusPart, place: Path | None) -> tuple[str, ...]:
    every = subjects(part.dataset, place, **part.options)
    return tuple(choose(dict.fromkeys(every, ()), part.subjects))


def _write_subject(
    path: Path, name: str, part: CorpusPart, place: Path | None, subject: str
) -> tuple[str, str, int, int, int]:
    """Write one shard, unless it is there; its row of the table."""
    if not path.exists():
        with replacing(path) as partial, h5py.File(partial, "w") as file:
            _fill(file, name, part, place, subject)
    try:
        with h5py.File(path) as file:
            found, shape, constant = file.attrs["subject"], file["data"].shape, int(file.attrs["constant"])  # pyright: ignore
    except (OSError, KeyError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{path}: cannot be read ({reason}); delete it, and it is written again") from None
    if found != f"{name}/{subject}":
        raise DataError(f"{path} is of {found}, not of {name}/{subject}; rename one of the parts")
    return name, subject, shape[0], shape[1], constant


def _fill(file: h5py.File, name: str, part: CorpusPart, place: Path | None, subject: str) -> None:
    constant, data, channels, fs = 0, None, {}, 0.0
    for recording in load_dataset(part.dataset, place, subjects=[subject], **part.options):
        recording = _chosen(preprocess(recording, part.recipe), part)
        sizes = {m: signal.data.shape[1] for m, signal in recording.signals.items()}
        if data is None:
            channels, fs = sizes, recording.fs
            shape = (sum(sizes.values()), round(part.window_s * fs))
            rows = max(1, CHUNK_BYTES // (4 * max(1, shape[0] * shape[1])))
            data = file.create_dataset("data", (0, *shape), np.float32, maxshape=(None, *shape), chunks=(rows, *shape))
            file.create_dataset("label", (0,), np.int64, maxshape=(None,), chunks=(1024,))
        if (sizes, recording.fs) != (channels, fs):
            raise DataError(
                f"{recording.source} has {sizes} at {recording.fs:g} Hz, recordings before it {channels} at {fs:g} Hz;"
                " set the recipe's fs, or write them apart"
            )
        for windows, labels in _batches(recording, part, data.chunks[0]):  # pyright: ignore
            varies = (windows.max(axis=2) > windows.min(axis=2)).any(axis=1)
            constant += int((~varies).sum())
            _append(file, windows[varies], labels[varies])
    if data is None or not data.shape[0]:
        raise DataError(
            f"{name}: subject {subject} has no window of {part.window_s:g} s ({constant} without a change); name the"
            " others in subjects, or shorten window_s"
        )
    facts = {"subject": f"{name}/{subject}", "fs": fs, "constant": constant, "dataset": part.dataset}
    file.attrs.update({**facts, "modalities": json.dumps(channels), "recipe": part.recipe.digest()})


def _chosen(recording: Recording, part: CorpusPart) -> Recording:
    if part.modalities is None:
        return recording
    missing = [m for m in part.modalities if m not in recording.signals]
    if missing:
        raise DataError(f"{recording.source} has no modality {missing[0]!r}; it has {', '.join(recording.signals)}")
    signals = {m: recording.signals[m] for m in part.modalities}
    return Recording(recording.subject, signals, recording.label, recording.repetition, recording.fs, recording.meta)


def _batches(
    recording: Recording, part: CorpusPart, n: int
) -> Iterator[tuple[Float[np.ndarray, "window channel time"], Int[np.ndarray, " window"]]]:
    """The windows of a recording and their labels, at most `n` at a time."""
    samples = np.concatenate([signal.data.T for signal in recording.signals.values()]).astype(np.float32)
    stretches = [(0, samples.shape[1])]
    if part.movements:
        times = recording.trials[["start", "stop"]].to_numpy() * recording.fs
        stretches = np.rint(times).astype(int).tolist()
    bounds = np.array([
        (begin + first, begin + last)
        for begin, end in stretches
        for first, last in part.segment.windows(end - begin, recording.fs)
    ]).reshape(-1, 2)  # fmt: skip
    for some in np.array_split(bounds, range(n, len(bounds), n)):
        if len(some):
            labels = recording.label[np.minimum((some[:, 0] + some[:, 1]) // 2, len(recording.label) - 1)]
            yield np.stack([samples[:, first:last] for first, last in some]), np.maximum(labels, UNLABELLED)


def _append(file: h5py.File, windows: np.ndarray, labels: np.ndarray) -> None:
    for name, values in (("data", windows), ("label", labels)):
        part: Any = file[name]
        part.resize(len(part) + len(values), axis=0)
        part[len(part) - len(values) :] = values


def _file_name(text: str) -> str:
    """A part of a file's name for a part or a subject; for another text another one."""
    safe = "".join(letter if letter.isalnum() or letter in "._-" else "_" for letter in text)
    safe = "_" + safe[1:] if safe.startswith(".") else safe  # hidden files are not read
    return safe if safe == text else f"{safe}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
