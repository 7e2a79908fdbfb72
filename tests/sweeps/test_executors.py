"""The executors and the naive loop give the same logits, over random layouts, edges, readouts, norms."""

from unittest.mock import patch

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

from emg_lens.hooks import EdgeError, cross_modal, every, flow, positions, same_channel, self_edges, unimodal
from emg_lens.lens.config import EncoderConfig
from emg_lens.models.encoder import HookedBiosignalEncoder
from emg_lens.models.isonet import IsoNet, IsoNetConfig
from emg_lens.sweeps.conditions import Condition, head_masks, layer_masks
from emg_lens.sweeps.engine import sweep
from emg_lens.sweeps.executors import folded_attention, folded_block
from emg_lens.sweeps.plan import plan_sweep
from emg_lens.sweeps.result import SweepError
from emg_lens.sweeps.target import target_of

EDGES = {"unimodal": unimodal(), "cross_modal": cross_modal()}
LEAVES = [
    unimodal(), cross_modal(), unimodal("emg"), flow("acc", "emg"), self_edges(), every(), positions(dest=[1, -1]),
]  # fmt: skip


@st.composite
def edge_sets(draw, n_layers: int, n_heads: int):
    edges = draw(st.sampled_from(LEAVES))
    for _ in range(draw(st.integers(0, 2))):
        other = draw(st.sampled_from(LEAVES))
        edges = draw(st.sampled_from([edges | other, edges - other, ~edges | other]))
    layers = draw(st.lists(st.integers(0, n_layers - 1), min_size=1, unique=True))
    heads = draw(st.lists(st.integers(0, n_heads - 1), min_size=1, unique=True))
    return (edges | positions(src=[0]) if draw(st.booleans()) else edges).at(layers, heads)


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_the_tree_equals_the_loop(data):
    draw = data.draw
    n_layers, n_heads = draw(st.integers(1, 4)), draw(st.sampled_from([1, 2, 4]))
    cls = draw(st.booleans())
    torch.manual_seed(draw(st.integers(0, 99)))
    config = EncoderConfig(
        {"emg": draw(st.integers(1, 3)), "acc": draw(st.integers(1, 2))},
        n_samples=6,
        n_classes=4,
        d_model=16,
        n_heads=n_heads,
        n_layers=n_layers,
        d_mlp=8,
        cls_token=cls,
        readout=draw(st.sampled_from(["cls", "mean"])) if cls else "mean",
        norm=draw(st.sampled_from(["pre", "post"])),
        positions=draw(st.sampled_from(["learned", "rotary", "sinusoidal"])),
        patch_samples=draw(st.sampled_from([None, 3])),
        masked_edges=draw(st.sampled_from(["", "flow('acc', 'emg')", "flow('acc', 'emg').at(layers=0)"])),
    )
    model = HookedBiosignalEncoder(config).eval().double()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p))
    x = model.example_input(3).double()
    conditions = [Condition(str(i), draw(edge_sets(n_layers, n_heads))) for i in range(draw(st.integers(1, 6)))]
    try:
        expected = sweep(model, x, conditions, executor="loop")
    except EdgeError:  # an edge set that is empty for this layout
        return
    for executor in ("tree",):
        with patch.multiple(
            folded_attention, HEAD_BY_HEAD=draw(st.sampled_from([1, 2**15])), LONG=draw(st.sampled_from([1, 384]))
        ):
            result = sweep(model, x, conditions, executor=executor, batch_size=draw(st.sampled_from([None, 2])))
        for name, logits in expected.logits.items():
            assert (result.logits[name] - logits).abs().max() < 1e-10, (executor, name)
        assert result.audit.drop(columns=["max_abs_delta_logit", "equivalence_error"]).equals(
            expected.audit.drop(columns=["max_abs_delta_logit", "equivalence_error"])
        )


@pytest.fixture(scope="module")
def isonet() -> IsoNet:
    torch.manual_seed(0)
    return IsoNet(IsoNetConfig({"emg": 4, "acc": 3}, 10, 6, d_model=32, n_heads=4, n_layers=5, d_mlp=16)).eval()


@pytest.mark.parametrize("executor", ["tree"])
def test_the_six_identities_hold_to_the_bit(isonet, executor):
    logits = sweep(isonet, isonet.example_input(8), layer_masks(EDGES, 5), executor=executor).logits
    for kind in EDGES:
        assert torch.equal(logits[f"{kind}/individual/L5"], logits["baseline"])
        assert torch.equal(logits[f"{kind}/from_beginning/L5"], logits[f"{kind}/from_beginning/L4"])
        assert torch.equal(logits[f"{kind}/from_end/L4"], logits[f"{kind}/individual/L4"])
        assert torch.equal(logits[f"{kind}/from_beginning/L1"], logits[f"{kind}/individual/L1"])
        assert torch.equal(logits[f"{kind}/from_end/L5"], logits[f"{kind}/individual/L5"])
        assert torch.equal(logits[f"{kind}/from_end/L1"], logits[f"{kind}/from_beginning/L5"])


