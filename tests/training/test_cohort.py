"""A cohort fit gives each subject the result of its own single fit."""

import copy

import pandas as pd
import pytest
import torch
from toy_cohort import make_model, make_trials, make_values

from emg_lens.data import Batch
from emg_lens.models.registry import build_model
from emg_lens.training import FitError, TrainingRecipe, fit, fit_cohort

RECIPE = TrainingRecipe(
    epochs=4, batch_size=32, lr=1e-3, anneal_epochs=2, schedule="cosine", warmup_epochs=2, clip_norm=0.5,
    label_smoothing=0.1,
)  # fmt: skip
SIZES = (40, 70, 33, 64, 5)


def cohort(dropout=0.0, sizes=SIZES, **fields):
    models = [make_model(s, dropout, **fields) for s in range(len(sizes))]
    xs, ys = zip(*(make_trials(n, seed=s) for s, n in enumerate(sizes)), strict=True)
    return models, xs, ys


def batches(xs, targets):
    return [Batch(*pair) for pair in zip(xs, targets, strict=True)]


def recipes(recipe=RECIPE, n=5):
    return [recipe.model_copy(update={"seed": s}) for s in range(n)]


LONG = RECIPE.model_copy(update={"epochs": 24, "anneal_epochs": 9, "weight_decay": 0.1})
"""Annealed for nine epochs; the second head is unused in the other fifteen."""


def assert_same_fits(models, xs, targets, each, *, dtype=torch.float64, atol=1e-9, **options):
    """Compare every parameter and every row of the table: models fitted together and one by one."""
    models = [model.to(dtype) for model in models]
    xs, held_out = [x.to(dtype) for x in xs], [Batch(xs[0].to(dtype), targets[0])] * len(models)
    alone = copy.deepcopy(models)
    together = fit_cohort(models, batches(xs, targets), each, held_out=held_out, **options)
    for model, other, x, wanted, recipe, history in zip(models, alone, xs, targets, each, together, strict=True):
        expected = fit(other, Batch(x, wanted), recipe, held_out=held_out[0], **options)
        pd.testing.assert_frame_equal(history, expected, rtol=0, atol=max(atol, 1e-6))
        for (name, own), parameter in zip(model.named_parameters(), other.parameters(), strict=True):
            assert (own - parameter).detach().abs().max() <= atol, name
        assert not model.training


