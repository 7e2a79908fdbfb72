"""Running fits: recordings -> trials -> fitted model -> sweep -> a folder.

The folder appears under its name only when everything in it is complete, so that a run that is killed never leaves half
a fit behind.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from emg_lens.data.leakage import leakage_report
from emg_lens.data.standardization import InputStatistics, TargetStatistics
from emg_lens.data.trials import TrialSet
from emg_lens.io.files import new_folder
from emg_lens.memory import give_back
from emg_lens.models.encoder import count_parameters
from emg_lens.studies.fits.control_conditions import controls_of, nested_cuts, shift_of
from emg_lens.studies.fits.fit_store import FittedOutputs, write_fit, writing
from emg_lens.studies.fits.fit_trials import FitTrials, load_fit
from emg_lens.studies.fits.fit_unit import Fit
from emg_lens.studies.fits.model_building import (
    architecture_of,
    build_fit_model,
    metrics_of,
    objective_of,
    weights_notes,
)
from emg_lens.studies.fits.pre_onset_trials import rest_of
from emg_lens.studies.runs.memory_lock import TURN_BYTES, taking_turns
from emg_lens.sweeps.conditions import BASELINE, Condition
from emg_lens.sweeps.engine import sweep
from emg_lens.sweeps.result import SweepResult
from emg_lens.sweeps.settings import reproducible_executor
from emg_lens.sweeps.side_by_side import torch_threads
from emg_lens.training.cohort import fit_cohort
from emg_lens.training.fitting import fit

FITTING = 3
"""What fitting to a trial once costs, in forwards: one there, and two in the backward pass."""
SWEPT = 0.9
"""Of what follows a fit, the share that the sweep takes; then files are written."""


def run_fit(
    fit_unit: Fit,
    data: Path | None,
    folder: Path,
    device: str,
    tell: Callable[[float], None],
    share: float = 1.0,
) -> None:
    """Fit, sweep and write `folder`; see `emg_lens.studies.fits.fit_store` for what is in it.

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
        rest = _rest(fit_unit, data) if share == 1 else None
        trials, objective, recipe = load_fit(fit_unit, data), objective_of(fit_unit), fit_unit.recipe
        model = build_fit_model(fit_unit, trials.train).to(device)
        fitted = _Fitted.of(fit_unit, data, trials, rest, model)
        bar = fitting_share(recipe.epochs * len(trials.train), len(fitted.conditions) * len(trials.test))
        y, test_y = trials.y(trials.train, objective), trials.y(trials.test, objective)
        watched = None
        if trials.validation is not None:
            watched = (trials.x(trials.validation), trials.y(trials.validation, objective))
        reference, x = [trials.x(trials.train, in_place=True)], trials.x(trials.test, in_place=True)
        del trials  # nothing but `reference` holds the training trials now
        give_back()
        history = fit(
            model,
            reference[0],
            y,
            recipe,
            objective=objective.name,
            held_out=(x, test_y),
            validation=watched,
            on_epoch=lambda epoch: tell(bar * epoch / recipe.epochs),
            checkpoint=checkpoint,
            stop_after=round(share * recipe.epochs),
        )
        if share < 1:
            return
        _sweep_and_write(fitted, data, x, reference, history, folder, _part(tell, bar, 1.0))
        checkpoint.unlink(missing_ok=True)
        tell(1.0)


def run_fits_at_once(
    fits: Sequence[Fit], data: Path | None, folders: Sequence[Path], device: str, tell: Callable[[float], None]
) -> None:
    """As `run_fit` for fits of one architecture and recipe, all models in one stacked forward (for accelerators).

    The weights are those of `run_fit` up to rounding where there is no dropout; with dropout they are other draws.
    """
    rests, trials = [_rest(one, data) for one in fits], [load_fit(one, data) for one in fits]
    models = [build_fit_model(one, t.train).to(device) for one, t in zip(fits, trials, strict=True)]
    parts = zip(fits, trials, rests, models, strict=True)
    fitted = [_Fitted.of(one, data, read, rest, model) for one, read, rest, model in parts]
    objective, epochs = objective_of(fits[0]), fits[0].recipe.epochs
    bar = fitting_share(epochs * len(trials[0].train), len(fitted[0].conditions) * len(trials[0].test))
    x, test_x = [t.x(t.train, in_place=True) for t in trials], [t.x(t.test, in_place=True) for t in trials]
    histories = fit_cohort(
        models,
        x,
        [t.y(t.train, objective) for t in trials],
        [one.recipe for one in fits],
        objective=objective.name,
        held_out=[(of_one, t.y(t.test, objective)) for of_one, t in zip(test_x, trials, strict=True)],
        on_epoch=lambda epoch: tell(bar * epoch / epochs),
    )
    ends = np.linspace(bar, 1.0, len(fits) + 1)
    each = zip(fitted, test_x, x, histories, folders, ends[:-1], ends[1:], strict=True)
    for one, x_of_one, reference, history, folder, start, stop in each:
        _sweep_and_write(one, data, x_of_one, [reference], history, folder, _part(tell, start, stop))
    tell(1.0)


