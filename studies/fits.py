"""Running fits: recordings -> trials -> fitted model -> sweep -> a folder.

The folder appears under its name only when everything in it is complete, so that a run that is killed never leaves half
a fit behind.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from emg_lens.data.recording import DataError
from emg_lens.data.registry import files_stamp, load_trials
from emg_lens.data.statistics import InputStatistics, TargetStatistics
from emg_lens.data.trials import TrialSet
from emg_lens.io.files import new_folder
from emg_lens.models.encoder import count_parameters
from emg_lens.models.registry import Architecture, architecture
from emg_lens.studies.controls import controls_of, nested_cuts, shift_of
from emg_lens.studies.fit_folder import FittedOutputs, write_fit
from emg_lens.studies.fit_units import Fit
from emg_lens.studies.leakage import leakage_of
from emg_lens.studies.spec import Cohort
from emg_lens.sweeps.conditions import Condition
from emg_lens.sweeps.engine import sweep
from emg_lens.sweeps.settings import reproducible_executor
from emg_lens.sweeps.side_by_side import torch_threads
from emg_lens.training.cohort import fit_cohort
from emg_lens.training.fitting import fit
from emg_lens.training.objectives import OBJECTIVES, Objective

FITTING = 3
"""What fitting to a trial once costs, in forwards: one there, and two in the backward pass."""
SWEPT = 0.9
"""Of what follows a fit, the share that the sweep takes; then activations are compared and files written."""


def architecture_of(fit_unit: Fit) -> Architecture:
    """What is fitted."""
    return architecture(fit_unit.spec.model.architecture)


def objective_of(fit_unit: Fit) -> Objective:
    """What it is fitted for: the study's word, or the architecture's default."""
    return OBJECTIVES[fit_unit.spec.objective or architecture_of(fit_unit).objective]


def metrics_of(fit_unit: Fit) -> tuple[str, ...]:
    """Which numbers its conditions get, the one that is compared first."""
    return fit_unit.spec.metrics or objective_of(fit_unit).metrics


@dataclass(frozen=True, eq=False)
class FitTrials:
    """Trials of a fit, as recorded, and what standardises them: statistics of the training trials alone."""

    train: TrialSet
    test: TrialSet
    rectify: tuple[str, ...]

    @cached_property
    def inputs(self) -> InputStatistics:
        """What standardises the samples."""
        return InputStatistics.of(self.train, self.rectify)

    @cached_property
    def targets(self) -> TargetStatistics | None:
        """What standardises the targets of a regression."""
        return None if self.train.targets is None else TargetStatistics.of(self.train)

    def x(self, part: TrialSet) -> torch.Tensor:
        """Standardised samples `[trial, channel, time]` of one of the parts."""
        return torch.from_numpy(self.inputs.apply(part.x))

    def y(self, part: TrialSet, objective: Objective) -> torch.Tensor:
        """What a model is fitted to: the objective's targets, z-scored where they are numbers."""
        found = objective.targets(part)
        if self.targets is None or not found.is_floating_point():
            return found
        return torch.from_numpy(self.targets.apply(found.numpy()))


def load_fit(fit_unit: Fit, data: Path | None) -> FitTrials:
    """Read the recordings of a fit's fold and make its training and test trials from them.

    Raises:
        DataError: A missing or damaged file, or a fold that these trials cannot be divided into.
    """
    cohort = fit_unit.spec.cohort
    recorded = cohort.model_dump_json(exclude={"subjects", "modalities", "targets", "rectify"})
    trials = _read(recorded, data, fit_unit.fold.subjects, files_stamp(cohort.dataset, data, **cohort.options))
    if cohort.targets:
        trials = trials.with_targets(cohort.targets)
    if cohort.modalities is not None:
        trials = trials.keep(cohort.modalities)
    return FitTrials(*fit_unit.fold.divide(trials), cohort.rectify)


