"""Our encoders as a TransformerBridge, compared with the plain encoder."""

import copy
import importlib.metadata
from types import SimpleNamespace

import pytest
import torch
from transformer_lens.factories import architecture_adapter_factory
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_from_module
from transformer_lens.tools.analysis import attribution_patch, get_act_patch_direct_path

from emg_lens.hooks import EdgeError, cross_modal, cut, cutting, every, flow, same_channel, unimodal
from emg_lens.hooks.evaluation import evaluating
from emg_lens.lens.config import EncoderConfig
from emg_lens.models.bridge import (
    ARCHITECTURE,
    BiosignalAdapter,
    EncoderBridge,
    bridge_config,
    register_bridge,
    to_bridge,
)
from emg_lens.models.encoder import HookedBiosignalEncoder
from emg_lens.models.isonet import IsoNet, IsoNetConfig

pytestmark = pytest.mark.filterwarnings("error")
SIZES = dict(modalities={"emg": 3, "acc": 2}, n_samples=8, n_classes=4, d_model=16, n_heads=2, n_layers=3, d_mlp=24)
SWITCHES = {
    "use_attn_result": "blocks.1.attn.hook_result",
    "use_split_qkv_input": "blocks.1.hook_k_input",
    "use_attn_in": "blocks.1.hook_attn_in",
    "use_hook_mlp_in": "blocks.1.hook_mlp_in",
}
MODELS = {
    "pre-LN, learned": {},
    "post-LN, learned": dict(norm="post"),
    "pre-LN, rotary": dict(positions="rotary"),
    "post-LN, rotary": dict(norm="post", positions="rotary"),
    "post-LN, sinusoidal, mean": dict(norm="post", positions="sinusoidal", readout="mean"),
    "pre-LN, no positions, no readout": dict(positions="none", readout="none", n_classes=0, cls_token=False),
    "permanent_mask": dict(masked_edges="cross_modal('emg','acc').at(layers=1) | flow('acc','cls')"),
    "masked edges, empty rows": dict(
        norm="post", masked_edges="flow('cls', 'emg') | flow('cls', 'acc') | flow('cls', 'cls')"
    ),
    "patches": dict(patch_samples=4, embedding="shared", qkv_bias=False, act_fn="relu"),
    "switched": dict.fromkeys(["use_attn_result", "use_hook_mlp_in"], True),
    "IsoNet": dict(kind=IsoNet),
}


def make(kind=HookedBiosignalEncoder, use_attn_result=False, use_hook_mlp_in=False, **changes):
    torch.manual_seed(0)
    model = kind((IsoNetConfig if kind is IsoNet else EncoderConfig)(**SIZES | changes)).eval()
    model.set_use_attn_result(use_attn_result)
    model.set_use_hook_mlp_in(use_hook_mlp_in)
    with torch.no_grad():
        for parameter in model.parameters():  # no bias may be forgotten unnoticed
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


@pytest.fixture(params=MODELS)
def pair(request) -> tuple[HookedBiosignalEncoder, EncoderBridge]:
    model = make(**MODELS[request.param])
    return model, to_bridge(model)


def finite(x: torch.Tensor) -> torch.Tensor:
    return x.masked_fill(x.isinf(), 0.0)


# --- the same function, the same hooks --------------------------------------------------------------------


def test_logits_and_every_hook_are_those_of_the_plain_model(pair):
    model, bridge = pair
    x = model.example_input(3)
    logits, cache = model.run_with_cache(x)
    bridge_logits, bridge_cache = bridge.run_with_cache(x)
    assert isinstance(bridge, TransformerBridge) and bridge.layout == model.layout
    torch.testing.assert_close(bridge_logits, logits, atol=1e-5, rtol=0)
    assert set(cache) <= set(bridge_cache)
    for name, activation in cache.items():
        assert torch.equal(bridge_cache[name].isinf(), activation.isinf()), name
        torch.testing.assert_close(finite(bridge_cache[name]), finite(activation), atol=1e-5, rtol=0, msg=name)


