"""Cases in which scores were wrong, or an error was not one line."""

import threading
from functools import partial

import numpy as np
import pytest
import torch
from analysis.attribution.small_models import hierarchical, isonet, smooth, trials

from emg_lens import attribute, build_model, cross_modal, find_circuit, flow, none
from emg_lens.analysis import compiled_encoder
from emg_lens.analysis.attribution.methods.attention import AttentionMass
from emg_lens.analysis.attribution.methods.shared_gates import SharedGates
from emg_lens.analysis.attribution.trial_metrics import margin
from emg_lens.hooks import EdgeError, edge_dropout
from emg_lens.validation import ArgumentError


def regression(n_outputs):
    torch.manual_seed(0)
    return build_model("isonet", modalities={"emg": 2, "acc": 2}, n_samples=8, n_classes=n_outputs, d_model=8,
                       n_heads=2, n_layers=2, d_mlp=8).eval()  # fmt: skip


def test_one_output_is_compared_with_one_number_per_trial():
    model, t = regression(1), torch.randn(6)
    x = model.example_input(6)
    column = attribute(model, x, t[:, None], by="modality", metric="negative_squared_error")
    row = attribute(model, x, t, by="modality", metric="negative_squared_error")
    expected = -float((model(x)[:, 0].detach() - t).square().mean())
    assert row.audit["full"] == pytest.approx(expected) == pytest.approx(column.audit["full"])
    assert np.allclose(row.table["score"], column.table["score"])


@pytest.mark.parametrize("y", [torch.zeros(6), torch.zeros(6, 3, dtype=torch.int64)])
def test_targets_of_another_shape_are_refused(y):
    model = regression(3)
    with pytest.raises(ArgumentError, match="floats of equal shapes"):
        attribute(model, model.example_input(6), y, metric="negative_squared_error")


@pytest.mark.parametrize("make", [smooth, hierarchical])
def test_groups_that_leave_edges_out_give_attention_to_all_other_edges(make):
    model = make()
    x, y = trials(model)
    result = attribute(model, x, y, by={"fusion": cross_modal()}, method=SharedGates(passes=32), metric="log_prob")
    cut = attribute(model, x, y, by={"fusion": cross_modal()}, method="cut", metric="log_prob")
    assert result.table["score"][0] == pytest.approx(cut.table["score"][0], rel=0.02)
    assert abs(result.audit["completeness_error"]) < 0.02


@pytest.mark.parametrize("sharpness", [1, 3, 6])
def test_a_whole_row_with_sharp_attention(sharpness):
    torch.manual_seed(0)
    model = build_model("isonet", modalities={"emg": 12, "acc": 20}, n_samples=8, n_classes=3, d_model=16, n_heads=2,
                        n_layers=2, d_mlp=16).eval()  # fmt: skip
    with torch.no_grad():
        for block in model.blocks:
            block.attn.W_Q.mul_(sharpness)
            block.attn.W_K.mul_(sharpness)
    x, y = torch.randn(8, 32, 8), torch.arange(8) % 3
    row = {"row": (flow("emg", "cls") | flow("acc", "cls") | flow("cls", "cls")).at(layers=1)}
    score = attribute(model, x, y, method="first_order", by=row, floor=none()).table["score"][0]
    taps = {}

    def keep(pattern, hook):
        taps["a"] = pattern.detach().requires_grad_()
        return taps["a"]

    loss = margin(model.run_with_hooks(x, fwd_hooks=[("blocks.1.attn.hook_pattern", keep)]), y).sum()
    (g,) = torch.autograd.grad(loss, [taps["a"]])
    assert score == pytest.approx(float((taps["a"].detach() * g)[:, :, 0].sum()) / 8, abs=1e-6)


@pytest.mark.parametrize("method", ["rollout", "chefer"])
def test_a_hook_that_only_looks_does_not_change_scores(method):
    model = isonet()
    x, y = trials(model)
    before = attribute(model, x, y, by="modality", method=method).table.set_index("edge")["score"]
    model.add_hook("blocks.0.hook_resid_post", lambda tensor, hook: None)
    after = attribute(model, x, y, by="modality", method=method).table.set_index("edge")["score"]
    assert np.allclose(after[before.index], before)
    assert np.allclose(after.drop(before.index), 0)


