"""Analyses of circuits in studies: their tables, on an encoder with a known circuit."""

import numpy as np
import pytest
import torch

from emg_lens import build_model
from emg_lens.analysis import attribute, compiled_encoder, find_circuit
from emg_lens.analysis.attribution.fit_trials import search_trials, second_search_trials
from emg_lens.analysis.circuits.fit_analyses import CIRCUIT, FLOW, HEAD_ROLES
from emg_lens.analysis.fit_analysis import AnalysisError, run_analyses
from emg_lens.data.batch import Batch, BatchError


@pytest.fixture(scope="module")
def task():
    return compiled_encoder("backup", 0)


@pytest.fixture(scope="module")
def batch(task):
    return Batch(task.x[32:], task.y[32:], reference=task.x[:32], reference_targets=task.y[:32])


def test_the_circuit_of_a_fit(task, batch):
    table = run_analyses(["circuit"], task.model, batch, [])["circuit"]
    edges = table[(table["part"] == "edge") & (table["in_circuit"] == True)]  # noqa: E712
    assert len(edges) == 2
    true = task.truth.mask(task.layout, 3, 4).any(1).nonzero().tolist()
    names = task.layout.names
    for edge in edges.to_dict("records"):
        assert [int(edge["layer"]), names.index(edge["dest"]), names.index(edge["src"])] in true
    kept = table[table["part"] == "kept"].set_index("kept")
    assert kept.loc["route 1", "fraction"] > 0.9
    assert kept.loc["without the routes", "fraction"] > 0.9  # the other route is enough
    sizes = table[table["part"] == "size"].set_index("groups")["fraction"]
    assert sizes.index.tolist() == [1, 2, 5, 10, 20, 50, 100, 200]
    assert sizes[200] == pytest.approx(1, abs=0.05)
    random = table[table["part"] == "size"].set_index("groups")["random"]
    assert random[5] < 0.5 < sizes[5]  # five random edges lose the decision that the five best keep


def test_the_second_search_uses_other_training_trials(task, batch):
    first = run_analyses(["circuit"], task.model, batch, [])["circuit"].query("part == 'edge'")
    assert first["in_second_circuit"].isna().all(), "32 training trials are too few for two searches"
    many = compiled_encoder("backup", 0, n_trials=160)
    trials = Batch(many.x[:8], many.y[:8], reference=many.x, reference_targets=many.y)
    (x, _), other = search_trials(trials), second_search_trials(trials)
    assert other is not None and len(other[0]) == 64
    assert not (x[:, None] == other[0]).all((-1, -2)).any()
    edges = CIRCUIT.run(many.model, trials, []).query("part == 'edge'")
    expected = find_circuit(many.model, *other, all_routes=False).table["edge"]
    assert set(edges.loc[edges["in_second_circuit"].eq(True), "edge"]) == set(expected)


def test_no_circuit_where_the_metric_does_not_fall(task, batch):
    wrong = Batch(batch.x, 1 - batch.targets, reference=batch.reference, reference_targets=1 - batch.reference_targets)
    assert not len(CIRCUIT.run(task.model, wrong, []))


def test_flow_is_the_attribution_by_modality(task, batch):
    table = FLOW.run(task.model, batch, [])
    expected = attribute(task.model, batch.x, batch.targets, by="modality").table
    assert np.allclose(table["score"], expected["score"])
    assert table["full"].nunique() == 1


def test_roles_of_heads_sum_to_the_attribution(task, batch):
    table = HEAD_ROLES.run(task.model, batch, [])
    total = attribute(task.model, batch.x, batch.targets, by="head").table
    by_kind = table.groupby("kind")["score"].sum()
    to_cls = (total["dest"] == "cls") | (total["src"] == "cls")
    assert by_kind["cls"] == pytest.approx(total.loc[to_cls, "score"].sum())
    assert table["score"].sum() == pytest.approx(total["score"].sum())
    halves = (table["first_half"] + table["second_half"]) / 2
    assert np.allclose(halves, table["score"])
    # The wires of the circuit are in heads 0 and 1, and run within EMG, from EMG to ACC, and to CLS.
    best = table.sort_values("score").tail(3)
    assert set(best["head"]) <= {0, 1}


def test_regressions_use_the_squared_error():
    torch.manual_seed(0)
    model = build_model("isonet", modalities={"emg": 3, "acc": 2}, n_samples=8, n_classes=2, d_model=8, n_heads=2,
                        n_layers=2, d_mlp=8)  # fmt: skip
    x = model.example_input(12)
    with torch.no_grad():
        y = model(x)
    batch = Batch(x, y, reference=x, reference_targets=y)
    table = run_analyses(["circuit", "flow"], model, batch, [])
    assert table["flow"]["full"].iloc[0] == pytest.approx(0, abs=1e-6)
    assert table["circuit"]["in_circuit"].any()


def test_an_analysis_without_training_targets_is_refused(task, batch):
    with pytest.raises(AnalysisError, match="no training trials"):
        CIRCUIT.run(task.model, Batch(batch.x, batch.targets), [])
    with pytest.raises(BatchError, match="3 reference_targets"):
        Batch(batch.x, reference=batch.reference, reference_targets=torch.zeros(3))
    assert batch[:4].reference_targets is batch.reference_targets
    assert batch.without_reference().reference is None
