"""Dynamic time warping against every possible path, a plain double loop, and a planted warp."""

from time import perf_counter

import numpy as np
import pytest

from emg_lens.scoring import ScoreError, dtw_path


def every_path(i, j):
    """All paths from (0, 0) to (i, j) that have no other pair with the first target or the first source frame."""
    if (i, j) == (0, 0):
        return [((0, 0),)]
    if i <= 0 or j <= 0:
        return []
    steps = ((i - 1, j), (i, j - 1), (i - 1, j - 1))
    return [(*path, (i, j)) for step in steps for path in every_path(*step)]


def summed(cost, path):
    return sum(cost[pair] for pair in path[1:])


def plain_loop(cost):
    """The smallest sum up to each pair, and the path back in the order: target, source, both."""
    n, m = cost.shape
    total = np.full((n, m), np.inf)
    total[0, 0] = 0
    for i in range(1, n):
        for j in range(1, m):
            total[i, j] = cost[i, j] + min(total[i - 1, j], total[i, j - 1], total[i - 1, j - 1])
    i, j, path = n - 1, m - 1, [0] * n
    while i > 0 and j > 0:
        path[i] = j
        i, j = min([(i - 1, j), (i, j - 1), (i - 1, j - 1)], key=lambda pair: total[pair])
    return path


@pytest.mark.parametrize("shape", [(2, 2), (2, 5), (5, 2), (4, 4), (4, 6), (6, 4), (5, 5)])
def test_the_path_is_the_cheapest_of_all(shape):
    rng = np.random.default_rng(0)
    paths = every_path(shape[0] - 1, shape[1] - 1)
    for _ in range(20):
        cost = rng.normal(size=shape)
        best = min(paths, key=lambda path: summed(cost, path))
        first = [min(j for i, j in best if i == row) for row in range(shape[0])]
        assert dtw_path(cost).tolist() == first


def test_ties_are_broken_as_in_a_plain_double_loop():
    rng = np.random.default_rng(1)
    for _ in range(200):
        cost = rng.integers(0, 3, rng.integers(2, 12, 2)).astype(float)
        assert dtw_path(cost).tolist() == plain_loop(cost)
    assert dtw_path(np.ones((4, 3))).tolist() == [0, 1, 2, 2]
    whole_numbers = np.array([[0, 9, 9, 9], [9, 0, 0, 9], [9, 9, 9, 0]])
    assert dtw_path(whole_numbers).tolist() == [0, 1, 3]


def test_450_by_520_takes_at_most_half_the_time_of_a_plain_double_loop():
    cost = np.random.default_rng(2).random((450, 520))
    seconds = []
    for function in (plain_loop, dtw_path):
        start = perf_counter()
        path = function(cost)
        seconds.append((perf_counter() - start, list(path)))
    (slow, expected), (fast, path) = seconds
    assert path == expected
    assert fast <= slow / 2


def test_a_planted_warp_is_recovered_better_than_by_a_linear_stretch():
    rng, frame_ms = np.random.default_rng(3), 1000 / 86.133
    signal = np.cumsum(rng.normal(size=(300, 8)), 0)
    knots = np.interp(np.arange(240), [0, 60, 150, 239], [0, 140, 200, 299])
    source, warp = signal, np.rint(knots).astype(int)
    target = signal[warp] + 0.1 * rng.normal(size=(240, 8))
    cost = np.linalg.norm(target[:, None] - source[None], axis=-1)
    error_ms = np.abs(dtw_path(cost) - warp).mean() * frame_ms
    stretch_ms = np.abs(np.linspace(0, 299, 240) - warp).mean() * frame_ms
    assert error_ms < frame_ms < 100 < stretch_ms


@pytest.mark.parametrize("cost", [np.ones(3), np.ones((0, 3)), np.array([[np.nan]]), np.ones((1, 3)), np.ones((3, 1))])
def test_what_is_no_cost_is_refused(cost):
    with pytest.raises(ScoreError, match=r"expected|at least"):
        dtw_path(cost)
