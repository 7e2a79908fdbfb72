"""TinyMyo against torch's own layers, and what its variants must do; test_tinymyo_parity.py has numbers."""

import copy
from importlib.metadata import version

import pytest
import torch
import torch.nn.functional as F
from einops import rearrange
from torch_layers import torch_encoder

from emg_lens.data import Batch
from emg_lens.errors import EmgLensError
from emg_lens.hooks import Replace, cross_modal, cut, cutting, flow, lag, same_channel, same_patch, self_edges
from emg_lens.models import TinyMyo, TinyMyoConfig, build_model
from emg_lens.sweeps import Condition, audit, layer_masks, sweep
from emg_lens.sweeps.settings import known_arithmetic
from emg_lens.training import TrainingRecipe, fit

HEADS = {
    "concat": {"n_classes": 4},
    "mean": {"n_classes": 4, "fusion": "mean"},
    "regression": {"n_classes": 2, "head": "regression"},
    "reconstruction": {"n_classes": 0, "head": "reconstruction"},
}


def make(head: str = "concat", **changes) -> TinyMyo:
    """Three channels of four patches of five samples; no weight is at its initial zero or one."""
    made = dict(
        modalities={"emg": 2, "acc": 1}, n_samples=20, patch_samples=5, d_model=12, n_heads=2, n_layers=3, d_mlp=16
    )
    torch.manual_seed(0)
    model = build_model("tinymyo", **{**made, **HEADS[head], **changes}).eval().double()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.3 * torch.randn_like(p))
    return model


def inputs(model: TinyMyo, batch: int = 3) -> torch.Tensor:
    return model.example_input(batch, seed=1).double()


EDGES = {
    "within-channel": same_channel() - self_edges(),
    "cross-channel": ~same_channel(),
    "temporal": ~same_patch(),
    "the future": lag(-3, -1),
    "one layer and head": cross_modal().at(layers=1, heads=0),
    "acc": flow("acc", "emg"),
}


