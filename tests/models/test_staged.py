"""Encoders of several stages: torch's own layers, the hooks, the cuts and the sweeps of every stage."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch_layers import torch_encoder

from emg_lens.analysis import activation_shift, attention_view
from emg_lens.analysis.controls import random_edges
from emg_lens.data import Batch
from emg_lens.hooks import (
    CutMLP,
    EdgeError,
    Replace,
    cls_edges,
    cross_modal,
    cut,
    cut_mlp,
    cutting,
    every,
    flow,
    lag,
    parse_edges,
    positions,
    replace,
    same_channel,
    same_patch,
    self_edges,
    unimodal,
)
from emg_lens.layout import TokenLayout
from emg_lens.models import HierarchicalTransformer, MultimodalTransformer, build_model
from emg_lens.models.bridge import to_bridge
from emg_lens.models.encoder import count_parameters
from emg_lens.registry import UnknownNameError
from emg_lens.sweeps import Condition, audit, layer_masks, sweep
from emg_lens.sweeps.settings import known_arithmetic
from emg_lens.training import TrainingRecipe, fit

KINDS = ("multimodal-transformer", "hierarchical")


def make(kind: str, **changes):
    """Two patches of three samples; emg and acc, two layers of their own, and two of fusion where there is fusion."""
    if kind == "multimodal-mlp":
        return build_model(kind, n_samples=6, n_classes=4, **changes)
    of_kind = {"n_layers": 4, "n_fusion_layers": 2} if kind == "hierarchical" else {"n_layers": 2, "d_fused": 6}
    made = dict(modalities={"emg": 3, "acc": 2}, n_samples=6, n_classes=4, d_model=16, n_heads=2, d_mlp=8)
    torch.manual_seed(0)
    model = build_model(kind, **{**made, "patch_samples": 3, **of_kind, **changes}).eval().double()
    with torch.no_grad():  # biases and gains away from zero and one, so that none can be forgotten
        for p in model.parameters():
            p.add_(0.2 * torch.randn_like(p))
    return model


def by_torch(model, x, edges=None):
    """The whole model from torch's encoders: every stage with its part of a mask, in torch's own mask argument."""
    cfg, layout = model.cfg, model.layout
    mask = None if edges is None else edges.mask(layout, cfg.n_layers, cfg.n_heads)
    resid = model.embed(x) + model.pos_embed.W_pos
    for stage in layout.stages:
        own = slice(stage.positions.start, stage.positions.stop)
        tokens = resid[:, own]
        for k, layer in enumerate(torch_encoder(model.stages[stage.name]["blocks"]).layers):
            here = None if mask is None else mask[stage.edges][k].repeat(len(x), 1, 1)
            tokens = layer(tokens, src_mask=here)
        resid = torch.cat([resid[:, : own.start], tokens, resid[:, own.stop :]], dim=1)
    if isinstance(model, HierarchicalTransformer):
        return resid[:, 0] @ model.unembed.W_U + model.unembed.b_U
    first = [stage.positions.start for stage in layout.stages]
    return model.unembed.classifier(F.relu(model.unembed.fuse(torch.cat([resid[:, p] for p in first], dim=1))))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "edges",
    [None, unimodal(), unimodal("acc").at(layers=0), flow("acc", "cls"), same_channel() - self_edges(), same_patch()],
)
def test_every_stage_equals_torchs_encoder_masks_included(kind, edges):
    model = make(kind)
    x = model.example_input(5).double()
    expected = by_torch(model, x, edges)
    with torch.no_grad():
        if edges is None:
            torch.testing.assert_close(model(x), expected, rtol=0, atol=1e-10)
            return
        found = model.run_with_hooks(x, fwd_hooks=cut(model, edges))
        assert (found - model(x)).abs().max() > 1e-4
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)
        with cutting(model, edges):
            torch.testing.assert_close(model(x), expected, rtol=0, atol=1e-10)


def test_cross_modal_edges_exist_in_the_fusion_stage_alone():
    model = make("hierarchical")
    assert audit(model, cross_modal())["edges_cut"].item() == 2 * 2 * (2 * 6 * 4)  # layers, heads, emg x acc both ways
    assert cross_modal().mask(model.layout, 4, 2)[:2].sum() == 0
    x = model.example_input(3).double()
    in_fusion = model.run_with_hooks(x, fwd_hooks=cut(model, cross_modal().at(stage="fusion", layers=0)))
    torch.testing.assert_close(in_fusion, model.run_with_hooks(x, fwd_hooks=cut(model, cross_modal().at(layers=2))))
    with pytest.raises(EdgeError, match="modalities meet only in stage 'fusion', layers 2 to 3"):
        cut(model, cross_modal().at(layers=0))
    with pytest.raises(EdgeError, match="modalities meet only in stage 'fusion', layers 2 to 3"):
        sweep(model, x, [Condition("early", cross_modal().at(layers=[0, 1]))])
    with pytest.raises(EdgeError, match="modalities meet in no stage"):
        cut(make("multimodal-transformer"), cross_modal())
    with pytest.raises(EdgeError, match=r"unknown stage 'fussion'; known: \['emg', 'acc', 'fusion'\]"):
        cut(model, cross_modal().at(stage="fussion"))
    with pytest.raises(EdgeError, match="unknown layer 2; stage 'fusion' has layers 0 to 1"):
        cut(model, cross_modal().at(stage="fusion", layers=2))
    with pytest.raises(EdgeError, match="unknown stage 'fusion'; this model has only one stage"):
        cross_modal().at(stage="fusion").mask(TokenLayout.channels({"emg": 1, "acc": 1}), 1, 1)


@pytest.mark.parametrize(
    "text", ["cross_modal().at(stage='fusion')", "lag(1, 1).at(layers=[-1], stage=['emg', 'acc'])"]
)
def test_stages_in_expressions_are_read_as_they_are_written(text):
    assert str(parse_edges(text)) == text
    assert parse_edges(text) == eval(text, {"cross_modal": cross_modal, "lag": lag})


@pytest.mark.parametrize("stage", [1, [], ["emg", "emg"], "", ["emg", 2]])
def test_a_stage_is_named_once_and_in_words(stage):
    with pytest.raises(EdgeError):
        unimodal().at(stage=stage)


def test_within_a_stage_tokens_are_channels_and_patches():
    layout = make("hierarchical").layout
    assert layout.of_stage("acc").names == ("cls.acc", "acc.0.p0", "acc.0.p1", "acc.1.p0", "acc.1.p1")
    only = lag(1, 1).at(stage="acc", layers=0).mask(layout, 4, 2)
    names = [(layout.names[d], layout.names[s]) for d, s in only[0, 0].nonzero().tolist()]
    assert names == [
        ("acc.0.p1", "acc.0.p0"),
        ("acc.0.p1", "acc.1.p0"),
        ("acc.1.p1", "acc.0.p0"),
        ("acc.1.p1", "acc.1.p0"),
    ]
    assert not only[1:].any()


LEAVES = [unimodal(), unimodal("emg"), cross_modal(), flow("acc", "cls"), every(), same_patch(), positions(dest=[0, 5])]


@st.composite
def edge_sets(draw, model):
    edges = draw(st.sampled_from(LEAVES)) | draw(st.sampled_from(LEAVES))
    if draw(st.booleans()):
        edges = edges.at(stage=draw(st.sampled_from([stage.name for stage in model.layout.stages])))
    if draw(st.booleans()):
        edges = edges.at(heads=draw(st.integers(0, 1)))
    return edges.at(layers=draw(st.lists(st.integers(0, model.cfg.n_layers - 1), min_size=1, unique=True)))


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_the_sweep_over_stages_equals_the_loop(data):
    draw = data.draw
    kind = draw(st.sampled_from(KINDS))
    permanent_mask = draw(st.sampled_from(["", "flow('emg', 'cls')", "self_edges().at(layers=1)"]))
    readout = draw(st.sampled_from(["cls", "mean"])) if kind == "hierarchical" else "cls"
    model = make(kind, masked_edges=permanent_mask, readout=readout)
    x = model.example_input(3).double()
    conditions = [Condition(str(k), draw(edge_sets(model))) for k in range(draw(st.integers(1, 5)))]
    try:
        expected = sweep(model, x, conditions, executor="loop")
    except EdgeError:  # one that selects nothing
        return
    assert known_arithmetic(model) == "folded"
    theirs = copy.deepcopy(model)
    theirs.__class__ = type("Somebodys", (type(model),), {"pool": type(model).pool})  # declares no readout
    for one, executor in ((model, "folded"), (theirs, "tree")):
        found = sweep(one, x, conditions, executor="tree", batch_size=draw(st.sampled_from([None, 2])))
        assert found.executor == executor
        for name, logits in expected.logits.items():
            assert (found.logits[name] - logits).abs().max() < 1e-10, (executor, name)
    nulls = expected.audit[expected.audit["structural_null"]]
    assert (nulls["max_abs_delta_logit"] < 1e-10).all()
    assert (expected.audit["equivalence_error"] < 1e-10).all()


@pytest.mark.parametrize("kind", KINDS)
def test_the_six_identities_of_table_3_hold(kind):
    """With a CLS readout, a cut among other tokens in the last layer changes nothing (docs/isonet-protocol.md §4.7)."""
    model = make(kind)
    x = model.example_input(4).double()
    n = model.cfg.n_layers
    found = sweep(model, x, layer_masks({"uni": unimodal()}, n)).logits
    same = [
        ("individual", n, "baseline"),
        ("from_beginning", n, f"uni/from_beginning/L{n - 1}"),
        ("from_end", n - 1, f"uni/individual/L{n - 1}"),
        ("from_beginning", 1, "uni/individual/L1"),
        ("from_end", n, f"uni/individual/L{n}"),
        ("from_end", 1, f"uni/from_beginning/L{n}"),
    ]
    for mode, layer, other in same:
        torch.testing.assert_close(found[f"uni/{mode}/L{layer}"], found[other], rtol=0, atol=1e-10)
    assert (found["uni/individual/L1"] - found["baseline"]).abs().max() > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_masked_edges_never_have_attention(kind):
    model = make(kind, masked_edges="unimodal('acc')")
    torch.testing.assert_close(by_torch(model, x := model.example_input(2).double(), unimodal("acc")), model(x))


def test_masked_edges_that_do_not_exist_are_refused():
    with pytest.raises(
        ValueError, match=r"masked_edges='cross_modal\(\)' selects no edge of this model; modalities meet in no stage"
    ):
        make("multimodal-transformer", masked_edges="cross_modal()")
    with pytest.raises(ValueError, match="selects no edge of this model; modalities meet only in stage 'fusion'"):
        make("hierarchical", masked_edges="cross_modal().at(layers=0)")
    assert make("hierarchical", masked_edges="none()").permanent_mask() is None


def test_classes_behind_a_relu_have_no_direction():
    model = make("multimodal-transformer")
    with pytest.raises(ValueError, match="W_U: this model's logits are read through a ReLU"):
        model.tokens_to_residual_directions([0])


@pytest.mark.parametrize("kind", KINDS)
def test_values_are_replaced_in_the_stream_and_in_a_stage(kind):
    model = make(kind)
    x = model.example_input(3).double()
    whole = model.run_with_hooks(x, fwd_hooks=replace(model, "acc"))
    edited = model.hook_embed(model.embed(x))
    edited[:, model.layout.positions("acc")] = 0
    torch.testing.assert_close(whole, model(edited + model.pos_embed.W_pos, start_at_layer=0))

    at = "stages.acc.blocks.1.hook_resid_pre"
    resid = model(x, stop_at_layer=1).clone()
    resid[:, model.layout.positions("acc")] = 0
    inside = model.run_with_hooks(x, fwd_hooks=replace(model, "acc", at=at))
    torch.testing.assert_close(inside, model(resid, start_at_layer=1))
    with pytest.raises(EdgeError, match="unknown group or token 'emg'"):
        replace(model, "emg", at=at)

    hooks = cut_mlp(model, ["emg", "cls.acc"], layers=0)
    assert [name for name, _ in hooks] == ["stages.emg.blocks.0.hook_mlp_out", "stages.acc.blocks.0.hook_mlp_out"]
    seen = {}
    silent = [(name, lambda t, hook: seen.update({hook.name: t})) for name, _ in hooks]
    model.run_with_hooks(x, fwd_hooks=[*hooks, *silent])
    assert (seen[hooks[0][0]][:, 1:] == 0).all() and (seen[hooks[0][0]][:, 0] != 0).any()
    assert (seen[hooks[1][0]][:, 0] == 0).all() and (seen[hooks[1][0]][:, 1:] != 0).any()
    found = sweep(model, x, [Condition("both", (CutMLP("acc", layers=1), Replace("emg", by="zero", at="input")))])
    assert (found.logits["both"] - found.logits["baseline"]).abs().max() > 1e-3


def test_a_stage_has_its_cache_and_its_attention_view(tmp_path):
    model = make("hierarchical")
    _, cache = model.run_with_cache(model.example_input(3).double())
    fusion = cache.stage("fusion")
    assert torch.equal(fusion["pattern", 1], cache["stages.fusion.blocks.1.attn.hook_pattern"])
    assert fusion["pattern", 1].shape == (3, 2, len(model.layout), len(model.layout))
    with pytest.raises(ValueError, match="decompose_resid works for one stack"):
        cache.decompose_resid()
    with pytest.raises(
        ValueError,
        match=r"attn.W_Q needs one stack of blocks, and HierarchicalTransformer has the stages emg, acc, fusion",
    ):
        _ = model.W_Q
    with pytest.raises(ValueError, match="hook points of stages; pass cache.stage"):
        attention_view(cache, model.layout)
    with pytest.raises(ValueError, match="a bridge needs one stack of blocks"):
        to_bridge(model)
    with pytest.raises(UnknownNameError, match="unknown stage 'gyro'"):
        cache.stage("gyro")
    view = attention_view(cache.stage("acc"), model.layout.of_stage("acc"))
    assert view.pattern.shape == (2, 2, 5, 5)


def test_layers_of_a_stage_count_its_own():
    model = make("hierarchical").eval()
    _, cache = model.run_with_cache(torch.randn(3, model.cfg.n_channels, model.cfg.n_samples).double())
    layers = model.layout.stage("fusion").layers
    fusion = cache.stage("fusion")
    last = cache[f"stages.fusion.blocks.{len(layers) - 1}.attn.hook_pattern"]
    assert torch.equal(fusion["pattern", -1], last)
    assert torch.equal(fusion.apply_slice_to_batch_dim(slice(0, 2))["pattern", -1], last[:2])
    with pytest.raises(UnknownNameError, match=f"unknown layer 7; this stage has layers 0 to {len(layers) - 1}"):
        fusion["pattern", 7]
    with pytest.raises(EdgeError, match="unknown layer 7; stage 'fusion' has layers 0 to"):
        cut(model, every().at(stage="fusion", layers=7))


def test_a_stage_without_attention_in_a_layer_is_cut_elsewhere_and_refused_there():
    model = make("hierarchical").eval()
    model.stages["emg"].blocks[0] = nn.Identity()
    assert cut(model, cross_modal())
    with pytest.raises(EdgeError, match=r"layer 0 \(stage 'emg'\) has no attention; layers with attention: 1 \("):
        cut(model, unimodal().at(stage="emg"))
    with pytest.raises(EdgeError, match="no hook point stages.emg.blocks.0.hook_normalized_resid_post"):
        activation_shift(model, torch.randn(3, model.cfg.n_channels, model.cfg.n_samples).double(), [])


@pytest.mark.parametrize("kind", KINDS)
def test_saved_and_loaded_copied_and_trained(kind, tmp_path):
    model = make(kind).float()
    x = model.example_input(8)
    model.save_pretrained(tmp_path / "model")
    again = type(model).from_pretrained(tmp_path / "model")
    assert torch.equal(again(x), model(x)) and again.layout == model.layout
    twin = copy.deepcopy(model)
    y = torch.arange(8) % 4
    before = model(x).detach()
    table = fit(twin.train(), Batch(x, y), TrainingRecipe(epochs=30, lr=0.01, batch_size=4))
    assert table["loss"].iloc[-1] < 0.7 * table["loss"].iloc[0]
    assert torch.equal(model(x), before) and not torch.equal(twin.eval()(x), before)


@pytest.mark.parametrize("kind", KINDS)
def test_every_parameter_is_trained(kind):
    model = make(kind)
    F.cross_entropy(model(model.example_input(4).double()), torch.arange(4)).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_the_defaults_are_the_papers():
    """IsoNet paper, §3; a stack of five layers has 5.92 M values: two of them here, or three with fusion."""
    stack = 5 * (4 * (512 * 512 + 512) + 2 * 512 * 128 + 128 + 512 + 2 * 2 * 512)
    with torch.device("meta"):
        made = dict(modalities={"emg": 12, "acc": 36}, n_samples=1000, n_classes=40)
        both, three = build_model(KINDS[0], **made), build_model(KINDS[1], **made)
    assert (both.cfg.d_model, both.cfg.n_heads, both.cfg.d_mlp, both.cfg.patch_samples) == (512, 8, 128, 40)
    assert count_parameters(both, ["stages"]) == 2 * stack
    assert count_parameters(three, ["stages"]) == 3 * stack
    assert [len(stage.layers) for stage in three.layout.stages] == [5, 5, 5]
    assert len(three.layout) == 3 + 48 * 25
    assert isinstance(both, MultimodalTransformer)


@pytest.mark.parametrize("modalities", [{"emg": 4}, {"emg": 2, "acc": 3, "gyro": 1}])
@pytest.mark.parametrize("kind", KINDS)
def test_one_modality_or_three(kind, modalities):
    model = make(kind, modalities=modalities, patch_samples=None)
    x = model.example_input(2).double()
    torch.testing.assert_close(model(x), by_torch(model, x), rtol=0, atol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_a_token_may_be_a_patch_of_all_channels_of_a_modality(kind):
    model = make(kind, tokens="time", embedding="dedicated")
    assert model.layout.of_stage("acc").names == ("cls.acc", "acc.p0", "acc.p1")
    x = model.example_input(3).double()
    weight, bias = model.embed.W_E, model.embed.b_E
    second = sum(x[:, c, 3:] @ weight[c] + bias[c] for c in (3, 4))
    torch.testing.assert_close(model.embed(x)[:, model.layout.names.index("acc.p1")], second)
    torch.testing.assert_close(model(x), by_torch(model, x), rtol=0, atol=1e-10)
    with pytest.raises(EdgeError, match="needs tokens with a channel"):
        cut(model, same_channel())
    zeroed, later = x.clone(), x.clone()
    zeroed[:, 3:], later[:, 3:, 3:] = 0, 0
    changes = [Condition("acc", Replace("acc", at="input")), Condition("later", Replace("acc.p1", at="input"))]
    found = sweep(model, x, changes).logits
    torch.testing.assert_close(found["acc"], model(zeroed))
    torch.testing.assert_close(found["later"], model(later))
    with pytest.raises(ValueError, match="needs embedding='dedicated'"):
        make(kind, tokens="time")


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("hierarchical", {"n_fusion_layers": 4}, "n_fusion_layers=4, n_layers=4; hierarchical needs 1 or more"),
        ("hierarchical", {"n_fusion_layers": 0}, "n_fusion_layers=0, n_layers=4"),
        ("multimodal-transformer", {"n_fusion_layers": 1}, "multimodal-transformer needs n_fusion_layers=0"),
        ("multimodal-transformer", {"readout": "mean"}, "multimodal-transformer needs 'cls'"),
        ("hierarchical", {"norm": "pre"}, "hierarchical needs norm='post'"),
        ("hierarchical", {"positions": "rotary"}, "and added positions"),
        ("hierarchical", {"modalities": {"fusion": 2}}, "cannot be named 'fusion'"),
        ("hierarchical", {"modalities": {"float": 2}}, "cannot be named 'float' in this model"),
        ("multimodal-mlp", {"modalities": {"keys": 2}}, "cannot be named 'keys' in this model"),
        ("hierarchical", {"embedding": "both"}, "embedding"),
        ("hierarchical", {"patch_samples": 4}, "n_samples=6 is not a multiple of patch_samples=4"),
    ],
)
def test_what_a_staged_model_cannot_be(kind, changes, message):
    with pytest.raises(ValueError, match=message):
        make(kind, **changes)


def test_the_shift_of_a_cut_is_measured_for_every_layer_and_group():
    model = make("hierarchical")
    x = model.example_input(6).double()
    found = activation_shift(model, x, [Condition("late", cross_modal())])
    assert len(found) == 4 * 3 and set(found["tokens"]) == {"cls", "emg", "acc"}
    early, late = found[found["layer"] < 2], found[found["layer"] == 2]
    np.testing.assert_allclose(early["cosine"], 1)
    assert (late.set_index("tokens")["cosine"][["emg", "acc"]] < 0.9999).all()
    clean, masked = (
        model(x, stop_at_layer=3),
        model.run_with_hooks(x, fwd_hooks=cut(model, cross_modal()), stop_at_layer=3),
    )
    emg = model.layout.positions("emg")
    expected = F.cosine_similarity(clean[:, emg], masked[:, emg], dim=-1).mean().item()
    assert late.set_index("tokens")["cosine"]["emg"] == pytest.approx(expected)


def test_a_block_that_was_replaced_is_the_one_that_runs():
    model = make("hierarchical")
    x = model.example_input(2).double()
    before = model(x)
    model.stages["emg"]["blocks"][0] = copy.deepcopy(model.stages["acc"]["blocks"][0])
    assert not torch.allclose(model(x), before)


def test_random_edges_of_a_model_that_is_not_known_are_edges_that_there_are():
    """Of somebody's subclass too: as many as are cut, in every layer."""
    model = make("hierarchical")
    model.__class__ = type("Somebodys", (type(model),), {"pool": type(model).pool})
    for edges in (unimodal("emg"), cls_edges(), cross_modal()):
        wanted = edges.mask(model.layout, 4, 2).sum((1, 2, 3))
        for drawn in random_edges(model, edges, 4):
            assert torch.equal(drawn.mask(model.layout, 4, 2).sum((1, 2, 3)), wanted)


def test_an_mlp_cut_of_nothing_and_another_models_stages_are_refused():
    model, other = make("hierarchical"), make("hierarchical", modalities={"emg": 2, "acc": 3})
    with pytest.raises(EdgeError, match="no stage has the tokens .cls.fusion. in the layers 0"):
        cut_mlp(model, "cls.fusion", layers=0)
    with pytest.raises(EdgeError, match="unknown stage 'gyro'"):
        replace(model, "acc", at="stages.gyro.blocks.0.hook_resid_pre")
    for refuse in (audit, lambda m, edges, layout: cut(m, edges, layout)):
        with pytest.raises(EdgeError, match="the model has"):
            refuse(model, cross_modal(), other.layout)
    plain = build_model(
        "isonet", modalities={"emg": 3, "acc": 2}, n_samples=6, n_classes=4, patch_samples=3, d_model=16
    )
    with pytest.raises(EdgeError, match="the model has none; leave layout out"):
        audit(plain, cross_modal(), model.layout)
