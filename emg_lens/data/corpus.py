"""A corpus: windows of many shards in one numbering, alike in channels, and parted into training and validation.

Nothing but the places of windows is held in memory; samples are read a batch at a time. Facts: docs/pretraining.md §10.1.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int
from pydantic import Field, model_validator

from emg_lens.data.files import natural
from emg_lens.data.recording import DataError
from emg_lens.data.shards import Shard, ShardReader, find_shards, trials_shard
from emg_lens.data.trials import TrialSet
from emg_lens.io.hashing import content_hashes
from emg_lens.validation import SpecModel, checked

Scale = Literal["min-max", "none"]
Padding = Literal["counted", "left out"]
TINY = 1e-8
"""Added to a window's range before it is divided by, as in the published pre-training."""


class HeldOut(SpecModel):
    """Which windows are for validation.

    Attributes:
        by: `"subject"`: those of some people, of every data set its share, so that no overlapping windows are on both
            sides; `"file"`: those of some files; `"windows"`: windows drawn alone, as the published pre-training does,
            where neighbours that overlap are on both sides and the validation loss is too good.
        share: Of subjects, files or windows; at least one, and of each data set at least one subject.
        subjects: Instead of a share, the subjects, as `Corpus.subjects` lists them.
        seed: Of the draw.
    """

    by: Literal["subject", "file", "windows"] = "subject"
    share: float = Field(default=0.2, gt=0, lt=1)
    subjects: tuple[str, ...] | None = None
    seed: int = Field(default=0, ge=0, lt=2**53)

    @model_validator(mode="after")
    def _of_subjects(self) -> "HeldOut":
        if self.subjects is not None and self.by != "subject":
            raise ValueError(f"subjects are named where windows are held out by subject, not by {self.by}")
        return self


