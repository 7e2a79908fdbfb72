"""Layers and heads by number: where negative numbers count from the end, and where they are refused."""

import pytest
import torch

from emg_lens import Condition, CutMLP, EncoderConfig, HookedBiosignalEncoder, build_model, cross_modal, cut, sweep
from emg_lens.hooks import cut_mlp, parse_edges
from emg_lens.validation import ArgumentError

SIZES = {"n_samples": 8, "n_classes": 3, "d_model": 8, "n_heads": 2}
DECOMPOSITIONS = ("accumulated_resid", "decompose_resid", "stack_head_results", "get_full_resid_decomposition")


def made(norm: str) -> HookedBiosignalEncoder:
    return HookedBiosignalEncoder(EncoderConfig({"emg": 3, "acc": 2}, n_layers=3, norm=norm, **SIZES)).eval()


@pytest.mark.parametrize("last", [-1, [-1], range(-1, 0), slice(-1, None)])
def test_negative_layers_and_heads_count_from_the_end(last):
    model = made("pre")
    edges, same = (cross_modal().at(layers=at, heads=head) for at, head in ((last, last), (2, 1)))
    assert edges.mask(model.layout, 3, 2).equal(same.mask(model.layout, 3, 2))
    assert parse_edges(str(edges)).mask(model.layout, 3, 2).equal(same.mask(model.layout, 3, 2))
    assert [name for name, _ in cut_mlp(model, "emg", layers=-1)] == ["blocks.2.hook_mlp_out"]


def test_negative_layers_of_a_stage_count_from_the_end_of_the_stage():
    settings = {"n_layers": 3, "n_fusion_layers": 2, "patch_samples": 4} | SIZES
    model = build_model("hierarchical", modalities={"emg": 3, "acc": 2}, **settings)
    hooks = cut(model, cross_modal().at(stage="fusion", layers=-2))
    assert [name for name, _ in hooks] == ["stages.fusion.blocks.0.attn.hook_attn_scores"]


def test_a_sweep_takes_negative_layers_of_mlps():
    model = made("pre")
    conditions = [Condition(str(at), CutMLP("emg", layers=at)) for at in (-3, 0)]
    logits = sweep(model, model.example_input(4), conditions).logits
    assert torch.equal(logits["-3"], logits["0"]) and not torch.equal(logits["0"], logits["baseline"])


@pytest.mark.parametrize("norm", ["pre", "post"])
@pytest.mark.parametrize("method", DECOMPOSITIONS)
@pytest.mark.parametrize("layer", [-2, 4, "1", 1.5])
def test_a_cache_refuses_layers_that_the_model_does_not_have(norm, method, layer):
    model = made(norm)
    _, cache = model.run_with_cache(model.example_input(2))
    with pytest.raises(
        ArgumentError, match=r"^layer=.*; expected the layer that reads the stream, 0 to 3 or -1 for the"
    ):
        getattr(cache, method)(layer)
    assert getattr(cache, method)(-1).equal(getattr(cache, method)(3))


@pytest.mark.parametrize("norm", ["pre", "post"])
@pytest.mark.parametrize(("layer", "mlp_input"), [(-1, False), (-1, True), (3, True), (4, False), ("1", False)])
def test_accumulated_biases_need_a_layer_of_the_model(norm, layer, mlp_input):
    with pytest.raises(ArgumentError, match=f"^layer={layer!r}; expected 0 to {3 - mlp_input}$"):
        made(norm).accumulated_bias(layer, mlp_input)
