"""The encoder against torch's own transformer layers, and the surface TransformerLens users rely on."""

import copy
import pickle

import numpy as np
import pytest
import torch
from torch import nn
from torch_layers import torch_encoder

from emg_lens.hooks.edges import cross_modal, flow, unimodal
from emg_lens.lens.config import EncoderConfig
from emg_lens.models.encoder import HookedBiosignalEncoder


def make(**changes) -> HookedBiosignalEncoder:
    settings = dict(
        modalities={"emg": 4, "acc": 3}, n_samples=12, n_classes=5, d_model=32, n_heads=4, n_layers=3, d_mlp=24
    )
    torch.manual_seed(0)
    return HookedBiosignalEncoder(EncoderConfig(**{**settings, **changes})).eval()


def randomise(model: nn.Module) -> None:
    """Biases and gains away from their initial zeros and ones, so that none can be forgotten unnoticed."""
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.2 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())))


@pytest.mark.parametrize("norm", ["post", "pre"])
@pytest.mark.parametrize("edges", [None, unimodal(), cross_modal(), flow("emg", "cls") | flow("acc", "emg")])
def test_blocks_equal_torch_encoder_layers_with_the_same_mask(norm, edges):
    model = make(norm=norm)
    randomise(model)
    x = model.example_input(6)
    resid = model(x, stop_at_layer=0)
    expected = resid
    mask = None if edges is None else edges.mask(model.layout, 3, 4)[0, 0]
    for block in model.blocks:
        expected = torch_encoder([block], norm == "pre").layers[0].eval()(expected, src_mask=mask)
    hooks = []
    if mask is not None:
        hooks = [
            (f"blocks.{layer}.attn.hook_attn_scores", lambda s, hook: s.masked_fill(mask, -torch.inf))
            for layer in range(3)
        ]
    actual = model.run_with_hooks(resid, start_at_layer=0, stop_at_layer=3, fwd_hooks=hooks)
    assert (actual - expected).abs().max() < 1e-5


@pytest.mark.parametrize("positions", ["none", "learned", "sinusoidal", "rotary"])
@pytest.mark.parametrize("norm", ["post", "pre"])
def test_listening_to_every_hook_does_not_change_the_output(positions, norm):
    model = make(positions=positions, norm=norm)
    randomise(model)
    x = model.example_input(4)
    plain = model(x)
    cached, cache = model.run_with_cache(x)
    assert (plain - cached).abs().max() < 1e-5
    assert cache["pattern", 1].shape == (4, 4, 8, 8)
    torch.testing.assert_close(cache["pattern", 1].sum(-1), torch.ones(4, 4, 8))


def test_residual_stream_adds_up_in_a_pre_norm_model():
    model = make(norm="pre")
    _, cache = model.run_with_cache(model.example_input(2))
    mid = cache["resid_pre", 1] + cache["attn_out", 1]
    torch.testing.assert_close(cache["resid_mid", 1], mid)
    torch.testing.assert_close(cache["resid_post", 1], mid + cache["mlp_out", 1])
    torch.testing.assert_close(cache["resid_post", 1], cache["resid_pre", 2])


def test_rows_with_every_score_cut_give_zero_attention_not_nan():
    model = make()
    cut_all = ("blocks.1.attn.hook_attn_scores", lambda s, hook: torch.full_like(s, -torch.inf))
    with model.hooks(fwd_hooks=[cut_all]):
        out, cache = model.run_with_cache(model.example_input(2))
    assert out.isfinite().all()
    assert (cache["pattern", 1] == 0).all()
    torch.testing.assert_close(cache["attn_out", 1], model.blocks[1].attn.b_O.expand(2, 8, 32))