def test_every_hook_point_fires_exactly_once(pair):
    model, bridge = pair
    points = {id(point): point for point in bridge.hook_dict.values()}
    fired = dict.fromkeys(points, 0)

    def count(tensor, hook, key):
        fired[key] += 1

    for key, point in points.items():
        if bridge._gated_hook_reason(point.name) is None:
            point.add_hook(lambda tensor, hook, key=key: count(tensor, hook, key))
        else:
            del fired[key]
    bridge(model.example_input(2))
    assert {points[key].name: times for key, times in fired.items() if times != 1} == {}
    assert len(fired) > 60


# fmt: off
IN_BLOCK = [
    "hook_in", "hook_resid_pre", "hook_attn_out", "hook_resid_mid", "hook_mlp_out", "hook_resid_post",
    "hook_out", "ln1.hook_scale", "ln1.hook_normalized", "ln2.hook_scale", "ln2.hook_normalized",
    "attn.hook_in", "attn.hook_q", "attn.hook_k", "attn.hook_v", "attn.hook_attn_scores", "attn.hook_pattern",
    "attn.hook_z", "attn.hook_out", "mlp.hook_pre", "mlp.hook_post",
]
# fmt: on
LIVE = ["hook_embed", "hook_pos_embed", "ln_final.hook_scale", "ln_final.hook_normalized", "hook_unembed"] + [
    f"blocks.1.{name}" for name in IN_BLOCK
]


def stretch(tensor, hook):
    """Not by the same factor everywhere: LayerNorm and softmax could undo that."""
    return tensor * (torch.linspace(0.5, 1.5, tensor.shape[-1]) if tensor.shape[-1] > 1 else 1.3)


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("name", LIVE)
def test_an_edit_changes_the_output_as_on_the_plain_model(name, in_place):
    model = make()
    bridge, x = to_bridge(model), model.example_input(3)

    def edit(tensor, hook):
        return tensor.copy_(stretch(tensor, hook)) if in_place else stretch(tensor, hook)

    with torch.no_grad():
        edited = bridge.run_with_hooks(x, fwd_hooks=[(name, edit)])
        assert (edited - bridge(x)).abs().max() > 1e-4
        if name in model.hook_dict:
            expected = model.run_with_hooks(x, fwd_hooks=[(name, stretch)])
            torch.testing.assert_close(edited, expected, atol=1e-5, rtol=0)


def test_gradients_are_those_of_the_plain_model():
    model = make(norm="post")
    bridge, x = to_bridge(model), model.example_input(3)
    seen = {}
    for who in (model, bridge):
        keep = lambda gradient, hook, who=who: seen.__setitem__(who, gradient)
        with who.hooks(bwd_hooks=[("blocks.0.attn.hook_pattern", keep)]):
            who(x).square().sum().backward()
    torch.testing.assert_close(seen[bridge], seen[model])
    for mine, theirs in zip(model.parameters(), bridge.parameters(), strict=True):
        torch.testing.assert_close(theirs.grad, mine.grad)


@pytest.mark.parametrize("switch", SWITCHES)
@pytest.mark.parametrize("by", ["method", "cfg"])
def test_switches_open_the_gated_hooks_and_closed_ones_refuse(switch, by):
    model, name = make(), SWITCHES[switch]
    bridge, x = to_bridge(model), model.example_input(2)
    with pytest.raises(ValueError, match=switch):
        bridge.run_with_hooks(x, fwd_hooks=[(name, lambda tensor, hook: tensor)])
    if by == "method":
        getattr(bridge, f"set_{switch}")(True)
    else:
        setattr(bridge.cfg, switch, True)
    getattr(model, f"set_{switch}")(True)
    edited = bridge.run_with_hooks(x, fwd_hooks=[(name, stretch)])
    torch.testing.assert_close(edited, model.run_with_hooks(x, fwd_hooks=[(name, stretch)]))
    assert (edited - bridge(x)).abs().max() > 1e-3


