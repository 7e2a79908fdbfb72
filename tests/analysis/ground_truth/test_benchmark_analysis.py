"""The study's analysis of attribution methods, on an encoder whose circuit is known."""

from functools import partial

import numpy as np
import pytest

from emg_lens.analysis import attribute, compiled_encoder
from emg_lens.analysis.attribution.method import METHODS
from emg_lens.analysis.ground_truth import benchmark_analysis
from emg_lens.analysis.ground_truth.benchmark_analysis import ATTRIBUTION_BENCHMARK, FITTED, RANDOM, random_order
from emg_lens.data.batch import Batch


@pytest.fixture(scope="module")
def task():
    return compiled_encoder("xor", 3)


def batch(task, y):
    return Batch(task.x[32:], y[32:], reference=task.x[:32], reference_targets=y[:32])


@pytest.fixture
def two_methods(monkeypatch):
    """Only methods that make one pass: the others would take a minute."""
    monkeypatch.setattr(benchmark_analysis, "named_methods", lambda _: {
        name: METHODS[name] for name in ("first_order", "attention")
    })  # fmt: skip


def test_known_and_fitted_models_are_in_the_table(task, two_methods):
    table = ATTRIBUTION_BENCHMARK.run(task.model, batch(task, task.y), [])
    known, fitted = table[table["variant"] != FITTED], table[table["variant"] == FITTED].set_index("method")
    worst = known.groupby("method")["average_precision"].agg(["min", "max"])
    assert known["variant"].nunique() == 8
    assert worst.loc["first_order", "max"] == pytest.approx(1)
    assert worst.loc["first_order", "min"] < 0.2  # it cannot see backup
    assert worst.loc[RANDOM, "max"] < 0.2
    # the circuit has four edges between channels; the sizes that are tried are 1, 2, 3, 4, ...
    assert fitted.loc["first_order", "edges_needed"] == 4
    assert fitted.loc[RANDOM, "edges_needed"] > 40


def test_edges_needed_are_confirmed_by_cuts(task, two_methods):
    """Keep the edges, and one size less, with the attribution's own cuts."""
    trials = batch(task, task.y)
    table = ATTRIBUTION_BENCHMARK.run(task.model, trials, [])
    row = table[(table["variant"] == FITTED) & (table["method"] == "attention")].iloc[0]
    result = attribute(task.model, trials.reference, trials.reference_targets, method="attention", by="channel")
    question = result.question.on(trials.x, trials.targets)
    order = np.argsort(-result.table["score"].to_numpy(), kind="stable")
    full, all_cut = question.bounds.mean(1)
    kept = [np.isin(np.arange(len(order)), order[: int(n)]) for n in (row["edges_needed"], row["edges_needed"] // 1.3)]
    enough, fewer = (question.with_kept(kept).mean(1) - all_cut) / (full - all_cut)
    assert enough >= 0.9 > fewer


def test_a_model_whose_metric_does_not_fall_has_no_rows(task, two_methods):
    table = ATTRIBUTION_BENCHMARK.run(task.model, batch(task, 1 - task.y), [])
    assert FITTED not in set(table["variant"])


@pytest.mark.slow
def test_the_random_row_is_the_mean_of_ten_orders_that_differ_between_models(two_methods, monkeypatch):
    used = {}

    def recorded(question, seed):
        used.setdefault(seed, question.model)
        return random_order(question, seed)

    monkeypatch.setattr(benchmark_analysis, "random_order", recorded)
    for seed in (3, 4):
        task, seen = compiled_encoder("xor", seed), len(used)
        trials = batch(task, task.y)
        table = ATTRIBUTION_BENCHMARK.run(task.model, trials, [])
        assert list(table["method"]).count(RANDOM) == 9  # eight known circuits and the fitted model
        row = table[(table["variant"] == FITTED) & (table["method"] == RANDOM)].iloc[0]
        seeds = list(used)[seen:]
        assert len(seeds) == 10, "the seeds of the second model are other ones"
        needed = []
        for one in seeds:
            result = attribute(
                task.model, trials.x, trials.targets, by="channel", method=partial(random_order, seed=one)
            )
            order = np.argsort(-result.table["score"].to_numpy())
            sizes = [n for n in range(1, len(order) + 1) if n in {int(np.ceil(1.1**k)) for k in range(99)}]
            kept = result.question.fraction_kept([np.isin(np.arange(len(order)), order[:n]) for n in sizes])
            needed.append(next((n for n, enough in zip(sizes, kept >= 0.9, strict=True) if enough), len(order)))
        assert row["edges_needed"] == pytest.approx(np.mean(needed))


def test_a_random_order_is_the_same_for_every_trial(task):
    question = attribute(task.model, task.x[:4], task.y[:4], method="attention", by="head").question
    scores = random_order(question, 0)
    assert scores.shape == (4, len(question.groups))
    assert (scores == scores[0]).all() and len(set(scores[0].tolist())) == len(question.groups)
