"""Objectives: losses by hand, checks of targets, and an objective of another package."""

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from toy_cohort import make_model, make_trials, make_values

from emg_lens.data import Batch
from emg_lens.data.trials import TrialSet
from emg_lens.lens.config import EncoderConfig
from emg_lens.models.encoder import HookedBiosignalEncoder
from emg_lens.models.registry import build_model
from emg_lens.registry import UnknownNameError
from emg_lens.training import OBJECTIVES, FitError, Objective, TrainingRecipe, fit, fit_cohort
from emg_lens.training.objectives import anneal_weight

QUICK = TrainingRecipe(epochs=3, batch_size=32, lr=1e-3, anneal_epochs=2, seed=3)
SIZES = {"modalities": {"emg": 4, "acc": 3}, "n_samples": 8}


@pytest.mark.parametrize(
    ("epoch", "expected"), [(0, 0.0), (1, 1 / 750), (375, 0.5), (749, 749 / 750), (750, 1.0), (1999, 1.0)]
)
def test_lambda_rises_linearly_to_one_and_stays(epoch, expected):
    assert anneal_weight(epoch, 750) == pytest.approx(expected, abs=1e-12)


def test_without_annealing_only_the_cls_head_has_a_loss():
    assert [anneal_weight(epoch, 0) for epoch in (0, 1, 100)] == [1.0, 1.0, 1.0]


@given(st.integers(0, 3000), st.integers(1, 2000))
def test_lambda_is_a_weight_and_never_falls(epoch, anneal_epochs):
    now, later = anneal_weight(epoch, anneal_epochs), anneal_weight(epoch + 1, anneal_epochs)
    assert 0 <= now <= later <= 1


class TwoHeads:
    """A model that returns given logits."""

    auxiliary_parameters = "second."

    def __init__(self, outputs: Tensor, auxiliary: Tensor) -> None:
        self.outputs, self.auxiliary = outputs, auxiliary

    def __call__(self, x: Tensor, return_type: str = "logits"):
        return (self.outputs, self.auxiliary) if return_type == "both" else self.outputs


@pytest.mark.parametrize("weight", [0.0, 0.25, 1.0])
def test_the_annealed_loss_by_hand(weight):
    outputs = torch.tensor([[1.0, 2.0, 0.0], [0.0, 0.0, 0.0]])
    auxiliary = torch.tensor([[0.5, 0.0, 0.0], [3.0, 0.0, -1.0]])
    labels = torch.tensor([1, 2])
    cross_entropy = lambda row, label: math.log(sum(math.exp(v) for v in row)) - row[label]
    cls = [cross_entropy([1.0, 2.0, 0.0], 1), math.log(3)]
    mean = [cross_entropy([0.5, 0.0, 0.0], 1), cross_entropy([3.0, 0.0, -1.0], 2)]
    model, generator = TwoHeads(outputs, auxiliary), torch.Generator()
    x = torch.zeros(2, 1, 1)
    losses, seen = OBJECTIVES["classification"].batch_losses(model, Batch(x, labels), weight, QUICK, generator)
    expected = [weight * a + (1 - weight) * b for a, b in zip(cls, mean, strict=True)]
    assert losses.tolist() == pytest.approx(expected, abs=1e-6) and seen is outputs
    smooth = QUICK.model_copy(update={"label_smoothing": 0.3})
    losses, _ = OBJECTIVES["classification"].batch_losses(model, Batch(x, labels), 1.0, smooth, generator)
    spread = [sum(cross_entropy(row, c) for c in range(3)) / 3 for row in outputs.tolist()]
    assert losses.tolist() == pytest.approx([0.7 * a + 0.3 * b for a, b in zip(cls, spread, strict=True)], abs=1e-6)


def test_the_regression_loss_is_the_mean_square_of_each_trial_and_is_annealed():
    outputs, auxiliary, wanted = torch.randn(3, 5, 2, generator=torch.Generator().manual_seed(0))
    objective, x = OBJECTIVES["regression"], torch.zeros(5, 1, 1)
    alone = objective.losses(outputs, wanted, QUICK)
    assert float(alone.mean()) == pytest.approx(float(F.mse_loss(outputs, wanted)))
    model = TwoHeads(outputs, auxiliary)
    both, _ = objective.batch_losses(model, Batch(x, wanted), 0.25, QUICK, torch.Generator())
    torch.testing.assert_close(both, 0.25 * alone + 0.75 * objective.losses(auxiliary, wanted, QUICK))