def test_stop_at_layer_gives_the_residual_stream_entering_it():
    model = make(norm="post")
    bridge, x = to_bridge(model), model.example_input(2)
    for stop in (0, 1, -1):
        torch.testing.assert_close(bridge(x, stop_at_layer=stop), model(x, stop_at_layer=stop))
    assert not any(name.startswith("blocks.1") for name in bridge.run_with_cache(x, stop_at_layer=1)[1])
    torch.testing.assert_close(bridge(x), model(x))


def test_editing_positions_in_place_leaves_the_weights_alone():
    bridge = to_bridge(make())
    x, before = bridge.example_input(1), bridge.W_pos.clone()
    with torch.no_grad():
        bridge.run_with_hooks(x, fwd_hooks=[("hook_pos_embed", lambda tensor, hook: tensor.zero_())])
    assert torch.equal(bridge.W_pos, before)


# --- cutting ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "edges", [cross_modal(), unimodal("emg").at(layers=1, heads=0), flow("acc", "cls"), same_channel()]
)
def test_cut_and_cutting_do_on_a_bridge_what_they_do_on_the_plain_model(pair, edges):
    model, bridge = pair
    x = model.example_input(3)
    try:
        hooks = cut(model, edges)
    except EdgeError:  # this model has no such edges
        with pytest.raises(EdgeError):
            cut(bridge, edges)
        return
    expected = model.run_with_hooks(x, fwd_hooks=hooks)
    torch.testing.assert_close(bridge.run_with_hooks(x, fwd_hooks=cut(bridge, edges)), expected, atol=1e-5, rtol=0)
    with cutting(bridge, edges, layout=model.layout) as report:
        torch.testing.assert_close(bridge(x), expected, atol=1e-5, rtol=0)
    assert report.intervention_point == "scores" and all(entry.attention_left == 0 for entry in report.layers)
    torch.testing.assert_close(bridge(x), model(x), atol=1e-5, rtol=0)


def test_cached_scores_keep_their_infinities_and_the_pattern_its_zeros():
    bridge = to_bridge(make(norm="post"))
    edges = cross_modal()
    with bridge.hooks(fwd_hooks=cut(bridge, edges)):
        _, cache = bridge.run_with_cache(bridge.example_input(4))
    for layer, mask in enumerate(edges.mask(bridge.layout, 3, 2)):
        assert torch.equal(cache[f"blocks.{layer}.attn.hook_attn_scores"].isneginf(), mask.expand(4, -1, -1, -1))
        assert (cache[f"blocks.{layer}.attn.hook_pattern"][:, mask] == 0).all()


def test_a_row_with_every_edge_cut_is_zero_and_not_nan():
    bridge = to_bridge(make())
    with bridge.hooks(fwd_hooks=cut(bridge, every())):
        logits, cache = bridge.run_with_cache(bridge.example_input(2))
    assert logits.isfinite().all()
    assert (cache["blocks.0.attn.hook_pattern"] == 0).all() and (cache["blocks.0.attn.hook_z"] == 0).all()


# --- the user's model -------------------------------------------------------------------------------------


