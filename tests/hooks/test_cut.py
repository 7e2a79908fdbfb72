import pytest
import torch
from torch import nn
from toy import Toy, hooks_left

from emg_lens.errors import EmgLensError
from emg_lens.hooks import (
    DeadHookError,
    EdgeError,
    cross_modal,
    cut,
    every,
    flow,
    none,
    positions,
    self_edges,
    unimodal,
)
from emg_lens.layout import TokenLayout
from emg_lens.lens.config import EncoderConfig
from emg_lens.models.encoder import HookedBiosignalEncoder

LAYOUT = TokenLayout.channels({"emg": 3, "acc": 2})


@pytest.fixture
def encoder():
    torch.manual_seed(0)
    cfg = EncoderConfig({"emg": 3, "acc": 2}, n_samples=8, n_classes=3, d_model=16, n_layers=3, norm="post", d_mlp=24)
    return HookedBiosignalEncoder(cfg).eval()


@pytest.fixture
def toy():
    return Toy(LAYOUT)


def test_the_cut_edges_carry_nothing_and_the_rest_is_renormalised(encoder):
    x = encoder.example_input(2)
    edges = cross_modal().at(layers=0)
    _, before = encoder.run_with_cache(x)
    with encoder.hooks(fwd_hooks=cut(encoder, edges)):
        _, after = encoder.run_with_cache(x)
    mask = edges.mask(encoder.layout, 3, 4)[0]
    kept = before["pattern", 0].masked_fill(mask, 0)
    torch.testing.assert_close(after["pattern", 0], kept / kept.sum(-1, keepdim=True))
    assert (after["attn_scores", 0][:, mask] == -torch.inf).all()


def test_a_cut_equals_torchs_own_encoder_with_the_same_mask(encoder):
    """Comparison with torch's implementation, with the same weights."""
    edges = cross_modal() | flow("emg", "cls")
    resid = encoder.run_with_hooks(encoder.example_input(2), stop_at_layer=0)
    ours = encoder.run_with_hooks(resid, fwd_hooks=cut(encoder, edges), start_at_layer=0, stop_at_layer=3)
    mask = edges.mask(encoder.layout, 3, 4)[0, 0]
    theirs = resid
    for block in encoder.blocks:
        theirs = _torch_layer(block)(theirs, src_mask=mask)
    assert (ours - theirs).abs().max() <= 1e-5


def _torch_layer(block) -> nn.TransformerEncoderLayer:
    layer = nn.TransformerEncoderLayer(16, 4, 24, 0.0, "gelu", batch_first=True).eval()
    a, m = block.attn, block.mlp
    with torch.no_grad():
        weights = [w.transpose(1, 2).flatten(0, 1) for w in (a.W_Q, a.W_K, a.W_V)]
        layer.self_attn.in_proj_weight.copy_(torch.cat(weights))
        layer.self_attn.in_proj_bias.copy_(torch.cat([b.flatten() for b in (a.b_Q, a.b_K, a.b_V)]))
        layer.self_attn.out_proj.weight.copy_(a.W_O.flatten(0, 1).T)
        layer.self_attn.out_proj.bias.copy_(a.b_O)
        layer.linear1.weight.copy_(m.W_in.T), layer.linear1.bias.copy_(m.b_in)
        layer.linear2.weight.copy_(m.W_out.T), layer.linear2.bias.copy_(m.b_out)
        for ours, theirs in ((block.ln1, layer.norm1), (block.ln2, layer.norm2)):
            theirs.weight.copy_(ours.w), theirs.bias.copy_(ours.b)
    return layer


def test_only_the_named_layers_and_heads_are_cut(encoder):
    x = encoder.example_input()
    with encoder.hooks(fwd_hooks=cut(encoder, every().at(layers=1, heads=[0, 2]))):
        _, cache = encoder.run_with_cache(x)
    assert (cache["pattern", 1][:, [0, 2]] == 0).all()
    assert (cache["pattern", 1][:, [1, 3]] > 0).all() and (cache["pattern", 0] > 0).all()


def test_masks_are_small_where_heads_agree(encoder):
    shared = cut(encoder, cross_modal())[0][1]
    apart = cut(encoder, cross_modal().at(heads=1))[0][1]
    sizes = [fn.__closure__[0].cell_contents.__self__.mask.shape for fn in (shared, apart)]
    assert sizes == [(1, 6, 6), (4, 6, 6)]


def test_hooks_are_plain_transformerlens_hooks_one_a_cut_layer(toy):
    names = [name for name, _ in cut(toy, cross_modal().at(layers=[0, 2]))]
    assert names == ["blocks.0.attn.hook_attn_scores", "blocks.2.attn.hook_attn_scores"]


