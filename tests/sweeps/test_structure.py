"""Every reason for which a model may not be run from its parts, and that whatever runs gives what the model gives."""

from contextlib import contextmanager

import pytest
import torch
from torch import nn

from emg_lens.errors import EmgLensError
from emg_lens.hooks import EdgeCut, EdgeError, cross_modal, flow, unimodal
from emg_lens.hooks.verification.probe import find_intervention_point
from emg_lens.lens.config import EncoderConfig
from emg_lens.models.attention import Attention
from emg_lens.models.components import Block, LayerNorm
from emg_lens.models.encoder import HookedBiosignalEncoder
from emg_lens.models.isonet import IsoNet, IsoNetConfig
from emg_lens.sweeps import BaselineError, Condition, SweepInputError, audit, layer_masks, reach, sweep
from emg_lens.sweeps.executors.folded_tree import FoldedTree
from emg_lens.sweeps.structure import reason_not_to_fold

LAYERS = 3
EDGES = {"unimodal": unimodal(), "cross_modal": cross_modal()}
CONDITIONS = [*layer_masks(EDGES, LAYERS), Condition("last", flow("emg", "acc").at(layers=LAYERS - 1))]


def randomised(model: HookedBiosignalEncoder) -> HookedBiosignalEncoder:
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.3 * torch.randn(p.shape))
    return model.eval()


def build(kind: type = IsoNet, norm: str = "post") -> IsoNet:
    torch.manual_seed(0)
    config = IsoNetConfig({"emg": 3, "acc": 2}, 10, 6, d_model=16, n_heads=2, n_layers=LAYERS, d_mlp=8, norm=norm)
    return randomised(kind(config))  # pyright: ignore


class TanhBlock(Block):
    """A block whose arithmetic is its own."""

    def forward(self, resid, n_dest=None):
        return super().forward(resid, n_dest).tanh()


class MixingBlock(Block):
    """Everything, CLS included, reads the mean of all positions: no edge of attention is needed for that."""

    def forward(self, resid, n_dest=None):
        return super().forward(resid, n_dest) + resid.mean(1, keepdim=True)


class InPlaceBlock(Block):
    """Writes into its input."""

    def forward(self, resid, n_dest=None):
        return super().forward(resid.mul_(1.5), n_dest)


class SharpAttention(Attention):
    """Writes into the queries it made."""

    def mix(self, q, k, v):
        return super().mix(q.mul_(3.0), k, v)


class OtherHead(IsoNet):
    """Reads all positions."""

    def head(self, resid, return_type="logits"):
        return self.unembed(resid.mean(1))


class OtherForward(IsoNet):
    """Runs its blocks backwards."""

    def forward(self, input, return_type="logits", **_):
        resid = self.residual_in(input)
        for block in reversed(self.blocks):
            resid = block(resid)
        return self.head(resid, return_type)


class Renamed(IsoNet):
    """The same model under another name."""


class OwnPool(IsoNet):
    """Reads what the base class reads, but does not declare it."""

    def pool(self, resid):
        return super().pool(resid)


def with_block(kind, layer=1):
    model = build()
    block = kind(model.cfg, layer)
    block.load_state_dict(model.blocks[layer].state_dict())
    model.blocks[layer] = block
    model.setup()
    return model.eval()


def with_attention(kind):
    model = build()
    attention = kind(model.cfg)
    attention.load_state_dict(model.blocks[1].attn.state_dict())
    model.blocks[1].attn = attention
    model.setup()
    return model.eval()


def with_norm():
    model = build()
    model.ln_final = nn.LayerNorm(16)
    return model


def with_act():
    model = build()
    inner = model.blocks[1].mlp.forward
    model.blocks[1].mlp.forward = lambda x: inner(x) * 2
    return model


def with_own_mix():
    model = build()
    inner = model.blocks[0].attn.mix
    model.blocks[0].attn.mix = lambda q, k, v: inner(q, k, v).tanh()
    return model


