"""Path patching, compared with a forward in plain tensors, head by head and edge by edge."""

import itertools
import math

import pytest
import torch
from torch.nn.functional import gelu, layer_norm

from emg_lens.analysis.path_patching import patch_paths
from emg_lens.errors import EmgLensError
from emg_lens.hooks import EdgeError, cross_modal, every, flow, none, positions, unimodal
from emg_lens.lens.config import EncoderConfig
from emg_lens.models import build_model
from emg_lens.models.encoder import HookedBiosignalEncoder

N_LAYERS, N_HEADS, N_TOKENS = 3, 2, 6


@pytest.fixture(params=["pre", "post"])
def model(request):
    torch.manual_seed(0)
    cfg = EncoderConfig({"emg": 3, "acc": 2}, 6, 3, 8, N_HEADS, N_LAYERS, 8, norm=request.param)
    model = HookedBiosignalEncoder(cfg).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.5)
    return model


@pytest.fixture
def inputs(model):
    return torch.randn(2, 4, 5, 6, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


def forward(weights, pre, x, mask=None, values=()):
    """One run in plain tensors: output, and the values [layer][trial, head, src, d_head].

    Over the edges in `mask` [layer, head, dest, src], dest reads `values`.
    """

    def norm(name, t):
        return layer_norm(t, t.shape[-1:], weights[f"{name}.w"], weights[f"{name}.b"], 1e-5)

    tokens = torch.einsum("bct,ctd->bcd", x, weights["embed.W_E"]) + weights["embed.b_E"]
    resid = torch.cat([weights["embed.cls"].expand(len(x), 1, -1), tokens], dim=1)
    resid = resid + weights["pos_embed.W_pos"]
    all_v = []
    for layer in range(N_LAYERS):
        w = {
            name.removeprefix(f"blocks.{layer}."): one
            for name, one in weights.items()
            if name.startswith(f"blocks.{layer}.")
        }
        read = norm(f"blocks.{layer}.ln1", resid) if pre else resid
        v = torch.stack([read @ w["attn.W_V"][head] + w["attn.b_V"][head] for head in range(N_HEADS)], dim=1)
        all_v.append(v)
        out = torch.zeros_like(resid)
        for head, dest in itertools.product(range(N_HEADS), range(N_TOKENS)):
            q = read[:, dest] @ w["attn.W_Q"][head] + w["attn.b_Q"][head]
            k = read @ w["attn.W_K"][head] + w["attn.b_K"][head]
            pattern = (torch.einsum("be,bje->bj", q, k) / math.sqrt(q.shape[-1])).softmax(-1)
            z = torch.zeros_like(q)
            for src in range(N_TOKENS):
                patched = mask is not None and mask[layer, head, dest, src]
                z = z + pattern[:, src, None] * (values[layer] if patched else v)[:, head, src]
            out[:, dest] = out[:, dest] + z @ w["attn.W_O"][head]
        mid = resid + out + w["attn.b_O"]
        mid = mid if pre else norm(f"blocks.{layer}.ln1", mid)
        hidden = gelu((norm(f"blocks.{layer}.ln2", mid) if pre else mid) @ w["mlp.W_in"] + w["mlp.b_in"])
        resid = mid + hidden @ w["mlp.W_out"] + w["mlp.b_out"]
        resid = resid if pre else norm(f"blocks.{layer}.ln2", resid)
    final = norm("ln_final", resid) if pre else resid
    return final[:, 0] @ weights["unembed.W_U"] + weights["unembed.b_U"], all_v


def by_hand(model, x, corrupt, path):
    weights, pre = dict(model.named_parameters()), model.cfg.norm == "pre"
    output, values = forward(weights, pre, corrupt)
    for edges in path:
        output, values = forward(weights, pre, x, edges.mask(model.layout, N_LAYERS, N_HEADS), values)
    return output


@pytest.mark.parametrize(
    "path",
    [
        [cross_modal().at(layers=0)],
        [flow("acc", "emg").at(layers=0), flow("emg", "cls").at(layers=1)],
        [flow("acc", "emg").at(layers=0, heads=1), unimodal("emg").at(layers=1), flow("emg", "cls").at(layers=2)],
        [unimodal().at(layers=0), flow("emg", "cls").at(layers=2)],  # a layer between the steps
        [unimodal().at(layers=[0, 1]), flow("emg", "cls").at(layers=2, heads=0)],
    ],
    ids=str,
)
@torch.no_grad()
def test_a_path_equals_a_forward_by_hand(model, inputs, path):
    x, corrupt = inputs
    ours = patch_paths(model, x, corrupt, path)
    torch.testing.assert_close(ours, by_hand(model, x, corrupt, path))
    assert not torch.allclose(ours, model(x), atol=1e-4)
    torch.testing.assert_close(patch_paths(model, x, x, path), model(x))


@torch.no_grad()
def test_all_edges_of_a_layer_are_the_values_of_the_layer(model, inputs):
    x, corrupt = inputs
    _, cache = model.run_with_cache(corrupt)
    for layer in range(N_LAYERS):
        write = lambda v, hook, layer=layer: cache["v", layer]  # noqa: E731
        expected = model.run_with_hooks(x, fwd_hooks=[(f"blocks.{layer}.attn.hook_v", write)])
        torch.testing.assert_close(patch_paths(model, x, corrupt, [every().at(layers=layer)]), expected)
        if layer == N_LAYERS - 1:  # only CLS is read
            into_cls = positions(dest=[0]).at(layers=layer)
            torch.testing.assert_close(patch_paths(model, x, corrupt, [into_cls]), expected)


@torch.no_grad()
def test_only_edges_that_continue_the_path_matter(model, inputs):
    """The change enters at emg.0 and may leave only from acc.0; a step that reads emg.1 carries nothing."""
    x, corrupt = inputs
    first, into = positions(dest=[1], src=[4]).at(layers=0), {src: positions(dest=[0], src=[src]) for src in (1, 2)}
    carried = {src: patch_paths(model, x, corrupt, [first, edges.at(layers=1)]) for src, edges in into.items()}
    assert not torch.allclose(carried[1], model(x), atol=1e-6)
    torch.testing.assert_close(carried[2], model(x))


@torch.no_grad()
def test_steps_of_stages_follow_each_other():
    model = build_model("hierarchical", modalities={"emg": 3, "acc": 2}, n_samples=80, n_classes=3, d_model=16).eval()
    x = model.example_input(3)
    first, second = unimodal("emg").at(stage="emg", layers=-1), every().at(stage="fusion", layers=0)
    expected = model(x)
    ours = patch_paths(model, x, x.flip(0) + 1, [first, second])
    assert ours.shape == expected.shape and not torch.allclose(ours, expected, atol=1e-5)
    with pytest.raises(EdgeError, match="expected later layers in every step"):
        patch_paths(model, x, x, [second, first])


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ([], "path is empty; expected edge sets"),
        ([none()], "selects no edge"),
        ([unimodal().at(layers=0), unimodal().at(layers=9)], "layer"),
        ([unimodal().at(layers=1), unimodal().at(layers=0)], r"begins in layer 0, and the step before it, .* layer 1"),
        ([unimodal(), cross_modal()], "expected later layers in every step"),
    ],
)
def test_paths_that_are_not_one_are_refused(model, inputs, path, message):
    with pytest.raises(EdgeError, match=message):
        patch_paths(model, inputs[0], inputs[1], path)


def test_inputs_of_other_shapes_are_refused_and_the_model_stays_in_training_mode(model, inputs):
    x, corrupt = inputs
    path = [unimodal().at(layers=0)]
    for other, message in (
        (corrupt[:2], "expected the shape of x"),
        (corrupt[..., :3], "expected"),
        (corrupt * math.nan, "NaN"),
    ):
        with pytest.raises(EmgLensError, match=message):
            patch_paths(model, x, other, path)
    model.train()
    patch_paths(model, x, corrupt, path)
    assert model.training and not any(point.fwd_hooks for point in model.hook_dict.values())
