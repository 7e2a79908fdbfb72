"""Encoders of other packages: what a subclass inherits from its base's declarations, and how it loses them."""

from dataclasses import dataclass

import pytest
import torch
from torch import nn

from emg_lens.analysis import forward_flops
from emg_lens.analysis.cost import model_costs
from emg_lens.hooks import EdgeError, cross_modal, flow, same_channel, unimodal
from emg_lens.lens.config import EncoderConfig
from emg_lens.models import (
    Architecture,
    HierarchicalConfig,
    HierarchicalTransformer,
    HookedBiosignalEncoder,
    IsoNet,
    IsoNetConfig,
    MultimodalTransformer,
    MultimodalTransformerConfig,
    TinyMyo,
    TinyMyoConfig,
    TinyMyoGestures,
    TinyMyoGesturesConfig,
    TinyMyoSpeech,
    TinyMyoSpeechConfig,
    build_model,
)
from emg_lens.models.components import MLP, Block
from emg_lens.models.declarations import why_undeclared
from emg_lens.models.registry import ARCHITECTURES
from emg_lens.models.staged import SideBySide
from emg_lens.sweeps import Condition, audit, layer_masks, sweep
from emg_lens.sweeps.settings import known_arithmetic
from emg_lens.sweeps.structure import reason_not_to_fold, reason_not_to_plan
from emg_lens.validation import ArgumentError

SIZES = {"d_model": 16, "n_heads": 2, "n_layers": 3, "d_mlp": 8}
EDGES = {"unimodal": unimodal(), "cross_modal": cross_modal()}
BASES = {
    HookedBiosignalEncoder: lambda: EncoderConfig({"emg": 3, "acc": 2}, 10, 6, **SIZES),
    IsoNet: lambda: IsoNetConfig({"emg": 3, "acc": 2}, 10, 6, **SIZES),
    HierarchicalTransformer: lambda: HierarchicalConfig(
        {"emg": 3, "acc": 2}, 8, 6, patch_samples=4, n_fusion_layers=1, **SIZES
    ),
    MultimodalTransformer: lambda: MultimodalTransformerConfig({"emg": 3, "acc": 2}, 8, 6, patch_samples=4, **SIZES),
    TinyMyo: lambda: TinyMyoConfig({"emg": 3}, 8, 6, patch_samples=4, **SIZES),
    TinyMyoGestures: lambda: TinyMyoGesturesConfig({"emg": 3, "acc": 2}, 60, 6, **SIZES),
    TinyMyoSpeech: lambda: TinyMyoSpeechConfig({"emg": 3, "acc": 2}, 40, 6, **SIZES),
}


def made(kind, config=None):
    torch.manual_seed(0)
    model = kind(config or BASES[next(base for base in kind.__mro__ if base in BASES)]())
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn(p.shape))
    return model.eval()


def cuts(model):
    if len(model.layout.modalities) < 2:
        return layer_masks({"channel": same_channel()}, model.cfg.n_layers)
    conditions = layer_masks({"unimodal": unimodal()}, model.cfg.n_layers)
    meets = not model.layout.stages or any(stage.name == "fusion" for stage in model.layout.stages)
    return conditions + [Condition("fused", cross_modal().at(layers=2))] * meets


@pytest.mark.parametrize("base", BASES)
def test_an_empty_subclass_has_the_audit_the_executor_and_the_cost_of_its_base(base):
    empty = type("Mine", (base,), {})
    theirs, mine = made(base), made(empty)
    conditions, x = cuts(theirs), theirs.example_input(3)
    assert audit(mine, conditions).equals(audit(theirs, conditions))
    assert known_arithmetic(mine).split()[0] == known_arithmetic(theirs).split()[0]
    assert forward_flops(mine) == forward_flops(theirs)
    a, b = sweep(mine, x, conditions), sweep(theirs, x, conditions)
    assert a.executor == b.executor and a.audit.equals(b.audit)
    assert all(torch.equal(a.logits[name], b.logits[name]) for name in b.logits)


def test_an_empty_subclass_has_the_structural_nulls_of_its_base():
    class Mine(IsoNet):
        """The same model under another name."""

    table = audit(made(Mine), layer_masks(EDGES, 3)).set_index("condition")
    assert table.structural_null.sum() == 4 and table.structural_null["unimodal/individual/L3"]
    assert table.live_edges_cut["cross_modal/individual/L3"] == 0 and table.edges_cut["cross_modal/individual/L3"] > 0


class Backwards(IsoNet):
    def forward(self, input, return_type="logits", **_):
        resid = self.residual_in(input)
        for block in reversed(self.blocks):
            resid = block(resid)
        return self.head(resid, return_type)


class MeanPool(IsoNet):
    def pool(self, resid):
        return resid.mean(1)


class MeanHead(IsoNet):
    def head(self, resid, return_type="logits"):
        return self.unembed(resid.mean(1))


