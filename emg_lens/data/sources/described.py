"""Read any folder of recordings that a `dataset.yaml` describes: text tables and files of arrays.

Source: docs/data-sets.md §2.8.
"""

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import chain
from pathlib import Path

import numpy as np
from jaxtyping import Int, Shaped

from emg_lens.data.files import existing_folder, files_below, natural_key, regular_file, select_subjects
from emg_lens.data.recording import REST, DataError, Recording, Signal
from emg_lens.data.registry import DataSet
from emg_lens.data.sources.described_tables import names_of_subjects, raw_values, read_content
from emg_lens.data.sources.described_values import RecordingFiles, label_numbers
from emg_lens.data.sources.description import PART, FolderDescription, SignalColumns, SubjectNumbers
from emg_lens.data.sources.file_values import checked_signal, number_runs, whole_numbers

DESCRIPTION = "dataset.yaml"
SLOW_HZ = 5
"""A folder's rate below this (Hz) gives a note: it may be in kHz."""
SEPARATE_CLOCKS_S, SEPARATE_CLOCKS = 0.5, 0.05
"""Sensors with their own rows may differ in duration by this (s), or by this fraction."""


def load(
    root: str | Path, *, subjects: Iterable[str | int] | None = None, description: str | None = None
) -> Iterator[Recording]:
    """Read the files that match the description, one recording each.

    Args:
        root: The folder.
        subjects: Names or numbers; default all.
        description: Path of the description; default `dataset.yaml` in the folder.
    """
    content, place = FolderDescription.read(_description_path(root, description)), Path(root).expanduser()
    index = recordings_of(place, content)
    notes = (*content.notes, *_rate_note(content), *_unmatched(place, content, index))
    content = content.model_copy(update={"notes": notes})
    selected = select_subjects(dict.fromkeys(index, ()), subjects)
    return chain.from_iterable(
        _recordings(group, content, done) for name in selected for done in [_Done()] for group in index[name]
    )


def find(root: str | Path, *, description: str | None = None) -> dict[str, list[Path]]:
    """Find the files of each subject in natural order, and the description."""
    path = _description_path(root, description)
    content = FolderDescription.read(path)
    return {
        subject: [*(file for group in groups for file in group.paths.values()), path]
        for subject, groups in recordings_of(Path(root).expanduser(), content).items()
    }


@dataclass
class _Done:
    """What was read of a subject so far: the number of runs of each label, and pairs of label and repetition."""

    runs: Counter[int] = field(default_factory=Counter)
    repetitions: set[tuple[int, int]] = field(default_factory=set)


def _recordings(files: RecordingFiles, description: FolderDescription, done: _Done) -> Iterator[Recording]:
    """Read the files of one recording, or of the trials of an array; `done` is updated in place."""
    trials = {name: files.trials(name, part) for name, part in description.signals.items()}
    numbers = {name: len(some) for name, some in trials.items()}
    n_trials = next(iter(numbers.values()))
    if len(set(numbers.values())) > 1:
        raise DataError(f"{files.path}: its signals have {numbers} trials; expected the same number for all")
    files.check_each_column_has_one_use()
    by_trial = [
        {name: _signal(files, name, part, trials[name][k]) for name, part in description.signals.items()}
        for k in range(n_trials)
    ]
    rows = [_n_rows(signals, description, files.path) for signals in by_trial]
    notes, first = [*description.notes, *files.check_times()], 0
    if n_trials == 1:
        by_trial[0], first, notes_of_starts = files.from_common_start(by_trial[0])
        notes, rows = notes + notes_of_starts, [rows[0] - first]
    labels, names = label_numbers(files, rows, first)
    given = files.values(description.repetition, "repetition", rows, first)
    files.forget()
    for signals, label, values in zip(by_trial, labels, given or [None] * n_trials, strict=True):
        repetition = _repetition(label, values, done, files.path)
        again = _repeated(label, repetition, done) if given else []
        meta = {"dataset": DESCRIBED.name, "file": str(files.path), "class_names": names, "notes": (*notes, *again)}
        yield Recording(files.fields["subject"], signals, label, repetition, description.fs, meta)


def _repetition(
    label: Int[np.ndarray, " time"], values: Shaped[np.ndarray, " time"] | None, done: _Done, path: Path
) -> Int[np.ndarray, " time"]:
    """Repetition number of each row: as given, or counted."""
    active = label > REST
    if values is None:
        return np.where(active, number_runs(label, done.runs), 0)
    repetition = np.zeros(len(label), np.int64)
    repetition[active] = whole_numbers(values[active], f"{path}: repetition", "check the description")
    return repetition


def _repeated(label: Int[np.ndarray, " time"], repetition: Int[np.ndarray, " time"], done: _Done) -> list[str]:
    """A note on repetitions that an earlier recording of the subject has too."""
    pairs = np.unique(np.stack([label, repetition])[:, label > REST], axis=1).T.tolist()
    again = [pair for pair in map(tuple, pairs) if pair in done.repetitions]
    done.repetitions.update(map(tuple, pairs))
    if not again:
        return []
    return [
        f"gesture {again[0][0]}, repetition {again[0][1]} stands in an earlier recording of this subject too (another"
        " session?): they count as two repetitions, and a split by repetition puts both into the same set"
    ]


# --- files ------------------------------------------------------------------------------------------------


def _description_path(root: str | Path, description: str | None) -> Path:
    folder = existing_folder(root, f"recordings and a {DESCRIPTION} that describes them")
    path = folder / DESCRIPTION if description is None else Path(description).expanduser()
    if not os.path.isfile(path):  # False if its folder cannot be read
        raise DataError(
            f"{path}: no such file; expected a description of the folder (docs/data-sets.md §2.8); emg-lens new --data"
            " FOLDER writes one"
        )
    return path