def test_two_threads_get_their_own_scores():
    model = isonet()
    x, y = trials(model, 12)
    parts = [slice(0, 6), slice(6, 12)]
    expected = [attribute(model, x[some], y[some], by="modality").table["score"].to_numpy() for some in parts]
    results = {}

    def run(number):
        for repeat in range(3):
            some = parts[number]
            results[number, repeat] = attribute(model, x[some], y[some], by="modality", method=SharedGates())

    threads = [threading.Thread(target=run, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 6
    for (number, _), result in results.items():
        assert np.allclose(result.trial_scores.mean(0), expected[number], atol=1e-6)


def test_inference_mode_labels_of_32_bits_and_metrics_without_a_name():
    model = isonet()
    x, y = trials(model)
    expected = attribute(model, x, y, by="modality").table["score"]
    with torch.inference_mode():
        assert np.allclose(attribute(model, x, y.int(), by="modality").table["score"], expected)
    named = partial(lambda outputs, y, scale: scale * margin(outputs, y), scale=2.0)
    result = attribute(model, x, y, by="modality", metric=named)
    assert np.allclose(result.table["score"], 2 * expected)
    assert "partial" in result.plot().axes[-1].get_ylabel() or result.plot().axes


def test_refusals():
    model = isonet()
    x, y = trials(model)
    with pytest.raises(EdgeError, match="y has"):
        attribute(model, x, torch.tensor(1))
    with pytest.raises(EdgeError, match="by is empty"):
        attribute(model, x, y, by={})
    with pytest.raises(ArgumentError, match="no gradient"):
        attribute(model, x, y, metric=lambda outputs, y: (outputs.argmax(1) == y).float())
    with pytest.raises(ArgumentError, match="NaN or infinite"):
        attribute(model, x, y, method="cut", metric=lambda outputs, y: margin(outputs, y) * torch.nan)
    one = regression(1)
    with pytest.raises(ArgumentError, match="two or more classes"):
        attribute(one, one.example_input(4), torch.zeros(4, dtype=torch.int64))
    with pytest.raises(EdgeError, match="selects no edge"), edge_dropout(model, none(), 0.5):
        pass


def test_a_method_object_has_the_unit_of_its_name():
    model = isonet()
    x, y = trials(model)
    result = attribute(model, x, y, method=AttentionMass(), by="modality")
    assert result.audit["method"] == "attention"
    assert result.plot().axes[-1].get_ylabel().startswith("attention weight")


def test_a_circuit_that_keeps_everything():
    task = compiled_encoder("backup", 0, tier="clean")
    circuit = find_circuit(task.model, task.x, task.y, keep=1.0)
    assert circuit.routes
    assert circuit.evaluate(task.x, task.y)["fraction"].iloc[1] == pytest.approx(1, abs=1e-4)


def test_no_fraction_where_the_metric_rises():
    task = compiled_encoder("single", 0)
    circuit = find_circuit(task.model, task.x, task.y)
    table = circuit.evaluate(task.x, 1 - task.y)
    assert table["fraction"].isna().all()
    assert table["metric"].notna().all()


def test_random_sets_have_as_many_edges_of_each_kind():
    task = compiled_encoder("backup", 0)
    circuit = find_circuit(task.model, task.x, task.y)
    table = circuit.question.groups.table
    own = np.isin(np.arange(len(table)), sorted(circuit.members[0]))
    kinds = np.stack([table["layer"], table["dest"] == "cls", table["src"] == "cls"], axis=1)
    rng = np.random.default_rng(0)
    sets = [circuit.shuffled(own, rng) for _ in range(20)]
    assert len({one.tobytes() for one in sets}) > 15
    for one in sets:
        assert sorted(map(tuple, kinds[one].tolist())) == sorted(map(tuple, kinds[own].tolist()))
    random = circuit.evaluate(task.x, task.y).set_index("kept").loc["random edges"]
    assert random["groups"] == own.sum() == 2
    assert random["fraction"] < 0.3


def test_necessary_edges_are_unknown_if_the_search_stopped():
    task = compiled_encoder("backup", 0)
    circuit = find_circuit(task.model, task.x, task.y, all_routes=False)
    assert circuit.limit_hit
    assert circuit.table["necessary"].isna().all()
    assert "there may be other routes" in str(circuit)
    with pytest.raises(ArgumentError, match="larger limit"):
        _ = circuit.necessary
