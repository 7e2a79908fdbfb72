"""Find the same samples under two subjects (or files), of which one is in the validation part of a corpus."""

from collections.abc import Iterable, Sequence
from hashlib import blake2b

import numpy as np

from emg_lens.data.shards import Shard, ShardReader

MOST = 16
"""Windows that are compared of each run of a subject's windows: the first two, the last two, and others between."""
ENOUGH = 2
"""Number of equal windows that shows a copy. Windows of few samples and few bits may be equal by chance."""
NamedPart = tuple[str, tuple[int, int, int]]
"""Subject (or file) of consecutive windows; its shard, first window, and end (exclusive)."""


def find_copy(
    shards: Sequence[Shard], training: Iterable[NamedPart], validation: Iterable[NamedPart], reader: ShardReader
) -> tuple[NamedPart, NamedPart] | None:
    """Return a run of each part that have the same windows, as float32; None if there are none.

    Copies of a recording have the same windows whatever their files' bytes or names. Windows that start at other times
    are not recognised. Windows in which every channel is constant are not compared.
    """
    owner: dict[bytes, NamedPart] = {}
    for run in training:
        owner |= dict.fromkeys(_hashes(shards, run, reader), run)
    for run in validation:
        hashes = _hashes(shards, run, reader)
        copied = [owner[one] for one in hashes if one in owner]
        if len(copied) >= min(ENOUGH, len(hashes)) and copied:
            return copied[0], run
    return None


def _hashes(shards: Sequence[Shard], run: NamedPart, reader: ShardReader) -> set[bytes]:
    shard, first, last = run[1]
    between = np.linspace(first, last - 1, MOST - ENOUGH).round().astype(int)
    rows = np.unique(np.concatenate([between, [min(first + 1, last - 1), max(last - 2, first)]]))
    windows = np.ascontiguousarray(reader.read(shards[shard], rows), np.float32)
    varies = (windows.max(axis=2) > windows.min(axis=2)).any(axis=1)
    return {blake2b(window.tobytes(), digest_size=16).digest() for window in windows[varies]}
