"""TransformerLens's activation patching and path patching on our encoders, checked cell by cell."""

import pandas as pd
import pytest
import torch
from encoders import logit_difference, make, needs_4, only_3, pair
from transformer_lens import patching
from transformer_lens.utilities import get_act_name

NORMS = ["pre", "post"]
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

BY_POSITION = {"resid_pre": "resid_pre", "resid_mid": "resid_mid", "attn_out": "attn_out", "mlp_out": "mlp_out"}
HEADS = {"out": "z", "q": "q", "k": "k", "v": "v"}


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


def cached(model, clean):
    return model.run_with_cache(clean)[1]


def patched(model, corrupt, name, edit):
    return logit_difference(model.run_with_hooks(corrupt, fwd_hooks=[(name, edit)]))


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("kind", BY_POSITION)
def test_sweeps_over_layers_and_positions(norm, kind):
    model = make(norm=norm)
    clean, corrupt = pair(model)
    cache = cached(model, clean)
    with model.handles(corrupt) as tokens:
        found = getattr(patching, f"get_act_patch_{kind}")(model, tokens, cache, logit_difference)
    assert found.shape == (3, 7)
    for layer, pos in ((0, 0), (1, 4), (2, 6)):
        name = get_act_name(kind, layer)

        def edit(tensor, hook, name=name, pos=pos):
            tensor = tensor.clone()
            tensor[:, pos] = cache[name][:, pos]
            return tensor

        torch.testing.assert_close(found[layer, pos], patched(model, corrupt, name, edit))
    if kind in ("attn_out", "mlp_out"):  # with a CLS readout the last layer's other rows reach nothing
        torch.testing.assert_close(found[2, 1:], logit_difference(model(corrupt)).expand(6))


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("kind", HEADS)
def test_sweeps_over_heads(norm, kind):
    model = make(norm=norm)
    clean, corrupt = pair(model)
    cache = cached(model, clean)
    with model.handles(corrupt) as tokens:
        everywhere = getattr(patching, f"get_act_patch_attn_head_{kind}_all_pos")(
            model, tokens, cache, logit_difference
        )
        by_pos = getattr(patching, f"get_act_patch_attn_head_{kind}_by_pos")(model, tokens, cache, logit_difference)
    assert everywhere.shape == (3, 2) and by_pos.shape == (3, 7, 2)
    name = get_act_name(HEADS[kind], 1)

    def edit(tensor, hook, rows=slice(None)):
        tensor = tensor.clone()
        tensor[:, rows, 1] = cache[name][:, rows, 1]
        return tensor

    torch.testing.assert_close(everywhere[1, 1], patched(model, corrupt, name, edit))
    at_two = lambda t, hook: edit(t, hook, rows=slice(2, 3))
    torch.testing.assert_close(by_pos[1, 2, 1], patched(model, corrupt, name, at_two))


@pytest.mark.parametrize("norm", NORMS)
def test_sweeps_over_patterns(norm):
    model = make(norm=norm)
    clean, corrupt = pair(model)
    cache = cached(model, clean)
    with model.handles(corrupt) as tokens:
        whole = patching.get_act_patch_attn_head_pattern_all_pos(model, tokens, cache, logit_difference)
        rows = patching.get_act_patch_attn_head_pattern_by_pos(model, tokens, cache, logit_difference)
        edges = patching.get_act_patch_attn_head_pattern_dest_src_pos(model, tokens, cache, logit_difference)
    assert whole.shape == (3, 2) and rows.shape == (3, 2, 7) and edges.shape == (3, 2, 7, 7)

    def edit(tensor, hook):
        tensor = tensor.clone()
        tensor[:, 1, 0, 5] = cache["pattern", 1][:, 1, 0, 5]
        return tensor

    torch.testing.assert_close(edges[1, 1, 0, 5], patched(model, corrupt, "blocks.1.attn.hook_pattern", edit))


def test_the_helpers_that_run_every_sweep():
    model = make(norm="post")
    clean, corrupt = pair(model)
    cache = cached(model, clean)
    with model.handles(corrupt) as tokens:
        blocks = patching.get_act_patch_block_every(model, tokens, cache, logit_difference)
        heads = patching.get_act_patch_attn_head_all_pos_every(model, tokens, cache, logit_difference)
        by_pos = patching.get_act_patch_attn_head_by_pos_every(model, tokens, cache, logit_difference)
        alone = patching.get_act_patch_resid_pre(model, tokens, cache, logit_difference)
    assert blocks.shape == (3, 3, 7) and heads.shape == (5, 3, 2) and by_pos.shape == (5, 3, 7, 2)
    torch.testing.assert_close(blocks[0], alone)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("readout", ["cls", "mean"])
def test_patching_every_position_restores_the_clean_logits(norm, readout):
    """On raw signals, with an index table instead of handles; here one row a layer that patches all positions."""
    model = make(norm=norm, readout=readout)
    clean, corrupt = pair(model)
    cache = cached(model, clean)
    found = patching.generic_activation_patch(
        model, corrupt, cache, logit_difference, lambda now, index, then: then, "resid_pre",
        index_df=pd.DataFrame({"layer": [0, 1, 2]}),
    )  # fmt: skip
    torch.testing.assert_close(found, logit_difference(model(clean)).expand(3))
    assert (logit_difference(model(clean)) - logit_difference(model(corrupt))).abs() > 1e-3