@dataclass(frozen=True, eq=False)
class Corpus:
    """Windows of one length, numbered from 0.

    Attributes:
        shards: Where the windows are.
        modalities: Channels of each modality that a window is padded to, with zeros at the end of each modality.
        scale: `"min-max"`: each channel of each window runs from -1 to 1; a constant one, a padded one included, is -1,
            as in the published pre-training. `"none"`: as stored.
        padding: `"counted"`: padded channels are like others; `"left out"`: they stay at 0, and `real` tells them.
        parts: Shard, first row and last row + 1 of each part of the corpus, in order.
        chosen: Windows of those parts that belong to the corpus, in rising order; `None` = all.
    """

    shards: tuple[Shard, ...]
    modalities: Mapping[str, int]
    scale: Scale = "min-max"
    padding: Padding = "counted"
    parts: Int[np.ndarray, "part 3"] = field(default=None, repr=False)  # pyright: ignore[reportAssignmentType]
    chosen: Int[np.ndarray, " window"] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if not self.shards:
            raise DataError("a corpus needs at least one shard")
        lengths = {shard.shape[2]: shard.path for shard in self.shards}
        if len(lengths) > 1:
            (one, here), (other, there), *_ = lengths.items()
            raise DataError(
                f"windows differ in length: {one} samples in {here}, {other} in {there}; write them alike (window_s and"
                " recipe.fs)"
            )
        rates = {shard.fs: shard.path for shard in self.shards if shard.fs is not None}
        if len(rates) > 1:
            (one, here), (other, there), *_ = rates.items()
            raise DataError(f"rates differ: {one:g} Hz in {here}, {other:g} Hz in {there}; write them at one rate")
        for shard in self.shards:
            _places(shard, self.modalities)
        if self.parts is None:
            every = [(i, 0, len(shard)) for i, shard in enumerate(self.shards)]
            object.__setattr__(self, "parts", np.array(every, np.int64))
        ends = np.cumsum(self.parts[:, 2] - self.parts[:, 1])
        object.__setattr__(self, "_ends", ends)
        object.__setattr__(self, "_reader", ShardReader())

    _ends: Int[np.ndarray, " part"] = field(init=False, repr=False)
    _reader: ShardReader = field(init=False, repr=False)

    @staticmethod
    @checked
    def open(
        folders: Sequence[str | Path],
        modalities: Mapping[str, int] | None = None,
        scale: Scale = "min-max",
        padding: Padding = "counted",
    ) -> "Corpus":
        """The shards below some folders.

        Args:
            folders: Folders with `*.h5`, or single files: shards, or files of `TrialSet.save`.
            modalities: What windows are padded to; default: as many channels as the widest shard has, `"emg"` where it
                does not say what they are.
            scale: See the class.
            padding: See the class.

        Raises:
            DataError: Folders without shards, files that are none, or shards that do not go together.
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
        """Trials in memory; arguments and errors as in `open`."""
        sets = [trials] if isinstance(trials, TrialSet) else list(trials)
        shards = tuple(trials_shard(one, f"trials {i}" if len(sets) > 1 else "trials") for i, one in enumerate(sets))
        return Corpus(shards, dict(modalities) if modalities is not None else _widest(shards), scale, padding)

    def __len__(self) -> int:
        return int(self._ends[-1]) if self.chosen is None else len(self.chosen)

    @property
    def n_channels(self) -> int:
        """Channels of a window, padded ones included."""
        return sum(self.modalities.values())

    @property
    def n_samples(self) -> int:
        """Samples of a window."""
        return self.shards[0].shape[2]

    @property
    def fs(self) -> float | None:
        """Samples per second (Hz); `None` where no shard says."""
        return next((shard.fs for shard in self.shards if shard.fs is not None), None)

    @property
    def subjects(self) -> tuple[str, ...]:
        """Subjects of the windows, `<data set>/<subject>` where our writer wrote the shard, in natural order."""
        names = {name for name, _ in self._names("subject", refuse=False) if name}
        return tuple(sorted(names, key=natural))

    def read(self, numbers: Int[np.ndarray, " window"]) -> Float[np.ndarray, "window channel time"]:
        """The windows of these numbers, in their order, padded and scaled.

        Raises:
            DataError: A file that cannot be read, NaN, infinity, or values beyond `shards.LARGEST_SAMPLE`.
        """
        shard_of, row_of = self._find(numbers)
        found = np.zeros((len(numbers), self.n_channels, self.n_samples), np.float32)
        order = np.lexsort((row_of, shard_of))
        for i in np.unique(shard_of):
            mine = order[shard_of[order] == i]
            # A number that is asked for twice is read once.
            rows, back = np.unique(row_of[mine], return_inverse=True)
            values = self._reader.read(self.shards[i], rows)[back]
            if self.scale == "min-max":
                values = scaled(values)
            if self.scale == "min-max" and self.padding == "counted":
                found[mine] = -1  # what min-max makes of a channel of zeros
            found[np.ix_(mine, _places(self.shards[i], self.modalities))] = values
        return found

    def file_of(self, number: int) -> Path:
        """The file of a window."""
        return self.shards[self._find(np.array([number]))[0][0]].path

    def real(self, numbers: Int[np.ndarray, " window"]) -> Bool[np.ndarray, "window channel"]:
        """Which channels are masked and counted: all, or, where padding is `"left out"`, those that were recorded."""
        if self.padding == "counted":
            return np.ones((len(numbers), self.n_channels), bool)
        shard_of, _ = self._find(numbers)
        found = np.zeros((len(numbers), self.n_channels), bool)
        for i in np.unique(shard_of):
            found[np.ix_(shard_of == i, _places(self.shards[i], self.modalities))] = True
        return found

    def divide(self, held_out: HeldOut) -> tuple["Corpus", "Corpus"]:
        """Training and validation windows.

        Raises:
            DataError: A subject that is not there or not known, or a side without a window.
        """
        if held_out.by == "windows":
            rng = np.random.default_rng([held_out.seed, 1])
            n = max(1, round(held_out.share * len(self)))
            drawn = np.zeros(len(self), bool)
            drawn[rng.permutation(len(self))[:n]] = True
            every = np.arange(len(self)) if self.chosen is None else self.chosen
            sides = [replace(self, chosen=every[~drawn]), replace(self, chosen=every[drawn])]
        else:
            if self.chosen is not None:
                raise DataError("windows that were drawn alone cannot be parted by subject or file")
            names = self._names(held_out.by)
            ours = _drawn(names, held_out) if held_out.subjects is None else self._asked(held_out.subjects)
            masks = [np.array([(name in ours) == is_ours for name, _ in names]) for is_ours in (False, True)]
            parts = np.array([part for _, part in names], np.int64).reshape(-1, 3)
            for side, mask in zip(("training", "validation"), masks, strict=True):
                if not mask.any():
                    raise DataError(
                        f"no window is left for {side}: there are {len({name for name, _ in names})} {held_out.by}s"
                    )
            sides = [replace(self, parts=parts[mask]) for mask in masks]
        for side, part in zip(("training", "validation"), sides, strict=True):
            if not len(part):
                raise DataError(f"no window is left for {side}: there are {len(self)}")
        return sides[0], sides[1]

    def fingerprint(self) -> str:
        """Short hash of what the shards hold and how windows are padded and scaled; files are read when they are new.

        Raises:
            DataError: A file that cannot be read.
        """
        whole = hashlib.sha256(repr((dict(self.modalities), self.scale, self.padding)).encode())
        try:
            contents = content_hashes([shard.path for shard in self.shards if shard.values is None])
        except OSError as error:
            raise DataError(f"{error.filename}: cannot be read ({error.strerror}); is it still there?") from None
        for shard in self.shards:
            known = contents.get(shard.path) or hashlib.sha256(np.ascontiguousarray(shard.values).data).hexdigest()
            whole.update(f"{shard.path.name} {known}".encode())
        whole.update(np.ascontiguousarray(self.parts).data)
        if self.chosen is not None:
            whole.update(np.ascontiguousarray(self.chosen).data)
        return whole.hexdigest()[:16]

    def table(self) -> pd.DataFrame:
        """One row a subject: data set, subject, windows, channels."""
        counts: dict[tuple[str, int], int] = {}
        for name, (i, first, last) in self._names("subject", refuse=False):
            key = (name, self.shards[i].shape[1])
            counts[key] = counts.get(key, 0) + int(last - first)
        rows = [(*_apart(name), n, channels) for (name, channels), n in counts.items()]
        return pd.DataFrame(rows, columns=["dataset", "subject", "windows", "channels"])

    def _find(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Shard and row of each window."""
        numbers = np.asarray(numbers, np.int64)
        if len(numbers) and not 0 <= numbers.min() <= numbers.max() < len(self):
            raise DataError(f"windows {numbers.min()} to {numbers.max()} of {len(self)}; numbers begin at 0")
        numbers = numbers if self.chosen is None else self.chosen[numbers]
        part = np.searchsorted(self._ends, numbers, side="right")
        sizes = self.parts[:, 2] - self.parts[:, 1]
        return self.parts[part, 0], self.parts[part, 1] + numbers - (self._ends - sizes)[part]

    def _names(self, by: str, refuse: bool = True) -> list[tuple[str, tuple[int, int, int]]]:
        """The parts, cut where the subject (or file) changes, each with its name."""
        found: list[tuple[str, tuple[int, int, int]]] = []
        for i, low, high in self.parts.tolist():
            shard = self.shards[i]
            runs = ((low, high, str(shard.path)),) if by == "file" else shard.subjects
            for first, last, name in runs:
                if refuse and not name:
                    raise DataError(f"{shard.path} does not say whose windows it holds; hold out by: file instead")
                if max(first, low) < min(last, high):
                    found.append((name, (i, max(first, low), min(last, high))))
        return found

    def _asked(self, subjects: Sequence[str]) -> set[str]:
        unknown = [name for name in subjects if name not in self.subjects]
        if unknown:
            raise DataError(f"no windows of subject {unknown[0]!r}; there are {', '.join(self.subjects)}")
        return set(subjects)