@pytest.mark.parametrize("edges", [None, *EDGES])
def test_blocks_and_cuts_equal_torchs_own_layers_with_the_same_mask(edges):
    model = make("reconstruction", positions="none")
    x = inputs(model)
    mask = None if edges is None else EDGES[edges].mask(model.layout, 3, 2)
    with torch.no_grad():
        tokens = model.embed(x)
        for k, layer in enumerate(torch_encoder(model.blocks, norm_first=True).layers):
            tokens = layer(tokens, src_mask=None if mask is None else mask[k].repeat(len(x), 1, 1))
        final = F.layer_norm(tokens, (12,), model.ln_final.w, model.ln_final.b, 1e-5)
        expected = (final @ model.unembed.W_U + model.unembed.b_U).view(3, 3, 20)
        if edges is None:
            torch.testing.assert_close(model(x), expected, rtol=0, atol=1e-10)
            return
        assert (model(x) - expected).abs().max() > 1e-3
        hooked = model.run_with_hooks(x, fwd_hooks=cut(model, EDGES[edges]))
        torch.testing.assert_close(hooked, expected, rtol=0, atol=1e-10)
        with cutting(model, EDGES[edges]):
            torch.testing.assert_close(model(x), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize(("positions", "index"), [("rotary", range(12)), ("rotary_time", [0, 1, 2, 3] * 3)])
def test_neighbouring_values_turn_as_complex_numbers_do(positions, index):
    model = make(positions=positions)
    with torch.no_grad():
        _, cache = model.run_with_cache(inputs(model))
    rate = 10000.0 ** (-torch.arange(0, 6, 2, dtype=torch.float64) / 6)
    turn = torch.polar(torch.ones(12, 3, dtype=torch.float64), torch.tensor(list(index))[:, None] * rate)
    for name in "qk":
        plain = torch.view_as_complex(cache[f"blocks.1.attn.hook_{name}"].unflatten(-1, (3, 2)).contiguous())
        expected = torch.view_as_real(plain * turn[:, None]).flatten(-2)
        torch.testing.assert_close(cache[f"blocks.1.attn.hook_rot_{name}"], expected, rtol=0, atol=1e-6)


def test_without_positions_hidden_tokens_of_a_window_are_all_alike_and_order_means_nothing():
    hidden = torch.zeros(3, 12, dtype=torch.bool)
    hidden[:, [1, 4, 5, 11]] = True
    spread = {}
    for positions in ("none", "rotary", "rotary_time"):
        model = make("reconstruction", positions=positions)
        patches = rearrange(model(inputs(model), masked=hidden), "b c (p s) -> b (c p) s", s=5)[:, [1, 4, 5, 11]]
        spread[positions] = (patches - patches[:, :1]).abs().max().item()
    assert spread["none"] < 1e-12 and min(spread["rotary"], spread["rotary_time"]) > 1e-3


def test_channels_may_change_places_unless_positions_run_through_them():
    order = [2, 0, 1]
    for positions, same in (("none", True), ("rotary_time", True), ("rotary", False)):
        model = make("reconstruction", positions=positions)
        x = inputs(model)
        gap = (model(x[:, order]) - model(x)[:, order]).abs().max()
        assert (gap < 1e-10) == same, positions
    slots = make("reconstruction", positions="rotary_time", channel_slots=16)
    assert (slots(x[:, order]) - slots(x)[:, order]).abs().max() > 1e-3


def test_hidden_tokens_are_the_mask_token_and_nothing_else_of_them_is_read():
    model = make("reconstruction")
    x, hidden = inputs(model), torch.zeros(3, 12, dtype=torch.bool)
    hidden[0, 5] = hidden[2, 0] = True
    _, cache = model.run_with_cache(x, masked=hidden)
    assert torch.equal(cache["hook_embed"][hidden], model.embed.mask_token.expand(2, -1))
    assert torch.equal(cache["hook_embed"][~hidden], model.embed(x)[~hidden])
    other = x.clone()
    other[0, 1, 5:10] = 9.0  # channel 1, patch 1
    assert torch.equal(model(other, masked=hidden), model(x, masked=hidden))
    for wrong in (hidden[:, 1:], hidden.float(), hidden[:2]):
        with pytest.raises(ValueError, match="expected torch.bool .3, 12.: one truth value per token"):
            model(x, masked=wrong)
    with pytest.raises(ValueError, match="leave it out with start_at_layer"):
        model(cache["resid_pre", 1], start_at_layer=1, masked=hidden)
    with pytest.raises(ValueError, match="has no mask token; build it with mask_token=True"):
        make("reconstruction", mask_token=False)(x, masked=hidden)


@pytest.mark.parametrize("head", HEADS)
def test_heads_read_what_they_say(head):
    model = make(head)
    x = inputs(model)
    out, cache = model.run_with_cache(x)
    final = model.ln_final(cache["resid_post", 2]).view(3, 3, 4, 12)  # [trial, channel, patch, d_model]
    unembed = model.unembed
    if head == "concat":
        expected = torch.einsum("bcd,cdk->bk", final.mean(2), unembed.W_U) + unembed.b_U
        flat = torch.cat([final[:, c] for c in range(3)], dim=-1).mean(1)  # as published: side by side, then the mean
        torch.testing.assert_close(flat @ unembed.W_U.reshape(36, 4) + unembed.b_U, expected)
    elif head == "mean":
        expected = final.mean(1).mean(1) @ unembed.W_U + unembed.b_U
    elif head == "reconstruction":
        expected = (final @ unembed.W_U + unembed.b_U).flatten(2)
    else:
        rows = torch.cat([final[:, c] for c in range(3)], dim=-1)  # [trial, patch, 36]
        hidden = F.silu(rows @ unembed.mix.weight[:, :, 0].T + unembed.mix.bias)
        around = F.pad(hidden, (0, 0, 1, 1))
        kernel = unembed.smooth.weight[:, 0].T
        hidden = F.silu(sum(around[:, k : k + 4] * kernel[k] for k in range(3)) + unembed.smooth.bias)
        values = hidden @ unembed.read.weight[:, :, 0].T + unembed.read.bias  # [trial, patch, target]
        assert out.shape == (3, 20, 2)
        at = ((torch.arange(20) + 0.5) / 5 - 0.5).clamp(0, 3).double()  # middles of samples, in patches
        low = at.floor().long().clamp(max=2)
        expected = values[:, low] + (at - low)[None, :, None] * (values[:, low + 1] - values[:, low])
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-5 if head == "regression" else 1e-10)