@pytest.mark.parametrize("name", ["W_Q", "W_K", "b_Q", "b_K"])
def test_nan_in_scores_stays_nan_and_is_not_taken_for_a_row_without_edges(name):
    """Head 0 has NaN scores, and head 1 only cut edges."""
    model = make()
    attention = model.blocks[1].attn
    with torch.no_grad():
        getattr(attention, name)[0] = torch.nan

    def cut_head_1(scores, hook):
        return scores.index_fill(1, torch.tensor([1]), -torch.inf)

    with torch.no_grad(), model.hooks(fwd_hooks=[("blocks.1.attn.hook_attn_scores", cut_head_1)]):
        out, cache = model.run_with_cache(model.example_input(2))
    pattern = cache["pattern", 1]
    assert pattern[:, 0].isnan().all() and (pattern[:, 1] == 0).all() and pattern[:, 2:].isfinite().all()
    torch.testing.assert_close(pattern[:, 2:], cache["attn_scores", 1][:, 2:].softmax(-1))
    assert out.isnan().all()


def test_masked_edges_are_absent_with_and_without_hooks():
    model = make(masked_edges="flow('acc', 'cls')", norm="post")
    x = model.example_input(3)
    whole = make(norm="post")
    whole.load_state_dict(model.state_dict())
    mask = flow("acc", "cls").mask(model.layout, 3, 4)
    hooks = [
        (f"blocks.{layer}.attn.hook_attn_scores", lambda s, hook: s.masked_fill(mask[0], -torch.inf))
        for layer in range(3)
    ]
    expected = whole.run_with_hooks(x, fwd_hooks=hooks)
    assert (model(x) - expected).abs().max() < 1e-5
    out, cache = model.run_with_cache(x)
    assert (out - expected).abs().max() < 1e-5
    assert (cache["pattern", 0][:, :, 0, 5:] == 0).all()
    assert (whole(x) - expected).abs().max() > 1e-3


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_a_model_without_any_edge_in_a_layer_writes_its_bias_there(norm):
    model = make(masked_edges="every().at(layers=[1])", norm=norm)
    x = model.example_input(3)
    out, cache = model.run_with_cache(x)
    torch.testing.assert_close(cache["attn_out", 1], model.blocks[1].attn.b_O.expand(3, 8, 32))
    assert out.isfinite().all() and (model(x) - out).abs().max() < 1e-5
    only_rows = make(masked_edges="positions(dest=['cls'])", norm=norm)
    assert (only_rows(x) - only_rows.run_with_cache(x)[0]).abs().max() < 1e-5


@pytest.mark.parametrize("positions", ["learned", "rotary"])
def test_one_trial_alone_gives_what_it_gives_among_many(positions):
    """Few tokens and wide weights take another way through the projections than many tokens do."""
    model = make(d_model=160, positions=positions)
    randomise(model)
    x = model.example_input(32)
    assert (model(x)[:1] - model(x[:1])).abs().max() < 1e-5
    cache = model.run_with_cache(x)[1]
    names = ("rot_q", "rot_k", "v") if positions == "rotary" else ("q", "k", "v")
    norm = model.blocks[0].ln1
    expected = model.blocks[0].attn.project(norm(cache["resid_pre", 0]))
    for name, found in zip(names, expected, strict=True):
        torch.testing.assert_close(cache[f"blocks.0.attn.hook_{name}"], found, atol=1e-5, rtol=1e-4)


def test_start_and_stop_at_layer_cut_the_model_in_two():
    model = make()
    x = model.example_input(2)
    resid = model(x, stop_at_layer=-1)
    torch.testing.assert_close(model(resid, start_at_layer=-1), model(x))
    with pytest.raises(ValueError, match="start_at_layer=7; expected -3 to 3"):
        model(resid, start_at_layer=7)
    with pytest.raises(ValueError, match="expected the residual stream"):
        model(x, start_at_layer=1)


def test_arrays_of_numpy_and_doubles_are_refused_with_what_makes_them_right():
    model = make()
    x = model.example_input(2)
    with pytest.raises(ValueError, match=r"input is a ndarray; expected a tensor: torch.as_tensor\(x\).float\(\)"):
        model.check_signals(x.numpy())
    with pytest.raises(ValueError, match=r"input is torch.float64 .* and the model torch.float32; use x.float\(\)"):
        model(x.double())
    with pytest.raises(ValueError, match=r"input is torch.float32 and the model torch.float64; use x.double\(\)"):
        copy.deepcopy(model).double()(x)
    assert copy.deepcopy(model).double()(x.double()).dtype == torch.float64