def test_raw_signals_and_an_index_table_give_the_same_sweep_as_handles():
    model = make()
    clean, corrupt = pair(model)
    cache = cached(model, clean)
    table = pd.DataFrame([(layer, pos) for layer in range(3) for pos in range(7)], columns=["layer", "pos"])
    setter = patching.layer_pos_patch_setter
    raw = patching.generic_activation_patch(
        model, corrupt, cache, logit_difference, setter, "resid_pre", index_df=table
    )
    with model.handles(corrupt) as tokens:
        swept = patching.get_act_patch_resid_pre(model, tokens, cache, logit_difference)
    torch.testing.assert_close(raw.view(3, 7), swept)


@needs_4
def test_results_with_one_value_a_trial_and_a_baseline():
    model = make()
    clean, corrupt = pair(model, batch=4)
    a_trial = lambda logits: logits[:, 1] - logits[:, 0]
    with model.handles(corrupt) as tokens:
        result = patching.get_act_patch_resid_pre(
            model, tokens, cached(model, clean), a_trial, reduce="none", baseline=True
        )
    torch.testing.assert_close(result.baseline, a_trial(model(corrupt)))
    assert result.values.shape == (3, 7, 4)
    restored = result.normalized(a_trial(model(clean)))
    assert restored.shape == (3, 7, 4)


@needs_4
@pytest.mark.parametrize("component", ["q", "k", "v"])
@pytest.mark.parametrize("positions", ["learned", "rotary"])
def test_direct_paths_between_heads_are_the_exact_edge_intervention(component, positions):
    model = make(positions=positions)
    clean, corrupt = pair(model)
    _, clean_cache = model.run_with_cache(clean)
    _, corrupt_cache = model.run_with_cache(corrupt)
    with model.handles(corrupt) as tokens:
        found = patching.get_act_patch_direct_path(
            model, tokens, clean_cache, corrupt_cache, logit_difference, 0, 1, component, verbose=False
        )
    assert found.shape == (3, 2) and (found[0] == 0).all()
    assert not model.cfg.use_split_qkv_input
    attn, source = model.blocks[2].attn, model.blocks[0].attn.W_O[1]
    write = (clean_cache["z", 0] - corrupt_cache["z", 0])[:, :, 1] @ source
    read = model.blocks[2].ln1(corrupt_cache["resid_pre", 2] + write)
    W, b = getattr(attn, f"W_{component.upper()}"), getattr(attn, f"b_{component.upper()}")

    def edit(tensor, hook):
        tensor = tensor.clone()
        tensor[:, :, 0] = read @ W[0] + b[0]
        return tensor

    torch.testing.assert_close(found[2, 0], patched(model, corrupt, f"blocks.2.attn.hook_{component}", edit))


@needs_4
def test_direct_paths_from_all_sources():
    model = make(n_layers=2)
    clean, corrupt = pair(model)
    with model.handles(corrupt) as tokens:
        caches = cached(model, clean), cached(model, corrupt)
        everything = patching.get_act_patch_direct_path_all_sources(
            model, tokens, *caches, logit_difference, "v", verbose=False
        )
        one = patching.get_act_patch_direct_path(model, tokens, *caches, logit_difference, 0, 1, "v", verbose=False)
    torch.testing.assert_close(everything[0, 1], one)


@needs_4
def test_direct_paths_of_a_post_norm_model_are_refused_with_the_reason():
    model = make(norm="post")
    clean, corrupt = pair(model)
    caches = cached(model, clean), cached(model, corrupt)
    with (
        model.handles(corrupt) as tokens,
        pytest.raises(ValueError, match="post-LN blocks normalise .* use activation"),
    ):
        patching.get_act_patch_direct_path(model, tokens, *caches, logit_difference, 0, 1)
    assert not model.cfg.use_split_qkv_input


@only_3
def test_direct_paths_of_transformerlens_3_use_its_linear_formula():
    """Version 3 adds (delta / ln scale) @ W to q: exact for a centred write, unit gain, and a held scale."""
    from transformer_lens.tools.analysis.direct_path_patching import get_act_patch_direct_path

    model = make()
    for block in model.blocks:
        block.ln1.w.fill_(1.0)
    clean, corrupt = pair(model)
    clean_cache, corrupt_cache = cached(model, clean), cached(model, corrupt)
    with model.handles(corrupt) as tokens:
        found = get_act_patch_direct_path(
            model, tokens, clean_cache, corrupt_cache, logit_difference, 0, 1, component="q"
        )
    write = (clean_cache["z", 0] - corrupt_cache["z", 0])[:, :, 1] @ model.blocks[0].attn.W_O[1]
    move = (write / corrupt_cache["scale", 2, "ln1"]) @ model.blocks[2].attn.W_Q[0]

    def edit(tensor, hook):
        tensor = tensor.clone()
        tensor[:, :, 0] += move
        return tensor

    torch.testing.assert_close(found[2, 0], patched(model, corrupt, "blocks.2.attn.hook_q", edit))