@pytest.mark.parametrize(
    "changes",
    [{}, {"clip_norm": None, "anneal_epochs": 0}],
    ids=lambda changes: str(changes),
)
def test_without_dropout_every_parameter_equals_the_single_fit(changes):
    assert_same_fits(*cohort(), recipes(LONG.model_copy(update=changes)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_unused_second_head_equals_the_single_fit(dtype):
    """If momentum and weight decay continue in the unused head, its logits are off by 0.1."""
    models, xs, ys = cohort(sizes=(40, 90))
    alone = copy.deepcopy([model.to(dtype) for model in models])
    xs = [x.to(dtype) for x in xs]
    fit_cohort(models, batches(xs, ys), LONG)
    for model, other, x, y in zip(models, alone, xs, ys, strict=True):
        fit(other, Batch(x, y), LONG)
        logits, expected = (m(x, return_type="both")[1] for m in (model, other))
        assert (logits - expected).detach().abs().max() < 1e-3
        assert model.unembed_mean.W_U.sub(other.unembed_mean.W_U).detach().abs().max() < 1e-4


@pytest.mark.parametrize(
    "fields",
    [
        {"shared_head": True},
        {"masked_edges": "flow('acc', 'cls')"},
        {"masked_edges": "flow('cls', 'cls') | flow('emg', 'cls') | flow('acc', 'cls')"},
        {"norm": "pre", "positions": "rotary", "qkv_bias": False},
    ],
    ids=lambda fields: next(iter(fields)),
)
def test_every_kind_of_model_equals_the_single_fit(fields):
    recipe = LONG.model_copy(update={"epochs": 6, "anneal_epochs": 3})
    assert_same_fits(*cohort(sizes=(40, 33), **fields), recipes(recipe, 2))


def test_other_architectures_and_regressions_equal_the_single_fit():
    recipe = LONG.model_copy(update={"label_smoothing": 0.0})
    trials = [make_values(n, seed=n) for n in (50, 20)]
    xs, values = zip(*((x, value.double()) for x, value in trials), strict=True)
    sizes = {"modalities": {"emg": 4, "acc": 3}, "n_samples": 8, "n_classes": 2}
    models = [build_model("multimodal-mlp", **sizes, d_hidden=8, d_fused=8) for _ in xs]
    assert_same_fits(models, xs, values, recipes(recipe, 2), objective="regression")
    isonets = [make_model(s, n_classes=2) for s in range(2)]
    assert_same_fits(isonets, xs, values, recipes(recipe, 2), objective="regression")


def test_each_model_keeps_its_own_frozen_parameters():
    models, xs, ys = cohort(sizes=(40, 33))
    for model in models:
        model.embed.requires_grad_(False)
    before = [model.embed.W_E.detach().clone().double() for model in models]
    assert_same_fits(models, xs, ys, recipes(RECIPE, 2))
    assert all(torch.equal(model.embed.W_E, start) for model, start in zip(models, before, strict=True))
    models[0].requires_grad_(True)
    with pytest.raises(ValueError, match="the frozen parameters or buffers of models 0 and 1 differ"):
        fit_cohort(models, batches([x.double() for x in xs], ys), RECIPE)


def test_each_model_keeps_its_own_memory_and_its_layout():
    models, xs, ys = cohort()
    strides = [p.stride() for p in models[0].parameters()]
    fit_cohort(models, batches(xs, ys), RECIPE)
    assert [p.stride() for p in models[0].parameters()] == strides
    starts = [p.data_ptr() for model in models for p in model.parameters()]
    assert len(set(starts)) == len(starts)
    assert all(p.untyped_storage().nbytes() == 4 * p.numel() for p in models[0].parameters())
    assert all(p.grad is None for model in models for p in model.parameters())


def test_with_dropout_all_subjects_learn_and_have_different_masks():
    models, xs, ys = cohort(dropout=0.1, sizes=(60, 90))
    recipe = RECIPE.model_copy(update={"epochs": 30, "anneal_epochs": 10, "lr": 3e-3})
    histories = fit_cohort(models, batches(xs, ys), recipes(recipe, 2))
    for model, x, y, history in zip(models, xs, ys, histories, strict=True):
        assert history["accuracy"].iloc[-1] > 0.9
        assert (model(x).argmax(-1) == y).float().mean() > 0.98
    twins = [make_model(0, 0.5), make_model(0, 0.5)]
    x, y = make_trials()
    one, two = fit_cohort(twins, [Batch(x, y)] * 2, RECIPE)
    assert abs(one["loss"] - two["loss"]).min() > 1e-4


def test_a_cohort_with_drop_path_is_fitted():
    models, xs, ys = cohort(dropout=0.1, drop_path=0.2)
    assert all(h["loss"].gt(0).all() for h in fit_cohort(models, batches(xs, ys), RECIPE))


def test_the_same_cohort_gives_bit_identical_weights_and_restores_the_random_state():
    models, xs, ys = cohort(dropout=0.1)
    again = copy.deepcopy(models)
    state = torch.get_rng_state()
    fit_cohort(models, batches(xs, ys), recipes())
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(3)
    fit_cohort(again, batches(xs, ys), recipes())
    for model, other in zip(models, again, strict=True):
        assert all(torch.equal(p, q) for p, q in zip(model.parameters(), other.parameters(), strict=True))


def test_on_epoch_is_called_once_per_epoch():
    models, xs, ys = cohort()
    seen = []
    fit_cohort(models, batches(xs, ys), RECIPE, on_epoch=seen.append)
    assert seen == [1, 2, 3, 4]


def test_another_number_of_classes_is_refused_in_one_line():
    models, xs, ys = cohort()
    models[2] = make_model(2, n_classes=4)
    with pytest.raises(ValueError, match="configurations of models 0 and 2 differ.*n_classes=4") as error:
        fit_cohort(models, batches(xs, ys), RECIPE)
    assert "\n" not in str(error.value)


def test_another_architecture_is_refused_but_other_class_names_are_not():
    models, xs, ys = cohort()
    models[1] = make_model(1, class_names=["a", "b", "c"])
    fit_cohort(models, batches(xs, ys), RECIPE.model_copy(update={"epochs": 1}))
    models[1] = make_model(1, eps=1e-6)
    with pytest.raises(ValueError, match="the configurations of models 0 and 1 differ"):
        fit_cohort(models, batches(xs, ys), RECIPE)


def test_a_model_with_a_hook_is_refused():
    models, xs, ys = cohort()
    models[3].add_hook("blocks.1.attn.hook_pattern", lambda pattern, hook: pattern)
    with pytest.raises(ValueError, match=r"model 3 has hooks at \['blocks.1.attn.hook_pattern'\]"):
        fit_cohort(models, batches(xs, ys), RECIPE)


def test_recipes_that_differ_in_more_than_their_seeds_are_refused():
    models, xs, ys = cohort()
    each = recipes()
    each[1] = each[1].model_copy(update={"lr": 1.0})
    with pytest.raises(ValueError, match="may differ in their seeds only"):
        fit_cohort(models, batches(xs, ys), each)


def test_lists_of_different_length_are_refused():
    models, xs, ys = cohort()
    with pytest.raises(ValueError, match="'batches': 4"):
        fit_cohort(models, batches(xs, ys)[:-1], RECIPE)
    with pytest.raises(ValueError, match="a cohort needs"):
        fit_cohort([], [], RECIPE)


def test_an_error_in_a_fit_names_the_subject():
    models, xs, ys = cohort()
    with pytest.raises(FitError, match="subject 1: labels run"):
        fit_cohort(models, batches(xs, [ys[0], ys[1] + 1, *ys[2:]]), RECIPE)
    with pytest.raises(FitError, match=r"subject \d: the training loss became"):
        fit_cohort(models, batches(xs, ys), RECIPE.model_copy(update={"lr": 1e37}))
