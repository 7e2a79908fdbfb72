"""What a user of TransformerLens tries first: an answer as there, or one line that says what to do instead."""

import dataclasses

import pytest
import torch
from encoders import logit_difference, make, pair
from transformer_lens import patching

from emg_lens.models.bridge import to_bridge
from emg_lens.models.registry import build_model
from emg_lens.validation import ArgumentError

HELPERS = {
    "get_act_patch_resid_pre": (3, 7), "get_act_patch_mlp_out": (3, 7), "get_act_patch_attn_head_out_by_pos": (3, 7, 2),
    "get_act_patch_attn_head_pattern_by_pos": (3, 2, 7), "get_act_patch_attn_head_pattern_dest_src_pos": (3, 2, 7, 7),
    "get_act_patch_attn_head_out_all_pos": (3, 2), "get_act_patch_attn_head_pattern_all_pos": (3, 2),
}  # fmt: skip
HEADS_ALONE = [name for name in HELPERS if name.endswith("all_pos")]


@pytest.mark.parametrize("given", [{}, {"prepend_bos": False}, {"prepend_bos": True, "truncate": False}])
def test_tokens_of_signals_are_refused_whatever_is_asked(given):
    model = make()
    with pytest.raises(ArgumentError, match="signals have no tokens; use handles"):
        model.to_tokens(model.example_input(), **given)
    assert model.to_str_tokens(model.example_input(), **given)[:2] == ["cls", "emg.0"]


def test_circuits_are_products_of_the_weights():
    model = make(norm="post")
    attn = model.blocks[2].attn
    torch.testing.assert_close(model.QK[2, 1].AB, attn.W_Q[1] @ attn.W_K[1].T)
    torch.testing.assert_close(model.OV[2, 1].AB, attn.W_V[1] @ attn.W_O[1])
    scores = model.all_composition_scores("V")
    product = model.OV[0, 1].AB @ model.OV[2, 0].AB
    torch.testing.assert_close(scores[0, 1, 2, 0], product.norm() / model.OV[0, 1].AB.norm() / model.OV[2, 0].AB.norm())
    assert scores.shape == (3, 2, 3, 2) and not scores[1, :, 1].any() and not scores[2].any()
    with pytest.raises(ArgumentError, match="mode"):
        model.all_composition_scores("O")  # pyright: ignore[reportArgumentType]


def test_a_configuration_as_a_dict_makes_an_equal_one():
    cfg = make(patch_samples=3).cfg
    as_dict = cfg.to_dict()
    assert set(as_dict) == {field.name for field in dataclasses.fields(cfg)}
    assert type(cfg)(**as_dict) == cfg


@pytest.mark.parametrize("n_samples", [4, 6, 9])
@pytest.mark.parametrize("bridged", [False, True])
@pytest.mark.parametrize("helper", HELPERS)
def test_patching_helpers_take_no_samples_for_positions(helper, bridged, n_samples):
    """Of 7 positions, an input of 4 or 6 samples would leave out some in silence, and one of 9 has no such position."""
    plain = make(n_samples=n_samples)
    model = to_bridge(plain) if bridged else plain
    clean, corrupt = pair(plain)
    _, cache = model.run_with_cache(clean)
    patch = getattr(patching, helper)
    if helper in HEADS_ALONE:
        raw = patch(model, corrupt, cache, logit_difference)
    else:
        with pytest.raises(ArgumentError, match="for positions, and these are samples; give handles"):
            patch(model, corrupt, cache, logit_difference)
        raw = None
    with plain.handles(corrupt) as tokens:
        patched = patch(model, tokens, cache, logit_difference)
    assert patched.shape == HELPERS[helper] and (raw is None or torch.equal(raw, patched))


def hierarchical():
    sizes = {"d_model": 8, "n_heads": 2, "d_mlp": 8, "n_layers": 4, "n_fusion_layers": 2, "patch_samples": 3}
    return build_model("hierarchical", modalities={"emg": 3, "acc": 2}, n_samples=6, n_classes=3, **sizes).eval()


@pytest.mark.parametrize("key", [("pattern", 0), ("resid_pre", -1), "blocks.0.hook_resid_pre", ("mlp_out", 1)])
def test_an_activation_of_no_stage_says_how_to_read_it(key):
    model = hierarchical()
    _, cache = model.run_with_cache(model.example_input(2))
    with pytest.raises(KeyError, match=r"has a stack of blocks .*cache.stage\('fusion'\)\['pattern', 0\]"):
        cache[key]
    assert cache.stage("fusion")["pattern", 0] is cache["stages.fusion.blocks.0.attn.hook_pattern"]
    assert cache["embed"].shape[0] == 2


def test_stacked_activations_of_a_stage():
    model = hierarchical()
    _, cache = model.run_with_cache(model.example_input(2))
    with pytest.raises(ArgumentError, match="stack_activation works for one stack of blocks"):
        cache.stack_activation("pattern")
    fusion = cache.stage("fusion")
    expected = torch.stack([fusion["pattern", 0], fusion["pattern", 1]])
    assert torch.equal(fusion.stack_activation("pattern"), expected)
    assert torch.equal(fusion.stack_activation("pattern", 1), expected[:1])


@pytest.mark.parametrize("helper", HELPERS)
def test_patching_helpers_on_a_hierarchical_model_say_why_not(helper):
    model = hierarchical()
    _, cache = model.run_with_cache(model.example_input(2))
    with (
        model.handles(model.example_input(2, seed=1)) as tokens,
        pytest.raises(KeyError, match="has a stack of"),
    ):
        getattr(patching, helper)(model, tokens, cache, logit_difference)


@pytest.mark.parametrize("name", ["QK", "OV", "W_Q"])
def test_weights_of_all_layers_of_a_hierarchical_model_say_why_not(name):
    with pytest.raises(ArgumentError, match="needs one stack of blocks"):
        getattr(hierarchical(), name)


def test_a_missing_activation_says_what_is_there():
    model = make()
    _, cache = model.run_with_cache(model.example_input(), names_filter=lambda name: "pattern" in name)
    with pytest.raises(KeyError, match=r"'blocks.0.hook_resid_pre' is not in the cache; cache.keys\(\) lists"):
        cache["resid_pre", 0]