def recordings_of(root: Path, description: FolderDescription) -> dict[str, list[RecordingFiles]]:
    """The recordings of each subject: files that match the pattern, those of one recording together."""
    together: dict[tuple, RecordingFiles] = {}
    every = sorted(files_below(root), key=lambda p: natural_key(p.relative_to(root).as_posix()))
    for path in every:
        fields = description.places(path, root)
        if fields is not None:
            key = tuple(value for name, value in fields.items() if name != PART) if PART in fields else (path,)
            files = together.setdefault(key, RecordingFiles({}, fields, description))
            files.paths[fields.get(PART, "")] = regular_file(path)
    found: dict[str, list[RecordingFiles]] = {}
    for files in together.values():
        for one in _by_subject(files):
            found.setdefault(one.fields["subject"], []).append(one)
    if not found:
        some = ", ".join(p.relative_to(root).as_posix() for p in every[:3]) or "no file"
        raise DataError(f"{root}: no file matches {description.files!r}; found {some}")
    for subject, groups in found.items():
        first: dict[Path, Path] = {}
        for path in (path for files in groups for path in files.paths.values()):
            if (other := first.setdefault(path.resolve(), path)) != path:
                raise DataError(f"{other} and {path} are one file of subject {subject}; remove the link")
    return {subject: found[subject] for subject in sorted(found, key=natural_key)}


def _by_subject(files: RecordingFiles) -> list[RecordingFiles]:
    """The recordings of each subject in these files: one, unless the subject stands inside the files."""
    part = files.description.subject
    if not isinstance(part, SubjectNumbers):
        return [files]
    path = files.path_of(part)
    names = _subjects_inside(path, path.stat().st_mtime_ns, files.description.model_dump_json())
    whole: dict = {}
    return [
        replace(files, fields={**files.fields, "subject": name}, one_subject=True, _whole=whole, _tables={})
        for name in names
    ]


@lru_cache(maxsize=1000)
def _subjects_inside(path: Path, _changed: int, description: str) -> tuple[str, ...]:
    """Names of the subjects in a file, read again when the file or its description (JSON) has changed."""
    content = FolderDescription.model_validate_json(description)
    assert isinstance(content.subject, SubjectNumbers)
    names = names_of_subjects(raw_values(read_content(path, content), content.subject, "subject", path))
    return tuple(sorted({*names.tolist()}, key=natural_key))


def _unmatched(root: Path, description: FolderDescription, index: Mapping[str, list[RecordingFiles]]) -> list[str]:
    """A note on files with the same suffixes that do not match the pattern."""
    matched = {path for groups in index.values() for files in groups for path in files.paths.values()}
    kinds = {path.suffix.lower() for path in matched}
    others = [p for p in files_below(root) if p.suffix.lower() in kinds and p not in matched]
    some = ", ".join(sorted(p.relative_to(root).as_posix() for p in others)[:3])
    note = f"{len(others)} files of the same kind do not match {description.files!r} and are not read: {some}"
    return [note] if others else []


def _rate_note(description: FolderDescription) -> list[str]:
    """A note on a rate that may be in kHz."""
    if description.fs >= SLOW_HZ:
        return []
    every, khz = 1 / description.fs, description.fs * 1000
    return [f"fs is {description.fs:g} Hz, one row every {every:.3g} s; fs is in Hz: write {khz:g} if you mean kHz"]


# --- signals ----------------------------------------------------------------------------------------------


def _signal(files: RecordingFiles, name: str, part: SignalColumns, data: Shaped[np.ndarray, "time channel"]) -> Signal:
    path, description = files.path_of(part), files.description
    names = tuple(f"{name}.{i}" for i in range(data.shape[1]))
    if files.is_table(part):
        names = tuple(c if isinstance(c, str) else i for c, i in zip(part.columns or (), names, strict=True))
    names = names if part.ch_names is None else part.ch_names
    if len(names) != data.shape[1]:
        raise DataError(f"{path}: {name} has {data.shape[1]} channels, but ch_names has {len(names)} names")
    fs = part.fs or description.fs
    native_fs = part.native_fs or fs
    return checked_signal(f"{path}: {name}", data, fs, native_fs, part.units, names, part.placement)


def _n_rows(signals: Mapping[str, Signal], description: FolderDescription, path: Path) -> int:
    """Number of rows at the folder's rate; signals of one clock must have the same duration, to a row."""
    lengths = {name: len(signal.data) for name, signal in signals.items()}
    reference = next((name for name, signal in signals.items() if signal.fs == description.fs), "")
    n_rows = lengths.get(reference, 0)
    seconds = n_rows / description.fs

    def allowed(name: str, signal: Signal) -> float:
        row = 1 / min(signal.fs, description.fs)
        same = all(one.part is None and one.rows is None for one in description.signals.values())
        return row if same or name == reference else max(row, SEPARATE_CLOCKS_S, SEPARATE_CLOCKS * seconds)

    if not n_rows or any(abs(signal.duration - seconds) > allowed(name, signal) for name, signal in signals.items()):
        rates = {name: f"{signal.fs:g} Hz" for name, signal in signals.items()}
        what = "number of rows" if len(set(rates.values())) == 1 else f"duration at {rates}"
        raise DataError(
            f"{path}: its signals have {lengths} rows; expected the same {what}, at least one row (state"
            " the fs of a signal with another rate than the folder's)"
        )
    return n_rows


DESCRIBED = DataSet("folder", load, f"any folder with a {DESCRIPTION} that describes it (docs/data-sets.md §2.8)", find)