def scaled(x: Float[np.ndarray, "*any time"]) -> Float[np.ndarray, "*any time"]:
    """Each channel of each window from -1 to 1; a constant one becomes -1 (docs/pretraining.md §10.1)."""
    low = x.min(axis=-1, keepdims=True)
    unit = (x - low) / (x.max(axis=-1, keepdims=True) - low + np.float32(TINY))
    return (unit - np.float32(0.5)) * 2


def _drawn(names: Sequence[tuple[str, object]], held_out: HeldOut) -> set[str]:
    """Names for validation; of each data set its share."""
    groups: dict[str, list[str]] = {}
    for name in sorted({name for name, _ in names}, key=natural):
        groups.setdefault(_apart(name)[0] if held_out.by == "subject" else "", []).append(name)
    rng = np.random.default_rng([held_out.seed, 0])
    found: set[str] = set()
    for members in groups.values():
        n = min(max(1, round(held_out.share * len(members))), max(1, len(members) - 1))
        found |= {members[i] for i in rng.permutation(len(members))[:n]}
    return found


def _apart(name: str) -> tuple[str, str]:
    """Data set and subject of a name."""
    dataset, slash, subject = name.rpartition("/")
    return (dataset, subject) if slash else ("", name)


def _places(shard: Shard, modalities: Mapping[str, int]) -> Int[np.ndarray, " channel"]:
    """Where a shard's channels stand in a padded window.

    Raises:
        DataError: More channels than there are places, or channels that the shard does not name.
    """
    given = shard.modalities
    if not given:
        n = sum(modalities.values())
        if len(modalities) > 1 and shard.shape[1] != n:
            raise DataError(
                f"{shard.path} has {shard.shape[1]} channels and does not say which of {dict(modalities)} they are"
            )
        given = {next(iter(modalities)): shard.shape[1]} if len(modalities) == 1 else modalities
    starts = dict(zip(modalities, np.cumsum([0, *modalities.values()]), strict=False))
    for name, n in given.items():
        if name not in modalities or n > modalities[name]:
            most = modalities.get(name, 0)
            raise DataError(
                f"{shard.path} has {n} channels of {name}, the corpus takes {most}; it has {dict(modalities)}"
            )
    return np.concatenate([np.arange(starts[name], starts[name] + n) for name, n in given.items()])


def _widest(shards: Sequence[Shard]) -> dict[str, int]:
    found: dict[str, int] = {}
    for shard in shards:
        for name, n in (shard.modalities or {"emg": shard.shape[1]}).items():
            found[name] = max(found.get(name, 0), n)
    return found