def test_the_plan_of_table_3_has_19_leaves_and_shares_prefixes(isonet):
    from emg_lens.sweeps.conditions import with_baseline

    planned = plan_sweep(target_of(isonet), with_baseline(layer_masks(EDGES, 5)))
    assert len(planned.distinct) == 19
    assert planned.n_nodes == (3, 7, 13, 19, 19)


def test_heads_and_layers_in_one_call(isonet):
    conditions = layer_masks(EDGES, 5) + head_masks(EDGES, 5, 4)
    x = isonet.example_input(5)
    tree, loop = (sweep(isonet, x, conditions, executor=e) for e in ("tree", "loop"))
    assert max((tree.logits[n] - loop.logits[n]).abs().max() for n in loop.logits) < 1e-5


def test_rows_with_every_edge_cut_give_zero_attention_in_every_executor(isonet):
    conditions = [Condition("everything", every()), Condition("cls", positions(dest=["cls"]))]
    x = isonet.example_input(3)
    results = [sweep(isonet, x, conditions, executor=e).logits for e in ("loop", "tree")]
    for name in ("everything", "cls"):
        assert all(r[name].isfinite().all() for r in results)
        assert max((r[name] - results[0][name]).abs().max() for r in results) < 1e-5


def test_edges_masked_in_one_layer_are_still_cut_in_another():
    torch.manual_seed(0)
    permanent_mask = "flow('acc', 'emg').at(layers=0)"
    config = IsoNetConfig({"emg": 2, "acc": 2}, 6, 3, 16, 2, 3, 8, masked_edges=permanent_mask)
    model = IsoNet(config).eval()
    conditions = [Condition("both", flow("acc", "emg")), Condition("emg", flow("emg", "emg"))]
    x = model.example_input(4)
    loop, tree = (sweep(model, x, conditions, executor=e).logits for e in ("loop", "tree"))
    assert max((loop[n] - tree[n]).abs().max() for n in loop) < 1e-5


def test_auto_says_which_executor_ran_and_takes_the_loop_with_a_users_hook(isonet):
    assert sweep(isonet, isonet.example_input(100), layer_masks(EDGES, 5)).executor == "folded"
    x = isonet.example_input(3)
    assert sweep(isonet, x, layer_masks(EDGES, 5)).executor == "folded"
    seen = []
    with isonet.hooks(fwd_hooks=[("blocks.1.hook_resid_pre", lambda t, hook: seen.append(1))]):
        assert sweep(isonet, x, layer_masks(EDGES, 5)[:2]).executor == "loop"
        with pytest.raises(ValueError, match="it has hooks of its own; use 'loop'"):
            sweep(isonet, x, layer_masks(EDGES, 5)[:2], executor="tree")
    assert len(seen) == 4  # three conditions, and the baseline once more


def test_an_unknown_executor_lists_the_known(isonet):
    with pytest.raises(ValueError, match="expected 'auto', 'loop' or 'tree'"):
        sweep(isonet, isonet.example_input(), [], executor="three")


@pytest.mark.parametrize("executor", ["auto", "loop", "tree"])
def test_no_trials_are_refused(isonet, executor):
    with pytest.raises(ValueError, match=r"no trials to run: x is \[0, "):
        sweep(isonet, isonet.example_input(0), [], executor=executor)


def test_a_condition_that_raises_does_not_lose_the_others(isonet):
    calls = []

    def fail_in_the_third_forward(tensor, hook):
        calls.append(1)
        if len(calls) == 3:
            raise MemoryError("no room")

    with (
        isonet.hooks(fwd_hooks=[("blocks.0.hook_resid_pre", fail_in_the_third_forward)]),
        pytest.raises(SweepError, match="1 of 5 conditions failed, the first is .*MemoryError: no room") as error,
    ):
        sweep(isonet, isonet.example_input(2), layer_masks(EDGES, 5)[:4])
    assert len(error.value.result.logits) == 4
    assert len(error.value.errors) == 1


def test_progress_ends_at_one(isonet):
    for executor in ("loop", "tree"):
        seen = []
        sweep(isonet, isonet.example_input(5), layer_masks(EDGES, 5), executor=executor, batch_size=2,
              on_progress=seen.append)  # fmt: skip
        assert seen == sorted(seen) and seen[-1] == pytest.approx(1)


@pytest.mark.parametrize("also", [None, self_edges()])
def test_positions_that_are_cut_apart_are_computed_apart(also):
    config = EncoderConfig({"emg": 3}, 12, 4, patch_samples=3, d_model=16, n_heads=2, n_layers=2, d_mlp=8, norm="pre",
                           cls_token=False, readout="mean", positions="rotary", rotary_adjacent_pairs=True)  # fmt: skip
    model = HookedBiosignalEncoder(config).eval()
    edges = every() - same_channel()
    conditions = [Condition("apart", edges if also is None else edges | also)]
    found = sweep(model, x := model.example_input(3), conditions, executor="tree").logits["apart"]
    mask = conditions[0].edges.mask(model.layout, 2, 2)[0, 0]
    assert folded_block._stretches_apart(~mask) == 3 and folded_block._stretches_apart(mask) == 1
    torch.testing.assert_close(found, sweep(model, x, conditions, executor="loop").logits["apart"])
