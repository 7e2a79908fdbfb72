"""What a fit fits: its architecture, what for, what is measured, and the model that it begins with."""

from typing import Any

import torch

from emg_lens.data.trials import TrialSet
from emg_lens.models.pretrained import read_pretrained
from emg_lens.models.registry import Architecture, architecture
from emg_lens.studies.fits.fit_unit import Fit
from emg_lens.training.objectives import OBJECTIVES, Objective


def architecture_of(fit_unit: Fit) -> Architecture:
    """What is fitted."""
    return architecture(fit_unit.spec.model.architecture)


def objective_of(fit_unit: Fit) -> Objective:
    """What it is fitted for: the study's word, or the architecture's default."""
    return OBJECTIVES[fit_unit.spec.objective or architecture_of(fit_unit).default_objective]


def metrics_of(fit_unit: Fit) -> tuple[str, ...]:
    """Which numbers its conditions get, the one that is compared first."""
    return fit_unit.spec.metrics or objective_of(fit_unit).metrics


def build_fit_model(fit_unit: Fit, train: TrialSet) -> Any:
    """A model for these trials, freshly initialised but for `pretrained` weights; the same seed gives the same weights.

    Raises:
        ModelError: A setting that the architecture does not have, or that does not fit; weights of another model.
        ModelFileError: Weights that are missing or damaged.
    """
    objective_of(fit_unit).targets(train)  # which says so where there are none
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
    """What there is to know of the weights that a fit begins with; nothing where they are fresh."""
    pretrained = fit_unit.spec.model.pretrained
    if pretrained is None:
        return ()
    return read_pretrained(architecture_of(fit_unit), pretrained, fit_unit.spec.model.settings).notes
