"""Files of windows that are larger than memory: HDF5, read a few windows at a time.

Two layouts are read: `data [window, channel, time]`, which the published preprocessing of EMG foundation models writes
(an optional `label` is not needed here), and the files of `TrialSet.save`. Facts: docs/pretraining.md §10.1.
"""

import json
import os
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from emg_lens.data.files import files_below, natural, read_parts
from emg_lens.data.recording import FASTEST, SLOWEST, DataError
from emg_lens.data.storage import FORMAT
from emg_lens.data.trials import TrialSet
from emg_lens.io.binary import hdf5_shapes

WINDOWS, TRIALS = "data", "x"
"""Where the samples are: in a shard, and in a file of trials."""
MOST_OPEN = 8
"""Files that a process holds open at a time, each with `CACHE_BYTES` of memory for parts that were read."""
CACHE_BYTES = 4 << 20
LARGEST_SAMPLE = 1e18
"""Beyond it sums of squares of float32 may be infinite."""


@dataclass(frozen=True, eq=False)
class Shard:
    """Windows of one file, or of a `TrialSet` in memory.

    Attributes:
        path: The file; a made-up name for trials in memory.
        name: Of the data set that holds the samples.
        shape: Windows, channels, samples.
        subjects: First window, last window + 1 and subject of each run of windows; `""` = not known.
        modalities: Channels of each modality, in order; empty where the file does not say.
        fs: Samples per second (Hz); `None` where the file does not say.
        values: The samples, where they are in memory.
    """

    path: Path
    name: str
    shape: tuple[int, int, int]
    subjects: tuple[tuple[int, int, str], ...]
    modalities: Mapping[str, int] = field(default_factory=dict)
    fs: float | None = None
    values: Float[np.ndarray, "window channel time"] | None = field(default=None, repr=False)

    def __len__(self) -> int:
        return self.shape[0]


def find_shards(folders: Sequence[str | Path]) -> tuple[Shard, ...]:
    """The shards below folders (`*.h5`, `*.hdf5`), or single files, in natural order of their places.

    Raises:
        DataError: A folder that is not there or has no such file, or a file that holds no windows.
    """
    paths: list[Path] = []
    for folder in folders:
        place = Path(folder).expanduser()
        if place.is_file():
            paths.append(place)
            continue
        if not place.is_dir():
            raise DataError(f"{place} does not exist; expected a folder with shards (*.h5), or one such file")
        found = shard_files(place)
        if not found:
            raise DataError(f"{place} holds no shard (*.h5); write some with emg-lens corpus")
        paths += found
    if not paths:
        raise DataError("no folder of shards was given")
    if len(set(paths)) < len(paths):
        raise DataError("a shard was given twice; give each folder once, and none inside another")
    return tuple(map(read_shard, paths))


def shard_files(folder: Path) -> list[Path]:
    """What a folder holds of shards, at any depth, by their names, in natural order."""
    found = [path for path in files_below(folder) if path.suffix.lower() in (".h5", ".hdf5")]
    found = [path for path in found if not path.name.startswith(".")]  # which somebody writes
    return sorted(found, key=lambda path: natural(str(path)))


def read_shard(path: Path) -> Shard:
    """What a file of windows holds, without reading samples.

    Raises:
        DataError: It cannot be read, holds no windows, or other things than real numbers.
    """
    found = read_parts(hdf5_shapes, path, "a file of windows", names=(WINDOWS, TRIALS), texts=("subject",))
    about, shapes = found["attributes"], found["shapes"]
    name = TRIALS if about.get("format") == FORMAT else WINDOWS
    if name not in shapes:
        listed = ", ".join(found["members"][:5]) or "nothing"
        raise DataError(f"{path}: holds {listed}; expected {WINDOWS} [window, channel, time], or a file of trials")
    kind, shape = shapes[name]
    if kind[1:2] not in "fiu" or len(shape) != 3:
        raise DataError(f"{path}: {name} is {kind} {shape}; expected numbers [window, channel, time]")
    if not all(shape):
        raise DataError(f"{path}: {name} is {shape}; expected at least one window, channel and sample")
    try:
        modalities, fs = _about(about, name)
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError, OverflowError) as error:
        raise DataError(f"{path}: what it says of its channels or rate cannot be read ({error})") from None
    if fs is not None and not SLOWEST <= fs <= FASTEST:
        raise DataError(f"{path}: says that it has {fs:g} rows per second")
    if modalities and (min(modalities.values()) < 1 or sum(modalities.values()) != shape[1]):
        raise DataError(f"{path}: holds {shape[1]} channels and says that they are {modalities}")
    one = str(about.get("subject", ""))
    every = found.get("subject") or [one] * (1 if shape[0] else 0)
    if len(every) not in (1, shape[0]):
        raise DataError(f"{path}: {len(every)} subjects for {shape[0]} windows; expected one a window")
    return Shard(path, name, (shape[0], shape[1], shape[2]), _runs(every, shape[0]), modalities, fs)


