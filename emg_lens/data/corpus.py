"""A corpus: the windows of many shards under one numbering, padded to the same channels.

Only the positions of windows are in memory; samples are read batch by batch. Source: docs/pretraining.md §10.1.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int
from pydantic import Field, NonNegativeInt, model_validator

from emg_lens.data.copied_windows import find_copy
from emg_lens.data.files import hashes_of_data, natural_key
from emg_lens.data.recording import DataError
from emg_lens.data.shards import Shard, ShardReader, find_shards, trials_shard
from emg_lens.data.trials import TrialSet
from emg_lens.validation import SpecModel, check_argument, check_fields, checked, short

Scale = Literal["min-max", "none"]
Padding = Literal["counted", "left out"]
TINY = 1e-8
"""Added to a window's range before the division, as in the published pre-training."""


class HeldOut(SpecModel):
    """The windows that are held out for validation.

    Attributes:
        by: `"subject"`: all windows of random subjects, the same fraction in every data set. No window then overlaps
            with one in the other set. `"file"`: all windows of random files. `"windows"`: random windows, as in the
            published pre-training. Overlapping windows are then in both sets, and the validation loss is too low.
        fraction: Fraction of subjects, files or windows; at least one, and at least one subject of each data set.
        subjects: The subjects, as `Corpus.subjects` lists them; replaces `fraction`.
        seed: Seed of the random choice.
    """

    by: Literal["subject", "file", "windows"] = "subject"
    fraction: float = Field(default=0.2, gt=0, lt=1)
    subjects: tuple[str, ...] | None = None
    seed: int = Field(default=0, ge=0, lt=2**53)

    @model_validator(mode="after")
    def _of_subjects(self) -> "HeldOut":
        if self.subjects is not None and self.by != "subject":
            raise ValueError(
                f"subjects can only be listed with by: subject, not with by: {self.by}; remove one of the two"
            )
        return self


