"""Shift of activations: compared with other code for the same formulas, and cases with known results."""

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics.pairwise import rbf_kernel

from emg_lens import (
    Condition,
    CutMLP,
    HookedBiosignalEncoder,
    IsoNet,
    IsoNetConfig,
    Replace,
    TokenLayout,
    adapt,
    build_model,
    cross_modal,
    cut,
    flow,
)
from emg_lens.analysis import activation_shift
from emg_lens.analysis.shift import Discrepancy
from emg_lens.errors import EmgLensError
from emg_lens.hooks import every
from emg_lens.lens import EncoderConfig

CUT = Condition("cross", cross_modal())


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    sizes = {"n_samples": 8, "n_classes": 3, "d_model": 16, "n_heads": 2, "n_layers": 3, "d_mlp": 16}
    return IsoNet(IsoNetConfig(modalities={"emg": 3, "acc": 2}, **sizes)).eval()


@pytest.fixture(scope="module")
def x(model):
    return model.example_input(40)


def residual(model, x, layer, edges=None):
    """Activations [trial, pos, d_model] that the next block reads, recorded by plain hooks."""
    kept = []
    hooks = [] if edges is None else cut(model, edges)
    name = f"blocks.{layer + 1}.hook_resid_pre"
    model.run_with_hooks(x, fwd_hooks=[*hooks, (name, lambda act, hook: kept.append(act.detach().double()))])
    return kept[0]


