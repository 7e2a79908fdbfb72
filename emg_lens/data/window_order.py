"""The shuffled order of a corpus's windows in one epoch: set by a seed, and the same in every process.

A full shuffle would read single windows from all over the disk. Instead, consecutive windows form blocks, the blocks
are shuffled, and the windows of a pool of blocks are shuffled among each other, as in WebDataset and tf.data. Any part
of the order can be computed without the rest.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Int
from pydantic import NonNegativeInt, PositiveInt

from emg_lens.validation import check_fields

BLOCK, POOL = 32, 64
"""Windows in a block, and blocks in a pool."""


@dataclass(frozen=True, eq=False)
class WindowOrder:
    """One epoch's order of `n` windows.

    Attributes:
        n: Number of windows.
        seed: Seed of the shuffle.
        epoch: Number of the epoch; each epoch has its own order.
        block: Number of consecutive windows that are read together.
        pool: Number of blocks; their windows are shuffled among each other.
    """

    n: PositiveInt
    seed: NonNegativeInt
    epoch: NonNegativeInt
    block: PositiveInt = BLOCK
    pool: PositiveInt = POOL

    def __post_init__(self) -> None:
        check_fields(self)

    @cached_property
    def _blocks(self) -> Int[np.ndarray, " block"]:
        """Numbers of the blocks, in the epoch's order."""
        return np.random.default_rng([self.seed, self.epoch]).permutation(-(-self.n // self.block))

    @cached_property
    def _ends(self) -> Int[np.ndarray, " pool"]:
        """End (exclusive) of each pool in the order."""
        n_blocks = len(self._blocks)
        sizes = np.full(n_blocks, self.block)
        sizes[self._blocks == n_blocks - 1] = self.n - (n_blocks - 1) * self.block  # the last block may be shorter
        return np.cumsum(np.add.reduceat(sizes, np.arange(0, n_blocks, self.pool)))

    def stretch(self, first: int, last: int) -> Int[np.ndarray, " position"]:
        """Return the numbers of the windows at positions `first` to `last` - 1 of the order."""
        if first >= last:
            return np.empty(0, np.int64)
        low, high = np.searchsorted(self._ends, [first, last - 1], side="right")
        start = int(self._ends[low - 1]) if low else 0
        windows = np.concatenate([self._pool(i) for i in range(int(low), int(high) + 1)])
        return windows[first - start : last - start]

    def _pool(self, i: int) -> Int[np.ndarray, " position"]:
        starts = self._blocks[i * self.pool : (i + 1) * self.pool] * self.block
        windows = (starts[:, None] + np.arange(self.block)).ravel()
        rng = np.random.default_rng([self.seed, self.epoch, i])
        return rng.permutation(windows[windows < self.n])
