import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest

bench = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("coverage.py"))))


@pytest.mark.parametrize("population", bench.POPULATIONS, ids=lambda population: population.words.partition(":")[0])
def test_every_method_covers_most_and_ours_most_of_all(population):
    found = bench.coverage(population, 10, n_cohorts=400)
    assert list(found) == list(bench.METHODS)
    share, length, tenth = found["Hall (ours)"]
    assert share >= max(0.85, found["Student"][0] - 0.02, found["BCa bootstrap"][0]) and 1 <= length < 2
    assert found["Student"][1:] == (1, 1) and length <= tenth < 4


def test_no_test_rejects_more_often_than_it_says():
    for test, p in bench.null_p_values(8, n_cohorts=150).items():
        assert p.shape == (150, bench.N_CONDITIONS)
        assert bench.level(p, "bonferroni") <= bench.level(p, "holm") <= 0.05, test