def test_input_of_another_shape_is_refused_with_what_was_expected():
    with pytest.raises(
        ValueError, match=r"shape \[2, 6, 12\] \(torch.float32\); expected \[batch, 7 channels, 12 samples\]"
    ):
        make()(torch.zeros(2, 6, 12))


def test_mean_readout_leaves_cls_out_and_none_returns_the_residual_stream():
    model = make(readout="mean")
    x = model.example_input(2)
    resid = model(x, stop_at_layer=3)
    torch.testing.assert_close(model(x), model.unembed(model.ln_final(resid)[:, 1:].mean(1)))
    assert model.readout_positions.tolist() == list(range(1, 8))
    assert make(readout="none", n_classes=0)(x).shape == (2, 8, 32)


def test_patches_are_embedded_in_layout_order():
    model = make(patch_samples=3, norm="pre")
    x = model.example_input(2)
    token = model.layout.names.index("acc.1.p2")
    embedded = model.embed(x)[:, token]
    channel = 4 + 1
    expected = x[:, channel, 6:9] @ model.embed.W_E[channel] + model.embed.b_E[channel]
    torch.testing.assert_close(embedded, expected)
    assert len(model.layout) == 1 + 7 * 4
    shared = make(patch_samples=3, embedding="shared")
    assert shared.embed.W_E.shape == (1, 3, 32)
    torch.testing.assert_close(
        shared.embed(x)[:, token], x[:, channel, 6:9] @ shared.embed.W_E[0] + shared.embed.b_E[0]
    )


def test_a_hook_on_a_switched_off_point_is_refused():
    model = make()
    name = "blocks.0.attn.hook_result"
    for attempt in (
        lambda: model.run_with_hooks(model.example_input(), fwd_hooks=[(name, lambda t, hook: t)]),
        lambda: model.add_hook(name, lambda t, hook: t),
        lambda: model.run_with_cache(model.example_input(), names_filter=name),
    ):
        with pytest.raises(ValueError, match="does not fire while cfg.use_attn_result is off"):
            attempt()
    model.set_use_attn_result(True)
    _, cache = model.run_with_cache(model.example_input())
    torch.testing.assert_close(cache["result", 0].sum(2) + model.blocks[0].attn.b_O, cache["attn_out", 0])


@pytest.mark.parametrize("norm", ["pre", "post"])
@pytest.mark.parametrize("inputs", ["split_qkv_input", "attn_in"])
def test_gated_inputs_change_nothing_when_switched_on(norm, inputs):
    model = make(norm=norm)
    randomise(model)
    x = model.example_input(3)
    before = model(x)
    for switch in ("attn_result", inputs, "hook_mlp_in"):
        getattr(model, f"set_use_{switch}")(True)
    out, cache = model.run_with_cache(x)
    assert (out - before).abs().max() < 1e-5
    assert ("blocks.0.attn.hook_q_input" in cache) == (inputs == "split_qkv_input")
    assert "blocks.0.hook_mlp_in" in cache


def test_the_3x_alias_of_split_inputs_is_the_same_point():
    model = make()
    assert model.hook_dict["blocks.1.hook_q_input"] is model.hook_dict["blocks.1.attn.hook_q_input"]


def test_an_unknown_hook_name_raises():
    with pytest.raises(KeyError, match="no hook point"):
        make().run_with_hooks(torch.zeros(1, 7, 12), fwd_hooks=[("blocks.9.hook_resid_pre", lambda t, hook: t)])


def test_weights_have_transformerlens_shapes():
    model = make()
    assert model.W_Q.shape == (3, 4, 32, 8) and model.W_O.shape == (3, 4, 8, 32)
    assert model.W_in.shape == (3, 32, 24) and model.W_U.shape == (32, 5)
    qk = model.blocks[0].attn.QK[1].AB
    torch.testing.assert_close(qk, model.blocks[0].attn.W_Q[1] @ model.blocks[0].attn.W_K[1].T)