@pytest.mark.parametrize("architecture", ["isonet", "multimodal-mlp"])
def test_registered_models_can_be_fitted_to_values(architecture):
    small = {"d_model": 16, "n_heads": 2, "n_layers": 1, "d_mlp": 16} if architecture == "isonet" else {}
    torch.manual_seed(0)
    model = build_model(architecture, **SIZES, n_classes=2, class_names=("force", "spread"), **small)
    x, values = make_values()
    recipe = QUICK.model_copy(update={"epochs": 40, "anneal_epochs": 10, "lr": 3e-3})
    history = fit(model, Batch(x, values), recipe, objective="regression")
    assert history.columns[2] == "r2" and history["loss"].iloc[-1] < 0.2 * history["loss"].iloc[0]
    assert history["r2"].iloc[-1] > 0.8
    residual = (model(x) - values).square().mean(0) / values.var(0, correction=0)
    assert residual.max() < 0.2


@pytest.mark.parametrize("readout", ["cls", "mean"])
def test_a_plain_encoder_is_fitted(readout):
    torch.manual_seed(0)
    model = HookedBiosignalEncoder(EncoderConfig(**SIZES, n_classes=3, d_model=16, n_layers=2, readout=readout))
    x, y = make_trials()
    history = fit(model, Batch(x, y), QUICK.model_copy(update={"epochs": 30, "lr": 3e-3}))
    assert history["cls_weight"].eq(1).all()  # it has one head: nothing to anneal
    assert (model(x).argmax(1) == y).float().mean() > 0.95


def test_an_encoder_without_a_readout_is_refused_with_advice():
    model = HookedBiosignalEncoder(EncoderConfig(**SIZES, n_classes=0, readout="none", d_model=16, n_layers=1))
    with pytest.raises(FitError, match="no outputs .readout='none'.; build it with readout='cls' or 'mean'") as error:
        fit(model, Batch(*make_trials()), QUICK)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("objective", "targets", "message"),
    [
        ("classification", make_values()[1], "expected one class index.*objective='regression'"),
        ("classification", torch.zeros(90, dtype=torch.bool), "labels are torch.bool"),
        ("classification", torch.zeros(90, dtype=torch.int32), "labels are torch.int32"),
        ("regression", make_trials()[1], r"targets are torch.int64 \[90\]; expected floats \[trial, 3\]"),
        ("regression", torch.zeros(90, 2), r"\[90, 2\]; expected floats \[trial, 3\]"),
        ("regression", torch.zeros(90, 3).index_fill(0, torch.tensor([3, 7]), math.inf), "targets of 2 of 90 trials"),
    ],
)
def test_targets_of_the_wrong_kind_are_refused_in_one_line(objective, targets, message):
    with pytest.raises(FitError, match=message) as error:
        fit(make_model(), Batch(make_trials()[0], targets), QUICK, objective=objective)
    assert "\n" not in str(error.value)


def test_label_smoothing_is_refused_where_it_has_no_effect():
    x, values = make_values()
    smooth = QUICK.model_copy(update={"label_smoothing": 0.1})
    with pytest.raises(FitError, match="label_smoothing=0.1 has no effect on the loss of objective 'regression'"):
        fit(make_model(n_classes=2), Batch(x, values), smooth, objective="regression")
    for name in [name for name in OBJECTIVES.names() if name != "classification"]:
        with pytest.raises(FitError, match=name):
            OBJECTIVES[name].check_recipe(smooth)
    OBJECTIVES["classification"].check_recipe(smooth)


def test_targets_and_their_names_come_from_the_trials():
    x = np.random.default_rng(0).normal(size=(6, 7, 8)).astype(np.float32)
    trials = TrialSet.from_arrays(
        x=x, y=[0, 1, 2] * 2, subject=["a"] * 6, repetition=[1] * 6, channels={"emg": 4, "acc": 3}, fs=50.0
    )
    classification, regression = OBJECTIVES["classification"], OBJECTIVES["regression"]
    assert classification.targets(trials).tolist() == [0, 1, 2] * 2
    assert classification.output_names(trials) == trials.classes
    with pytest.raises(FitError, match=r"the trials have no targets; with_targets.*\['emg', 'acc'\]"):
        regression.targets(trials)
    moved = trials.with_targets(["acc"])
    np.testing.assert_allclose(regression.targets(moved).numpy(), x[:, 4:].mean(2), atol=1e-6)
    assert regression.output_names(moved) == moved.target_names and len(moved.target_names) == 3


