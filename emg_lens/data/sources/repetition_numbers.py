"""Repetition numbers of recordings whose files do not contain them."""

import numpy as np
from jaxtyping import Int


def number_runs(label: Int[np.ndarray, " row"], done: dict[int, int]) -> Int[np.ndarray, " row"]:
    """Number the runs of each label: the first run of consecutive rows with one label is repetition 1, and so on.

    Args:
        label: Label of each row; at least one row.
        done: Number of earlier runs of each label; updated in place.

    Returns:
        Repetition number of each row.
    """
    starts = np.flatnonzero(np.diff(label, prepend=label[0] - 1))
    numbers = []
    for one in label[starts].tolist():
        done[one] = done.get(one, 0) + 1
        numbers.append(done[one])
    return np.repeat(np.array(numbers, np.int64), np.diff(np.append(starts, len(label))))
