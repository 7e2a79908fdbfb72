"""Shards: HDF5 files of windows that do not fit into memory, read a few windows at a time.

A shard has one of two layouts: `data [window, channel, time]`, which the published preprocessing of EMG foundation
models writes (its optional `label` is ignored), or a file of `TrialSet.save`. Source: docs/pretraining.md §10.1.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from emg_lens.data.files import existing_folder, files_below, natural_key, read_parts, regular_file
from emg_lens.data.recording import EXACT, FASTEST, SLOWEST, DataError, rounded_by_float32
from emg_lens.data.storage import FORMAT
from emg_lens.data.trials import TrialSet
from emg_lens.io.binary import hdf5_parts

WINDOWS, TRIALS = "data", "x"
"""Name of the HDF5 data set of samples: in a shard, and in a file of trials."""
MOST_OPEN = 8
"""Largest number of open files of a process; each has a cache of `CACHE_BYTES`."""
CACHE_BYTES = 4 << 20
LARGEST_SAMPLE = 1e18
"""Largest sample; sums of squares of larger ones may be infinite in float32."""


@dataclass(frozen=True, eq=False)
class Shard:
    """Windows of one file, or of a `TrialSet` in memory.

    Attributes:
        path: The file; a label for trials in memory.
        name: Name of the HDF5 data set of samples.
        shape: Number of windows, channels and samples.
        subjects: First window, end (exclusive) and subject of each run of windows; subject `""` = unknown.
        modalities: Number of channels of each modality, in order; empty = unknown.
        fs: Sampling rate (Hz); `None` = unknown.
        values: The samples, if they are in memory.
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
    """Find the shards (`*.h5`, `*.hdf5`) in folders, at any depth, or single files, in natural order of their paths."""
    paths: list[Path] = []
    for folder in folders:
        place = Path(folder).expanduser()
        if place.exists() and not place.is_dir():
            paths.append(regular_file(place))
            continue
        files = shard_files(existing_folder(place, "shards (*.h5), or one such file"))
        if not files:
            raise DataError(f"{place} contains no shard (*.h5); write shards with emg-lens corpus")
        paths += files
    if not paths:
        raise DataError("no folder of shards was given; give at least one")
    if len({path.resolve() for path in paths}) < len(paths):
        raise DataError("a shard was given twice; give each folder once, and no folder inside another")
    return tuple(map(read_shard, paths))


def shard_files(folder: Path) -> list[Path]:
    """List the files in a folder, at any depth, that have a shard's suffix, in natural order."""
    files = [path for path in files_below(folder) if path.suffix.lower() in (".h5", ".hdf5")]
    files = [path for path in files if not path.name.startswith(".")]  # files that are being written
    once = {regular_file(path).resolve(): path for path in reversed(files)}  # links may lead to a file again
    return sorted(once.values(), key=lambda path: natural_key(str(path)))


def read_shard(path: Path) -> Shard:
    """Read the description of a file of windows, without its samples."""
    content = read_parts(hdf5_parts, path, "a file of windows", shapes=(WINDOWS, TRIALS), texts=("subject",))
    about, shapes = content["attributes"], content["shapes"]
    name = TRIALS if about.get("format") == FORMAT else WINDOWS
    if name not in shapes:
        listed = ", ".join(content["members"][:5]) or "nothing"
        raise DataError(f"{path}: contains {listed}; expected {WINDOWS} [window, channel, time], or a file of trials")
    kind, shape = shapes[name]
    if kind[1:2] not in "fiu" or len(shape) != 3:
        raise DataError(f"{path}: {name} is {kind} {shape}; expected numbers [window, channel, time]")
    if not all(shape):
        raise DataError(f"{path}: {name} is {shape}; expected at least one window, channel and sample")
    try:
        modalities, fs = _about(about, name)
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError, OverflowError) as error:
        raise DataError(
            f"{path}: its channels or sampling rate cannot be read ({error}); write the file again"
        ) from None
    if fs is not None and not SLOWEST <= fs <= FASTEST:
        raise DataError(f"{path}: its sampling rate is {fs:g} Hz; expected {SLOWEST:g} to {FASTEST:g} Hz")
    if modalities and (min(modalities.values()) < 1 or sum(modalities.values()) != shape[1]):
        raise DataError(f"{path}: has {shape[1]} channels, but its modalities are {modalities}; write the file again")
    every = content.get("subject") or [str(about.get("subject", ""))]
    if len(every) not in (1, shape[0]):
        raise DataError(f"{path}: {len(every)} subjects for {shape[0]} windows; expected one subject per window")
    return Shard(path, name, (shape[0], shape[1], shape[2]), _runs(every, shape[0]), modalities, fs)


