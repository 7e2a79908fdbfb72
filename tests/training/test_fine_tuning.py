"""Recipe fields for fine-tuning: learning rates by layer and by step, linear probe, best epoch on validation trials."""

import math

import pytest
import torch
from test_resumed_fit import Stop, stopping_after
from toy_cohort import make_model, make_trials

from emg_lens.data import Batch
from emg_lens.io import checkpoint
from emg_lens.models.registry import architecture_names, build_model
from emg_lens.models.tinymyo.encoder import TinyMyo, TinyMyoConfig
from emg_lens.training import FitError, TrainingRecipe, fit, fit_cohort
from emg_lens.training.layers import lr_scales, names_of_head
from emg_lens.validation import ArgumentError

X, Y = make_trials()
RECIPE = TrainingRecipe(epochs=3, batch_size=32, lr=1e-3, anneal_epochs=0, seed=3)


def changed(**fields) -> TrainingRecipe:
    return TrainingRecipe(**(RECIPE.model_dump() | fields))


def tiny_myo(seed: int = 0) -> TinyMyo:
    config = TinyMyoConfig(
        modalities={"emg": 7}, n_samples=8, n_classes=3, d_model=8, n_heads=2, n_layers=3, d_mlp=8, patch_samples=4,
        dropout=0.0, hidden_dropout=0.0, drop_path=0.0,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return TinyMyo(config)


def values(model) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def comparable(model) -> dict[str, torch.Tensor]:
    """Leave out the biases of keys. Their gradient is rounding error, but AdamW makes normal steps of it."""
    return {name: value for name, value in values(model).items() if not name.endswith("b_K")}


def shared_head(seed: int = 0):
    return make_model(seed, shared_head=True)


@pytest.mark.parametrize("build", [shared_head, tiny_myo])
@pytest.mark.parametrize("schedule_by", ["epoch", "step"])
def test_layer_decay_equals_torch_adamw_with_one_group_per_layer(build, schedule_by):
    recipe = changed(
        layer_decay=0.7, betas=(0.8, 0.95), schedule="cosine", warmup_epochs=1, schedule_by=schedule_by, clip_norm=0.3
    )
    model, twin = build(), build()
    history = fit(model, Batch(X, Y), recipe)
    n = twin.cfg.n_layers
    layers: dict[int, list] = {}
    for name, parameter in twin.named_parameters():
        part = name.split(".")
        layer = int(part[1]) if part[0] == "blocks" else -1 if part[0] in ("embed", "pos_embed") else n
        layers.setdefault(layer, []).append(parameter)
    groups = [{"params": some, "lr": 1e-3 * 0.7 ** (n - layer)} for layer, some in layers.items()]
    optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=(0.8, 0.95), weight_decay=0.01)
    n_steps = 3
    if schedule_by == "step":  # of 9 steps, 3 of warm-up
        rise = torch.optim.lr_scheduler.LinearLR(optimizer, 1 / 4, 1.0, 3)
        fall = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 6)
        schedule = torch.optim.lr_scheduler.SequentialLR(optimizer, [rise, fall], [3])
    else:
        factor = [0.5, 0.75, 0.25]
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: factor[min(step // n_steps, 2)])
    order, seen = torch.Generator().manual_seed(recipe.seed), []
    twin.train()
    for _ in range(3):
        for batch in torch.randperm(len(X), generator=order).split(32):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(twin(X[batch]), Y[batch]).backward()
            torch.nn.utils.clip_grad_norm_(twin.parameters(), 0.3)
            seen.append(max(group["lr"] for group in optimizer.param_groups))
            optimizer.step()
            schedule.step()
    torch.testing.assert_close(comparable(model), comparable(twin), atol=2e-5, rtol=1e-4)
    assert history["lr"].tolist() == pytest.approx(seen[2::3])


def test_the_first_step_of_each_layer_equals_its_learning_rate():
    model, before = tiny_myo(), values(tiny_myo())
    fit(model, Batch(X, Y), changed(epochs=1, batch_size=90, weight_decay=0.0, layer_decay=0.5))
    steps = {name: float((p.detach() - before[name]).abs().max()) for name, p in model.named_parameters()}
    # The first step of AdamW is the learning rate times the gradient's sign, however large the gradient.
    expected = {"embed.W_E": 4, "blocks.0.mlp.W_in": 3, "blocks.1.attn.W_V": 2, "blocks.2.mlp.W_out": 1}
    expected |= {"ln_final.w": 0, "unembed.W_U": 0}
    assert {name: steps[name] for name in expected} == {
        name: pytest.approx(1e-3 * 0.5**power, rel=1e-2) for name, power in expected.items()
    }


def test_every_encoder_declares_its_layers_and_models_without_layers_are_refused():
    sizes = {"modalities": {"emg": 2, "acc": 2}, "n_samples": 80, "n_classes": 3}
    for name in architecture_names():
        model = build_model(name, **sizes)
        assert names_of_head(model) == {n for n in values(model) if n.startswith(("unembed", "classifier"))}, name
        if not model.cfg.n_layers:
            with pytest.raises(FitError, match=r"layer_decay needs the layer of every parameter.*layer_decay=1$"):
                lr_scales(model, 0.9)
            continue
        scales = lr_scales(model, 0.5)
        assert len(set(scales.values())) == model.cfg.n_layers + 2, name
        assert {v for k, v in scales.items() if k.startswith("embed")} == {0.5 ** (model.cfg.n_layers + 1)}
    staged = lr_scales(build_model("hierarchical", **sizes), 0.5)
    last = next(k for k in staged if k.startswith("stages.fusion.blocks.") and k.endswith("W_Q"))
    assert staged["stages.emg.blocks.0.attn.W_Q"] == staged["stages.acc.blocks.0.attn.W_Q"] < staged[last] < 1


def test_a_parameter_without_a_declared_layer_is_named():
    class Odd(TinyMyo):
        parameter_layers = {"embed.": -1}

    odd = Odd(tiny_myo().cfg)
    with pytest.raises(FitError, match=r"Odd.parameter_layers does not declare the layer of 'blocks\.0\."):
        fit(odd, Batch(X, Y), changed(layer_decay=0.9))


@pytest.mark.parametrize("build", [make_model, tiny_myo])
def test_a_linear_probe_changes_the_head_only(build):
    model, before = build(), values(build())
    fit(model, Batch(X, Y), changed(fitted="head", anneal_epochs=2))
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert moved == {name for name in before if name.startswith("unembed")}
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


def test_a_model_without_a_declared_head_cannot_be_probed():
    class Headless(TinyMyo):
        head_parameters = ()

    with pytest.raises(FitError, match="fitted='head' needs the head of Headless"):
        fit(Headless(tiny_myo().cfg), Batch(X, Y), changed(fitted="head"))


OTHER = Batch(*make_trials(60, seed=1))
SHORT = {"epochs": 40, "lr": 3e-2, "patience": 2}


def test_the_fit_ends_early_and_keeps_the_epoch_with_the_best_validation_loss():
    model = tiny_myo()
    history = fit(model, Batch(X, Y), changed(**SHORT), validation=OTHER)
    losses = history["validation_loss"]
    best = int(losses.idxmin())
    assert len(history) == best + 3 < 40
    with torch.no_grad():
        assert torch.nn.functional.cross_entropy(model(OTHER.x), OTHER.targets) == pytest.approx(losses[best], rel=1e-4)
    alone = tiny_myo()
    plain = fit(alone, Batch(X, Y), changed(epochs=best + 1, lr=3e-2))
    assert plain["loss"].tolist() == history["loss"][: best + 1].tolist()  # looking changes nothing
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), alone.parameters(), strict=True))