def test_the_numbers_follow_their_definitions(model, x):
    other = x[:30].flip(-1) + 0.5
    found = activation_shift(model, x, [CUT], reference=other).set_index(["layer", "tokens"])
    for layer, (tokens, where) in [(0, ("cls", [0])), (1, ("emg", [1, 2, 3])), (1, ("acc", [4, 5]))]:
        clean, masked = (residual(model, x, layer, e)[:, where] for e in (None, cross_modal()))
        row = found.loc[layer, tokens]
        cosine = (clean * masked).sum(-1) / clean.norm(dim=-1) / masked.norm(dim=-1)
        assert row["cosine"] == pytest.approx(float(cosine.mean()), abs=1e-6)
        a, b = (v.mean(1).numpy() for v in (clean, masked))
        h = np.eye(len(a)) - 1 / len(a)
        hsic = [np.trace(p @ p.T @ h @ q @ q.T @ h) for p, q in ((a, b), (a, a), (b, b))]
        assert row["cka"] == pytest.approx(hsic[0] / np.sqrt(hsic[1] * hsic[2]), abs=1e-5)
        c = residual(model, other, layer)[:, where].mean(1).numpy()
        for name, p, q in (("mmd", a, b), ("mmd_of_trials", a, c)):
            squared = np.sort(((a[:, None] - a[None]) ** 2).sum(-1)[np.triu_indices(len(a), 1)])
            width = squared[(len(squared) - 1) // 2]  # torch's median is the lower of the two in the middle
            k = [rbf_kernel(u, v, 1 / width) for u, v in ((p, p), (q, q), (p, q))]
            within = [(kernel.sum() - np.trace(kernel)) / len(kernel) / (len(kernel) - 1) for kernel in k[:2]]
            n = len(a)  # of the same trials, none is compared with itself
            between = k[2].mean() if name == "mmd_of_trials" else (k[2].sum() - np.trace(k[2])) / n / (n - 1)
            assert row[name] == pytest.approx(np.sqrt(max(sum(within) - 2 * between, 0)), abs=1e-4)


def test_the_baseline_has_no_shift_and_tokens_out_of_reach_have_none(model, x):
    found = activation_shift(
        model, x, [Condition("baseline"), Condition("acc to emg", flow("acc", "emg").at(layers=1))]
    )
    still = found[found["condition"] == "baseline"]
    assert np.allclose(still[["cosine", "cka"]], 1, atol=1e-6) and np.allclose(still["mmd"], 0, atol=1e-3)
    moved = found[found["condition"] == "acc to emg"].set_index(["layer", "tokens"])["cosine"]
    assert moved[0].to_numpy() == pytest.approx(1, abs=1e-6) and moved[1, "acc"] == pytest.approx(1, abs=1e-6)
    assert moved[1, "emg"] < 1 - 1e-6 and found["mmd_of_trials"].isna().all()


def test_the_model_is_not_changed_by_interventions(model, x):
    model.train()
    conditions = [
        Condition("zeroed", Replace("acc")),
        Condition("resampled", Replace("acc", by="resample")),
        Condition("mlp and edges", (CutMLP("emg", 0), cross_modal())),
    ]
    found = activation_shift(model, x, conditions, reference=x)
    assert model.training and (found.groupby("condition")["cosine"].min() < 0.999).all()
    assert not any(point.fwd_hooks for point in model.hook_dict.values())
    model.eval()


def test_trials_in_several_forward_passes_give_the_same_numbers(model):
    many = model.example_input(300)
    whole, part = activation_shift(model, many, [CUT]), activation_shift(model, many[:200], [CUT])
    assert whole["cosine"].to_numpy() != pytest.approx(part["cosine"].to_numpy(), abs=1e-12)
    clean, masked = residual(model, many, 1), residual(model, many, 1, cross_modal())
    cosine = torch.nn.functional.cosine_similarity(clean[:, :1], masked[:, :1], dim=-1).mean()
    row = whole[(whole["layer"] == 1) & (whole["tokens"] == "cls")].iloc[0]
    assert row["cosine"] == pytest.approx(float(cosine), abs=1e-6)


def test_a_pre_norm_encoder_without_cls_has_groups_of_its_modalities():
    sizes = {"n_samples": 8, "n_classes": 3, "d_model": 16, "n_heads": 2, "n_layers": 2, "d_mlp": 16}
    model = HookedBiosignalEncoder(EncoderConfig(modalities={"emg": 3, "acc": 2}, readout="mean", **sizes)).eval()
    found = activation_shift(model, model.example_input(10), [Condition("all", every().at(layers=1))])
    assert set(found["tokens"]) == set(model.layout.modalities) | ({"cls"} if model.layout.has_cls else set())
    assert (found.set_index("layer").loc[0, "cosine"] > 1 - 1e-6).all()


def test_few_trials_of_one_distribution_have_no_discrepancy(model):
    torch.manual_seed(1)
    draws = [torch.randn(30, *model.example_input(1).shape[1:]) for _ in range(20)]
    found = pd.concat([activation_shift(model, x[:10], [CUT], reference=x[10:]) for x in draws])
    of_cls = found[found["tokens"] == "cls"].groupby("layer")["mmd_of_trials"]
    assert (of_cls.median() < 0.1).all() and (found["mmd_of_trials"] == 0).any(), "the biased one is .3 here, never 0"


@pytest.mark.parametrize("n", [8, 24, 200])
def test_few_trials_of_another_distribution_have_a_discrepancy(n):
    rows = torch.from_numpy(np.random.default_rng(n).normal(size=(n, 1, 16)))
    assert Discrepancy(rows)(rows + 0.5, same_trials=True) == pytest.approx(0.28, abs=0.08)
    assert Discrepancy(rows)(rows, same_trials=True) == 0


@pytest.mark.parametrize(
    "given",
    [
        {"x": None},
        {"x": torch.zeros(0, 5, 8)},
        {"x": torch.full((4, 5, 8), torch.nan)},
        {"reference": torch.full((4, 5, 8), torch.nan)},
        {"reference": torch.zeros(4, 4, 8)},
        {"conditions": [cross_modal()]},
        {"conditions": cross_modal()},
        {"conditions": [CUT, CUT]},
        {"layout": 3},
        {"layout": TokenLayout.channels({"emg": 3, "acc": 9})},
        {"model": None},
        {"model": build_model("multimodal-mlp", modalities={"emg": 3, "acc": 2}, n_samples=8, n_classes=3)},
    ],
)
def test_invalid_arguments_are_refused_in_one_line(model, x, given):
    with pytest.raises(EmgLensError) as error:
        activation_shift(**{"model": model, "x": x, "conditions": [CUT], **given})
    assert len(str(error.value)) < 400


def test_a_model_without_known_residual_stream_is_refused():
    plain = torch.nn.TransformerEncoder(torch.nn.TransformerEncoderLayer(8, 2, batch_first=True), 2)
    layout = TokenLayout.groups({"emg": [0, 1], "acc": [2, 3]}, 4)
    with pytest.raises(EmgLensError, match="AdaptedModel has no hook point"):
        activation_shift(adapt(plain, torch.zeros(1, 4, 8)), torch.zeros(3, 4, 8), [CUT], layout=layout)


def test_evenly_spaced_trials_of_very_many_are_compared(model, x, monkeypatch):
    monkeypatch.setattr("emg_lens.analysis.shift.MOST_RUN", 10)
    monkeypatch.setattr("emg_lens.analysis.shift.MOST_COMPARED", 5)
    monkeypatch.setattr("emg_lens.analysis.shift.TRIALS_A_FORWARD", 4)
    some = torch.linspace(0, 39, 10).long()
    reference = x.flip(-1)
    found = activation_shift(model, x, [CUT], reference=reference)
    pd.testing.assert_frame_equal(found, activation_shift(model, x[some], [CUT], reference=reference))
    of_five = reference[torch.linspace(0, 39, 5).long()]
    pd.testing.assert_frame_equal(found, activation_shift(model, x[some], [CUT], reference=of_five), atol=1e-6)
