"""The two published recipes, and what a file may say of one."""

import numpy as np
import pytest
import torch

from emg_lens.training import PretrainingRecipe
from emg_lens.validation import ArgumentError


def test_the_released_schedule_equals_that_of_the_released_scheduler():
    recipe = PretrainingRecipe.published("tinymyo-released")
    assert recipe == PretrainingRecipe() and recipe.betas == (0.9, 0.999) and recipe.batch_size == 4096
    rates = [recipe.lr_at(epoch, 3, 7) for epoch in range(50)]  # timm's CosineLRScheduler, run at some epochs
    assert [rates[e] for e in (0, 9, 10, 49)] == pytest.approx([1e-6, 9.01e-5, 9.0546e-5, 1.0977e-6], rel=1e-4)
    assert max(rates) < 9.1e-5


def test_the_thesis_schedule_reaches_its_peak_and_then_equals_torchs_cosine():
    recipe = PretrainingRecipe.published("tinymyo-thesis", epochs=20, warmup_epochs=5)
    assert recipe.betas == (0.9, 0.98) and recipe.lr_at(0, 0, 10) == pytest.approx(1e-6)
    assert recipe.lr_at(2, 5, 10) == pytest.approx((1e-4 + 1e-6) / 2)
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=recipe.lr)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 150, recipe.min_lr)
    for step in range(50, 200):
        assert recipe.lr_at(*divmod(step, 10), 10) == pytest.approx(cosine.get_last_lr()[0], rel=1e-6)
        optimizer.step()
        cosine.step()


def test_without_a_warm_up_the_peak_comes_first():
    for schedule in ("by epoch", "by step"):
        assert PretrainingRecipe(warmup_epochs=0, schedule=schedule).lr_at(0, 0, 5) == 1e-4
    assert np.isfinite(PretrainingRecipe(epochs=1, warmup_epochs=1).lr_at(0, 0, 1))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"like": "tinymyo"}, "known: tinymyo-released, tinymyo-thesis"),
        ({"masked_fraction": 1.0}, "masked_fraction"),
        ({"betas": (0.9, 1.0)}, "betas"),
        ({"lr": 1e-7}, "above the peak lr"),
        ({"epochs": 5}, "warmup_epochs=10 is longer than the training, epochs=5"),
        ({"batchsize": 3}, "batchsize is not a known key; did you mean 'batch_size'"),
        ({"epochs": True}, "epochs"),
        ({"beta": float("nan")}, "beta"),
    ],
)
def test_a_wrong_recipe_is_an_error_of_one_line(fields, message):
    with pytest.raises(ArgumentError, match=message):
        PretrainingRecipe(**fields)