@pytest.mark.parametrize("head", ["concat", "mean", "reconstruction"])
@pytest.mark.parametrize("changes", [{}, {"channel_slots": 4, "positions": "rotary_time"}])
def test_parts_of_the_stream_add_up_and_so_do_their_logits(head, changes):
    model = make(head, **changes)
    x, hidden = inputs(model), torch.rand(3, 12) < 0.3
    out, cache = model.run_with_cache(x, masked=hidden)
    parts, labels = cache.decompose_resid(return_labels=True)
    assert ("pos_embed" in labels) == bool(changes)
    torch.testing.assert_close(parts.sum(0), cache["resid_post", 2])
    heads = cache.stack_head_results(incl_remainder=True)
    torch.testing.assert_close(heads.sum(0), cache["resid_post", 2])
    label = 3
    attributed = cache.logit_attrs(parts, label).sum(0)  # [trial, pos]
    offset = (model.directions_at_positions(label) * model.ln_final.b).sum(-1)
    found = attributed + offset + model.unembed.b_U[label]
    if head == "reconstruction":  # sample 3 of every patch
        torch.testing.assert_close(found, out.view(3, 12, 5)[..., label])
    else:
        torch.testing.assert_close(found.mean(1), out[:, label])
        torch.testing.assert_close(cache.logit_attrs(parts, "3"), cache.logit_attrs(parts, 3))
        if head == "concat" or not version("transformer_lens").startswith("3."):  # whose own takes one for all trials
            one_a_trial = cache.logit_attrs(parts, torch.tensor([3, 0, 1]), torch.tensor([0, 0, 2]))
            assert not one_a_trial[:, 1].any()
            torch.testing.assert_close(one_a_trial[:, 0], cache.logit_attrs(parts, 3, 0)[:, 0])
    torch.testing.assert_close(
        cache.logit_attrs(cache.decompose_resid(pos_slice=5), label, pos_slice=5),
        cache.logit_attrs(parts, label)[..., 5],
    )


def test_what_has_no_direction_is_refused_in_words():
    with pytest.raises(ValueError, match="with fusion='concat' a class has one direction per channel"):
        make().tokens_to_residual_directions("1")
    with pytest.raises(ValueError, match="has convolutions, so targets have no direction"):
        make("regression").tokens_to_residual_directions(0)
    with pytest.raises(ValueError, match="this model's head is 'reconstruction'"):
        model = make("reconstruction")
        model(inputs(model), "loss", labels=torch.tensor([0, 1, 2]))


@pytest.mark.parametrize("head", HEADS)
def test_the_stream_can_be_entered_and_left_at_any_layer(head):
    model = make(head)
    x = inputs(model)
    for layer in range(4):
        torch.testing.assert_close(model(model(x, stop_at_layer=layer), start_at_layer=layer), model(x))


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("positions", ["none", "rotary", "rotary_time"])
def test_sweeps_fold_the_model_and_equal_the_loop(head, positions):
    model = make(head, positions=positions, channel_slots=3 * (positions == "rotary_time"))
    x = inputs(model, 4)
    conditions = [*layer_masks({"within": same_channel(), "time": ~same_patch()}, 3), Condition("acc", Replace("acc"))]
    assert known_arithmetic(model) == "folded"
    loop = sweep(model, x, conditions, executor="loop").logits
    for executor in ("tree",):
        found = sweep(model, x, conditions, executor=executor).logits
        for name, logits in loop.items():
            torch.testing.assert_close(found[name], logits, rtol=0, atol=1e-9)
    torch.testing.assert_close(loop["baseline"], model(x))
    assert not audit(model, same_channel().at(layers=2))["structural_null"].item()  # every position is read


def test_padded_channels_are_a_modality_and_need_not_be_read():
    padded = dict(modalities={"emg": 2, "pad": 1}, padding="pad")
    seen, unseen = make(**padded), make(**padded, reads_padding=False)
    unseen.load_state_dict(seen.state_dict())
    x = inputs(seen)
    expected = seen.run_with_hooks(x, fwd_hooks=cut(seen, flow("pad", "emg") | flow("pad", "pad")))
    torch.testing.assert_close(unseen(x), expected)
    assert (seen(x) - expected).abs().max() > 1e-3
    _, cache = unseen.run_with_cache(x)
    assert not cache["pattern", 1][..., seen.layout.positions("pad")].any()
    with pytest.raises(ValueError, match="padding='pads' is none of the modalities"):
        make(padding="pads")
    with pytest.raises(ValueError, match="reads_padding=False needs padding"):
        make(reads_padding=False)


