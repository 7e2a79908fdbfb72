"""TransformerLens's own utilities on TinyMyo: patching, switches, bridge; its cache is in tests/models."""

import pytest
import torch
from transformer_lens import patching

from emg_lens.hooks import cut, same_channel
from emg_lens.models import TinyMyo, build_model
from emg_lens.models.bridge import to_bridge


def make(**changes) -> TinyMyo:
    torch.manual_seed(0)
    made = dict(modalities={"emg": 2, "acc": 1}, n_samples=10, patch_samples=5, n_classes=3, d_model=12, n_heads=2)
    model = build_model("tinymyo", **{**made, "n_layers": 2, "d_mlp": 16, **changes}).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.3 * torch.randn(p.shape))
    return model


def metric(out: torch.Tensor) -> torch.Tensor:
    return (out[:, 1] - out[:, 0]).mean()


@pytest.mark.parametrize("positions", ["none", "rotary", "rotary_time"])
def test_patching_the_stream_equals_the_same_edit_by_hand(positions):
    model = make(positions=positions)
    clean, corrupt = model.example_input(3, seed=1), model.example_input(3, seed=2)
    _, cache = model.run_with_cache(clean)
    with model.handles(corrupt) as tokens:
        found = patching.get_act_patch_resid_pre(model, tokens, cache, metric)
    assert found.shape == (2, 6)
    resid = model(corrupt, stop_at_layer=1).clone()
    resid[:, 4] = cache["resid_pre", 1][:, 4]
    torch.testing.assert_close(found[1, 4], metric(model(resid, start_at_layer=1)))


@pytest.mark.parametrize("positions", ["none", "rotary", "rotary_time"])
@pytest.mark.parametrize("inputs", ["split_qkv_input", "attn_in"])
def test_switches_change_nothing_and_heads_add_up(positions, inputs):
    model = make(positions=positions)
    x = model.example_input(3)
    before = model(x)
    for switch in ("attn_result", inputs, "hook_mlp_in"):
        getattr(model, f"set_use_{switch}")(True)
    out, cache = model.run_with_cache(x)
    torch.testing.assert_close(out, before, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(cache["result", 0].sum(2) + model.b_O[0], cache["attn_out", 0])


@pytest.mark.parametrize("changes", [{}, {"fusion": "mean"}, {"positions": "rotary_time", "channel_slots": 3}])
def test_a_bridge_runs_and_is_cut_like_the_model(changes):
    model = make(**changes)
    x = model.example_input(3)
    plain = model(x)
    expected = model.run_with_hooks(x, fwd_hooks=cut(model, same_channel()))
    bridge = to_bridge(model)
    torch.testing.assert_close(bridge(x), plain)
    hooks = cut(bridge, same_channel(), layout=model.layout)
    torch.testing.assert_close(bridge.run_with_hooks(x, fwd_hooks=hooks), expected)
    assert (expected - plain).abs().max() > 1e-3
