"""Random cuts match a cut: as many live edges in the same layers and heads; a seed gives the same sets again."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from emg_lens import Condition, IsoNet, IsoNetConfig, Replace, cross_modal, every, flow, layer_masks, sweep, unimodal
from emg_lens.analysis import random_edges, superset_ablations, with_cls_path_closed
from emg_lens.errors import EmgLensError
from emg_lens.hooks import EdgeError, edges_from_mask
from emg_lens.sweeps import reach
from emg_lens.sweeps.plan import plan_sweep
from emg_lens.sweeps.target import target_of

SEVERED = "flow('acc', 'emg').at(layers=[0, 2])"


def isonet(**settings):
    sizes = {"n_samples": 8, "n_classes": 3, "d_model": 16, "n_heads": 2, "n_layers": 3, "d_mlp": 16}
    return IsoNet(IsoNetConfig(modalities={"emg": 3, "acc": 2}, **sizes, **settings)).eval()


def live(model, edges):
    """The live part of a cut, by the rule of the public audit."""
    target = target_of(model)
    return reach(edges.mask(model.layout, 3, 2), target.readout, target.permanent_mask).live_cut.numpy()


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), permanent_mask=st.sampled_from(["", SEVERED]))
def test_random_sets_have_as_many_live_edges_in_every_layer_and_head(seed, permanent_mask):
    model = isonet(masked_edges=permanent_mask)
    mask = np.random.default_rng(seed).random((3, 2, 6, 6)) < 0.4
    cut = live(model, edges_from_mask(mask))
    there = np.ones((3, 2, 6, 6), bool)
    there[2, :, 1:] = False  # in the last layer CLS alone is read
    if permanent_mask:
        there &= ~flow("acc", "emg").at(layers=[0, 2]).mask(model.layout, 3, 2).numpy()
    for edges in random_edges(model, edges_from_mask(mask), n=3, seed=seed):
        drawn = edges.mask(model.layout, 3, 2).numpy()
        np.testing.assert_array_equal(drawn.sum((2, 3)), cut.sum((2, 3)))
        np.testing.assert_array_equal(drawn[:, :, 0].sum(-1), cut[:, :, 0].sum(-1), "as many that CLS reads")
        np.testing.assert_array_equal(drawn[:, :, 1:, 0].sum(-1), cut[:, :, 1:, 0].sum(-1), "as many that read CLS")
        own = np.arange(1, 6)
        np.testing.assert_array_equal(drawn[:, :, own, own].sum(-1), cut[:, :, own, own].sum(-1), "as many self-edges")
        assert not (drawn & ~there).any()


def test_a_cut_of_all_heads_is_matched_by_sets_of_all_heads_that_differ():
    model = isonet()
    first, second = (e.mask(model.layout, 3, 2).numpy() for e in random_edges(model, cross_modal(), n=2))
    assert (first == first[:, :1]).all() and (second == second[:, :1]).all()
    assert (first != second).any()
    again = random_edges(model, cross_modal(), n=2)
    assert again == random_edges(model, cross_modal(), n=2) != random_edges(model, cross_modal(), n=2, seed=1)


def test_random_sets_of_nested_cuts_share_their_first_layers():
    model = isonet()
    one, two = (random_edges(model, cross_modal().at(layers=layers), n=1)[0] for layers in ([0], [0, 1]))
    np.testing.assert_array_equal(one.mask(model.layout, 3, 2)[0], two.mask(model.layout, 3, 2)[0])


def test_random_sets_differ_from_each_other_and_from_the_cut():
    model = isonet()
    cut = flow("emg.0", "cls").at(layers=2)  # of the last layer CLS's row alone is read, 6 edges
    drawn = random_edges(model, cut, n=20)
    masks = {edges.mask(model.layout, 3, 2).numpy().tobytes() for edges in drawn}
    assert len(drawn) == len(masks) == 5 and cut.mask(model.layout, 3, 2).numpy().tobytes() not in masks
    two = flow("emg.0", "cls").at(layers=2, heads=0) | flow("acc.1", "cls").at(layers=2, heads=1)
    assert len(random_edges(model, two, n=40)) == 35  # 6 edges of each head
    assert random_edges(model, two, n=3) == random_edges(model, two, n=40)[:3]
    assert not random_edges(model, two, n=0)


def test_a_cut_without_another_set_of_its_size_is_refused():
    with pytest.raises(EdgeError, match="cuts no live edge"):
        random_edges(isonet(), unimodal().at(layers=2))
    with pytest.raises(EdgeError, match="no random set of this size exists"):
        random_edges(isonet(), every().at(layers=0))


def test_supersets_contain_all_live_edges_and_more():
    model = isonet()
    conditions = [
        *layer_masks({"uni": unimodal(), "cross": cross_modal()}, 3, ["individual", "from_end"]),
        Condition("both", unimodal() | cross_modal()),
        Condition("zeroed", Replace("acc")),
        Condition("zeroed and both", (Replace("acc"), unimodal() | cross_modal())),
        Condition("zeroed and uni", (Replace("acc"), unimodal())),
    ]
    found = {(row.condition, row.superset) for row in superset_ablations(model, conditions).itertuples()}
    cuts = {c.name: (c.input_changes, live(model, c.edges)) for c in conditions}
    expected = {
        (a, b)
        for a, (changes, mine) in cuts.items()
        for b, (others, theirs) in cuts.items()
        if changes == others and mine.any() and (mine <= theirs).all() and (mine < theirs).any()
    }
    assert found == expected
    assert ("uni/individual/L2", "both") in found and ("zeroed and uni", "zeroed and both") in found
    assert not {pair for pair in found if "L3" in pair[0] and "individual" in pair[0]}, "nulls are in every cut"


def test_the_path_through_cls_is_closed():
    model = isonet()
    mask = with_cls_path_closed(cross_modal()).mask(model.layout, 3, 2)
    expected = (cross_modal() | flow("cls", "emg") | flow("cls", "acc")).mask(model.layout, 3, 2)
    assert mask.equal(expected) and not mask[:, :, 0].any(), "what CLS reads stays"


def test_controls_run_in_the_same_sweep_and_share_its_computations():
    torch.manual_seed(0)
    model = isonet()
    x = model.example_input(6)
    masks = layer_masks({"cross": cross_modal()}, 3, ["individual", "from_beginning"])
    draws = [
        Condition(f"{c.name} {i}", edges)
        for c in masks[:2]
        for i, edges in enumerate(random_edges(model, c.edges, n=4))
    ]
    result, loop = (sweep(model, x, [*masks, *draws], executor=e) for e in ("tree", "loop"))
    for name, logits in loop.logits.items():
        assert torch.allclose(result.logits[name], logits, atol=1e-5)
    assert plan_sweep(target_of(model), [*masks, *draws]).n_nodes[0] == 1 + 4 + 1


@pytest.mark.parametrize(
    "make",
    [
        lambda m: random_edges(m, "cross_modal()"),
        lambda m: random_edges(m, None),
        lambda m: random_edges(None, cross_modal()),
        lambda m: random_edges(m, cross_modal(), n=-1),
        lambda m: random_edges(m, cross_modal(), n=2.5),
        lambda m: random_edges(m, cross_modal(), n=True),
        lambda m: random_edges(m, cross_modal(), n=10**9),
        lambda m: random_edges(m, cross_modal(), seed=-1),
        lambda m: random_edges(m, cross_modal(), seed=1.5),
        lambda m: random_edges(m, cross_modal(), layout=3),
        lambda m: random_edges(m, cross_modal(), heads="all"),
        lambda m: superset_ablations(m, [cross_modal()]),
        lambda m: superset_ablations(m, cross_modal()),
        lambda m: superset_ablations(m, [Condition("a", cross_modal()), Condition("a", unimodal())]),
        lambda m: superset_ablations(m, None),
        lambda m: with_cls_path_closed("cross_modal()"),
    ],
)
def test_invalid_arguments_are_refused_in_one_line(make):
    with pytest.raises(EmgLensError) as error:
        make(IsoNet(IsoNetConfig({"emg": 2, "acc": 2}, 4, 2, d_model=8, n_heads=2, n_layers=2, d_mlp=8)))
    assert len(str(error.value)) < 400
