"""The objective of pre-training in the one `fit`: the losses of `pretrain` on a batch, and what it refuses."""

import numpy as np
import pytest
import torch
from toy_pretraining import RECIPE, make_corpora, make_model

from emg_lens.data import Batch
from emg_lens.models import build_model
from emg_lens.training import OBJECTIVES, FitError, MaskedReconstruction, TrainingRecipe, fit, fit_cohort, pretrain
from emg_lens.training.pretraining.masking import random_mask
from emg_lens.training.pretraining.window_batches import WindowBatches
from emg_lens.validation import ArgumentError

QUICK = TrainingRecipe(epochs=2, batch_size=16, lr=3e-3, weight_decay=0.0, anneal_epochs=0, seed=1)


def windows(n=48):
    return torch.from_numpy(make_corpora()[0].read(np.arange(n)))


def test_the_loss_of_a_batch_is_that_of_pre_training(monkeypatch):
    corpus, _ = make_corpora()
    recipe = RECIPE.model_copy(update={"batch_size": 16, "micro_batch": 16, "epochs": 1, "lr": 1e-12, "min_lr": 0.0})
    batch, masked, _ = WindowBatches(corpus, recipe, 4, epoch=0)[0, 16]
    masks = iter(masked.numpy())  # the masks of pre-training for these windows
    monkeypatch.setattr("emg_lens.training.pretraining.masked_reconstruction.random_mask", lambda *_: next(masks))
    objective = MaskedReconstruction(recipe.masked_fraction, recipe.beta, recipe.visible_weight)
    losses, reconstruction = objective.batch_losses(make_model(), Batch(batch, batch), 1.0, QUICK, torch.Generator())
    message = pretrain(make_model(), corpus, recipe, log_steps=1, stop_after=1).iloc[0]
    expected = message["train_masked"] + recipe.visible_weight * message["train_visible"]
    assert losses.mean().item() == pytest.approx(expected, rel=1e-6)
    assert reconstruction.shape == batch.shape


def test_defaults_are_those_of_pre_training_and_masks_depend_on_the_seed():
    objective = OBJECTIVES["masked-reconstruction"]
    assert (objective.masked_fraction, objective.beta, objective.visible_weight) == (
        RECIPE.masked_fraction,
        RECIPE.beta,
        RECIPE.visible_weight,
    )
    seen = []
    model, x = make_model(), windows(4)
    hide = model.embed.hide
    model.embed.hide = lambda tokens, masked: (seen.append(masked), hide(tokens, masked))[1]
    for seed in (0, 0, 1):
        objective.batch_losses(model, Batch(x, x), 1.0, QUICK, torch.Generator().manual_seed(seed))
    assert torch.equal(seen[0], seen[1]) and not torch.equal(seen[0], seen[2])
    assert (seen[0].sum(1) == random_mask(np.ones(12, bool), 0.5, (0,)).sum()).all()


def test_a_fit_learns_to_reconstruct_and_resumes_from_its_checkpoint(tmp_path):
    x, recipe = windows(), QUICK.model_copy(update={"epochs": 20})
    model = make_model()
    history = fit(model, Batch(x, x), recipe, objective="masked-reconstruction", held_out=Batch(x[:8], x[:8]))
    assert history["loss"].iloc[-1] < 0.7 * history["loss"].iloc[0]
    assert history.columns[2] == "reconstruction_error" and history["held_out_loss"].iloc[-1] > 0
    broken = make_model()
    for stop in (3, None):
        broken = make_model()
        fit(broken, Batch(x, x), recipe, objective="masked-reconstruction", held_out=Batch(x[:8], x[:8]),
            checkpoint=tmp_path / "fit", stop_after=stop)  # fmt: skip
    assert all(torch.equal(p, q) for p, q in zip(broken.parameters(), model.parameters(), strict=True))
    other = MaskedReconstruction(masked_fraction=0.25)
    with pytest.raises(Exception, match="objective"):
        fit(
            make_model(),
            Batch(x, x),
            recipe,
            objective=other,
            held_out=Batch(x[:8], x[:8]),
            checkpoint=tmp_path / "fit",
        )


def test_models_and_targets_that_do_not_fit_are_refused():
    x, objective = windows(4), "masked-reconstruction"
    with pytest.raises(FitError, match="give the windows twice"):
        fit(make_model(), Batch(x, x + 1), QUICK, objective=objective)
    classes = build_model("isonet", modalities={"emg": 3}, n_samples=40, n_classes=2, d_model=16, n_heads=2, n_layers=1)
    with pytest.raises(
        FitError, match=r"IsoNet with outputs of shape \(2,\) cannot reconstruct windows of shape \(3, 40\); expected"
    ):
        fit(classes, Batch(x, x), QUICK, objective=objective)
    with pytest.raises(FitError, match="label_smoothing=0.1 has no effect on the loss"):
        fit(make_model(), Batch(x, x), QUICK.model_copy(update={"label_smoothing": 0.1}), objective=objective)
    with pytest.raises(ArgumentError, match="masked_fraction between 0 and 1"):
        MaskedReconstruction(masked_fraction=1.0)
    with pytest.raises(FitError, match="is not an objective for studies"):
        OBJECTIVES[objective].targets(None)
    with pytest.raises(ArgumentError, match="fit the models one by one"):
        fit_cohort([make_model(), make_model()], [Batch(x, x)] * 2, QUICK, objective=objective)
