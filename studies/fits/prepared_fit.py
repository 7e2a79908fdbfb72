"""Preparation of one fit: its trials as batches, its untrained model, its conditions, and its leakage report."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Shaped

from emg_lens.data.batch import Batch
from emg_lens.data.folds import Fold
from emg_lens.data.leakage import leakage_report
from emg_lens.data.pre_onset import pre_onset_trials
from emg_lens.data.registry import describe_dataset, load_dataset
from emg_lens.data.standardization import InputStatistics, TargetStatistics
from emg_lens.data.trials import TrialSet
from emg_lens.models.encoder import count_parameters
from emg_lens.studies.fits.control_conditions import controls_of
from emg_lens.studies.fits.fit_trials import FitTrials, load_fit
from emg_lens.studies.fits.fit_unit import Fit
from emg_lens.studies.fits.model_building import (
    architecture_of,
    build_fit_model,
    metrics_of,
    objective_of,
    weights_notes,
)
from emg_lens.studies.fits.plugins import plugins_of
from emg_lens.studies.spec.cohort import Cohort
from emg_lens.sweeps.conditions import Condition


@dataclass(eq=False)
class PreparedFit:
    """A fit that is ready to be run.

    Attributes:
        fit_unit: The fit.
        model: The model, untrained at first.
        conditions: The baseline, the study's conditions and their controls.
        train: Training trials and targets, standardized; no trials after `release_training`.
        test: Test trials and targets, standardized; the training trials are their reference.
        validation: Validation trials and targets, standardized, if the split has any.
        trained: Subjects, repetitions and labels of the training trials, without their samples.
        tested: The same of the test trials.
        targets: The targets of the test trials in their own units.
        input_statistics: Statistics that standardize the samples.
        target_statistics: Statistics that standardize the targets of a regression.
        facts: Content of `fit.json` as far as it is known before the fit.
        leakage: Content of `leakage.json`, if this fit writes it.
    """

    fit_unit: Fit
    model: Any
    conditions: Sequence[Condition]
    train: Batch
    test: Batch
    validation: Batch | None
    trained: TrialSet
    tested: TrialSet
    targets: Shaped[np.ndarray, "trial *target"]
    input_statistics: InputStatistics
    target_statistics: TargetStatistics | None
    facts: dict[str, Any]
    leakage: dict[str, Any] | None

    @property
    def output_bytes(self) -> int:
        """Bytes of the outputs for the test trials under all conditions."""
        return 4 * len(self.conditions) * len(self.test) * prod(self.model.cfg.output_shape)

    @property
    def training_output_bytes(self) -> int:
        """Bytes of the outputs for the training trials."""
        return 4 * len(self.train) * prod(self.model.cfg.output_shape)

    def in_own_units(self, values: Shaped[np.ndarray, "trial *value"]) -> Shaped[np.ndarray, "trial *value"]:
        """Convert outputs or standardized targets to the units of the targets; class outputs are unchanged."""
        return values if self.target_statistics is None else self.target_statistics.undo(values)

    def release_training(self) -> None:
        """Drop the training trials, which need much memory after long recordings."""
        self.train, self.test = Batch(self.train.x[:0].clone()), self.test.without_reference()


def prepare_fit(fit_unit: Fit, data: Path | None, device: str) -> PreparedFit:
    """Read the recordings of a fit and prepare everything that it needs.

    Args:
        fit_unit: The fit.
        data: Folder of the data set; None for simulated cohorts.
        device: The torch device of the model.

    Raises:
        DataError: A file is missing or damaged, or the fold does not fit the trials.
        ModelError: A setting of the model does not fit.
    """
    before = _pre_onset(fit_unit.spec.cohort, fit_unit.fold, data) if fit_unit.writes_leakage else None
    trials, objective = load_fit(fit_unit, data), objective_of(fit_unit)
    leakage = _leakage(fit_unit, trials, before, data) if fit_unit.writes_leakage else None
    model = build_fit_model(fit_unit, trials.train).to(device)
    spec, targets = fit_unit.spec.conditions, objective.targets(trials.test).numpy()
    conditions = spec.build(model.cfg.n_layers, model.cfg.n_heads, model.layout)
    facts = _facts(fit_unit, trials, model)
    parts = [part for part in (trials.train, trials.test, trials.validation) if part is not None]
    ys = [trials.y(part, objective) for part in parts]  # first, because the targets may be made of the samples
    train, test, *validation = [
        Batch(trials.take_x(part), y, repetition_id=_repetitions(part)) for part, y in zip(parts, ys, strict=True)
    ]
    test = replace(test, reference=train.x, reference_targets=train.targets)
    return PreparedFit(
        fit_unit=fit_unit,
        model=model,
        conditions=[*conditions, *controls_of(spec, model, conditions)],
        train=train,
        test=test,
        validation=validation[0] if validation else None,
        trained=trials.train,
        tested=trials.test,
        targets=targets,
        input_statistics=trials.inputs,
        target_statistics=trials.targets if objective.kind == "values" else None,
        facts=facts,
        leakage=leakage,
    )


def _repetitions(trials: TrialSet) -> torch.Tensor:
    """Number the repetitions of all subjects."""
    return torch.from_numpy(pd.MultiIndex.from_arrays([trials.subject, trials.repetition_id]).factorize()[0])


def _facts(fit_unit: Fit, trials: FitTrials, model: Any) -> dict[str, Any]:
    """Collect what `fit.json` says of a fit; what only the finished fit shows is None."""
    train, test, fold = trials.train, trials.test, fit_unit.fold
    return {
        "fold": fold.name,
        "levels": dict(fit_unit.levels),
        "test_subjects": list(fold.test_subjects),
        "architecture": architecture_of(fit_unit).name,
        "model_class": f"{type(model).__module__}.{type(model).__qualname__}",
        "plugins": plugins_of(fit_unit),
        "objective": objective_of(fit_unit).name,
        "metrics": list(metrics_of(fit_unit)),
        "executor": None,
        "seed": fit_unit.seed,
        "seconds": None,
        "n_parameters": count_parameters(model),
        "n_train": len(train),
        "train_repetitions": np.unique(train.repetition).tolist(),
        **({} if trials.validation is None else {"n_validation": len(trials.validation)}),
        "n_test": len(test),
        "n_test_repetitions": len(set(test.repetition_id.tolist())),
        "outputs": list(model.cfg.class_names),
        "modalities": test.modalities,
        "n_samples": test.n_samples,
        "fs": test.fs,
        "notes": list(dict.fromkeys([*weights_notes(fit_unit), *train.notes, *test.notes])),
    }


def _leakage(fit_unit: Fit, trials: FitTrials, before: TrialSet | None, data: Path | None) -> dict[str, Any]:
    """Compute the leakage report of a fold with all channels, whichever channels the model receives."""
    if fit_unit.spec.cohort.channels is not None:
        trials = load_fit(fit_unit.of_every_channel, data)
    return leakage_report(trials.seen or trials.train, trials.test, before, fold=fit_unit.fold).to_dict()


def _pre_onset(cohort: Cohort, fold: Fold, data: Path | None) -> TrialSet | None:
    """Return the rest before each repetition of a fold; None if these trials have no such rest."""
    if describe_dataset(cohort.dataset).finished or cohort.targets or cohort.segment.piece_s is not None:
        return None
    recordings = load_dataset(cohort.dataset, data, subjects=fold.subjects, **cohort.options)
    names = tuple(m for m in cohort.recipe.signals if cohort.modalities is None or m in cohort.modalities)
    return pre_onset_trials(recordings, modalities=names or None, classes=cohort.labels)
