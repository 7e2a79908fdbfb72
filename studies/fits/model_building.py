"""Architecture, objective, metrics and starting weights of a fit."""

from typing import Any

import torch

from emg_lens.data.trials import TrialSet
from emg_lens.models.pretrained import read_pretrained
from emg_lens.models.registry import Architecture, architecture
from emg_lens.studies.fits.fit_unit import Fit
from emg_lens.training.objectives import OBJECTIVES, Objective


def architecture_of(fit_unit: Fit) -> Architecture:
    """Return the architecture of the model."""
    return architecture(fit_unit.spec.model.architecture)


def objective_of(fit_unit: Fit) -> Objective:
    """Return the objective of the study; default: the objective of the architecture."""
    return OBJECTIVES[fit_unit.spec.objective or architecture_of(fit_unit).default_objective]


def metrics_of(fit_unit: Fit) -> tuple[str, ...]:
    """Return the names of the metrics of each condition; the first one is compared."""
    return fit_unit.spec.metrics or objective_of(fit_unit).metrics


def build_fit_model(fit_unit: Fit, train: TrialSet) -> Any:
    """Build a model for these trials with random or pretrained weights. The same seed gives the same weights.

    Args:
        fit_unit: The fit.
        train: Training trials: their channels, samples and classes decide the shape of the model.

    Raises:
        FitError: The trials have no targets for the objective.
        ModelError: The architecture has no such setting, a setting is invalid, or the weights belong to another model.
        ModelFileError: The pretrained weights are missing or damaged.
    """
    objective_of(fit_unit).targets(train)  # raises if there are none
    names = objective_of(fit_unit).output_names(train)
    settings, pretrained = fit_unit.spec.model.settings, fit_unit.spec.model.pretrained
    entry = architecture_of(fit_unit)
    weights = None if pretrained is None else read_pretrained(entry, pretrained, settings)
    if weights is not None:
        settings = weights.combined(settings)
    config = entry.configure(settings, modalities=train.modalities, n_samples=train.n_samples, class_names=names)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(fit_unit.seed)
        model = entry.model(config)
    if weights is not None:
        weights.load_into(model)
    return model


def weights_notes(fit_unit: Fit) -> tuple[str, ...]:
    """Return the notes on the pretrained weights of a fit; empty for random weights."""
    pretrained = fit_unit.spec.model.pretrained
    if pretrained is None:
        return ()
    return read_pretrained(architecture_of(fit_unit), pretrained, fit_unit.spec.model.settings).notes