@pytest.mark.parametrize(("kind", "method"), [(Backwards, "forward"), (MeanPool, "pool"), (MeanHead, "head")])
def test_a_subclass_that_overrides_a_covered_method_loses_the_declaration(kind, method):
    model = made(kind)
    declaration = "runs_blocks_in_order" if method == "forward" else "readout_positions"
    expected = f"{kind.__name__} overrides {method} and does not declare {declaration} anew"
    assert reason_not_to_plan(model) == reason_not_to_fold(model) == expected
    last = audit(model, unimodal().at(layers=2)).iloc[0]
    assert last.live_edges_cut == last.edges_cut > 0 and not last.structural_null
    x, conditions = model.example_input(4), layer_masks(EDGES, 3)
    result = sweep(model, x, conditions)
    assert result.executor == ("loop" if method == "forward" else "tree")
    torch.testing.assert_close(result.logits["baseline"], model(x))
    loop = sweep(model, x, conditions, executor="loop").logits
    assert all((loop[name] - logits).abs().max() < 1e-5 for name, logits in result.logits.items())
    with pytest.raises(ArgumentError, match=f"cannot count the operations of {kind.__name__}: {expected}"):
        forward_flops(model)
    costs = model_costs({"mine": model}, seconds=0.001).iloc[0]
    assert costs["flops"] > 0 and costs["flops_formula"] != costs["flops_formula"]
    inherited = made(type("Deeper", (kind,), {}))
    assert reason_not_to_plan(inherited) == expected  # the class that overrides is named


def test_a_subclass_that_declares_anew_is_believed_and_checked():
    class AccPool(IsoNet):
        """Reads the last token."""

        def pool(self, resid):
            return resid[:, -1]

        @property
        def readout_positions(self):
            return torch.tensor([len(self.layout) - 1])

    model = made(AccPool)
    assert known_arithmetic(model) == "folded"
    dead, live = flow("acc", "emg").at(layers=2), flow("emg", "acc").at(layers=2)
    conditions = [Condition("dead", dead), Condition("live", live)]
    result = sweep(model, x := model.example_input(20), conditions)
    table = result.audit.set_index("condition")
    assert table.structural_null["dead"] and not table.structural_null["live"]
    for name, logits in sweep(model, x, conditions, executor="loop").logits.items():
        torch.testing.assert_close(result.logits[name], logits)


class Squared(MLP):
    """Another non-linearity: works position by position, and cannot be folded."""

    mixes_only_by_attention = True

    def __init__(self, cfg):
        super().__init__(cfg)
        self.inner = nn.Sequential(nn.Linear(cfg.d_mlp, cfg.d_mlp), nn.GELU())

    def forward(self, x):
        return self.hook_post(self.inner(self.hook_pre(x @ self.W_in))).square() @ self.W_out


class Wrong(MLP):
    """Declares nothing."""

    def forward(self, x):
        return super().forward(x.roll(1, dims=1))


def with_mlp(kind):
    model = made(IsoNet)
    model.blocks[2].mlp = kind(model.cfg)
    model.setup()
    return model.eval()


def test_a_part_that_declares_its_mixing_keeps_live_edges_and_takes_the_plain_tree():
    model = with_mlp(Squared)
    assert reason_not_to_plan(model) is None
    assert reason_not_to_fold(model) == "its block 2.mlp: Squared overrides forward and does not declare folds anew"
    assert audit(model, unimodal().at(layers=2)).structural_null.item()
    x, conditions = model.example_input(4), layer_masks(EDGES, 3)
    result, loop = sweep(model, x, conditions), sweep(model, x, conditions, executor="loop").logits
    assert result.executor == "tree"
    assert all((loop[name] - logits).abs().max() < 1e-5 for name, logits in result.logits.items())


def test_a_part_without_declarations_makes_every_edge_live():
    model = with_mlp(Wrong)
    assert "Wrong overrides forward and does not declare mixes_only_by_attention anew" in str(reason_not_to_plan(model))
    assert not audit(model, unimodal().at(layers=2)).structural_null.item()


def test_relative_positions_do_not_hide_dead_edges():
    config = EncoderConfig({"emg": 3, "acc": 2}, 10, 6, positions="relative", **SIZES)
    model = made(HookedBiosignalEncoder, config)
    assert audit(model, unimodal().at(layers=2)).structural_null.item()
    assert "RelativeKeys does not declare folds" in str(reason_not_to_fold(model))


def test_an_instance_method_and_another_constructor():
    model = made(IsoNet)
    model.blocks[0].attn.mix = model.blocks[0].attn.mix
    assert reason_not_to_plan(model) == "its block 0.attn: mix was replaced on this Attention"

    class Named(Block):
        def __init__(self, cfg, layer):
            super().__init__(cfg, layer)
            self.note = "mine"

    assert why_undeclared(Named(model.cfg, 0), "folds") is None