def test_a_row_with_every_edge_cut_gives_a_zero_output_and_finite_gradients(encoder):
    x = encoder.example_input().requires_grad_()
    with encoder.hooks(fwd_hooks=cut(encoder, positions(dest=["emg.1"]))):
        logits, cache = encoder.run_with_cache(x)
    assert (cache["z", 0][:, 2] == 0).all() and (cache["z", 0][:, 1] != 0).any()
    logits.sum().backward()
    assert x.grad is not None and x.grad.isfinite().all()


def test_rows_are_repaired_where_the_model_leaves_nan():
    toy = Toy(LAYOUT, zero_nan=False)
    x = toy.example_input(2).requires_grad_()
    out = toy.run_with_hooks(x, fwd_hooks=cut(toy, every().at(layers=1)))
    assert out.isfinite().all()
    out.sum().backward()
    assert x.grad is not None and x.grad.isfinite().all()
    same = Toy(LAYOUT)
    torch.testing.assert_close(out, same.run_with_hooks(x, fwd_hooks=cut(same, every().at(layers=1))))


def test_no_gradient_flows_along_a_cut_edge(toy):
    x = toy.example_input().requires_grad_()
    acc_to_emg = flow("acc", "emg") | flow("acc", "cls")
    out = toy.run_with_hooks(x, fwd_hooks=cut(toy, acc_to_emg))
    out[:, :4].sum().backward()  # CLS and EMG positions
    assert x.grad is not None
    assert (x.grad[:, 4:] == 0).all() and (x.grad[:, 1:4] != 0).any()


def test_none_cuts_nothing(encoder):
    assert cut(encoder, none()) == []


@pytest.mark.parametrize("edges", [~every(), unimodal() & cross_modal(), unimodal() - every(), none() | none()])
def test_a_set_without_edges_is_an_error(encoder, edges):
    with pytest.raises(EdgeError, match=r"selects no edge of 6 tokens, 3 layers and 4 heads; write none\(\)"):
        cut(encoder, edges)


def test_a_layer_that_does_not_exist_is_an_error(encoder):
    with pytest.raises(EdgeError, match="unknown layer 7; the model has layers 0 to 2"):
        cut(encoder, every().at(layers=7))


def test_text_is_not_an_edge_set(encoder):
    with pytest.raises(EmgLensError, match="expected an EdgeSet"):
        cut(encoder, "cross_modal()")


def test_a_layout_of_another_length_is_an_error_that_names_both(toy):
    other = TokenLayout.channels({"emg": 2, "acc": 2})
    with pytest.raises(EdgeError, match=r"shape \[1, 2, 6, 6\].*the layout has 5 positions"):
        toy.run_with_hooks(toy.example_input(), fwd_hooks=cut(toy, cross_modal(), other))


def test_a_model_without_layout_needs_one(toy):
    del toy.layout
    with pytest.raises(EdgeError, match="Toy has no .layout; pass layout="):
        cut(toy, cross_modal())
    assert cut(toy, cross_modal(), LAYOUT)


def test_a_model_without_hooks_is_refused():
    with pytest.raises(EdgeError, match="Linear is not a TransformerLens model"):
        cut(nn.Linear(2, 2), cross_modal(), LAYOUT)


def test_cut_refers_to_cutting_where_hooks_have_no_effect():
    toy = Toy(LAYOUT, live=False)
    with pytest.raises(DeadHookError, match=r"with cutting\(model, edges, layout=layout\)"):
        cut(toy, cross_modal())
    assert hooks_left(toy) == []


def test_only_self_edges_can_be_cut(encoder):
    with encoder.hooks(fwd_hooks=cut(encoder, self_edges())):
        _, cache = encoder.run_with_cache(encoder.example_input())
    assert (cache["pattern", 2].diagonal(dim1=-2, dim2=-1) == 0).all()


def test_half_precision_models_can_be_cut(encoder):
    model = encoder.to(torch.bfloat16)
    out = model.run_with_hooks(model.example_input().to(torch.bfloat16), fwd_hooks=cut(model, cross_modal()))
    assert out.isfinite().all()


def test_a_hook_that_writes_the_scores_back_undoes_the_cut_only_if_it_runs_later(encoder):
    x, edges, scores = encoder.example_input(2), cross_modal().at(layers=0), "blocks.0.attn.hook_attn_scores"
    plain, cache = encoder.run_with_cache(x)
    restore = [(scores, lambda tensor, hook: cache[scores])]  # noqa: ARG005
    undone, right = cut(encoder, edges) + restore, restore + cut(encoder, edges)
    torch.testing.assert_close(encoder.run_with_hooks(x, fwd_hooks=undone), plain)
    expected = encoder.run_with_hooks(x, fwd_hooks=cut(encoder, edges))
    torch.testing.assert_close(encoder.run_with_hooks(x, fwd_hooks=right), expected)
    assert not torch.allclose(expected, plain, atol=1e-3)
