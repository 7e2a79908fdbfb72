"""One fit: reproducible numbers, the annealing of the paper, learning rates by hand, and error messages."""

import copy
import math

import pytest
import torch
from toy_cohort import make_model, make_trials

from emg_lens.data import Batch
from emg_lens.scoring import measure
from emg_lens.training import FitError, TrainingRecipe, fit
from emg_lens.validation import ArgumentError

QUICK = TrainingRecipe(epochs=3, batch_size=32, lr=1e-3, anneal_epochs=2, seed=3)


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def fitted(recipe, seed=0, dropout=0.1):
    model = make_model(seed, dropout)
    return model, fit(model, Batch(*make_trials()), recipe)


def test_the_same_recipe_gives_bit_identical_weights_for_any_random_state():
    first, history = fitted(QUICK)
    torch.rand(17)
    second, again = fitted(QUICK)
    assert torch.equal(weights(first), weights(second))
    assert history.equals(again)


def test_the_seed_decides_the_order_of_trials_and_dropout():
    other = QUICK.model_copy(update={"seed": 4})
    assert not torch.equal(weights(fitted(QUICK, dropout=0)[0]), weights(fitted(other, dropout=0)[0]))
    whole = {"batch_size": 1000, "epochs": 2}  # one batch an epoch: its order is rounding, dropout is not
    one, two = (fitted(r.model_copy(update=whole))[0] for r in (QUICK, other))
    assert (weights(one) - weights(two)).abs().max() > 1e-4


def test_the_random_state_of_torch_does_not_change():
    before = torch.get_rng_state()
    model = make_model(0, 0.5)
    torch.set_rng_state(before)
    fit(model, Batch(*make_trials()), QUICK)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_separable_task_is_learned():
    model = make_model(0, 0.1)
    x, y = make_trials()
    history = fit(model, Batch(x, y), QUICK.model_copy(update={"epochs": 30, "anneal_epochs": 10, "lr": 3e-3}))
    assert history["loss"].iloc[-1] < 0.3 * history["loss"].iloc[0]
    assert history["accuracy"].iloc[-1] > 0.95
    assert not model.training
    assert (model(x).argmax(-1) == y).float().mean() > 0.98


def test_the_weight_of_the_cls_loss_rises_as_in_the_paper():
    _, history = fitted(QUICK.model_copy(update={"epochs": 6, "anneal_epochs": 4}))
    assert history["cls_weight"].tolist() == [0, 0.25, 0.5, 0.75, 1, 1]
    _, history = fitted(QUICK.model_copy(update={"anneal_epochs": 0}))
    assert history["cls_weight"].eq(1).all()


def test_the_second_head_learns_only_while_its_weight_is_above_zero():
    model = make_model(0, 0)
    before = model.unembed_mean.W_U.detach().clone()
    recipe = QUICK.model_copy(update={"anneal_epochs": 0, "weight_decay": 0.0})
    fit(model, Batch(*make_trials()), recipe)
    assert torch.equal(model.unembed_mean.W_U, before)


def test_learning_rates_follow_the_schedule():
    recipe = QUICK.model_copy(update={"epochs": 4, "schedule": "cosine", "warmup_epochs": 1, "lr": 0.01})
    _, history = fitted(recipe)
    cosine = [0.5 * (1 + math.cos(math.pi * t / 4)) for t in range(4)]
    expected = [0.01 * w * c for w, c in zip([0.5, 1, 1, 1], cosine, strict=True)]
    assert history["lr"].tolist() == pytest.approx(expected)
    constant = recipe.model_copy(update={"schedule": "constant", "warmup_epochs": 3})
    assert [constant.lr_factor(t) for t in range(5)] == [0.25, 0.5, 0.75, 1, 1]


def test_a_step_is_adamw_on_the_clipped_gradient_of_the_whole_loss():
    """One step written out: decoupled weight decay, then the first step of Adam."""
    model, (x, y) = make_model(0, 0), make_trials()
    recipe = QUICK.model_copy(update={"epochs": 1, "batch_size": 1000, "clip_norm": 0.01, "weight_decay": 0.1})
    model_before = copy.deepcopy(model).train()
    logits = model_before(x, return_type="both")[1]  # epoch 0: λ = 0, the mean head alone
    torch.nn.functional.cross_entropy(logits, y).backward()
    slopes = [torch.zeros_like(p) if p.grad is None else p.grad for p in model_before.parameters()]
    norm = torch.cat([g.flatten() for g in slopes]).norm()
    fit(model, Batch(x, y), recipe)
    for name, after, start, slope in zip(
        dict(model.named_parameters()), model.parameters(), model_before.parameters(), slopes, strict=True
    ):
        g = slope * min(1.0, 0.01 / float(norm))
        expected = start * (1 - 1e-3 * 0.1) - 1e-3 * g / (g.abs() + 1e-8)
        sure = g.abs() > 1e-6  # a gradient that is rounding alone has no sign
        torch.testing.assert_close(after[sure], expected[sure], rtol=0, atol=1e-5, msg=name)