def test_a_new_encoder_is_one_file_and_one_entry(monkeypatch):
    @dataclass
    class SmoothedConfig(EncoderConfig):
        width: int = 3

        model_name = "smoothed"

    class Smoothing(nn.Module):
        """Tokens: the mean of neighbouring samples, and a linear map."""

        def __init__(self, cfg):
            super().__init__()
            self.width, self.linear = cfg.width, nn.Linear(cfg.n_samples // cfg.width, cfg.d_model)

        def forward(self, x):
            return self.linear(nn.functional.avg_pool1d(x, self.width))

        def multiply_accumulates(self, cfg):
            return cfg.n_channels * self.linear.weight.numel()

    class Smoothed(HookedBiosignalEncoder):
        cfg: SmoothedConfig

        def __init__(self, config: SmoothedConfig):
            super().__init__(config)

        def add_embedding(self):
            self.embed = Smoothing(self.cfg)

    entry = Architecture("smoothed", SmoothedConfig, Smoothed)
    monkeypatch.setitem(ARCHITECTURES._known, "smoothed", entry)  # what an entry point adds
    settings = {**SIZES, "cls_token": False, "readout": "mean", "width": 2}
    model = build_model("smoothed", modalities={"emg": 3, "acc": 2}, n_samples=10, n_classes=4, **settings).eval()
    x = model.example_input(20)
    result = sweep(model, x, layer_masks(EDGES, 3))
    assert result.executor == "folded"
    for name, logits in sweep(model, x, layer_masks(EDGES, 3), executor="loop").logits.items():
        torch.testing.assert_close(result.logits[name], logits)
    (costs,) = model_costs({"it": model}, seconds=0.001).to_dict("records")
    assert costs["flops"] == costs["flops_formula"]


class PoolOfAll(HookedBiosignalEncoder):
    def pool(self, resid):
        return resid.mean(1)


class OwnBlock(Block):
    mixes_only_by_attention = folds = True


class MixingBlock(Block):
    def after_attention(self, resid_pre, attn_out):
        return super().after_attention(resid_pre, attn_out - attn_out.mean(1, keepdim=True))


def test_a_method_of_a_second_base_removes_the_declaration_of_the_first():
    model = made(type("Both", (IsoNet, PoolOfAll), {}))
    assert reason_not_to_plan(model) == "PoolOfAll overrides pool and does not declare readout_positions anew"
    assert not audit(model, unimodal().at(layers=2)).structural_null.item()
    block = type("BothBlocks", (OwnBlock, MixingBlock), {})(model.cfg, 2)
    expected = "MixingBlock overrides after_attention and does not declare folds anew"
    assert why_undeclared(block, "folds") == expected
    elsewhere = type("Elsewhere", (), {"pool": lambda self, resid: resid.mean(1)})  # IsoNet's pool comes first
    assert reason_not_to_plan(made(type("After", (IsoNet, elsewhere), {}))) is None


def test_a_declaration_is_what_its_property_returns_and_a_class_may_change_later():
    denied = type("Denied", (IsoNet,), {"runs_blocks_in_order": property(lambda self: False)})
    assert reason_not_to_plan(made(denied)) == "Denied does not declare runs_blocks_in_order"
    later = type("Later", (IsoNet,), {})
    model = made(later)
    assert reason_not_to_plan(model) is None
    later.pool = lambda self, resid: resid.mean(1)
    assert reason_not_to_plan(model) == "Later overrides pool and does not declare readout_positions anew"


def test_readout_positions_may_be_a_class_attribute_and_must_be_positions():
    last = {"pool": lambda self, resid: resid[:, -1], "readout_positions": torch.tensor([4, 5])}
    model = made(type("Last", (IsoNet,), last))
    assert reason_not_to_fold(model) is None and audit(model, flow("acc", "emg").at(layers=2)).structural_null.item()
    for wrong in ([0], torch.tensor([9]), torch.tensor([-1]), torch.tensor([0.0]), torch.tensor([]), torch.ones(2, 1)):
        model = made(type("Wrong", (IsoNet,), last | {"readout_positions": wrong}))
        with pytest.raises(EdgeError, match=r"Wrong.readout_positions is .*; expected "):
            audit(model, unimodal())


def test_a_module_of_torch_in_the_place_of_a_hook_point_is_not_known():
    model = made(IsoNet)
    model.blocks[2].hook_attn_out = nn.Softmax(1)  # mixes positions
    assert reason_not_to_plan(model) == "its block 2.hook_attn_out: Softmax does not declare mixes_only_by_attention"
    assert not audit(model, unimodal().at(layers=2)).structural_null.item()


def test_a_layer_of_stages_of_its_own_class_is_not_known():
    class Mixing(SideBySide):
        def __call__(self, resid):
            return super().__call__(resid) + resid.mean(1, keepdim=True)

    class Mine(MultimodalTransformer):
        def _layer(self, layer):
            return Mixing(super()._layer(layer).blocks)

    expected = "its block 0: Mixing overrides __call__ and does not declare mixes_only_by_attention anew"
    assert reason_not_to_plan(made(Mine)) == expected