@lru_cache(maxsize=1)
def _read(cohort_json: str, data: Path | None, subjects: tuple[str, ...], stamp: tuple) -> TrialSet:  # noqa: ARG001
    """Trials of some subjects; kept for the next fit of the same worker, if that reads the same and no file changed."""
    cohort = Cohort.model_validate_json(cohort_json)
    try:
        return load_trials(
            cohort.dataset,
            data,
            cohort.recipe,
            cohort.segment,
            subjects=subjects,
            classes=cohort.labels,
            **cohort.options,
        )
    except DataError as error:
        whose = f"subject {subjects[0]}: " if len(subjects) == 1 and f"{subjects[0]}" not in str(error) else ""
        raise DataError(f"{whose}{error}") from None


def build_fit_model(fit_unit: Fit, train: TrialSet) -> Any:
    """A freshly initialised model for these trials; the same seed gives the same weights.

    Raises:
        ModelError: A setting that the architecture does not have, or that does not fit.
    """
    objective_of(fit_unit).targets(train)  # which says so where there are none
    names = objective_of(fit_unit).output_names(train)
    settings = fit_unit.spec.model.settings
    entry = architecture_of(fit_unit)
    config = entry.configure(settings, modalities=train.modalities, n_samples=train.n_samples, class_names=names)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(fit_unit.seed)
        return entry.model(config)


def run_fit(
    fit_unit: Fit,
    data: Path | None,
    folder: Path,
    device: str,
    tell: Callable[[float], None],
    share: float = 1.0,
) -> None:
    """Fit, sweep and write `folder`; see `emg_lens.studies.fit_folder` for what is in it.

    One thread does the arithmetic whatever the number of workers, so that the numbers do not depend on it. The fit is
    saved beside the folder as it goes on, and continues from there.

    Args:
        fit_unit: Which fit.
        data: Folder of the data set; None for one that needs none.
        folder: Where the results appear, complete.
        device: A torch device.
        tell: Called with the finished fraction.
        share: Of the epochs, how many are done before the fit is left, saved, to another call; 1 does everything.
    """
    with torch_threads(1):
        checkpoint = folder.with_name(f".{folder.name}.fit")
        trials, objective, recipe = load_fit(fit_unit, data), objective_of(fit_unit), fit_unit.recipe
        model = build_fit_model(fit_unit, trials.train).to(device)
        conditions = fit_conditions(fit_unit, model)
        bar = fitting_share(recipe.epochs * len(trials.train), len(conditions) * len(trials.test))
        history = fit(
            model,
            trials.x(trials.train),
            trials.y(trials.train, objective),
            recipe,
            objective=objective.name,
            held_out=(trials.x(trials.test), trials.y(trials.test, objective)),
            on_epoch=lambda epoch: tell(bar * epoch / recipe.epochs),
            checkpoint=checkpoint,
            stop_after=round(share * recipe.epochs),
        )
        if share < 1:
            return
        _sweep_and_write(fit_unit, data, trials, model, history, conditions, folder, _part(tell, bar, 1.0))
        checkpoint.unlink(missing_ok=True)
        tell(1.0)


def run_fits_at_once(
    fits: Sequence[Fit], data: Path | None, folders: Sequence[Path], device: str, tell: Callable[[float], None]
) -> None:
    """As `run_fit` for fits of one architecture and recipe, all models in one stacked forward (for accelerators).

    The weights are those of `run_fit` up to rounding where there is no dropout; with dropout they are other draws.
    """
    trials = [load_fit(one, data) for one in fits]
    models = [build_fit_model(one, t.train).to(device) for one, t in zip(fits, trials, strict=True)]
    conditions = [fit_conditions(one, model) for one, model in zip(fits, models, strict=True)]
    objective, epochs = objective_of(fits[0]), fits[0].recipe.epochs
    bar = fitting_share(epochs * len(trials[0].train), len(conditions[0]) * len(trials[0].test))
    histories = fit_cohort(
        models,
        [t.x(t.train) for t in trials],
        [t.y(t.train, objective) for t in trials],
        [one.recipe for one in fits],
        objective=objective.name,
        held_out=[(t.x(t.test), t.y(t.test, objective)) for t in trials],
        on_epoch=lambda epoch: tell(bar * epoch / epochs),
    )
    ends = np.linspace(bar, 1.0, len(fits) + 1)
    each = zip(fits, trials, models, histories, conditions, folders, ends[:-1], ends[1:], strict=True)
    for one, t, model, history, of_one, folder, start, stop in each:
        _sweep_and_write(one, data, t, model, history, of_one, folder, _part(tell, start, stop))
    tell(1.0)


