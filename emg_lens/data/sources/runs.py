"""Repetitions that files do not tell: counted."""

import numpy as np
from jaxtyping import Int


def count_runs(label: Int[np.ndarray, " row"], done: dict[int, int]) -> Int[np.ndarray, " row"]:
    """The how-manieth run of its label each row belongs to.

    Args:
        label: One a row, one or more.
        done: How many runs of each label there were before; brought up to date.
    """
    starts = np.flatnonzero(np.diff(label, prepend=label[0] - 1))
    numbers = []
    for of in label[starts].tolist():
        done[of] = done.get(of, 0) + 1
        numbers.append(done[of])
    return np.repeat(np.array(numbers, np.int64), np.diff(np.append(starts, len(label))))