def test_samples_behind_the_last_patch_are_refused_or_left_out_on_demand():
    with pytest.raises(
        ValueError, match="n_samples=23 is not a multiple of patch_samples=5; crop the trials, or set drop_tail"
    ):
        make(n_samples=23)
    model, short = make("reconstruction", n_samples=23, drop_tail=True), make("reconstruction")
    x = inputs(model)
    assert x.shape[-1] == 23
    torch.testing.assert_close(model(x), short(x[..., :20]))


def test_a_head_of_other_channels_is_refused_not_mixed():
    """docs/tinymyo-model.md §9.2: the published code reads two halves of a channel as two channels."""
    model = build_model("tinymyo", modalities={"emg": 16}, n_samples=40, n_classes=3, n_layers=1)
    with pytest.raises(ValueError, match=r"input has shape \[2, 8, 80\].*expected \[batch, 16 channels, 40 samples\]"):
        model(torch.zeros(2, 8, 80))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"head": "reconstruction"}, "n_classes=4; head='reconstruction' needs n_classes=0"),
        ({"head": "regression", "fusion": "mean"}, "fusion='mean'; head='regression' needs fusion='concat'"),
        ({"n_classes": 0}, "n_classes=.*; expected at least 1"),
        ({"positions": "learned"}, "positions='learned'; TinyMyo needs one of none, rotary, rotary_time"),
        ({"cls_token": True}, "cls_token=True, .* needs cls_token=False"),
        ({"tokens": "time", "embedding": "dedicated"}, "tokens='time', .* needs cls_token=False"),
        ({"patch_samples": None}, "patch_samples=None; TinyMyo needs"),
        ({"channel_slots": 2}, "channel_slots=2 for 3 channels"),
        ({"output_samples": 7}, "output_samples=7 needs head='regression'"),
        ({"pooled": True}, "pooled=True needs head='regression' without output_samples, got 'classification'"),
        ({"head": "regression", "pooled": True, "output_samples": 7}, "without output_samples, got 'regression' and"),
        ({"head": "decode"}, "expected 'reconstruction', 'classification' or 'regression'"),
        ({"drop_path_shape": "none"}, "expected 'linear' or 'constant'"),
        ({"roep": "token"}, "has no setting 'roep'"),
    ],
)
def test_what_tinymyo_cannot_be(changes, message):
    with pytest.raises(EmgLensError, match=message) as error:
        build_model("tinymyo", **{"modalities": {"emg": 2, "acc": 1}, "n_samples": 20, "n_classes": 4, **changes})
    assert "\n" not in str(error.value)


def test_the_defaults_are_the_published_sizes():
    """docs/tinymyo-model.md §9.1."""
    model = TinyMyo(TinyMyoConfig(modalities={"emg": 16}, n_samples=1000, n_classes=0, head="reconstruction"))
    assert sum(p.numel() for p in model.parameters()) == 3_567_380 and len(model.layout) == 800
    assert model.layout.names[51] == "emg.1.p1" and model.cfg.rope == "token"
    assert (model.cfg.dropout, model.cfg.hidden_dropout) == (0.1, 0.1)
    assert [block.drop_path for block in model.blocks] == [0.1] * 8
    ramp = TinyMyoConfig(modalities={"emg": 1}, n_samples=20, n_classes=2, drop_path_shape="linear", n_layers=3)
    assert [block.drop_path for block in TinyMyo(ramp).blocks] == [0.0, 0.05, 0.1]


def bound(weight: torch.Tensor) -> float:
    return weight.detach().abs().max().item()