def test_saving_keeps_weights_and_the_order_of_modalities(tmp_path):
    model = make(modalities={"zzz": 2, "acc": 3}, class_names=list("abcde"))
    model.save_pretrained(tmp_path)
    again = HookedBiosignalEncoder.from_pretrained(tmp_path)
    assert list(again.cfg.modalities) == ["zzz", "acc"]
    assert again.layout == model.layout
    x = model.example_input(2)
    assert torch.equal(again(x), model(x))
    assert not again.training


def test_copies_are_whole_models_of_their_own():
    model = make(norm="post")
    x = model.example_input(2)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(twin(x), model(x))
        assert twin.blocks[0].attn.W_Q.stride() == model.blocks[0].attn.W_Q.stride()
        twin.set_use_attn_result(True)
        assert "blocks.0.attn.hook_result" in twin.run_with_cache(x)[1]
        assert not model.cfg.use_attn_result
    contiguous = {name: weight.contiguous() for name, weight in model.state_dict().items()}
    twin.load_state_dict(contiguous, assign=True)  # weights that lie otherwise in memory are no less right
    torch.testing.assert_close(twin(x), model(x))


def test_weights_with_a_missing_key_do_not_load(tmp_path):
    from safetensors.torch import load_file, save_file

    make().save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["blocks.0.attn.W_Q"]
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(RuntimeError, match="blocks.0.attn.W_Q"):
        HookedBiosignalEncoder.from_pretrained(tmp_path)


def test_dropout_and_drop_path_act_only_in_training():
    model = make(dropout=0.5, drop_path=0.5)
    x = model.example_input(4)
    assert torch.equal(model(x), model(x))
    model.train()
    assert not torch.equal(model(x), model(x))


def test_gradients_reach_every_parameter():
    model = make(norm="post")
    model(model.example_input(4)).sum().backward()
    dead = [n for n, p in model.named_parameters() if p.grad is None or not np.isfinite(p.grad.norm().item())]
    assert dead == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"d_model": 30}, "not a multiple of n_heads"),
        ({"readout": "cls", "cls_token": False}, "needs cls_token"),
        ({"n_classes": 0}, "n_classes=.*; expected at least 1"),
        ({"patch_samples": 5}, "not a multiple"),
        ({"class_names": ["a"]}, "class_names"),
        ({"dropout": 1.0}, "dropout"),
        ({"n_layers": 0}, "n_layers"),
        ({"positions": "rotary", "d_model": 12}, "even"),
    ],
)
def test_impossible_configurations_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        make(**changes)


class LastToken(HookedBiosignalEncoder):
    def pool(self, resid):
        return resid[:, -1]


class OwnHead(HookedBiosignalEncoder):
    def head(self, resid, return_type="logits"):
        return self.unembed(resid.mean(1))


@pytest.mark.parametrize("kind", [LastToken, OwnHead])
def test_training_reads_what_a_models_own_readout_reads(kind):
    """The last block left all rows but CLS out, whatever the class read: another function was trained."""
    model = kind(make().cfg)
    x = model.example_input(4)
    torch.testing.assert_close(model.train()(x), model.eval()(x))


@pytest.mark.parametrize("where", ["blocks.2", "blocks.2.mlp", "ln_final"])
def test_a_hook_of_torchs_own_sees_all_positions_in_training(where):
    model, seen = make().train(), []
    model.get_submodule(where).register_forward_hook(lambda part, inputs, output: seen.append(output.shape[1]))
    model(model.example_input(4))
    assert seen == [len(model.layout)]


def test_training_still_leaves_out_what_nobody_reads():
    model, seen = make().train(), []
    kept = model.blocks[-1].mlp.act_fn
    model.blocks[-1].mlp.act_fn = lambda x: seen.append(x.shape[1]) or kept(x)
    model(model.example_input(4))
    assert seen == [1]