def test_without_patience_all_epochs_run_and_the_best_one_is_kept():
    model = tiny_myo()
    history = fit(model, Batch(X, Y), changed(epochs=12, lr=3e-2), validation=OTHER)
    best = history["validation_loss"].min()
    with torch.no_grad():
        loss = torch.nn.functional.cross_entropy(model(OTHER.x), OTHER.targets)
    assert len(history) == 12 and loss == pytest.approx(best, rel=1e-4) and best < history["validation_loss"].iloc[-1]


@pytest.mark.parametrize("stop", [1, 3, 5])
def test_a_resumed_fit_is_bit_identical(stop, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "SAVE_SECONDS", 0.0)
    monkeypatch.setattr(checkpoint, "SAVE_FRACTION", 1e6)
    recipe = changed(**SHORT, layer_decay=0.8, betas=(0.9, 0.98), schedule="cosine", schedule_by="step", clip_norm=1.0)
    whole, path = tiny_myo(), tmp_path / "fit.safetensors"
    expected = fit(whole, Batch(X, Y), recipe, validation=OTHER)
    assert len(expected) > stop
    with pytest.raises(Stop):
        fit(tiny_myo(), Batch(X, Y), recipe, validation=OTHER, checkpoint=path, on_epoch=stopping_after(stop, []))
    for _ in range(2):  # to its end, and from its end
        model = tiny_myo()
        assert fit(model, Batch(X, Y), recipe, validation=OTHER, checkpoint=path).equals(expected)
        assert all(torch.equal(a, b) for a, b in zip(model.parameters(), whole.parameters(), strict=True))


