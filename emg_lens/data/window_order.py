"""The order in which an epoch goes through a corpus: shuffled by a seed, and the same whoever reads it.

A full shuffle would read single windows from all over the disk. Here the windows are cut into blocks that follow each
other in the files, the blocks are shuffled, and the windows of some blocks at a time are shuffled among each other
(as WebDataset and tf.data do with shards and a buffer). Any stretch of the order is computed without the rest.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Int
from pydantic import NonNegativeInt, PositiveInt

from emg_lens.validation import check_fields

BLOCK, POOL = 32, 64
"""Windows of a block, and blocks whose windows are shuffled among each other."""


@dataclass(frozen=True, eq=False)
class WindowOrder:
    """One epoch's order of `n` windows.

    Attributes:
        n: How many windows there are.
        seed: Of the shuffle.
        epoch: Which epoch: each has its own order.
        block: Windows that are read together.
        pool: Blocks whose windows are shuffled among each other.
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
        """The blocks in the epoch's order."""
        return np.random.default_rng([self.seed, self.epoch]).permutation(-(-self.n // self.block))

    @cached_property
    def _ends(self) -> Int[np.ndarray, " pool"]:
        """The place behind each pool."""
        n_blocks = len(self._blocks)
        sizes = np.full(n_blocks, self.block)
        sizes[self._blocks == n_blocks - 1] = self.n - (n_blocks - 1) * self.block  # the last one may be shorter
        return np.cumsum(np.add.reduceat(sizes, np.arange(0, n_blocks, self.pool)))

    def stretch(self, first: int, last: int) -> Int[np.ndarray, " place"]:
        """Numbers of the windows in places `first` to `last` - 1 of the order."""
        if first >= last:
            return np.empty(0, np.int64)
        low, high = np.searchsorted(self._ends, [first, last - 1], side="right")
        start = int(self._ends[low - 1]) if low else 0
        found = np.concatenate([self._pool(i) for i in range(int(low), int(high) + 1)])
        return found[first - start : last - start]

    def _pool(self, i: int) -> Int[np.ndarray, " place"]:
        starts = self._blocks[i * self.pool : (i + 1) * self.pool] * self.block
        windows = (starts[:, None] + np.arange(self.block)).ravel()
        rng = np.random.default_rng([self.seed, self.epoch, i])
        return rng.permutation(windows[windows < self.n])
