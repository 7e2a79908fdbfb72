"""Dynamic time warping: which frame of one sequence belongs to each frame of another (docs/events-and-text.md §4)."""

import numpy as np
from jaxtyping import Float, Int

from emg_lens.scoring.event_matching import ScoreError
from emg_lens.validation import checked, short


@checked
def dtw_path(cost: np.ndarray) -> Int[np.ndarray, " target"]:
    """Align two sequences so that the summed cost is smallest, and return one source frame for each target frame.

    A path goes from the first pair of frames to the last and moves on in the target, in the source, or in both. The
    cost of the first pair does not count, and no other pair of the path has the first target or the first source frame
    (as in the silent-speech models of Gaddy and Klein 2020). Of the source frames of a target frame the first is
    returned. Of equal paths, the one is returned that, seen from the end, moves in the target first, then in the
    source, then in both.

    To compare conditions, use the alignment of the intact model for all of them: a path that is computed anew fits the
    errors of a damaged model.

    Args:
        cost: Cost of each pair of frames `[target, source]`, finite.

    Returns:
        Index of the source frame of each target frame; the first is 0.

    Raises:
        ScoreError: `cost` is no finite matrix, or has one frame on one side only.

    Example:
        >>> import numpy as np
        >>> from emg_lens.scoring import dtw_path
        >>> dtw_path(np.array([[0.0, 9, 9, 9], [9, 0, 0, 9], [9, 9, 9, 0]])).tolist()
        [0, 1, 3]
    """
    if cost.ndim != 2 or not cost.size or cost.dtype.kind not in "iuf" or not np.isfinite(cost).all():
        raise ScoreError(f"cost={short(cost)}; expected finite numbers [target, source]")
    n, m = cost.shape
    if 1 in (n, m) and n != m:
        raise ScoreError(f"cost is {[n, m]}; both sequences need at least 2 frames, or both have 1")
    total = _accumulated(cost.astype(float))
    path, i, j = np.zeros(n, np.int64), n - 1, m - 1
    while i and j:
        path[i] = j
        above, before, diagonal = total[i - 1, j], total[i, j - 1], total[i - 1, j - 1]
        best = min(above, before, diagonal)
        if above == best:
            i -= 1
        elif before == best:
            j -= 1
        else:
            i, j = i - 1, j - 1
    return path


def _accumulated(cost: Float[np.ndarray, "target source"]) -> Float[np.ndarray, "target source"]:
    """Smallest summed cost up to each pair, one anti-diagonal at a time: its pairs do not depend on each other."""
    n, m = cost.shape
    total = np.full((n, m), np.inf)
    total[0, 0] = 0
    flat, costs = total.reshape(-1), np.ascontiguousarray(cost).reshape(-1)
    for diagonal in range(2, n + m - 1):
        first, last = max(1, diagonal - m + 1), min(n - 1, diagonal - 1)
        at = slice(first * m + diagonal - first, last * m + diagonal - last + 1, m - 1)
        above, before, both = (slice(at.start - back, at.stop - back, m - 1) for back in (m, 1, m + 1))
        flat[at] = costs[at] + np.minimum(np.minimum(flat[above], flat[before]), flat[both])
    return total
