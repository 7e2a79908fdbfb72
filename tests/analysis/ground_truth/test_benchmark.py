"""The benchmark of attribution methods: its measures against enumeration, and its table."""

import itertools

import numpy as np
import pytest
import torch

from emg_lens.analysis import attribute, compiled_encoder
from emg_lens.analysis.attribution.methods.shared_gates import SharedGates
from emg_lens.analysis.ground_truth.benchmark import (
    SIZES,
    benchmark_attribution,
    kept_curve,
    rank_quality,
    settled_scores,
)
from emg_lens.errors import EmgLensError

SCORES = np.array([0.9, 0.5, 0.5, 0.5, 0.2, 0.0, 0.0, -0.3])
POSITIVE = np.array([1, 1, 0, 0, 1, 0, 1, 0], bool)


def truth_of(task):
    return task.truth.mask(task.layout, task.model.cfg.n_layers, task.model.cfg.n_heads).numpy()


def test_measures_equal_enumeration():
    measured = rank_quality(SCORES, POSITIVE)
    pairs = [(a > b) + 0.5 * (a == b) for a in SCORES[POSITIVE] for b in SCORES[~POSITIVE]]
    assert measured["auroc"] == pytest.approx(np.mean(pairs))
    hits = []
    for order in itertools.permutations(range(len(SCORES))):
        if all(SCORES[a] >= SCORES[b] for a, b in itertools.pairwise(order)):
            hits.append(POSITIVE[list(order[:4])].mean())
    assert len(hits) == 12  # 3! orders of one tie, 2! of the other
    assert measured["r_precision"] == pytest.approx(np.mean(hits))
    precision = [POSITIVE[score <= SCORES].mean() for score in SCORES[POSITIVE]]  # at the threshold of each positive
    assert measured["average_precision"] == pytest.approx(np.mean(precision))


def test_equal_scores_have_the_quality_of_chance():
    measured = rank_quality(np.zeros(8), POSITIVE)
    assert measured == pytest.approx({"average_precision": 0.5, "r_precision": 0.5, "auroc": 0.5})


def test_rounding_is_a_tie():
    task = compiled_encoder("single", 0, tier="clean", n_trials=8)

    def rounding(question):
        return 1e-5 * torch.rand(len(question.x), len(question.groups))

    assert not settled_scores(attribute(task.model, task.x, task.y, method=rounding, by="head")).any()


def test_the_curve_of_a_perfect_ranking():
    task = compiled_encoder("single", 0, tier="clean", n_trials=8)
    truth = truth_of(task)

    def oracle(question):
        scores = torch.zeros(len(question.x), len(question.groups))
        scores[:, question.groups.index[truth]] = 1.0
        return scores

    result = attribute(task.model, task.x, task.y, method=oracle, by="head")
    assert [max(1, round(size * len(result.table))) for size in SIZES][:3] == [1, 2, 5]
    found = kept_curve(result)  # one edge of the chain of two keeps nothing, both keep everything
    assert found["cpr"] == pytest.approx(0.999 - 0.0005, abs=1e-4)
    assert found["cmd"] == pytest.approx(0.0005, abs=1e-4)


def test_your_own_function_enters_by_name():
    table = benchmark_attribution(
        {"mine": SharedGates().scores, "opposite": lambda question: -SharedGates().scores(question)},
        ["single", "negative"],
        seeds=[1],
        n_trials=8,
        curves=False,
    ).set_index(["method", "variant"])
    assert table.index.tolist() == [(a, b) for b in ("single", "negative") for a in ("mine", "opposite")]
    assert (table.loc["mine", "average_precision"] > 0.99).all()
    assert (table.loc["opposite", "average_precision"] < 0.1).all()
    assert "cpr" not in table
    assert (table["forward_passes"] == 8).all()


def test_the_positive_edges_are_the_truth_and_not_the_negative_edge():
    task = compiled_encoder("negative", 2, n_trials=8)
    truth = truth_of(task)

    def oracle(question):
        scores = torch.zeros(len(question.x), len(question.groups))
        scores[:, question.groups.index[truth]] = 1.0
        return scores

    (row,) = benchmark_attribution([oracle], ["negative"], [2], n_trials=8, curves=False).to_dict("records")
    assert row["method"] == "oracle"
    assert row["average_precision"] == row["r_precision"] == row["auroc"] == 1


@pytest.mark.parametrize("norm", ["post", "pre"])
def test_what_one_gradient_sees(norm):
    table = benchmark_attribution(
        ["attention", "first_order", "gate_gradient", "shared_gates"],
        ["distractor", "saturated", "backup"],
        seeds=[0],
        norm=norm,
        n_trials=16,
        curves=False,
    )
    quality = table.pivot_table(index="method", columns="variant", values="average_precision")
    assert quality.loc["first_order", ["distractor", "saturated"]].min() >= 0.99
    assert quality.loc["shared_gates"].min() >= 0.99
    assert quality.loc["attention", "distractor"] <= 0.2
    assert quality.loc["first_order", "backup"] <= 0.2
    assert quality.loc["gate_gradient", "saturated"] <= 0.1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"methods": "cut"}, "expected a list"),
        ({"methods": ["cut", "cut"]}, "the same name"),
        ({"methods": []}, "at least one"),
        ({"methods": ["no such method"]}, "no such method"),
        ({"variants": ["no such variant"]}, "variants"),
        ({"seeds": []}, "at least one"),
        ({"methods": [lambda question: question.x], "variants": ["single"]}, "trial, group"),
    ],
)
def test_wrong_arguments(options, message):
    with pytest.raises(EmgLensError, match=message):
        benchmark_attribution(**options)
