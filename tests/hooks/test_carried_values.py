"""Edges that carry the values of other trials, compared with computations in torch by hand."""

import math
from functools import partial

import pytest
import torch
from toy import Toy, hooks_left

from emg_lens.errors import EmgLensError
from emg_lens.hooks import (
    DeadHookError,
    EdgeError,
    MeanEdges,
    ResampleEdges,
    adapt,
    cross_modal,
    cut,
    every,
    flow,
    mean_edges,
    patch_edges,
    resample_edges,
    unimodal,
)  # fmt: skip
from emg_lens.hooks.interventions import read_interventions
from emg_lens.layout import TokenLayout
from emg_lens.lens.config import EncoderConfig
from emg_lens.models import build_model
from emg_lens.models.encoder import HookedBiosignalEncoder
from emg_lens.sweeps import Condition, SweepError, sweep

N_LAYERS, N_HEADS = 2, 2


@pytest.fixture(params=["pre", "post"])
def encoder(request):
    torch.manual_seed(0)
    cfg = EncoderConfig({"emg": 3, "acc": 2}, 6, 3, 8, N_HEADS, N_LAYERS, 8, norm=request.param)
    model = HookedBiosignalEncoder(cfg).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.5)
    return model


@pytest.fixture
def x(encoder):
    return encoder.example_input(4)


@pytest.fixture
def reference(x):
    return torch.randn(7, *x.shape[1:], generator=torch.Generator().manual_seed(5))


def by_hand(model, x, reference, edges, choose):
    """Logits, block by block in torch; over these edges each dest reads `choose(values of the reference trials)`."""
    mask, pre = edges.mask(model.layout, N_LAYERS, N_HEADS), model.cfg.norm == "pre"
    resid, original = model(x, stop_at_layer=0), model(reference, stop_at_layer=0)
    for block, own in zip(model.blocks, mask, strict=True):
        a = block.attn
        read, other = (block.ln1(resid), block.ln1(original)) if pre else (resid, original)
        others = torch.einsum("bpd,hde->bhpe", other, a.W_V) + a.b_V[:, None]
        q, k, v = (
            torch.einsum("bpd,hde->bhpe", read, w) + b[:, None]
            for w, b in ((a.W_Q, a.b_Q), (a.W_K, a.b_K), (a.W_V, a.b_V))
        )
        pattern = (torch.einsum("bhie,bhje->bhij", q, k) / math.sqrt(q.shape[-1])).softmax(-1)
        values = torch.where(own[None, ..., None], choose(others)[:, :, None], v[:, :, None])  # [.., dest, src, d_head]
        z = torch.einsum("bhij,bhije->bihe", pattern, values)
        mid = resid + torch.einsum("bihe,hed->bid", z, a.W_O) + a.b_O
        mid = mid if pre else block.ln1(mid)
        resid = mid + block.mlp(block.ln2(mid) if pre else mid)
        resid = resid if pre else block.ln2(resid)
        original = block(original)
    return model(resid, start_at_layer=N_LAYERS)


def the_mean(values):
    return values.mean(0, keepdim=True)


def drawn(values, seed, n=4):
    return values[torch.randint(len(values), (n,), generator=torch.Generator().manual_seed(seed))]


EDGES = [cross_modal(), flow("emg", "cls").at(layers=1), unimodal().at(heads=1)]


@pytest.mark.parametrize("edges", EDGES, ids=str)
def test_means_and_random_trials_equal_a_computation_by_hand(encoder, x, reference, edges):
    with torch.no_grad():
        for hooks, choose in (
            (mean_edges(encoder, edges, reference=reference), the_mean),
            (resample_edges(encoder, edges, reference=reference), partial(drawn, seed=0)),
            (resample_edges(encoder, edges, reference=reference, seed=3), partial(drawn, seed=3)),
        ):
            ours = encoder.run_with_hooks(x, fwd_hooks=hooks)
            torch.testing.assert_close(ours, by_hand(encoder, x, reference, edges, choose), atol=1e-5, rtol=1e-5)
            assert not torch.allclose(ours, encoder(x), atol=1e-3)
    assert not hooks_left(encoder)


@pytest.mark.parametrize("edges", EDGES, ids=str)
def test_a_given_input_is_read_trial_by_trial(encoder, x, reference, edges):
    source = reference[:4]
    with torch.no_grad():
        ours = encoder.run_with_hooks(x, fwd_hooks=patch_edges(encoder, edges, source=source))
        expected = by_hand(encoder, x, source, edges, lambda values: values)
        torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)
        one = encoder.run_with_hooks(x, fwd_hooks=patch_edges(encoder, edges, source=source[:1]))
        torch.testing.assert_close(one[:1], expected[:1], atol=1e-5, rtol=1e-5)


def test_the_values_of_the_trial_itself_change_nothing(encoder, x):
    with torch.no_grad():
        for hooks in (
            mean_edges(encoder, every(), reference=x[:1]),
            resample_edges(encoder, every(), reference=x[:1]),
            patch_edges(encoder, every(), source=x[:1]),
        ):
            torch.testing.assert_close(encoder.run_with_hooks(x[:1], fwd_hooks=hooks), encoder(x[:1]))


def test_all_layers_of_a_random_trial_are_of_the_same_trial(encoder, x, reference):
    """If a trial reads everything from one other trial in all layers, cutting by layers gives the same values."""
    v = {}
    hooks = resample_edges(encoder, every(), reference=reference, seed=2)
    of = torch.randint(7, (4,), generator=torch.Generator().manual_seed(2))
    keep = [(f"blocks.{layer}.attn.hook_z", lambda z, hook: v.update({hook.name: z})) for layer in range(2)]
    with torch.no_grad():
        encoder.run_with_hooks(x, fwd_hooks=[*hooks, *keep])
        _, cache = encoder.run_with_cache(x)
        _, other = encoder.run_with_cache(reference[of])
    z = torch.einsum("bhds,bshe->bdhe", cache["pattern", 0], other["v", 0])  # the first layer has the model's weights
    torch.testing.assert_close(v["blocks.0.attn.hook_z"], z)
    assert len(set(of.tolist())) > 1