def test_an_unknown_objective_lists_the_known_ones():
    with pytest.raises(UnknownNameError, match="unknown objective 'regresion'; did you mean 'regression'"):
        fit(make_model(), Batch(*make_trials()), QUICK, objective="regresion")


# --- an objective from outside: masked reconstruction -------------------------------------------------------


@dataclass
class DecoderConfig(EncoderConfig):
    """An encoder that predicts every sample of its input."""

    readout: str = "none"  # pyright: ignore


class Decoder(HookedBiosignalEncoder):
    """A linear layer maps each token to the samples of its channel."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__(config)
        self.decoder = nn.Linear(config.d_model, config.n_samples)

    def head(self, resid, return_type="logits"):
        return self.decoder(resid)


class MaskedReconstruction(Objective):
    """Random channels are blanked and predicted from the others."""

    name = "masked-reconstruction"
    kind = "values"
    metrics = ("reconstruction_error",)

    def targets(self, trials):
        return torch.as_tensor(trials.x)

    def output_names(self, trials):
        return ()

    def check(self, model, batch, prefix=""):
        if batch.x.shape != batch.targets.shape:
            raise FitError(f"{prefix}targets are the trials themselves, got {list(batch.targets.shape)}")

    def losses(self, outputs, targets, recipe):
        return (outputs - targets).square().mean((1, 2))

    def batch_losses(self, model, batch, weight, recipe, generator):
        masked = torch.rand(batch.x.shape[:2], generator=generator) < 0.3
        outputs = model(batch.x.masked_fill(masked[..., None], 0.0))
        errors = (outputs - batch.targets).square().mean(2)
        return (errors * masked).sum(1) / masked.sum(1).clamp(min=1), outputs


def make_decoder() -> Decoder:
    torch.manual_seed(0)
    return Decoder(DecoderConfig(**SIZES, n_classes=0, cls_token=False, d_model=16, n_heads=2, n_layers=2))


def make_copies(n: int = 120) -> Tensor:
    """Trials with identical channels: masked channels can be predicted from the others."""
    return torch.randn(n, 1, 8, generator=torch.Generator().manual_seed(1)).repeat(1, 7, 1)


def test_an_objective_that_masks_its_input_is_fitted_and_resumed_bit_identically(tmp_path):
    x, objective = make_copies(), MaskedReconstruction()
    recipe = QUICK.model_copy(update={"epochs": 30, "lr": 5e-3})
    call = {"objective": objective, "held_out": Batch(x[:30], x[:30])}
    model = make_decoder()
    history = fit(model, Batch(x, x), recipe, **call)
    assert history.columns[2] == "reconstruction_error"
    assert history["loss"].iloc[-1] < 0.5 * history["loss"].iloc[0]
    assert history["held_out_loss"].iloc[-1] < 0.5
    broken = make_decoder()
    fit(broken, Batch(x, x), recipe, **call, checkpoint=tmp_path / "fit", stop_after=7)
    broken = make_decoder()
    again = fit(broken, Batch(x, x), recipe, **call, checkpoint=tmp_path / "fit")
    assert again.equals(history)
    assert all(torch.equal(p, q) for p, q in zip(broken.parameters(), model.parameters(), strict=True))


def test_the_seed_decides_the_masks():
    x = make_copies(40)
    losses = [
        fit(
            make_decoder(),
            Batch(x, x),
            QUICK.model_copy(update={"seed": seed, "lr": 1e-12}),
            objective=MaskedReconstruction(),
        )
        for seed in (3, 3, 4)
    ]
    assert losses[0].equals(losses[1]) and not losses[0]["loss"].equals(losses[2]["loss"])


def test_a_cohort_can_be_fitted_to_values():
    x, values = make_values()
    models = [build_model("multimodal-mlp", **SIZES, n_classes=2) for _ in range(2)]
    histories = fit_cohort(models, [Batch(x, values), Batch(x[:50], values[:50])], QUICK, objective="regression")
    assert all(list(h.columns) == ["epoch", "loss", "r2", "cls_weight", "lr"] for h in histories)


def test_an_objective_refuses_metrics_of_another_kind_of_output():
    for objective in map(OBJECTIVES.__getitem__, OBJECTIVES.names()):
        objective.check_metrics(objective.metrics)  # its own metrics are of its kind
    with pytest.raises(FitError, match="metric 'r2' scores values, but objective 'classification' predicts classes"):
        OBJECTIVES["classification"].check_metrics(["accuracy", "r2"])
    with pytest.raises(UnknownNameError, match="did you mean 'accuracy'"):
        OBJECTIVES["regression"].check_metrics(["acuracy"])