@pytest.mark.parametrize("drawn_anew", [False, True])
def test_initial_weights_are_the_published_ones_also_when_drawn_anew(drawn_anew):
    """docs/tinymyo-model.md §9.1: Xavier of queries, keys and values as one map; what layer l writes over √(2l)."""
    torch.manual_seed(0)
    cfg = TinyMyoConfig(modalities={"emg": 2}, n_samples=40, n_classes=0, head="reconstruction")
    model = TinyMyo(cfg)
    if drawn_anew:  # new in TransformerLens 4
        model = pytest.importorskip("transformer_lens.tools.analysis.interchange").reinitialized(model, seed=3)
    assert bound(model.W_Q) == pytest.approx((6 / (192 + 576)) ** 0.5, rel=1e-3)
    for layer, block in enumerate(model.blocks, start=1):
        gain = (2 * layer) ** -0.5
        assert bound(block.attn.W_O) == pytest.approx(gain * (6 / 384) ** 0.5, rel=1e-3)
        assert bound(block.mlp.W_out) == pytest.approx(gain * (6 / 960) ** 0.5, rel=1e-3)
        assert bound(block.mlp.W_in) == pytest.approx((6 / 960) ** 0.5, rel=1e-3)
        assert not block.attn.b_Q.any() and not block.mlp.b_out.any() and bool((block.ln1.w == 1).all())
    assert bound(model.embed.W_E) == pytest.approx((6 / 212) ** 0.5, rel=0.01)
    assert 0.2 < bound(model.embed.b_E) <= 20**-0.5
    assert 0.015 < bound(model.embed.mask_token) <= 0.02
    assert bound(model.unembed.W_U) == pytest.approx((6 / 212) ** 0.5, rel=0.01) and not model.unembed.b_U.any()


def test_dropout_of_hidden_values_and_of_paths_acts_in_training_alone():
    quiet = dict(dropout=0.0, hidden_dropout=0.0, drop_path=0.0)
    for name in quiet:
        model = make("mean", **{**quiet, name: 0.5}).float()
        x = model.example_input(4)
        assert torch.equal(model(x), model(x))
        model.train()
        assert not torch.equal(model(x), model(x)), name
    still = make("mean", **quiet).float().train()
    torch.testing.assert_close(still(x), still.eval()(x))


@pytest.mark.parametrize("head", HEADS)
def test_saved_and_loaded_it_is_the_same(head, tmp_path):
    model = make(head, positions="rotary_time", channel_slots=4).float()
    model.save_pretrained(tmp_path)
    again = TinyMyo.from_pretrained(tmp_path)
    x = model.example_input(2)
    assert torch.equal(again(x), model(x)) and again.cfg == model.cfg and again.layout == model.layout
    assert torch.equal(copy.deepcopy(model)(x), model(x))


def test_it_is_fitted_like_every_model_of_the_registry():
    model = make().float()
    x = model.example_input(8)
    table = fit(model, Batch(x, torch.arange(8) % 4), TrainingRecipe(epochs=40, lr=0.01, batch_size=8))
    assert table["loss"].iloc[-1] < 0.5 * table["loss"].iloc[0]


def test_every_parameter_is_trained():
    for head in HEADS:
        model = make(head, channel_slots=3)
        model(inputs(model), masked=torch.rand(3, 12) < 0.5).square().sum().backward()
        assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_a_pooled_regression_is_the_mean_of_what_each_patch_is_read_for():
    sizes = {"d_model": 16, "n_heads": 2, "n_layers": 1, "d_mlp": 16, "patch_samples": 10, "head": "regression"}
    data = {"modalities": {"emg": 2}, "n_samples": 40, "n_classes": 3}
    sequence = build_model("tinymyo", **data, **sizes, output_samples=4).eval()  # a value a patch: no interpolation
    pooled = build_model("tinymyo", **data, **sizes, pooled=True).eval()
    pooled.load_state_dict(sequence.state_dict())
    x = pooled.example_input(3)
    assert (sequence.cfg.output_shape, pooled.cfg.output_shape) == ((4, 3), (3,))
    torch.testing.assert_close(pooled(x), sequence(x).mean(1))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_it_computes_in_other_types_than_float32(dtype):
    torch.manual_seed(0)
    model = TinyMyo(TinyMyoConfig(modalities={"emg": 4}, n_samples=200, n_classes=6)).eval()
    x = model.example_input(2)
    expected, found = model(x), model.to(dtype)(x.to(dtype))
    assert found.dtype == dtype
    torch.testing.assert_close(found.float(), expected, atol=0.1 if dtype.itemsize < 4 else 1e-4, rtol=0.1)
