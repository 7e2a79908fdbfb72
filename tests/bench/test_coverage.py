import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest

bench = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("coverage.py"))))


@pytest.mark.parametrize("population", bench.POPULATIONS, ids=lambda population: population.words.partition(":")[0])
def test_every_method_covers_most_means(population):
    results = bench.coverage(population, 10, n_cohorts=400)
    assert list(results) == list(bench.METHODS)
    fraction, *lengths = results["Student (ours)"]
    assert fraction >= 0.75 and fraction >= results["BCa bootstrap"][0] - 0.03 and lengths == [1, 1]
    assert 1 <= results["Hall"][1] < 2


def test_students_interval_has_more_power_than_halls_and_keeps_its_level():
    assert bench.power(0, 8, 2000)["Student (ours)"] <= 0.035
    power = bench.power(2, 5, 1000)
    assert power["Student (ours)"] > power["Hall"] + 0.05


def test_no_test_rejects_more_often_than_it_says():
    for test, p in bench.null_p_values(8, n_cohorts=150).items():
        assert p.shape == (150, bench.N_CONDITIONS)
        assert bench.level(p, "bonferroni") <= bench.level(p, "holm") <= 0.05, test