def fit_conditions(fit_unit: Fit, model: Any) -> list[Condition]:
    """What is done to the fitted model: the study's conditions, and their controls."""
    spec = fit_unit.spec.conditions
    asked = spec.build(model.cfg.n_layers, model.cfg.n_heads)
    return [*asked, *controls_of(spec, model, asked)]


def fitting_share(n_fitted: int, n_swept: int) -> float:
    """Share of a fit's progress bar that fitting takes; the sweep takes the rest.

    Args:
        n_fitted: Trials times epochs.
        n_swept: Trials times conditions.
    """
    return FITTING * n_fitted / (FITTING * n_fitted + n_swept)


def _part(tell: Callable[[float], None], start: float, stop: float) -> Callable[[float], None]:
    """Tells the finished fraction of a sweep, between these fractions of the whole; what follows it is not done yet."""
    return lambda done: tell(float(start + SWEPT * (stop - start) * done))


def _sweep_and_write(
    fit_unit: Fit,
    data: Path | None,
    trials: FitTrials,
    model: Any,
    history: Any,
    conditions: Sequence[Condition],
    folder: Path,
    on_progress: Callable[[float], None],
) -> None:
    started, test, objective = time.perf_counter(), trials.test, objective_of(fit_unit)
    x, reference, executor = trials.x(test), trials.x(trials.train), reproducible_executor(model)
    result = sweep(model, x, conditions, reference=reference, executor=executor, on_progress=on_progress)
    outputs = np.stack([result.logits[c.name].numpy() for c in result.conditions])
    targets = objective.targets(test).numpy()
    if trials.targets is not None and np.issubdtype(targets.dtype, np.floating):
        outputs = np.stack([trials.targets.undo(out) for out in outputs])
    facts = {
        "fold": fit_unit.fold.name,
        "levels": dict(fit_unit.levels),
        "test_subjects": list(fit_unit.fold.test_subjects),
        "architecture": architecture_of(fit_unit).name,
        "objective": objective.name,
        "metrics": list(metrics := metrics_of(fit_unit)),
        "executor": result.executor,
        "seed": fit_unit.seed,
        "seconds": round(history.attrs.get("seconds", 0.0) + time.perf_counter() - started, 2),
        "n_parameters": count_parameters(model),
        "n_train": len(trials.train),
        "n_test": len(test),
        "n_test_movements": len(set(test.movement.tolist())),
        "outputs": list(model.cfg.class_names),
        "modalities": test.modalities,
        "n_samples": test.n_samples,
        "fs": test.fs,
        "notes": list(dict.fromkeys([*trials.train.notes, *test.notes])),
    }
    leakage = (
        leakage_of(fit_unit.spec.cohort, fit_unit.fold, data, trials.train, test) if fit_unit.tells_leakage else None
    )
    nested, shift = nested_cuts(model, conditions), shift_of(fit_unit.spec.conditions, model, conditions, x, reference)
    kept = FittedOutputs(result.conditions, result.audit, outputs, targets, test, nested, shift)
    with new_folder(folder) as partial:
        write_fit(partial, model, trials.inputs, trials.targets, history, kept, facts, leakage, metrics)