def trials_shard(trials: TrialSet, name: str = "trials") -> Shard:
    """Trials in memory as a shard."""
    runs = _runs(trials.subject.tolist(), len(trials))
    return Shard(Path(name), TRIALS, trials.x.shape, runs, dict(trials.modalities), trials.fs, trials.x)  # pyright: ignore


class ShardReader:
    """Reads windows of shards, holding few files open; each process that gets a copy opens its own."""

    def __init__(self) -> None:
        self._files: OrderedDict[Path, h5py.File] = OrderedDict()
        self._process = os.getpid()

    def __getstate__(self) -> dict[str, Any]:
        return {"_files": OrderedDict(), "_process": -1}

    def read(self, shard: Shard, rows: Int[np.ndarray, " row"]) -> Float[np.ndarray, "row channel time"]:
        """Windows in rising order, as float32.

        Raises:
            DataError: The file is gone, was changed, or cannot be read; NaN, infinity, values beyond `LARGEST_SAMPLE`.
        """
        found = shard.values[rows] if shard.values is not None else self._from_file(shard, rows)
        bad = np.argwhere(~((found.max(axis=2) <= LARGEST_SAMPLE) & (found.min(axis=2) >= -LARGEST_SAMPLE)))
        if len(bad):
            row, channel = bad[0]
            raise DataError(
                f"{shard.path}: window {rows[row]}, channel {channel} holds NaN, infinity or values beyond"
                f" {LARGEST_SAMPLE:g}; drop or repair it first"
            )
        return found

    def _from_file(self, shard: Shard, rows: Int[np.ndarray, " row"]) -> np.ndarray:
        found = np.empty((len(rows), *shard.shape[1:]), np.float32)
        try:
            data: Any = self._file(shard.path)[shard.name]
            if not len(rows):
                return found
            if data.shape != shard.shape:
                raise DataError(f"{shard.path} was changed while it was read: {data.shape}, before {shard.shape}")
            starts = np.flatnonzero(np.diff(rows, prepend=rows[:1] - 2) != 1)
            with np.errstate(over="ignore"):  # what is beyond float32 is infinite then, and told
                for first, last in zip(starts, [*starts[1:], len(rows)], strict=True):  # rows that follow each other
                    found[first:last] = data[int(rows[first]) : int(rows[last - 1]) + 1]
        except (OSError, KeyError, ValueError, RuntimeError) as error:
            if isinstance(error, DataError):
                raise
            raise DataError(f"{shard.path}: cannot be read ({' '.join(str(error).split())}); is it complete?") from None
        return found

    def _file(self, path: Path) -> h5py.File:
        if self._process != os.getpid():  # handles of another process are not ours to use or to close
            self._files, self._process = OrderedDict(), os.getpid()
        if path in self._files:
            self._files.move_to_end(path)
            return self._files[path]
        while len(self._files) >= MOST_OPEN:
            self._files.popitem(last=False)[1].close()
        self._files[path] = h5py.File(path, rdcc_nbytes=CACHE_BYTES)
        return self._files[path]


def _about(about: Mapping[str, Any], name: str) -> tuple[dict[str, int], float | None]:
    """Modalities and rate, as the file says them."""
    fs = None if about.get("fs") is None else float(about["fs"])
    if name == TRIALS:
        order = json.loads(about["channels"])["modality"]
        return {str(m): int(n) for m, n in pd.Series(order).value_counts(sort=False).items()}, fs
    given = json.loads(about["modalities"]) if "modalities" in about else {}
    return {str(m): int(n) for m, n in given.items()}, fs


def _runs(subjects: Sequence[str], n_windows: int) -> tuple[tuple[int, int, str], ...]:
    """First window, last window + 1 and subject of each run; one name stands for all windows."""
    if len(subjects) == 1:
        return ((0, n_windows, str(subjects[0])),)
    names = np.asarray(subjects, dtype=str)
    first = np.flatnonzero(np.concatenate([[True], names[1:] != names[:-1]]))
    last = [*first[1:].tolist(), n_windows]
    return tuple((int(a), int(b), str(names[a])) for a, b in zip(first, last, strict=True))