def with_fewer_blocks():
    model = build()
    model.blocks = model.blocks[:2]
    model.cfg.n_layers = 2
    model.setup()
    model.blocks.append(Block(model.cfg, 2))
    model.setup()
    return model.eval()


def with_block_twice():
    model = build()
    model.blocks[2] = model.blocks[0]
    return model


PARTS = {
    "a block": (lambda: with_block(TanhBlock), "block 1: TanhBlock overrides forward"),
    "a block that mixes": (lambda: with_block(MixingBlock), "block 1: MixingBlock overrides forward"),
    "a last block that mixes": (lambda: with_block(MixingBlock, 2), "block 2: MixingBlock overrides forward"),
    "a block that writes into its input": (lambda: with_block(InPlaceBlock), "block 1: InPlaceBlock overrides forward"),
    "an attention": (lambda: with_attention(SharpAttention), "block 1.attn: SharpAttention overrides mix"),
    "a final norm": (with_norm, "ln_final: LayerNorm does not declare mixes_only_by_attention"),
    "a forward on the object": (with_act, "block 1.mlp: forward was replaced"),
    "a method on the object": (with_own_mix, "block 0.attn: mix was replaced"),
    "a class": (lambda: build(OwnPool), "OwnPool overrides pool"),
    "a head": (lambda: build(OtherHead), "OtherHead overrides head"),
    "pre-LN": (lambda: build(OwnPool, "pre"), "OwnPool overrides pool"),
}


@torch.no_grad()
def assert_right(model, result, x):
    """Against forwards with plain hooks, and against the audit's own promises."""
    expected = sweep(model, x, result.conditions[1:], executor="loop").logits
    assert torch.allclose(result.logits["baseline"], model(x), atol=1e-5)
    for name, logits in expected.items():
        assert (result.logits[name] - logits).abs().max() < 1e-5, name
    table = result.audit
    assert (table[table.structural_null].max_abs_delta_logit < 1e-5).all()
    assert (table.equivalence_error < 1e-5).all()


@pytest.mark.parametrize("what", PARTS)
def test_another_part_takes_the_plain_tree(what):
    make, message = PARTS[what]
    model = make()
    x = 3 * model.example_input(6)
    assert message in str(reason_not_to_fold(model))
    conditions = layer_masks(EDGES, model.cfg.n_layers)
    result = sweep(model, x, conditions, executor="tree", batch_size=4)
    assert result.executor == "tree"
    assert_right(model, result, x)
    assert not result.audit.structural_null[1:].any()
    assert not any(p.fwd_hooks for p in model.hook_points())
    assert not any("project" in vars(block.attn) for block in model.blocks)


def test_a_block_that_is_used_twice_is_no_known_model():
    assert "2 different blocks" in str(reason_not_to_fold(with_block_twice()))


def test_a_model_with_another_number_of_blocks_is_no_known_model():
    model = with_fewer_blocks()
    assert "3 different blocks and cfg.n_layers=2" in str(reason_not_to_fold(model))
    x = model.example_input(4)
    assert torch.allclose(sweep(model, x, []).logits["baseline"], model(x), atol=1e-6)


def test_the_tanh_block_of_old_is_what_the_model_gives():
    """The folded tree's copy of the arithmetic was off by more than one, without a word."""
    torch.manual_seed(0)
    model, x = with_block(TanhBlock), 3 * build().example_input(6)
    result = sweep(model, x, CONDITIONS)
    assert (result.logits["baseline"] - model(x)).abs().max() < 1e-5
    plain = FoldedTree(build())  # what the copy would have given
    assert (plain.model(x) - model(x)).abs().max() > 0.1


@contextmanager
def torch_hook(place, kind):
    nothing = {"forward": lambda m, a, o: None, "forward_pre": lambda m, a: None}
    nothing |= {"full_backward": lambda m, i, o: None, "full_backward_pre": lambda m, o: None}
    handle = getattr(place, f"register_{kind}_hook")(nothing[kind])
    yield
    handle.remove()


HOOKS = {
    f"{kind} on {where}": (kind, where)
    for kind in ("forward", "forward_pre", "full_backward", "full_backward_pre")
    for where in ("model", "block", "norm", "point")
}