def fit_conditions(fit_unit: Fit, model: Any) -> list[Condition]:
    """What is done to the fitted model: the study's conditions, and their controls."""
    spec = fit_unit.spec.conditions
    asked = spec.build(model.cfg.n_layers, model.cfg.n_heads, model.layout)
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


@dataclass(frozen=True, eq=False)
class _Fitted:
    """What is needed of a fit to the end; the training trials are not.

    Attributes:
        test: The tested trials; their samples are standardised in place.
        answers: What the model should give for them, in its own units.
        facts: For `fit.json`; what is not known yet is None.
    """

    fit_unit: Fit
    model: Any
    conditions: Sequence[Condition]
    test: TrialSet
    answers: np.ndarray
    inputs: InputStatistics
    targets: TargetStatistics | None
    facts: dict[str, Any]
    leakage: dict[str, Any] | None

    @property
    def output_bytes(self) -> int:
        """Of the model's outputs for the tested trials, under one condition."""
        return 4 * len(self.test) * prod(self.model.cfg.output_shape)

    @staticmethod
    def of(fit_unit: Fit, data: Path | None, trials: FitTrials, rest: TrialSet | None, model: Any) -> "_Fitted":
        train, test, fold = trials.train, trials.test, fit_unit.fold
        facts = {
            "fold": fold.name,
            "levels": dict(fit_unit.levels),
            "test_subjects": list(fold.test_subjects),
            "architecture": architecture_of(fit_unit).name,
            "objective": objective_of(fit_unit).name,
            "metrics": list(metrics_of(fit_unit)),
            "executor": None,
            "seed": fit_unit.seed,
            "seconds": None,
            "n_parameters": count_parameters(model),
            "n_train": len(train),
            **({} if trials.validation is None else {"n_validation": len(trials.validation)}),
            "n_test": len(test),
            "n_test_repetitions": len(set(test.repetition_id.tolist())),
            "outputs": list(model.cfg.class_names),
            "modalities": test.modalities,
            "n_samples": test.n_samples,
            "fs": test.fs,
            "notes": list(dict.fromkeys([*weights_notes(fit_unit), *train.notes, *test.notes])),
        }
        leakage = None
        if fit_unit.writes_leakage:  # what is told before a movement, is told by all channels
            every = trials if fit_unit.spec.cohort.channels is None else load_fit(fit_unit.of_every_channel, data)
            leakage = leakage_report(every.seen or every.train, every.test, rest, fold=fold).to_dict()
            del every
        conditions, answers = fit_conditions(fit_unit, model), objective_of(fit_unit).targets(test).numpy()
        return _Fitted(fit_unit, model, conditions, test, answers, trials.inputs, trials.targets, facts, leakage)


def _rest(fit_unit: Fit, data: Path | None) -> TrialSet | None:
    if not fit_unit.writes_leakage:
        return None
    with taking_turns(fit_unit.spec.cohort, data):
        return rest_of(fit_unit.spec.cohort, fit_unit.fold, data)


def _sweep_and_write(
    fitted: _Fitted,
    data: Path | None,
    x: torch.Tensor,
    references: list[torch.Tensor],
    history: Any,
    folder: Path,
    on_progress: Callable[[float], None],
) -> None:
    """Compare activations, sweep and write; the training trials, alone in a list, are taken out when they are not used.

    Of a long recording, they and the outputs together would be too much.
    """
    model, conditions, reference = fitted.model, fitted.conditions, references.pop()
    give_back()
    nested, spec = nested_cuts(model, conditions), fitted.fit_unit.spec
    with taking_turns(spec.cohort, data):
        started = time.perf_counter()  # no time in line is counted
        shift = shift_of(spec.conditions, model, conditions, x, reference)
    if not any(c.input_changes or c.in_the_model for c in conditions):
        reference = None
    give_back()
    result = sweep(
        model,
        x,
        conditions,
        reference=reference,
        executor=reproducible_executor(model),
        on_progress=on_progress,
        scratch=folder.parent if len(conditions) * fitted.output_bytes > TURN_BYTES else None,
    )
    seconds = time.perf_counter() - started
    del reference
    give_back()
    with taking_turns(spec.cohort, data):  # the outputs of large recordings are large, too
        _write(fitted, result, history, seconds, nested, shift, folder)


def _write(
    fitted: _Fitted,
    result: SweepResult,
    history: Any,
    seconds: float,
    nested: pd.DataFrame,
    shift: pd.DataFrame,
    folder: Path,
) -> None:
    scale = fitted.targets if np.issubdtype(fitted.answers.dtype, np.floating) else None
    baseline = result.logits[BASELINE].numpy()
    outputs = np.empty((len(result.conditions), *baseline.shape), baseline.dtype)
    for out, condition in zip(outputs, result.conditions, strict=True):
        logits = result.logits[condition.name].numpy()
        out[:] = logits if scale is None else scale.undo(logits)
    seconds += history.attrs.get("seconds", 0.0)
    facts = fitted.facts | {"executor": result.executor, "seconds": round(seconds, 2)}
    kept = FittedOutputs(result.conditions, result.audit, outputs, fitted.answers, fitted.test, nested, shift)
    with writing(folder), new_folder(folder) as partial:
        write_fit(
            partial, fitted.model, fitted.inputs, fitted.targets, history, kept, facts, fitted.leakage, facts["metrics"]
        )