def test_patience_needs_validation_trials():
    with pytest.raises(FitError, match="patience=2 needs validation trials"):
        fit(tiny_myo(), Batch(X, Y), changed(patience=2))


@pytest.mark.parametrize(
    "fields",
    [
        {"fitted": "head", "anneal_epochs": 2},
        {"layer_decay": 0.6, "betas": (0.8, 0.9), "clip_norm": 0.2},
        {"schedule": "cosine", "schedule_by": "step", "warmup_epochs": 1},
    ],
)
def test_a_cohort_equals_single_fits(fields):
    recipes = [changed(**fields, seed=seed) for seed in (3, 4)]
    together, apart = [make_model(0), make_model(1)], [make_model(0), make_model(1)]
    histories = fit_cohort(together, [Batch(X, Y), Batch(X[:70], Y[:70])], recipes)
    for model, one, recipe, n, history in zip(together, apart, recipes, (90, 70), histories, strict=True):
        alone = fit(one, Batch(X[:n], Y[:n]), recipe)
        assert history["loss"].tolist() == pytest.approx(alone["loss"].tolist(), rel=1e-4)
        assert history["lr"].tolist() == pytest.approx(alone["lr"].tolist())
        torch.testing.assert_close(comparable(model), comparable(one), atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"patience": 2}, "patience=2 may stop each fit after a different epoch.*fit the models one by one"),
        ({"schedule": "cosine", "schedule_by": "step"}, r"their epochs have \[1, 3\] steps of 32 trials"),
    ],
)
def test_recipes_that_a_cohort_cannot_run_are_refused(fields, message):
    with pytest.raises(ArgumentError, match=message):
        fit_cohort([make_model(0), make_model(1)], [Batch(X, Y), Batch(X[:30], Y[:30])], changed(**fields))


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"fitted": "head", "layer_decay": 0.9}, "layer_decay has no effect"),
        ({"schedule_by": "step"}, "schedule_by='step' has no effect"),
        ({"betas": (0.9, 1.0)}, r"betas\.1=1\.0; expected a number less than 1"),
        ({"layer_decay": 0.0}, "layer_decay=0.0; expected a number greater than 0"),
    ],
)
def test_recipes_with_fields_without_effect_are_refused(fields, message):
    with pytest.raises(ArgumentError, match=message):
        changed(**fields)


def test_a_recipe_that_is_written_and_read_is_the_same():
    used = changed(layer_decay=0.9, patience=3)
    assert {"layer_decay", "patience"} <= set(used.model_dump()) and TrainingRecipe(**used.model_dump()) == used
    assert "0.9 per layer" in used.summary() and "3 epochs" in used.summary()
    assert math.isclose(changed(schedule="cosine", schedule_by="step").lr_factor(0, 0, 5), 1.0)


def test_the_summary_names_a_learning_rate_that_is_never_reached():
    assert "(constant, after 3 epochs of warm-up)" in changed(epochs=4, warmup_epochs=3).summary()
    longer = changed(epochs=4, warmup_epochs=4)
    assert (
        f"of warm-up, the largest rate reached is {0.8 * longer.lr:.3g})" in longer.summary()
        and longer.lr_factor(3) == 0.8
    )
    falling = changed(epochs=10, warmup_epochs=5, schedule="cosine")
    assert f"the largest rate reached is {0.545 * falling.lr:.3g}" in falling.summary()
    assert max(falling.lr_factor(epoch) for epoch in range(10)) == pytest.approx(0.545, abs=1e-3)
    summary = changed(epochs=10, warmup_epochs=5, schedule="cosine", schedule_by="step", clip_norm=3.0).summary()
    assert "(cosine, by step, after 5 epochs of warm-up)" in summary and "clipped to 3" in summary