@dataclass(frozen=True, eq=False)
class Corpus:
    """Windows of one length, numbered from 0.

    Attributes:
        shards: The shards with the windows.
        modalities: Number of channels of each modality. Windows with fewer channels are padded with zeros at the end of
            each modality.
        scale: `"min-max"`: each channel of each window is scaled to -1 to 1, and a constant or padded channel is -1, as
            in the published pre-training. `"none"`: samples stay as stored.
        padding: `"counted"`: padded channels are treated like recorded ones. `"left out"`: they stay 0, and `real`
            marks the recorded channels.
        parts: Shard, first row and end row (exclusive) of each part of the corpus, in order.
        chosen: Numbers of the windows that belong to the corpus, in rising order; `None` = all of `parts`.
    """

    shards: tuple[Shard, ...]
    modalities: Mapping[str, int]
    scale: Scale = "min-max"
    padding: Padding = "counted"
    parts: Int[np.ndarray, "part 3"] = field(default=None, repr=False)  # pyright: ignore[reportAssignmentType]
    chosen: Int[np.ndarray, " window"] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        check_argument("shards", self.shards, tuple[Shard, ...])
        if self.parts is None:
            every = [(i, 0, len(shard)) for i, shard in enumerate(self.shards)]
            object.__setattr__(self, "parts", np.array(every, np.int64))
        check_fields(self)
        if not self.shards:
            raise DataError("a corpus needs at least one shard; give a folder with shards")
        lengths = {f"{shard.shape[2]} samples": shard.path for shard in self.shards}
        rates = {f"{shard.fs} Hz": shard.path for shard in self.shards if shard.fs is not None}
        for what, given in (("windows differ in length", lengths), ("sampling rates differ", rates)):
            if len(given) > 1:
                (one, here), (other, there), *_ = given.items()
                raise DataError(
                    f"{what}: {one} in {here}, {other} in {there}; write both with one window_s and one recipe.fs"
                )
        for shard in self.shards:
            _channel_positions(shard, self.modalities)

    @cached_property
    def _ends(self) -> Int[np.ndarray, " part"]:
        return np.cumsum(self.parts[:, 2] - self.parts[:, 1])

    @cached_property
    def _reader(self) -> ShardReader:
        return ShardReader()

    @staticmethod
    @checked
    def open(
        folders: Sequence[str | Path],
        modalities: Mapping[str, int] | None = None,
        scale: Scale = "min-max",
        padding: Padding = "counted",
    ) -> "Corpus":
        """Open the shards in some folders.

        Args:
            folders: Folders with `*.h5`, or single files: shards, or files of `TrialSet.save`.
            modalities: Number of channels of each modality that windows are padded to. Default: as in the shard with
                the most channels; channels of unknown modality count as `"emg"`.
            scale: See the class.
            padding: See the class.

        Raises:
            DataError: A folder has no shards, a file is not a shard, or shards differ in window length or rate.
        """
        shards = find_shards(folders)
        return Corpus(shards, dict(modalities) if modalities is not None else _widest(shards), scale, padding)

    @staticmethod
    @checked
    def of_trials(
        trials: TrialSet | Sequence[TrialSet],
        modalities: Mapping[str, int] | None = None,
        scale: Scale = "min-max",
        padding: Padding = "counted",
    ) -> "Corpus":
        """Make a corpus of trials in memory; for the other arguments and errors see `open`."""
        sets = [trials] if isinstance(trials, TrialSet) else list(trials)
        shards = tuple(trials_shard(one, f"trials {i}" if len(sets) > 1 else "trials") for i, one in enumerate(sets))
        return Corpus(shards, dict(modalities) if modalities is not None else _widest(shards), scale, padding)

    def __len__(self) -> int:
        return int(self._ends[-1:].sum()) if self.chosen is None else len(self.chosen)

    @property
    def n_channels(self) -> int:
        """Number of channels of a window, including padding."""
        return sum(self.modalities.values())

    @property
    def n_samples(self) -> int:
        """Number of samples of a window."""
        return self.shards[0].shape[2]

    @property
    def fs(self) -> float | None:
        """Sampling rate (Hz); `None` = unknown."""
        return next((shard.fs for shard in self.shards if shard.fs is not None), None)

    @property
    def subjects(self) -> tuple[str, ...]:
        """Subjects in natural order; `<data set>/<subject>` for shards of `write_corpus`."""
        names = {name for name, _ in self._names("subject", required=False) if name}
        return tuple(sorted(names, key=natural_key))

    @checked
    def read(self, numbers: Int[np.ndarray, " window"]) -> Float[np.ndarray, "window channel time"]:
        """Read windows by number, padded and scaled.

        Args:
            numbers: Numbers of windows, in any order; the result has the same order.
        """
        shard_of, row_of = self._find(numbers)
        windows = np.zeros((len(numbers), self.n_channels, self.n_samples), np.float32)
        order = np.lexsort((row_of, shard_of))
        for i in np.unique(shard_of):
            of_shard = order[shard_of[order] == i]
            rows, index = np.unique(row_of[of_shard], return_inverse=True)  # each row is read once
            values = self._reader.read(self.shards[i], rows)[index]
            if self.scale == "min-max":
                values = scaled(values)
                if self.padding == "counted":
                    windows[of_shard] = -1  # min-max scaling of a channel of zeros
            windows[np.ix_(of_shard, _channel_positions(self.shards[i], self.modalities))] = values
        return windows

    @checked
    def file_of(self, number: int) -> Path:
        """Return the file of a window."""
        check_argument("number", number, NonNegativeInt)
        return self.shards[self._find(np.array([number]))[0][0]].path

    @checked
    def real(self, numbers: Int[np.ndarray, " window"]) -> Bool[np.ndarray, "window channel"]:
        """Return True for channels that count in the loss; padded channels do not count if padding is `"left out"`."""
        if self.padding == "counted":
            return np.ones((len(numbers), self.n_channels), bool)
        shard_of, _ = self._find(numbers)
        recorded = np.zeros((len(numbers), self.n_channels), bool)
        for i in np.unique(shard_of):
            recorded[np.ix_(shard_of == i, _channel_positions(self.shards[i], self.modalities))] = True
        return recorded

    @checked
    def divide(self, held_out: HeldOut) -> tuple["Corpus", "Corpus"]:
        """Divide the windows into a training and a validation corpus.

        Raises:
            DataError: A part has no window, a subject is unknown, or the same samples are in both parts under two names
                of subjects or files.
        """
        if held_out.by == "windows":
            rng = np.random.default_rng([held_out.seed, 1])
            n, n_items = max(1, round(held_out.fraction * len(self))), len(self)
            is_validation = np.zeros(len(self), bool)
            is_validation[rng.permutation(len(self))[:n]] = True
            every = np.arange(len(self)) if self.chosen is None else self.chosen
            sides = [replace(self, chosen=every[~is_validation]), replace(self, chosen=every[is_validation])]
        else:
            if self.chosen is not None:
                raise DataError(
                    "a corpus of random windows cannot be divided by subject or file; divide the whole corpus"
                )
            names = self._names(held_out.by)
            chosen = held_out.subjects
            if chosen is None:
                chosen = _random_names(names, held_out)
            elif unknown := [name for name in chosen if name not in self.subjects]:
                raise DataError(f"no windows of subject {unknown[0]!r}; known: {', '.join(self.subjects)}")
            runs = [[run for run in names if (run[0] in chosen) == validation] for validation in (False, True)]
            n_items = len({name for name, _ in names})
            copy = find_copy(self.shards, runs[0], runs[1], self._reader)
            if copy is not None:
                (one, (i, *_)), (other, (j, *_)) = copy
                raise DataError(
                    f"{other} (validation, {self.shards[j].path}) has the same samples as {one} (training,"
                    f" {self.shards[i].path}), so the validation would not be held out; remove one of the two"
                )
            sides = [
                replace(self, parts=np.array([part for _, part in some], np.int64).reshape(-1, 3)) for some in runs
            ]
        for side, part in zip(("training", "validation"), sides, strict=True):
            if not len(part):
                raise DataError(f"no window is left for {side}: the corpus has only {n_items} {held_out.by}(s)")
        return sides[0], sides[1]

    def fingerprint(self) -> str:
        """Return a short hash of the shards' contents, padding and scaling; unchanged files are not read again."""
        digest = hashlib.sha256(repr((dict(self.modalities), self.scale, self.padding)).encode())
        contents = hashes_of_data(shard.path for shard in self.shards if shard.values is None)
        for shard in self.shards:
            known = contents.get(shard.path) or hashlib.sha256(np.ascontiguousarray(shard.values).data).hexdigest()
            digest.update(f"{shard.path.name} {known}".encode())
        digest.update(np.ascontiguousarray(self.parts).data)
        if self.chosen is not None:
            digest.update(np.ascontiguousarray(self.chosen).data)
        return digest.hexdigest()[:16]

    def table(self) -> pd.DataFrame:
        """Return one row per subject: data set, subject, number of windows and of channels."""
        counts: dict[tuple[str, int], int] = {}
        for name, (i, first, last) in self._names("subject", required=False):
            key = (name, self.shards[i].shape[1])
            counts[key] = counts.get(key, 0) + int(last - first)
        rows = [(*name.rpartition("/")[::2], n, channels) for (name, channels), n in counts.items()]
        return pd.DataFrame(rows, columns=["dataset", "subject", "windows", "channels"])

    def _find(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Shard and row of each window."""
        if not isinstance(numbers, np.ndarray) or numbers.ndim != 1 or numbers.dtype.kind not in "iu":
            raise DataError(f"numbers of windows must be a vector of whole numbers, got {short(numbers)}")
        if len(numbers) and not 0 <= numbers.min() <= numbers.max() < len(self):
            raise DataError(f"windows {numbers.min()} to {numbers.max()} do not exist; expected 0 to {len(self) - 1}")
        numbers = numbers if self.chosen is None else self.chosen[numbers]
        part = np.searchsorted(self._ends, numbers, side="right")
        sizes = self.parts[:, 2] - self.parts[:, 1]
        return self.parts[part, 0], self.parts[part, 1] + numbers - (self._ends - sizes)[part]

    def _names(self, by: str, required: bool = True) -> list[tuple[str, tuple[int, int, int]]]:
        """The parts, divided where the subject (or file) changes, each with the name of its subject (or file)."""
        named: list[tuple[str, tuple[int, int, int]]] = []
        for i, low, high in self.parts.tolist():
            shard = self.shards[i]
            runs = ((low, high, str(shard.path)),) if by == "file" else shard.subjects
            for first, last, name in runs:
                if required and not name:
                    raise DataError(f"{shard.path} does not name its subjects; hold out by: file instead")
                if max(first, low) < min(last, high):
                    named.append((name, (i, max(first, low), min(last, high))))
        return named


def scaled(x: Float[np.ndarray, "*any time"]) -> Float[np.ndarray, "*any time"]:
    """Scale each channel of each window to -1 to 1; a constant channel becomes -1 (docs/pretraining.md §10.1)."""
    low = x.min(axis=-1, keepdims=True)
    unit = (x - low) / (x.max(axis=-1, keepdims=True) - low + np.float32(TINY))
    return (unit - np.float32(0.5)) * 2


def _random_names(names: Sequence[tuple[str, object]], held_out: HeldOut) -> set[str]:
    """Random names for validation: the same fraction of each data set."""
    groups: dict[str, list[str]] = {}
    for name in sorted({name for name, _ in names}, key=natural_key):
        groups.setdefault(name.rpartition("/")[0] if held_out.by == "subject" else "", []).append(name)
    rng = np.random.default_rng([held_out.seed, 0])
    chosen: set[str] = set()
    for members in groups.values():
        n = min(max(1, round(held_out.fraction * len(members))), max(1, len(members) - 1))
        chosen |= {members[i] for i in rng.permutation(len(members))[:n]}
    return chosen


def _channel_positions(shard: Shard, modalities: Mapping[str, int]) -> Int[np.ndarray, " channel"]:
    """Position of each channel of a shard in a padded window; refuse a shard that does not fit."""
    given = shard.modalities
    if not given:
        n = sum(modalities.values())
        if len(modalities) > 1 and shard.shape[1] != n:
            raise DataError(
                f"{shard.path} has {shard.shape[1]} channels of unknown modality, but the corpus has {dict(modalities)}"
            )
        given = {next(iter(modalities)): shard.shape[1]} if len(modalities) == 1 else modalities
    starts = dict(zip(modalities, np.cumsum([0, *modalities.values()]), strict=False))
    for name, n in given.items():
        if name not in modalities or n > modalities[name]:
            most = modalities.get(name, 0)
            raise DataError(
                f"{shard.path} has {n} channels of {name}, more than the corpus has ({most}, of {dict(modalities)})"
            )
    return np.concatenate([np.arange(starts[name], starts[name] + n) for name, n in given.items()])


def _widest(shards: Sequence[Shard]) -> dict[str, int]:
    """Largest number of channels of each modality."""
    widest: dict[str, int] = {}
    for shard in shards:
        for name, n in (shard.modalities or {"emg": shard.shape[1]}).items():
            widest[name] = max(widest.get(name, 0), n)
    return widest