def test_the_last_step_takes_the_remaining_trials_and_the_loss_is_the_mean_over_trials():
    x, y = make_trials(n=70)
    model, seen = make_model(0, 0), []
    model.embed.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))
    recipe = QUICK.model_copy(update={"epochs": 1, "batch_size": 32, "lr": 1e-12, "anneal_epochs": 0})
    history = fit(model, Batch(x, y), recipe)
    assert seen == [32, 32, 6]
    logits = make_model(0, 0)(x).detach()
    assert history["loss"][0] == pytest.approx(float(torch.nn.functional.cross_entropy(logits, y)), abs=1e-6)
    assert history["accuracy"][0] == pytest.approx(float((logits.argmax(-1) == y).float().mean()))


def test_every_epoch_is_reported_and_has_a_new_order_of_trials():
    seen, orders = [], []
    x, y = make_trials(n=40)
    x[:, 0, 0] = torch.arange(40)
    model = make_model(0, 0)
    model.embed.register_forward_pre_hook(lambda module, inputs: orders.append(inputs[0][:, 0, 0].tolist()))
    fit(model, Batch(x, y), QUICK.model_copy(update={"batch_size": 40}), on_epoch=seen.append)
    assert seen == [1, 2, 3]
    assert all(sorted(order) == list(range(40)) for order in orders)
    assert orders[0] != orders[1] != orders[2]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda x, y: (x.index_fill(0, torch.tensor([1, 5]), math.nan), y), "2 of 90 trials contain NaN"),
        (lambda x, y: (x, y + 1), "labels run from 1 to 3; the model has classes 0 to 2"),
        (lambda x, y: (x[:0], y[:0]), "0 trials; a fit needs one or more"),
        (lambda x, y: (x, None), "the batch has no targets"),
        (lambda x, y: (x, y, torch.full((90,), 8)), "which no model can use; cut all trials to one length"),
        (lambda x, y: (x, y.float()), "expected one class index"),
    ],
)
def test_trials_that_do_not_fit_the_model_are_refused_before_any_weight_changes(spoil, message):
    model = make_model(0, 0)
    before = weights(model)
    with pytest.raises(FitError, match=message) as error:
        fit(model, Batch(*spoil(*make_trials())), QUICK)
    assert "\n" not in str(error.value)
    assert torch.equal(weights(model), before)


def test_a_learning_rate_that_makes_the_loss_nan_is_named():
    model = make_model(0, 0)
    with pytest.raises(FitError, match=r"the training loss became (nan|inf) in epoch \d; use a lower lr than 1e\+37"):
        fit(model, Batch(*make_trials()), QUICK.model_copy(update={"lr": 1e37, "epochs": 5}))


@pytest.mark.parametrize(
    "wrong",
    [
        {"epochs": 0},
        {"batch_size": 0},
        {"lr": 0},
        {"weight_decay": -1},
        {"anneal_epochs": -1},
        {"schedule": "linear"},
        {"clip_norm": 0},
        {"label_smoothing": 1},
        {"epoch": 5},
    ],
)
def test_an_invalid_recipe_is_refused_with_the_name_of_the_field(wrong):
    with pytest.raises(ArgumentError, match=f"TrainingRecipe: {next(iter(wrong))}") as error:
        TrainingRecipe(**wrong)
    assert "\n" not in BaseException.__str__(error.value) and "pydantic" not in str(error.value)


def test_a_held_out_curve_changes_neither_weights_nor_random_numbers():
    recipe = QUICK.model_copy(update={"epochs": 25})
    model, history = fitted(recipe)
    other = make_model(0, 0.1)
    with_curve = fit(other, Batch(*make_trials()), recipe, held_out=Batch(*make_trials(50, seed=9)))
    assert torch.equal(weights(model), weights(other)) and not other.training
    assert with_curve[list(history.columns)].equals(history)
    looked = with_curve["epoch"][with_curve["held_out_loss"].notna()].tolist()
    assert looked == [3, 5, 8, 10, 13, 15, 18, 20, 23, 25]
    assert with_curve["held_out_accuracy"].notna().equals(with_curve["held_out_loss"].notna())


def test_the_last_point_of_a_held_out_curve_is_the_fitted_model():
    model, (x, y) = make_model(0, 0.3), make_trials(50, seed=9)
    last = fit(model, Batch(*make_trials()), QUICK, held_out=Batch(x, y)).iloc[-1]
    logits = model(x).detach()
    assert last["held_out_loss"] == pytest.approx(float(torch.nn.functional.cross_entropy(logits, y)), abs=1e-6)
    assert last["held_out_accuracy"] == measure(["accuracy"], logits.numpy(), y.numpy())["accuracy"]


def test_an_error_in_held_out_trials_says_so():
    with pytest.raises(FitError, match="held-out: labels run from 1 to 3"):
        fit(make_model(), Batch(*make_trials()), QUICK, held_out=Batch(make_trials()[0], make_trials()[1] + 1))


def test_a_model_without_trainable_parameters_is_refused():
    with pytest.raises(FitError, match="no parameter of the model requires a gradient"):
        fit(make_model().requires_grad_(False), Batch(*make_trials()), QUICK)