@pytest.mark.parametrize("what", HOOKS)
def test_any_hook_takes_the_loop(what):
    kind, where = HOOKS[what]
    model = build()
    places = {"model": model, "block": model.blocks[0], "norm": model.blocks[1].ln2, "point": model.hook_embed}
    with torch_hook(places[where], kind):
        assert reason_not_to_fold(model) == "it has hooks of its own"
        result = sweep(model, model.example_input(3), CONDITIONS[:2])
        assert result.executor == "loop"
        with pytest.raises(SweepInputError, match="it has hooks of its own; use 'loop'"):
            sweep(model, model.example_input(3), CONDITIONS[:2], executor="tree")
    assert reason_not_to_fold(model) is None


@pytest.mark.parametrize("kind", ["forward_hook", "forward_pre_hook", "full_backward_hook", "full_backward_pre_hook"])
def test_a_hook_on_all_modules_takes_the_loop(kind):
    model = build()
    handle = getattr(nn.modules.module, f"register_module_{kind}")(lambda *_: None)
    try:
        assert reason_not_to_fold(model) == "it has hooks of its own"
    finally:
        handle.remove()
    assert reason_not_to_fold(model) is None


def test_a_transformerlens_hook_takes_the_loop():
    model = build()
    with model.hooks(fwd_hooks=[("blocks.2.hook_resid_post", lambda t, hook: None)]):
        assert sweep(model, model.example_input(3), CONDITIONS[:2]).executor == "loop"


def test_a_forward_of_its_own_takes_the_loop():
    model = build(OtherForward)
    x = model.example_input(5)
    result = sweep(model, x, CONDITIONS)
    assert result.executor == "loop"
    assert_right(model, result, x)
    with pytest.raises(
        SweepInputError, match="OtherForward overrides forward and does not declare runs_blocks_in_order anew"
    ):
        sweep(model, x, CONDITIONS, executor="tree")


def test_a_hook_that_mixes_positions_makes_no_live_cut_a_structural_null():
    model = build()
    x = 3 * model.example_input(6)
    mix = ("blocks.2.hook_normalized_resid_post", lambda t, hook: t + t.mean(1, keepdim=True))
    with model.hooks(fwd_hooks=[mix]):
        result = sweep(model, x, CONDITIONS)
        table = result.audit.set_index("condition")
        assert table.loc["last", "max_abs_delta_logit"] > 0.01
        assert not table.structural_null.drop("baseline").any()
        assert (table.equivalence_error < 1e-5).all()
        assert not audit(model, CONDITIONS).structural_null.any()
    assert audit(model, CONDITIONS).set_index("condition").structural_null["last"]


def test_a_model_under_another_name_is_folded():
    model = build(Renamed)
    assert sweep(model, model.example_input(40), CONDITIONS).executor == "folded"


def test_masked_edges_are_those_of_the_blocks():
    model = build()
    model.blocks[0].attn.permanent_mask = flow("acc", "emg").mask(model.layout, 1, 2)[0].clone()
    only = [Condition("acc", flow("acc", "emg").at(layers=0)), Condition("all", flow("acc", "emg"))]
    with pytest.raises(EdgeError, match=r"\['acc'\] cut only edges that this IsoNet never had"):
        sweep(model, model.example_input(3), only)
    assert_right(model, sweep(model, model.example_input(3), only[1:], executor="tree"), model.example_input(3))


def test_an_executor_that_gives_something_else_is_named(monkeypatch):
    model, x = build(), build().example_input(40)
    head = FoldedTree.run

    def off(self, root, x, keep, done=frozenset()):
        head(self, root, x, lambda found: keep({row: out + 0.01 * out.abs().max() for row, out in found.items()}), done)

    monkeypatch.setattr(FoldedTree, "run", off)
    with pytest.raises(
        BaselineError, match="executor 'folded' gives a baseline that differs from IsoNet.* use executor"
    ) as e:
        sweep(model, x, CONDITIONS, executor="tree")
    assert "\n" not in str(e.value)