def test_stages_read_only_in_the_layers_and_positions_of_the_stage():
    model = build_model("hierarchical", modalities={"emg": 3, "acc": 2}, n_samples=80, n_classes=3, d_model=16).eval()
    x = model.example_input(3)
    source = x.flip(0) + 1
    edges = every().at(stage="emg", layers=0)
    path = "stages.emg.blocks.0.attn"
    with torch.no_grad():
        _, cache = model.run_with_cache(source)
        write = lambda v, hook: cache[f"{path}.hook_v"]  # noqa: E731
        expected = model.run_with_hooks(x, fwd_hooks=[(f"{path}.hook_v", write)])
        hooks = patch_edges(model, edges, source=source)
        assert {name.rpartition(".")[0] for name, _ in hooks} == {path}
        torch.testing.assert_close(model.run_with_hooks(x, fwd_hooks=hooks), expected, atol=1e-5, rtol=1e-5)
        assert not torch.allclose(expected, model(x), atol=1e-4)
        mean = model.run_with_hooks(x, fwd_hooks=mean_edges(model, cross_modal(), reference=source))
        assert not torch.allclose(mean, model(x), atol=1e-4)


# --- what is refused --------------------------------------------------------------------------------------


def test_models_need_hook_points_that_hold_the_values(x):
    layout = TokenLayout.channels({"emg": 3, "acc": 2})
    model = Toy(layout)
    for hooks in (mean_edges, resample_edges):
        with pytest.raises(EdgeError, match="unknown hook point 'blocks.0.attn.hook_v'"):
            hooks(model, cross_modal(), reference=model.example_input(3))
    plain = torch.nn.TransformerEncoder(torch.nn.TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=True), 1).eval()
    with pytest.raises(EdgeError, match="unknown hook point 'blocks.0.attn.hook_v'"):
        resample_edges(adapt(plain, torch.zeros(1, 6, 8)), every(), layout, reference=torch.zeros(3, 6, 8))


def test_values_of_nan_are_refused(encoder, x):
    for hooks in (mean_edges, resample_edges):
        with pytest.raises(EdgeError, match="the reference trials give NaN or infinite values"):
            hooks(encoder, every(), reference=x * math.nan)


def test_values_of_another_number_of_trials_or_positions_are_refused(encoder, x):
    hooks = patch_edges(encoder, every(), source=x[:3])
    with pytest.raises(EdgeError, match=r"are \[3, 6, 2, 4\] \[trial, pos, head, d_head\], .* \[4, 6, 2, 4\]"):
        encoder.run_with_hooks(x, fwd_hooks=hooks)


def test_edges_that_the_model_does_not_have_are_refused(encoder, x):
    with pytest.raises(EdgeError, match="no layer 7|layers"):
        resample_edges(encoder, every().at(layers=7), reference=x)


# --- interventions ----------------------------------------------------------------------------------------


def test_study_files_give_them_by_their_keys(encoder):
    assert read_interventions({"mean_edges": "flow('emg', 'cls')"}) == (MeanEdges(flow("emg", "cls")),)
    given = read_interventions({"resample_edges": "cross_modal()", "seed": 3})
    assert given == (ResampleEdges(cross_modal(), 3),) != (ResampleEdges(cross_modal()),)
    assert eval(str(given[0])) == given[0]
    for wrong in (-1, "one", 1.5):
        with pytest.raises(EmgLensError, match="seed"):
            ResampleEdges(cross_modal(), wrong)  # pyright: ignore
    with pytest.raises(EdgeError, match="ResampleEdges needs an edge set"):
        ResampleEdges(3)  # pyright: ignore


def test_a_sweep_runs_them_in_the_verified_loop(encoder, x, reference):
    edges = cross_modal()
    conditions = [
        Condition("mean", MeanEdges(edges)),
        Condition("resampled", ResampleEdges(edges, seed=3)),
        Condition("cut too", (unimodal(), ResampleEdges(edges, seed=3))),
        Condition("dead", ResampleEdges(flow("emg", "acc").at(layers=-1))),
    ]
    for size in (None, 3):  # every trial reads the same reference trial, whatever the batch size
        result = sweep(encoder, x, conditions, reference=reference, batch_size=size)
        with torch.no_grad():
            for name, choose in (("mean", the_mean), ("resampled", partial(drawn, seed=3))):
                expected = by_hand(encoder, x, reference, edges, choose)
                torch.testing.assert_close(result.logits[name], expected, atol=1e-5, rtol=1e-5)
            both = [*cut(encoder, unimodal()), *resample_edges(encoder, edges, reference=reference, seed=3)]
            torch.testing.assert_close(result.logits["cut too"], encoder.run_with_hooks(x, fwd_hooks=both))
        assert result.audit.set_index("condition")["structural_null"].to_dict() == {
            "baseline": True, "mean": False, "resampled": False, "cut too": False, "dead": True
        }  # fmt: skip


@pytest.mark.parametrize("kind", [MeanEdges, ResampleEdges])
def test_they_need_reference_trials_and_a_run(encoder, x, kind):
    with pytest.raises(SweepError, match="give reference=<training trials>"):
        sweep(encoder, x, [Condition("one", kind(cross_modal()))])
    with pytest.raises(DeadHookError, match="had no effect"), kind(cross_modal()).applied(encoder, encoder.layout, x):
        pass
    assert not hooks_left(encoder)
