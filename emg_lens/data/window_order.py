"""The shuffled order of a corpus's windows in one epoch: set by a seed, and the same in every process.

A full shuffle would read single windows from all over the disk. Instead, consecutive windows form blocks, the blocks
are shuffled, and the windows of a pool of blocks are shuffled among each other, as in WebDataset and tf.data.
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

    def stretch(self, first: int, last: int) -> Int[np.ndarray, " position"]:
        """Return the numbers of the windows at positions `first` to `last` - 1 of the order."""
        return self._windows[first:last]

    @cached_property
    def _windows(self) -> Int[np.ndarray, " position"]:
        """The whole order."""
        blocks = np.random.default_rng([self.seed, self.epoch]).permutation(-(-self.n // self.block))
        pools = []
        for i, first in enumerate(range(0, len(blocks), self.pool)):
            windows = (blocks[first : first + self.pool, None] * self.block + np.arange(self.block)).ravel()
            rng = np.random.default_rng([self.seed, self.epoch, i])
            pools.append(rng.permutation(windows[windows < self.n]))
        return np.concatenate(pools)