def test_a_loop_whose_batches_matter_is_named_and_one_batch_is_not():
    model = build()
    x = model.example_input(12)
    with model.hooks(fwd_hooks=[("hook_embed", lambda t, hook: t - t.mean(0, keepdim=True))]):
        with pytest.raises(BaselineError, match="depends? on the other trials of"):
            sweep(model, x, CONDITIONS[:2], batch_size=4)
        whole = sweep(model, x, CONDITIONS[:2], batch_size=12)
        assert torch.allclose(whole.logits["baseline"], model(x), atol=1e-6)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_refused(value):
    model = build()
    x = model.example_input(5)
    x[3, 0, 0] = value
    with pytest.raises(SweepInputError, match="x has NaN or infinite values in 1 of 5 trials, the first is trial 3"):
        sweep(model, x, [])
    with pytest.raises(EmgLensError, match="x=ndarray of float32, .*; expected a torch tensor"):
        sweep(model, x.numpy(), [])
    with pytest.raises(SweepInputError, match="reference has NaN"):
        sweep(model, model.example_input(2), [], reference=x)


def test_a_model_is_fully_live_where_it_is_not_known():
    model = build(OwnPool)
    mask = unimodal().mask(model.layout, LAYERS, 2)
    found = audit(model, unimodal()).iloc[0]
    assert found.live_edges_cut == found.edges_cut == int(mask.sum())
    assert found.live_edges_cut > int(reach(mask, torch.tensor([0])).live_cut.sum())


def test_the_plain_tree_shares_prefixes_and_projections():
    model = build(Renamed)
    calls = {"block": 0, "project": 0}

    class Counted(Attention):
        def project(self, *inputs):
            calls["project"] += 1
            return super().project(*inputs)

        def forward(self, *inputs):
            calls["block"] += 1
            return super().forward(*inputs)

    for block in model.blocks:
        block.attn.__class__ = Counted
    find_intervention_point(model, model.layout)
    calls |= {"block": 0, "project": 0}
    find_intervention_point(model, model.layout)  # once a model, by some forwards of its own
    calls.update(block=0, project=0)
    x, one_cut = model.example_input(20), [Condition("late", unimodal().at(layers=2))]
    sweep(model, x, one_cut, batch_size=20)
    checked = LAYERS  # the baseline once more
    assert calls["block"] - checked == 4  # two blocks, and two leaves of the third
    assert calls["project"] - checked == 3


def test_a_norm_of_torch_in_a_block_is_not_folded():
    torch.manual_seed(0)
    model = HookedBiosignalEncoder(EncoderConfig({"emg": 2, "acc": 2}, 6, 3, 8, 2, 2, 8)).eval()
    assert reason_not_to_fold(model) is None
    model.blocks[0].ln1 = nn.Identity()
    assert "block 0.ln1: Identity does not declare" in str(reason_not_to_fold(model))
    assert isinstance(model.blocks[1].ln1, LayerNorm)
    assert sweep(model, model.example_input(3), []).executor == "tree"


def test_edges_that_the_model_was_built_without_are_named_as_what_they_are():
    sizes = {"d_model": 8, "n_heads": 2, "n_layers": 2, "d_mlp": 8, "masked_edges": "cross_modal()"}
    model = IsoNet(IsoNetConfig({"emg": 2, "acc": 1}, 10, 3, **sizes)).eval()
    for cuts in (cross_modal(), (EdgeCut(unimodal()), EdgeCut(cross_modal().at(layers=1)))):
        with pytest.raises(EdgeError, match=r"\['x'\] cut only edges that this IsoNet never had") as error:
            sweep(model, model.example_input(2), [Condition("x", cuts)])
        assert "\n" not in str(error.value)
    with pytest.raises(EdgeError, match=r"\['x'\] cut no edge of this model"):
        sweep(model, model.example_input(2), [Condition("x", unimodal() & cross_modal())])
    assert sweep(model, model.example_input(2), [Condition("x", cross_modal() | unimodal())]).audit["edges_cut"][1]
