"""What a run must know of its fits before it starts: sizes, classes and, of the first of each cell, the plan."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from emg_lens.errors import EmgLensError
from emg_lens.hooks import EdgeError
from emg_lens.scoring.metrics import measure
from emg_lens.studies.fits.control_conditions import controls_of
from emg_lens.studies.fits.fit_trials import FitTrials, load_fit
from emg_lens.studies.fits.fit_unit import Fit, fits_of
from emg_lens.studies.fits.model_building import build_fit_model, metrics_of, objective_of, weights_notes
from emg_lens.studies.spec.errors import StudyError
from emg_lens.studies.spec.factors import SEED
from emg_lens.studies.spec.study_spec import StudySpec
from emg_lens.sweeps.conditions import BASELINE, Condition
from emg_lens.sweeps.engine import sweep
from emg_lens.sweeps.result import SweepError
from emg_lens.sweeps.settings import reproducible_executor
from emg_lens.training.packing import parameter_groups

REHEARSED = 4
"""Trials that every condition runs on before anything is fitted."""


def describe_fits(
    study: StudySpec,
    data: Path | None,
    subjects: tuple[tuple[str, ...], ...],
    cells: tuple[int, ...],
    folds: tuple[int, ...],
) -> list[list[dict[str, Any]]]:
    """Facts about some fits of some cells, which have one cohort and split but for what is chosen later.

    Their recordings are read once, fold by fold.

    Args:
        study: The study.
        data: Folder of the data set.
        subjects: Of every cell.
        cells: Places of the cells in `StudySpec.cells`.
        folds: Which folds, from 0.

    Returns:
        For each cell, one mapping a fold: folder, fold, test_subjects, n_train, modalities, recorded (before channels
        were chosen), n_classes, performed and classes (names of those that have a trial, and of all), repetitions,
        notes, metrics, and `plan`: of fold 0, one row a condition; of others, nothing.

    Raises:
        DataError: A recording that is missing or damaged, or a fold that cannot be divided.
        StudyError: A model, condition or metric that does not fit these data.
    """
    every = fits_of(study, subjects)
    by_levels: dict[tuple, list[Fit]] = {}
    for one in every:
        by_levels.setdefault(tuple(one.levels.items()), []).append(one)
    fits = [by_levels[tuple(study.cells[cell][0].items())] for cell in cells]
    found: list[list[dict[str, Any]]] = [[] for _ in cells]
    plans: dict[str, list[dict[str, Any]]] = {}
    for number in folds:
        last, trials, facts = "", None, {}
        for of_cell, known in zip(fits, found, strict=True):
            one, cohort = of_cell[number], of_cell[number].spec.cohort.model_dump_json()
            if trials is None or cohort != last:
                last = cohort
                try:
                    trials = load_fit(one, data)
                except EmgLensError as error:
                    if one.spec.cohort.channels is None:
                        raise
                    raise StudyError(_at(one, error)) from None
                facts = _facts_of(one, trials)
            plan = [] if number else _plan_of(one, trials, plans)
            notes = [*facts["notes"], *(() if number else weights_notes(one))]
            known.append({**facts, "notes": notes, "metrics": metrics_of(one), "folder": one.folder_name, "plan": plan})
    return found


def _facts_of(one: Fit, trials: FitTrials) -> dict[str, Any]:
    """What its trials tell."""
    parts = (trials.train, trials.test)
    return {
        "fold": one.fold.name,
        "test_subjects": one.fold.test_subjects,
        "n_train": len(trials.train),
        "modalities": trials.test.modalities,
        "recorded": trials.recorded,
        "n_classes": len(set(trials.train.y.tolist())),
        "performed": sorted({trials.train.classes[i] for part in parts for i in part.y.tolist()}),
        "classes": trials.train.classes,
        "repetitions": sorted({r for part in (*parts, trials.seen or trials.train) for r in part.repetition.tolist()}),
        "notes": [note.removeprefix(f"fold {one.fold.name}: ") for part in parts for note in part.notes],
    }


def _plan_of(one: Fit, trials: FitTrials, known: dict[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """The rehearsed plan, each model and set of conditions once."""
    hears = f"{trials.train.modalities} {trials.train.n_samples}"
    key = hears + one.spec.model_dump_json(include={"model", "objective", "conditions", "metrics"})
    key += f"{one.recipe.model_dump_json(include=set(one.recipe.ADDED))} {trials.validation is None}"
    if key not in known:
        try:
            known[key] = _rehearsed_plan(one, trials)
        except SweepError as error:
            raise StudyError(_at(one, next(iter(error.errors.values())))) from None
        except EmgLensError as error:
            raise StudyError(_at(one, error)) from None
    return known[key]


def _at(one: Fit, error: Exception) -> str:
    """The error, and of a study with factors at which levels."""
    where = ", ".join(f"{factor}={level}" for factor, level in one.levels.items() if factor != SEED)
    hint = "; a level may override 'conditions' too" if where and isinstance(error, EdgeError) else ""
    return f"{f'at {where}: ' * bool(where)}{error}{hint}"


def _whose(error: EdgeError, conditions: Sequence[Condition], model: Any) -> str:
    """The condition whose edges do not fit the model, if it is one's alone."""
    for one in conditions:
        try:
            one.edges.mask(model.layout, model.cfg.n_layers, model.cfg.n_heads)
        except EdgeError as own:
            return f"condition {one.name!r}: " if str(own) == str(error) else ""
    return ""


def _rehearsed_plan(one: Fit, trials: FitTrials) -> list[dict[str, Any]]:
    """One row a condition but the baseline: its tags and audit; every condition has run once, on an unfitted model.

    Whatever would fail behind hours of training fails here.
    """
    objective, some = objective_of(one), trials.train.select(np.arange(min(REHEARSED, len(trials.train))))
    model = build_fit_model(one, trials.train).eval()
    targets = objective.targets(trials.train)
    if not targets.is_floating_point() and len(targets.unique()) < 2:
        raise StudyError(f"fold {one.fold.name} has trials of one class alone; two or more are needed to tell apart")
    objective.check(model, trials.x(some), trials.y(some, objective))
    parameter_groups(model, one.recipe)  # whether it knows its head and layers, if the recipe asks for them
    if one.recipe.patience is not None and trials.validation is None:
        raise StudyError(
            f"training.patience={one.recipe.patience} needs validation trials: split: {{…, validation: [...]}}"
        )
    conditions = one.spec.conditions.build(model.cfg.n_layers, model.cfg.n_heads, model.layout)
    some_x, executor = trials.x(some), reproducible_executor(model)
    try:
        controls_of(one.spec.conditions, model, conditions)  # for what it refuses
        found = sweep(model, some_x, conditions, reference=some_x, executor=executor)
    except EdgeError as error:
        raise EdgeError(f"{_whose(error, conditions, model)}{error}") from None
    measure(metrics_of(one), found.logits[BASELINE].numpy(), objective.targets(some).numpy())
    if not targets.is_floating_point():  # whether trials of one movement are of one class
        for subject in set(trials.train.subject.tolist()):
            mine = trials.train.subject == subject
            nothing = np.zeros((int(mine.sum()), model.cfg.n_classes))
            measure(metrics_of(one), nothing, targets.numpy()[mine], trials.train.repetition_id[mine])
    rows = [{**dict(c.tags), **row} for c, row in zip(conditions, found.audit.to_dict("records"), strict=True)]
    return rows[1:]
