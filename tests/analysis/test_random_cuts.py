"""A random cut removes, under itself, as many live edges of each kind in every layer and head as the cut it matches."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from emg_lens import IsoNet, IsoNetConfig, build_model, cross_modal, flow, unimodal
from emg_lens.analysis import random_edges
from emg_lens.hooks import EdgeError, edges_from_mask
from emg_lens.sweeps import reach
from emg_lens.sweeps.target import target_of

SIZES = {"n_samples": 8, "n_classes": 3, "d_model": 8, "n_heads": 2, "d_mlp": 8}
TWO = {"emg": 3, "acc": 2}
MODELS = {
    "cls": build_model("isonet", modalities=TWO, n_layers=3, **SIZES),
    "mean": build_model("isonet", modalities=TWO, n_layers=2, readout="mean", **SIZES),
    "missing edges": build_model("isonet", modalities=TWO, n_layers=3, masked_edges="flow('acc', 'emg')", **SIZES),
    "patches": build_model("isonet", modalities={"emg": 2}, n_layers=2, patch_samples=4, **SIZES),
    "stages": build_model("hierarchical", modalities=TWO, n_layers=4, n_fusion_layers=2, patch_samples=8, **SIZES),
    "no fusion": build_model("multimodal-transformer", modalities=TWO, n_layers=2, patch_samples=8, **SIZES),
}


def live(model, edges):
    """The edges that a cut removes and that are live under it."""
    target = target_of(model)
    mask = edges.mask(target.layout, target.n_layers, target.n_heads)
    return reach(mask, target.readout, target.permanent_mask).live_cut.numpy()


def counts(model, cut):
    """The number of edges of each kind, in every layer and head."""
    is_cls, n = np.array([group == "cls" for group in model.layout.group]), len(model.layout)
    into, itself = np.broadcast_to(is_cls[:, None], (n, n)), np.eye(n, dtype=bool)
    kinds = [into, is_cls[None] & ~into, itself & ~into, ~into & ~is_cls[None] & ~itself]
    return np.stack([(cut & kind).sum((2, 3)) for kind in kinds])


@settings(max_examples=80, deadline=None)
@given(
    name=st.sampled_from(sorted(MODELS)),
    fraction=st.floats(0.02, 0.9),
    layers=st.lists(st.integers(0, 3), min_size=1, unique=True),
    same_heads=st.booleans(),
    seed=st.integers(0, 1000),
    heads=st.sampled_from(["own", "any"]),
)
def test_every_set_has_as_many_live_edges_under_itself(name, fraction, layers, same_heads, seed, heads):
    model = MODELS[name]
    layers = sorted({layer % model.cfg.n_layers for layer in layers})
    mask = np.random.default_rng(seed).random((model.cfg.n_layers, 2, len(model.layout), len(model.layout))) < fraction
    mask[:, 1] = mask[:, 0] if same_heads else mask[:, 1]
    edges = edges_from_mask(mask).at(layers=layers)
    try:
        sets = random_edges(model, edges, n=4, seed=seed, heads=heads)
    except EdgeError:
        return

    def counted(cut):
        of_heads = counts(model, np.broadcast_to(cut, mask.shape))
        return of_heads if heads == "own" else of_heads.sum(2)

    wanted = counted(live(model, edges))
    assert 0 < len(sets) <= 4 and len({*sets}) == len(sets)
    for one in sets:
        drawn = live(model, one)
        assert (drawn == one.mask(model.layout, model.cfg.n_layers, 2).numpy()).all(), "every edge of a set is live"
        np.testing.assert_array_equal(counted(drawn), wanted)


def test_the_edges_for_one_head_come_from_all_heads_of_its_layer_and_are_the_same_for_each_head():
    model = IsoNet(IsoNetConfig(modalities={"emg": 6, "acc": 3}, n_layers=3, **(SIZES | {"n_heads": 4})))
    of_heads = [random_edges(model, cross_modal().at(layers=1, heads=h), n=40, heads="any") for h in range(4)]
    assert all(one == of_heads[0] for one in of_heads)
    masks = np.array([one.mask(model.layout, 3, 4).numpy() for one in of_heads[0]])
    assert not masks[:, [0, 2]].any() and (masks.sum((1, 2, 3, 4)) == 2 * 6 * 3).all()
    by_head = masks[:, 1].sum((0, 2, 3))
    assert (abs(by_head - by_head.mean()) < 6 * np.sqrt(by_head.mean())).all(), "each head has a quarter of the edges"


def test_for_a_cut_of_all_heads_other_numbers_of_edges_in_each_head_match_too():
    model = MODELS["cls"]
    (one,) = random_edges(model, cross_modal().at(layers=0), n=1, heads="any")
    first, second = one.mask(model.layout, 3, 2)[0].numpy()
    assert first.sum() + second.sum() == 2 * 12 and (first != second).any()


def drawn_without_regard_to_other_layers(model, edges, number):
    """The set of a number, drawn from the edges that are live in the unmasked model."""
    target = target_of(model)
    shape = (target.n_layers, target.n_heads, len(target.layout), len(target.layout))
    pool = reach(torch.zeros(shape, dtype=torch.bool), target.readout).live_rows[:, None, :, None].expand(shape).numpy()
    cut, is_cls, itself = live(model, edges), np.arange(shape[-1]) == 0, np.eye(shape[-1], dtype=bool)
    into = np.broadcast_to(is_cls[:, None], shape[2:])
    kinds = [into, is_cls[None] & ~into, itself & ~into, ~into & ~is_cls[None] & ~itself]
    chosen = np.zeros(shape, bool)
    for layer in range(shape[0]):
        rng = np.random.default_rng([0, number, layer, 0])
        for kind in kinds if cut[layer].any() else ():
            order = rng.permutation(np.flatnonzero((pool & kind)[layer, 0]))
            np.put(chosen[layer, 0], order[: (cut & kind)[layer, 0].sum()], True)
        chosen[layer] = chosen[layer, 0]
    return chosen


@pytest.mark.parametrize("edges", [unimodal(), flow("emg", "cls"), unimodal() | flow("acc", "cls")])
def test_a_set_that_matches_is_drawn_layer_by_layer_and_only_others_are_repaired(edges):
    model = IsoNet(IsoNetConfig(modalities={"emg": 6, "acc": 3}, n_layers=3, **SIZES))
    wanted, kept = counts(model, live(model, edges)), 0
    for number, one in enumerate(random_edges(model, edges, n=10)):
        plain = drawn_without_regard_to_other_layers(model, edges, number)
        if (counts(model, live(model, edges_from_mask(plain))) == wanted).all():
            np.testing.assert_array_equal(one.mask(model.layout, 3, 2).numpy(), plain)
            kept += 1
    assert kept == 10 if edges != unimodal() | flow("acc", "cls") else kept < 10


def test_a_cut_that_only_itself_could_match_is_refused():
    model = MODELS["cls"]
    needs_every_token = flow("cls", "emg").at(layers=1) | flow("cls", "acc").at(layers=1)
    with pytest.raises(EdgeError, match="no random set of this size exists"):
        random_edges(model, needs_every_token | flow("cls", "cls").at(layers=2))
    assert len(random_edges(model, needs_every_token.at(layers=1) | unimodal().at(layers=0), n=3)) == 3