def test_the_model_is_left_as_it_was_and_shares_nothing_with_the_bridge():
    model = make()
    calls = []
    model.add_hook("blocks.0.attn.hook_z", lambda z, hook: calls.append("user"), is_permanent=True)
    model.add_hook("hook_embed", lambda tensor, hook: calls.append("user"))
    tree = {name: (type(module), id(module)) for name, module in model.named_modules()}
    weights, x = copy.deepcopy(model.state_dict()), model.example_input(2)
    before = model(x)
    bridge = to_bridge(model)
    calls.clear()
    bridge(x)
    assert calls == []
    bridge(x).sum().backward()
    torch.optim.SGD(bridge.parameters(), lr=1.0).step()
    assert (bridge(x) - before).abs().max() > 1e-3
    assert torch.equal(model(x), before) and calls == ["user", "user"]
    assert {name: (type(module), id(module)) for name, module in model.named_modules()} == tree
    assert all(torch.equal(weights[name], value) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not model._forward_pre_hooks


def test_a_bridge_of_a_model_in_training_is_in_training():
    bridge = to_bridge(make(dropout=0.5).train())
    x = bridge.example_input(4)
    assert not torch.equal(bridge(x), bridge(x))
    bridge.eval()
    assert torch.equal(bridge(x), bridge(x))


def test_the_state_dict_is_the_models_and_loads_back_strictly(pair):
    model, bridge = pair
    state = bridge.state_dict()
    assert {name: value.shape for name, value in state.items()} == {
        name: value.shape for name, value in model.state_dict().items()
    }
    other = to_bridge(copy.deepcopy(model))
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    other.load_state_dict(state)
    x = model.example_input(2)
    torch.testing.assert_close(other(x), model(x))
    with pytest.raises(RuntimeError, match="Missing key"):
        other.load_state_dict({})


def test_only_unwrapped_encoders_are_bridged():
    bridge = to_bridge(make())
    with pytest.raises(TypeError, match="model is a EncoderBridge; to_bridge needs"):
        to_bridge(bridge)
    with pytest.raises(ValueError, match="already wrapped"):
        to_bridge(bridge.original_model)


# --- registration -----------------------------------------------------------------------------------------


def test_transformer_lens_builds_the_bridge_itself_once_the_architecture_is_registered():
    register_bridge()
    model = make(norm="post")
    x, expected = model.example_input(2), make(norm="post")(model.example_input(2))
    bridge = build_bridge_from_module(model, ARCHITECTURE, tl_config=bridge_config(model.cfg))
    assert bridge.layout == model.layout
    torch.testing.assert_close(bridge(x), expected)
    hooks = cut(bridge, cross_modal())
    torch.testing.assert_close(
        bridge.run_with_hooks(x, fwd_hooks=hooks), make(norm="post").run_with_hooks(x, fwd_hooks=hooks)
    )


def test_registering_goes_along_with_the_entry_point(monkeypatch):
    announced = SimpleNamespace(name=ARCHITECTURE, load=lambda: BiosignalAdapter, dist=None)
    factory = architecture_adapter_factory.ArchitectureAdapterFactory
    monkeypatch.setattr(architecture_adapter_factory, "entry_points", lambda group: [announced])
    monkeypatch.setattr(factory, "_adapters", {})
    monkeypatch.setattr(factory, "_entry_points_discovered", False)
    register_bridge()
    register_bridge()
    adapter = factory.select_architecture_adapter(bridge_config(make().cfg))
    assert type(adapter) is BiosignalAdapter


def test_the_installed_package_announces_the_adapter():
    found = importlib.metadata.entry_points(group="transformer_lens.architectures", name=ARCHITECTURE)
    if not found:
        pytest.skip("emg-lens is not installed, or was installed before it had this entry point")
    assert all(entry.load() is BiosignalAdapter for entry in found)


# --- TransformerLens's tools ------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["Q", "K", "V"])
def test_composition_scores_are_those_of_the_weights(mode):
    model = make()
    scores = to_bridge(model).all_composition_scores(mode)
    torch.testing.assert_close(model.all_composition_scores(mode), scores.scores)
    for src, dest in ((0, 1), (0, 2), (1, 2)):
        for i in range(2):
            for j in range(2):
                early, late = model.blocks[src].attn, model.blocks[dest].attn
                ov = early.W_V[i] @ early.W_O[i]
                qk = late.W_Q[j] @ late.W_K[j].T
                reads = {"Q": qk, "K": qk.T, "V": late.W_V[j] @ late.W_O[j]}[mode]
                expected = (ov @ reads).norm() / (ov.norm() * reads.norm())
                torch.testing.assert_close(scores[src, i, dest, j], expected)
    assert (scores[2] == 0).all() and scores.head_labels[:3] == ["L0H0", "L0H1", "L1H0"]


def test_stacked_weights_and_their_circuits_are_the_encoders():
    model = make(qkv_bias=False)
    bridge = to_bridge(model)
    kinds = ["W_Q", "W_K", "W_V", "W_O", "b_Q", "b_K", "b_V", "b_O", "W_in", "b_in", "W_out", "b_out"]
    for name in [*kinds, "W_U", "b_U", "W_E", "W_pos"]:
        assert torch.equal(getattr(bridge, name), getattr(model, name)), name
    torch.testing.assert_close(bridge.OV[1, 0].AB, model.W_V[1, 0] @ model.W_O[1, 0])
    torch.testing.assert_close(bridge.accumulated_bias(2), model.accumulated_bias(2))


def test_gesture_labels_serve_as_tokens():
    model = make(class_names=["rest", "fist", "point", "flex"])
    bridge = to_bridge(model)
    assert bridge.to_single_token("point") == 2
    assert torch.equal(bridge.tokens_to_residual_directions("fist"), model.W_U[:, 1])
    with pytest.raises(KeyError, match="unknown class"):
        bridge.to_single_token("wave")


@pytest.mark.parametrize("norm", ["pre", "post"])
@pytest.mark.parametrize("alone", [False, True])
def test_decompositions_of_the_cache_are_those_of_the_plain_model(norm, alone):
    model = make(norm=norm, class_names=["rest", "fist", "point", "flex"])
    x, parts = model.example_input(1 if alone else 3), []
    for who in (model, to_bridge(model)):
        cache = who.run_with_cache(x, remove_batch_dim=alone)[1]
        full = cache.get_full_resid_decomposition(expand_neurons=False, apply_ln=True)
        logits = cache.logit_attrs(cache.decompose_resid(pos_slice=0), "fist", pos_slice=0)
        parts.append((cache.accumulated_resid(apply_ln=True), cache.stack_head_results(), full, logits))
    torch.testing.assert_close(parts[1], parts[0])
    assert type(who.run_with_cache(x, return_cache_object=False)[1]) is dict


def test_node_attribution_takes_handles_on_a_bridge():
    model = make()
    clean, corrupt = model.example_input(2), model.example_input(2, seed=1)
    found = []
    for who in (model, to_bridge(model)):
        with who.handles(clean) as a, who.handles(corrupt) as b:
            result = attribution_patch(who, a, b, lambda logits: logits[:, 0].sum())
        found.append({str(node): torch.as_tensor(score) for node, score in result.node_scores.items()})
    torch.testing.assert_close(found[1], found[0])
    assert max(score.abs().max() for score in found[0].values()) > 0


@pytest.mark.skipif(
    importlib.metadata.version("transformer-lens").startswith("3"),
    reason="version 3 approximates paths with one norm scale a position; split inputs have one a head",
)
def test_path_patching_works_on_pre_norm_bridges_and_is_refused_on_post_norm_ones():
    results = {}
    for who in (make(), to_bridge(make())):
        for switch in ("use_attn_result", "use_split_qkv_input", "use_hook_mlp_in"):
            getattr(who, f"set_{switch}")(True)
        clean, corrupted = make().example_input(2), make().example_input(2, seed=1)
        caches = who.run_with_cache(clean)[1], who.run_with_cache(corrupted)[1]
        metric = lambda logits: logits[:, 0].sum()
        results[who] = get_act_patch_direct_path(
            who, corrupted, *caches, metric, src_layer=0, src_head=1, verbose=False
        )
    plain, bridged = results.values()
    assert plain[1:].abs().min() > 0
    torch.testing.assert_close(bridged, plain)
    with pytest.raises(RuntimeError, match="post-LN"):
        _ = to_bridge(make(norm="post")).blocks[0].residual_contribution_scale


def test_every_part_of_a_bridged_model_gets_its_own_mode_back():
    bridge = to_bridge(make()).train()
    bridge.original_model.blocks[0].eval()
    before = [part.training for part in bridge.original_model.modules()]
    with evaluating(bridge):
        assert not any(part.training for part in bridge.original_model.modules())
    assert [part.training for part in bridge.original_model.modules()] == before
    assert any(before) and not all(before)
