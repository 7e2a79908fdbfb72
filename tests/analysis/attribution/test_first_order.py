"""First order of a cut: compared with cuts, where the metric is linear, and with finite differences elsewhere."""

import numpy as np
import pytest
import torch
from analysis.attribution.small_models import hierarchical, isonet, margin_of, question_of, smooth, trials

from emg_lens import gate_edges
from emg_lens.analysis.attribution.methods.first_order import FirstOrder
from emg_lens.analysis.attribution.run import attribute
from emg_lens.analysis.ground_truth.compiled import compiled_encoder
from emg_lens.hooks import every, flow, none, self_edges


def label_logit(outputs, y):
    return outputs.gather(1, y[:, None])[:, 0]


def linear_model():
    """One layer without MLP. Its LayerNorms only centre, because eps is much larger than the variance."""
    model = smooth(n_layers=1, eps=1e8)
    with torch.no_grad():
        model.blocks[0].mlp.W_out.zero_()
        for norm in (model.blocks[0].ln1, model.blocks[0].ln2, model.ln_final):
            norm.w.fill_(1e4)
    return model


@pytest.mark.parametrize("by", ["head", "channel", "modality"])
@pytest.mark.parametrize("floor", [self_edges(), none()])
def test_it_is_the_cut_where_the_metric_is_linear(by, floor):
    """With floor=none(), the group "all" holds whole rows, which have output zero when they are cut."""
    model = linear_model()
    x, y = trials(model)
    groups = {"all": flow("cls", "cls") | flow("emg", "cls") | flow("acc", "cls")} if floor == none() else by
    predicted, exact = (
        attribute(model, x, y, method=method, by=groups, metric=label_logit, floor=floor)
        for method in ("first_order", "cut")
    )
    assert np.abs(exact.trial_scores).max() > 0.1
    np.testing.assert_allclose(predicted.trial_scores, exact.trial_scores, atol=1e-5)


@pytest.mark.parametrize("by", ["head", "channel", "modality"])
def test_it_is_the_cut_in_the_last_layer_of_a_compiled_encoder(by):
    task = compiled_encoder("negative", seed=1, norm="pre", tier="clean", n_trials=8)
    predicted, exact = (attribute(task.model, task.x, task.y, method=m, by=by) for m in ("first_order", "cut"))
    last = (predicted.table["layer"] == 2).to_numpy()
    assert np.abs(exact.trial_scores[:, last]).max() > 0.9
    np.testing.assert_allclose(predicted.trial_scores[:, last], exact.trial_scores[:, last], atol=1e-5)


@pytest.mark.parametrize("build", [isonet, smooth, hierarchical])
@pytest.mark.parametrize("by", ["channel", "modality"])
def test_it_is_the_slope_in_the_gates_of_each_row(build, by):
    """A set J of a row: the slope of the margin in a gate of J, divided by 1 - (attention of J)."""
    model = build().double()
    question = question_of(model, n=2, by=by)
    x, y = question.x.double(), question.y
    predicted = attribute(model, x, y, method="first_order", by=by)
    now = margin_of(model, x, y)
    patterns = {}
    for layer in range(question.candidates.shape[0]):
        patterns[layer] = full_pattern(model, question, x, layer)
    rng = np.random.default_rng(1)
    for group in rng.choice(len(question.groups), 2, replace=False):
        mask, total = question.groups.index == group, torch.zeros(2, dtype=torch.float64)
        for layer, head, dest in np.argwhere(mask.any(-1)):
            step = torch.zeros(mask.shape, dtype=torch.float64)
            step[layer, head, dest][torch.from_numpy(mask[layer, head, dest])] = 1e-4
            low, high = (margin_of(model, x, y, gate_edges(model, 1 - k * step)) for k in (2, 1))
            slope = (3 * now - 4 * high + low) / 2e-4  # one-sided, because gates end at 1
            mass = patterns[layer][:, head, dest, mask[layer, head, dest]].sum(-1)
            total += slope.detach() / (1 - mass)
        np.testing.assert_allclose(predicted.trial_scores[:, group], total.numpy(), atol=1e-4)


def full_pattern(model, question, x, layer):
    """The attention weights of a layer at all positions, from the cache."""
    _, cache = model.run_with_cache(x)
    if not question.layout.stages:
        return cache[f"blocks.{layer}.attn.hook_pattern"]
    full = torch.zeros(len(x), *question.candidates.shape[1:], dtype=torch.float64)
    for stage in question.layout.stages:
        if layer in stage.layers:
            own = slice(stage.positions.start, stage.positions.stop)
            name = f"stages.{stage.name}.blocks.{layer - stage.layers.start}.attn.hook_pattern"
            full[:, :, own, own] = cache[name]
    return full


def test_it_misses_an_edge_that_another_route_replaces():
    """What `cannot_see` says: in the variant "backup" the true edges are cut without effect."""
    task = compiled_encoder("backup", seed=0, tier="clean", n_trials=8)
    found = attribute(task.model, task.x, task.y, method="first_order", by="head")
    both = attribute(task.model, task.x, task.y, method="cut", by={"both routes": task.truth})
    true = found.question.groups.index[task.truth.mask(task.layout, 3, 4).numpy()]
    assert np.abs(found.table["score"].to_numpy()[true]).max() < 1e-3 < 1 < both.table["score"][0]
    assert "another route" in FirstOrder.cannot_see


def test_an_edge_that_the_readout_cannot_reach_has_no_row():
    model = isonet()
    x, y = trials(model)
    dead = every().at(layers=[1]) - flow("emg", "cls") - flow("acc", "cls") - flow("cls", "cls")
    found = attribute(model, x, y, method="first_order", by="head")
    listed = found.top(len(found.table)).mask(model.layout, 2, 2)
    assert not (listed & dead.mask(model.layout, 2, 2)).any() and listed[1].any()
