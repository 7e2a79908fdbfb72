"""Edges that are dropped in training, compared with models that never have these edges."""

from typing import Any

import pytest
import torch
from toy import hooks_left

from emg_lens.data.batch import Batch
from emg_lens.errors import EmgLensError
from emg_lens.hooks import DeadHookError, EdgeError, adapt, cross_modal, cut, flow, unimodal
from emg_lens.hooks.dropped_edges import edge_dropout
from emg_lens.layout import TokenLayout
from emg_lens.lens.config import EncoderConfig
from emg_lens.models import build_model
from emg_lens.models.encoder import HookedBiosignalEncoder
from emg_lens.training import TrainingRecipe, fit, fit_cohort


def encoder(norm: Any = "pre", **options: Any) -> Any:
    torch.manual_seed(0)
    cfg = EncoderConfig({"emg": 3, "acc": 2}, 6, 3, d_model=8, n_heads=2, n_layers=2, d_mlp=8, norm=norm, **options)
    return HookedBiosignalEncoder(cfg)


def trials(n=40):
    x = torch.randn(n, 5, 6, generator=torch.Generator().manual_seed(1))
    return Batch(x, torch.arange(n) % 3)


RECIPE = TrainingRecipe(epochs=3, batch_size=16, lr=0.01, anneal_epochs=0)


@pytest.mark.parametrize("edges", ["cross_modal()", "flow('emg', 'cls').at(layers=[1])"])
@pytest.mark.parametrize("norm", ["pre", "post"])
def test_dropped_always_is_trained_like_a_model_without_the_edges(norm, edges):
    ours, without = encoder(norm), encoder(norm, masked_edges=edges)
    with edge_dropout(ours, without.cfg.permanent_mask, p=1.0):
        fit(ours, trials(), RECIPE)
    fit(without, trials(), RECIPE)
    plain = encoder(norm)
    fit(plain, trials(), RECIPE)
    largest = 0.0
    for (name, a), b, c in zip(ours.named_parameters(), without.parameters(), plain.parameters(), strict=True):
        if not name.endswith("b_K"):  # its gradient is rounding alone, because softmax ignores it
            torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4, msg=name)
        largest = max(largest, float((a - c).abs().max().detach()))
    assert largest > 1e-3 and not hooks_left(ours)


@torch.no_grad()
def test_a_trial_has_all_edges_or_none_of_them():
    """Dropping in one layer but not in the other would give a third output."""
    model, x, edges = encoder().double(), trials(400).x.double(), cross_modal() | flow("emg", "cls")
    whole, without = model(x), model.run_with_hooks(x, fwd_hooks=cut(model, edges))
    with edge_dropout(model.train(), edges, p=0.3):
        first, second = model(x), model(x)
        torch.testing.assert_close(model.eval()(x), whole)
    is_cut = [torch.isclose(out, without, atol=1e-9).all(1) for out in (first, second)]
    is_whole = [torch.isclose(out, whole, atol=1e-9).all(1) for out in (first, second)]
    assert not torch.isclose(whole, without, atol=1e-9).all(1).any()
    assert all(bool((a ^ b).all()) for a, b in zip(is_cut, is_whole, strict=True))
    assert all(0.2 < float(a.float().mean()) < 0.4 for a in is_cut) and not torch.equal(*is_cut)


def test_the_seed_decides_and_the_probability_matters():
    weights = []
    for p in (0.5, 0.5, 0.9):
        model = encoder()
        with edge_dropout(model, cross_modal(), p):
            fit(model, trials(), RECIPE)
        weights.append(torch.cat([parameter.detach().flatten() for parameter in model.parameters()]))
    assert torch.equal(weights[0], weights[1]) and not torch.allclose(weights[0], weights[2], atol=1e-4)


def test_rows_without_edges_have_finite_gradients():
    model, x = encoder().train(), trials(8).x
    with edge_dropout(model, cross_modal() | unimodal() | flow("cls", "emg") | flow("cls", "acc"), p=0.5):
        model(x)[:, 0].sum().backward()
    assert all(parameter.grad is None or parameter.grad.isfinite().all() for parameter in model.parameters())


def test_stages_and_adapted_models():
    model: Any = build_model(
        "hierarchical", modalities={"emg": 3, "acc": 2}, n_samples=80, n_classes=3, d_model=16
    ).train()
    x = model.example_input(4)
    with torch.no_grad(), edge_dropout(model, cross_modal(), p=1):
        ours = model(x)
    with torch.no_grad():
        torch.testing.assert_close(ours, model.run_with_hooks(x, fwd_hooks=cut(model, cross_modal())))
    plain = torch.nn.TransformerEncoder(torch.nn.TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=True), 2)
    tokens, layout = torch.randn(3, 5, 8), TokenLayout.groups({"emg": [0, 1], "acc": [2, 3]}, n_tokens=5)
    adapted: Any = adapt(plain, tokens)
    with torch.no_grad(), edge_dropout(adapted, cross_modal(), 1.0, layout):
        ours = plain.train()(tokens)
    with torch.no_grad():
        expected = adapted.run_with_hooks(tokens, fwd_hooks=cut(adapted, cross_modal(), layout))
        torch.testing.assert_close(ours, expected)


def test_what_is_refused():
    model, x = encoder(), trials(4).x
    with (
        pytest.raises(DeadHookError, match="the model did not run in training mode"),
        edge_dropout(model, cross_modal(), 0.5),
    ):
        model.eval()(x)
    with pytest.raises(DeadHookError, match="call model"), edge_dropout(model, cross_modal(), 0.5):
        model.train().run_with_hooks(x)
    for p in (0.0, 1.5, -1.0):
        with pytest.raises(EmgLensError, match="p="):
            edge_dropout(model, cross_modal(), p)
    with pytest.raises(EdgeError, match="layer"), edge_dropout(model, cross_modal().at(layers=7), 0.5):
        pass
    with pytest.raises(EmgLensError, match="hooks"), edge_dropout(model, cross_modal(), 0.5):
        fit_cohort([model], [trials()], RECIPE)
    assert not hooks_left(model) and not model._forward_hooks and not model._forward_pre_hooks