def trials_shard(trials: TrialSet, name: str = "trials") -> Shard:
    """Make a shard of trials in memory."""
    runs = _runs(trials.subject.tolist(), len(trials))
    return Shard(Path(name), TRIALS, trials.x.shape, runs, dict(trials.modalities), trials.fs, trials.x)  # pyright: ignore


class ShardReader:
    """Reader of windows that keeps few files open; each process opens its own files."""

    def __init__(self) -> None:
        self._opened = lru_cache(MOST_OPEN)(_opened)

    def __reduce__(self) -> tuple:
        return ShardReader, ()

    def read(self, shard: Shard, rows: Int[np.ndarray, " row"]) -> Float[np.ndarray, "row channel time"]:
        """Read windows as float32; `rows` must be in rising order.

        Raises:
            DataError: The file is missing, was changed, or cannot be read; or a sample is NaN, infinite or beyond
                `LARGEST_SAMPLE`.
        """
        windows = shard.values[rows] if shard.values is not None else self._from_file(shard, rows)
        bad = np.argwhere(~((windows.max(axis=2) <= LARGEST_SAMPLE) & (windows.min(axis=2) >= -LARGEST_SAMPLE)))
        if len(bad):
            row, channel = bad[0]
            raise DataError(
                f"{shard.path}: window {rows[row]}, channel {channel} holds NaN, infinity or values beyond"
                f" {LARGEST_SAMPLE:g}; remove or repair it"
            )
        return windows

    def _from_file(self, shard: Shard, rows: Int[np.ndarray, " row"]) -> np.ndarray:
        windows = np.empty((len(rows), *shard.shape[1:]), np.float32)
        try:
            data: Any = self._opened(shard.path, os.getpid())[shard.name]
            if data.shape != shard.shape:
                raise DataError(
                    f"{shard.path} was changed while it was read: {data.shape}, before {shard.shape}; start again"
                )
            starts = np.flatnonzero(np.diff(rows, prepend=rows[:1] - 2) != 1)
            with np.errstate(over="ignore"):  # values beyond float32 become infinite, which `read` reports
                for first, last in zip(starts, [*starts[1:], len(rows)], strict=True):  # consecutive rows
                    block = data[int(rows[first]) : int(rows[last - 1]) + 1]
                    if block.dtype.kind in "iu" and rounded_by_float32(block):
                        raise DataError(
                            f"{shard.path}: whole numbers beyond {EXACT}, which float32 rounds; subtract each channel's"
                            " offset or change the unit, and write the file again"
                        )
                    windows[first:last] = block
        except DataError:
            raise
        except (OSError, KeyError, ValueError, RuntimeError) as error:
            raise DataError(f"{shard.path}: cannot be read ({' '.join(str(error).split())}); is it complete?") from None
        return windows


def _opened(path: Path, process: int) -> h5py.File:  # noqa: ARG001
    """Open a file; a forked process must not use its parent's handles."""
    return h5py.File(path, rdcc_nbytes=CACHE_BYTES)


def _about(about: Mapping[str, Any], name: str) -> tuple[dict[str, int], float | None]:
    """Modalities and sampling rate, from the attributes of the file."""
    fs = None if about.get("fs") is None else float(about["fs"])
    if name == TRIALS:
        order = json.loads(about["channels"])["modality"]
        return {str(m): int(n) for m, n in pd.Series(order).value_counts(sort=False).items()}, fs
    given = json.loads(about["modalities"]) if "modalities" in about else {}
    return {str(m): int(n) for m, n in given.items()}, fs


def _runs(subjects: Sequence[str], n_windows: int) -> tuple[tuple[int, int, str], ...]:
    """First window, end (exclusive) and subject of each run; a single name is for all windows."""
    if len(subjects) == 1:
        return ((0, n_windows, str(subjects[0])),)
    names = np.asarray(subjects, dtype=str)
    first = np.flatnonzero(np.concatenate([[True], names[1:] != names[:-1]]))
    last = [*first[1:].tolist(), n_windows]
    return tuple((int(a), int(b), str(names[a])) for a, b in zip(first, last, strict=True))
