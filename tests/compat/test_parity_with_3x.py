"""The same weights in TransformerLens 3's own models: all shared hook points have the same values."""

import warnings

import pytest
import torch
from encoders import make, only_3

from emg_lens.hooks import cross_modal, cut, every, flow

pytestmark = [only_3, pytest.mark.filterwarnings("ignore::DeprecationWarning")]

BATCH = 3


def copy_weights(model, theirs):
    """Copy our weights except the embedding; names and shapes are the same. Return the weights that were not copied."""
    state = {n: w for n, w in model.state_dict().items() if n in theirs.state_dict() and n != "embed.W_E"}
    missing, unexpected = theirs.load_state_dict(state, strict=False)
    assert not unexpected
    return {n for n in missing if not n.endswith((".mask", ".IGNORE", ".rotary_sin", ".rotary_cos"))}


def hooked_transformer(model, x):
    """A bidirectional HookedTransformer with our weights, whose tokens are our embedded channels."""
    from transformer_lens import HookedTransformer, HookedTransformerConfig

    cfg = model.cfg
    rotary = cfg.positions == "rotary"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = HookedTransformer(
            HookedTransformerConfig(
                n_layers=cfg.n_layers, d_model=cfg.d_model, n_ctx=cfg.n_ctx, d_head=cfg.d_head, n_heads=cfg.n_heads,
                d_mlp=cfg.d_mlp, act_fn="gelu", d_vocab=len(x) * cfg.n_ctx, d_vocab_out=cfg.n_classes,
                normalization_type="LN", attention_dir="bidirectional", device="cpu", eps=cfg.eps,
                positional_embedding_type="rotary" if rotary else "standard", rotary_dim=cfg.d_head if rotary else None,
                default_prepend_bos=False,
            )
        )  # fmt: skip
    assert copy_weights(model, theirs) == {"embed.W_E"}
    with torch.no_grad():
        theirs.embed.W_E.copy_(model.embed(x).flatten(0, 1))
    return theirs.eval(), torch.arange(len(x) * cfg.n_ctx).view(len(x), cfg.n_ctx)


def compare(ours, theirs, least):
    shared = set(ours) & set(theirs)
    assert len(shared) >= least, sorted(shared)
    for name in sorted(shared):
        assert ours[name].shape == theirs[name].shape, name
        distance = (ours[name] - theirs[name]).nan_to_num(0.0, 0.0, 0.0).abs().max()
        assert distance < 1e-5, (name, distance)
        assert torch.equal(ours[name].isinf(), theirs[name].isinf()), name
    return shared


SWITCHES = [(), ("attn_result", "split_qkv_input", "hook_mlp_in"), ("attn_in",)]


