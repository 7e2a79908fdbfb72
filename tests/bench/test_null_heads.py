import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

bench = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("null_heads.py"))))


def test_reports_of_random_cuts_rarely_show_a_head():
    """Three layers of eight heads in five models; drops of a random cut differ little between subjects."""
    rng, layers = np.random.default_rng(0), ("every/head/L1", "every/head/L2", "every/head/L3")

    def pool():
        return bench.Pool(
            heads={one: np.zeros((8, 5)) for one in layers},
            random={one: 5 + rng.normal(size=(28, 1)) + 0.1 * rng.normal(size=(28, 5)) for one in layers},
        )

    shown, shown_by_ranks, passes, passes_by_ranks = np.mean([bench.report(pool(), rng) for _ in range(200)], axis=0)
    assert 0 < shown == passes <= 0.09, "5 %, because heads and random cuts have one normal distribution"
    assert shown_by_ranks == passes_by_ranks > 0.15, "ranks do not correct for shared random cuts"


def test_a_drop_whose_interval_includes_zero_is_not_shown():
    """One random cut hurts far more than all others, but not all subjects."""
    changes = np.zeros((28, 5)) + np.arange(28)[:, None] / 28
    changes[0] += [500, -400, 300, -200, 100]
    pool, rng = bench.Pool({"all/head/L1": np.zeros((8, 5))}, {"all/head/L1": changes}), np.random.default_rng(0)
    shown, shown_by_ranks, passes, passes_by_ranks = np.mean([bench.report(pool, rng) for _ in range(50)], axis=0)
    assert shown == shown_by_ranks == 0 < min(passes, passes_by_ranks)


def test_ranges_count_heads_in_standard_deviations_and_leave_out_constant_cuts():
    random = np.array([[0.0], [2.0], [1.0], [1.0]])
    pool = bench.Pool({"a": np.array([[1.0], [4.0]]), "b": np.array([[9.0]])}, {"a": random, "b": np.zeros((4, 1))})
    skewness, heads = bench.ranges(pool)
    assert skewness == "0.0 to 0.0"
    low, high = map(float, heads.split(" to "))
    assert (low, high) == pytest.approx((0, 3 / random.std(ddof=1)), abs=0.05)