@pytest.mark.parametrize("switches", SWITCHES)
@pytest.mark.parametrize("positions", ["learned", "rotary"])
def test_every_shared_hook_of_a_pre_norm_model_equals_hooked_transformer(positions, switches):
    model = make(positions=positions)
    x = model.example_input(BATCH)
    theirs, tokens = hooked_transformer(model, x)
    for switch in switches:
        getattr(model, f"set_use_{switch}")(True)
        getattr(theirs, f"set_use_{switch}")(True)
    with torch.no_grad():
        _, our_cache = model.run_with_cache(x)
        their_logits, their_cache = theirs.run_with_cache(tokens)
    shared = compare(dict(our_cache.items()), dict(their_cache.items()), least=55)
    assert set(their_cache.keys()) - shared <= {"unembed.hook_in", "unembed.hook_out"}  # one a position; ours pools
    torch.testing.assert_close(model(x), their_logits[:, 0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("edges", [cross_modal().at(layers=[1]), flow("emg", "cls"), every().at(heads=0)], ids=str)
@pytest.mark.parametrize("positions", ["learned", "rotary"])
def test_the_same_cut_changes_both_alike(positions, edges):
    model = make(positions=positions)
    x = model.example_input(BATCH)
    theirs, tokens = hooked_transformer(model, x)
    with torch.no_grad(), model.hooks(fwd_hooks=cut(model, edges)):
        _, our_cache = model.run_with_cache(x)
    with torch.no_grad(), theirs.hooks(fwd_hooks=cut(theirs, edges, layout=model.layout, inputs=tokens)):
        _, their_cache = theirs.run_with_cache(tokens)
    compare(dict(our_cache.items()), dict(their_cache.items()), least=55)


@pytest.mark.parametrize("name", ["logit_attrs", "decompositions"])
def test_with_norms_folded_their_cache_gives_what_ours_gives_unfolded(name):
    """TransformerLens folds the gain of norms into the weights; our cache applies it. The numbers must agree."""
    model = make()
    x = model.example_input(BATCH)
    theirs, tokens = hooked_transformer(model, x)
    theirs.load_and_process_state_dict(
        theirs.state_dict(), fold_ln=True, center_writing_weights=False, center_unembed=False, fold_value_biases=False
    )
    with torch.no_grad():
        _, our_cache = model.run_with_cache(x)
        _, their_cache = theirs.run_with_cache(tokens)
        if name == "logit_attrs":
            for stack in ("decompose_resid", "stack_head_results", "get_full_resid_decomposition"):
                ours = our_cache.logit_attrs(getattr(our_cache, stack)(), 2)
                folded = their_cache.logit_attrs(getattr(their_cache, stack)(), 2)
                torch.testing.assert_close(ours, folded, atol=1e-5, rtol=1e-4)
        else:
            for method in ("decompose_resid", "accumulated_resid", "get_full_resid_decomposition"):
                ours, folded = getattr(our_cache, method)(), getattr(their_cache, method)()
                torch.testing.assert_close(ours, folded, atol=1e-5, rtol=1e-4)
            W_U = model.W_U
            mine = our_cache.accumulated_resid(apply_ln=True) @ W_U + model.b_U
            lens = their_cache.accumulated_resid(apply_ln=True) @ theirs.W_U + theirs.b_U
            torch.testing.assert_close(mine, lens, atol=1e-5, rtol=1e-4)


def hooked_encoder_blocks(model):
    """HookedEncoder's blocks with our weights; the whole model would need a vocabulary."""
    from transformer_lens import HookedEncoder, HookedTransformerConfig

    cfg = model.cfg
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = HookedEncoder(
            HookedTransformerConfig(
                n_layers=cfg.n_layers, d_model=cfg.d_model, n_ctx=cfg.n_ctx, d_head=cfg.d_head, n_heads=cfg.n_heads,
                d_mlp=cfg.d_mlp, act_fn="gelu", d_vocab=cfg.n_classes, normalization_type="LN",
                attention_dir="bidirectional", device="cpu", eps=cfg.eps,
            ),
            move_to_device=False,
        )  # fmt: skip
    assert not {n for n in copy_weights(model, theirs) if n.startswith("blocks")}
    return theirs.eval()


@pytest.mark.parametrize("switches", [(), ("split_qkv_input",), ("hook_mlp_in", "attn_result")])
def test_every_shared_hook_of_a_post_norm_model_equals_hooked_encoder(switches):
    model = make(norm="post")
    theirs = hooked_encoder_blocks(model)
    for switch in switches:
        setattr(theirs.cfg, f"use_{switch}", True)
        getattr(model, f"set_use_{switch}")(True)
    x = model.example_input(BATCH)
    with torch.no_grad():
        _, our_cache = model.run_with_cache(x)
        resid = model(x, stop_at_layer=0)
        their_cache, hooks, _ = theirs.get_caching_hooks()
        with theirs.hooks(fwd_hooks=hooks):
            out = resid
            for block in theirs.blocks:
                out = block(out)
    shared = compare(dict(our_cache.items()), their_cache, least=3 * 17)
    assert set(their_cache) - shared == set()
    torch.testing.assert_close(out, our_cache["blocks.2.hook_normalized_resid_post"], atol=1e-5, rtol=1e-5)


def test_circuits_and_composition_scores():
    model = make()
    theirs, _ = hooked_transformer(model, model.example_input(BATCH))
    for circuit in ("QK", "OV"):
        assert torch.equal(getattr(model, circuit).AB, getattr(theirs, circuit).AB), circuit
    for mode in ("Q", "K", "V"):
        assert torch.equal(model.all_composition_scores(mode), theirs.all_composition_scores(mode)), mode
