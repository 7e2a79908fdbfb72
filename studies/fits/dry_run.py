"""Check fits before a run starts: read their trials, and try the first fit of each cell on a few trials."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from emg_lens.analysis.fit_analysis import run_analyses
from emg_lens.data.batch import Batch
from emg_lens.errors import EmgLensError
from emg_lens.hooks import EdgeError
from emg_lens.scoring.metrics import measure
from emg_lens.studies.fits.control_conditions import controls_of
from emg_lens.studies.fits.fit_memory import FitMemory
from emg_lens.studies.fits.fit_trials import FitTrials, load_fit
from emg_lens.studies.fits.fit_unit import Fit
from emg_lens.studies.fits.model_building import build_fit_model, metrics_of, objective_of, weights_notes
from emg_lens.studies.fits.stand_ins import check_patience
from emg_lens.studies.spec.errors import StudyError
from emg_lens.studies.spec.factors import SEED
from emg_lens.sweeps.conditions import BASELINE, Condition
from emg_lens.sweeps.engine import sweep
from emg_lens.sweeps.plan import changed_input
from emg_lens.sweeps.result import SweepError
from emg_lens.sweeps.settings import reproducible_executor
from emg_lens.training.packing import parameter_groups
from emg_lens.training.recipe_edges import check_edge_dropout

N_TRIALS = 4
"""Trials on which every condition is tried."""


def describe_fits(fits: Sequence[Sequence[Fit]], data: Path | None, first_fold: bool) -> list[list[dict[str, Any]]]:
    """Describe fits of cells that read the same recordings and have the same folds; each fold is read once.

    Args:
        fits: For each cell, its fits of some folds, in the same order of folds.
        data: Folder of the data set; None for simulated cohorts.
        first_fold: Whether the first of these folds is the first of the cell. Its fits are tried on a few trials.

    Returns:
        For each cell, one mapping a fit: folder, fold, test_subjects, n_train, modalities, recorded (channels before
        some were chosen), n_classes, performed (names of the classes that have a trial), classes (all names),
        repetitions, notes, metrics, and `plan`: one row a condition for the first fold, else nothing.

    Raises:
        DataError: A recording is missing or damaged, or a fold does not fit the trials.
        StudyError: A model, condition, metric or analysis does not fit these data.
    """
    described: list[list[dict[str, Any]]] = [[] for _ in fits]
    plans: dict[str, list[dict[str, Any]]] = {}
    for number, of_fold in enumerate(zip(*fits, strict=True)):
        last_cohort, trials, facts = "", None, {}
        for one, facts_of_cell in zip(of_fold, described, strict=True):
            cohort = one.spec.cohort.model_dump_json()
            if trials is None or cohort != last_cohort:
                last_cohort, trials = cohort, _load(one, data)
                facts = _facts_of(one, trials)
            is_first = first_fold and not number
            plan = _plan_of(one, trials, plans) if is_first else []
            notes = [*facts["notes"], *(weights_notes(one) if is_first else ())]
            own = {"notes": notes, "metrics": metrics_of(one), "folder": one.folder_name, "plan": plan}
            facts_of_cell.append(facts | own)
    return described


def _load(one: Fit, data: Path | None) -> FitTrials:
    try:
        with FitMemory(one.spec.cohort, data).large_step():
            return load_fit(one, data)
    except EmgLensError as error:
        if one.spec.cohort.channels is None:
            raise
        raise StudyError(_at(one, error)) from None


def _facts_of(one: Fit, trials: FitTrials) -> dict[str, Any]:
    """Collect the facts that the trials of a fit show."""
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
    """Try a fit; fits with the same inputs, model and conditions are tried once."""
    key = f"{trials.train.modalities} {trials.train.n_samples}"
    key += one.spec.model_dump_json(include={"model", "objective", "conditions", "metrics", "analyses"})
    key += f"{one.recipe.model_dump_json(exclude={'seed', 'epochs', 'lr'})} {trials.validation is None}"
    if key not in known:
        try:
            known[key] = _try_fit(one, trials)
        except SweepError as error:
            name, cause = next(iter(error.errors.items()))
            raise StudyError(_at(one, cause, f"condition {name!r}: ")) from None
        except EmgLensError as error:
            raise StudyError(_at(one, error)) from None
    return known[key]


def _at(one: Fit, error: Exception, what: str = "") -> str:
    """Return the error message with the levels of the factors, and with `what` failed."""
    where = ", ".join(f"{factor}={level}" for factor, level in one.levels.items() if factor != SEED)
    hint = "; a level may override 'conditions' too" if where and isinstance(error, EdgeError) else ""
    return f"{f'at {where}: ' * bool(where)}{what}{error}{hint}"


def _condition_at_fault(error: EdgeError, conditions: Sequence[Condition], model: Any, x: Tensor) -> str:
    """Name the condition that alone gives this error, as the beginning of a message; empty if there is none."""
    for one in conditions:
        try:
            one.edges.mask(model.layout, model.cfg.n_layers, model.cfg.n_heads)
            changed_input(x, one.input_changes, model.layout, x)
        except EdgeError as own:
            return f"condition {one.name!r}: " if str(own) == str(error) else ""
    return ""


def _try_fit(one: Fit, trials: FitTrials) -> list[dict[str, Any]]:
    """Run every condition and analysis once on an untrained model and a few trials.

    What would fail after hours of training fails here.

    Returns:
        One row a condition without the baseline: its tags and its audit.
    """
    objective, few = objective_of(one), trials.train.select(np.arange(min(N_TRIALS, len(trials.train))))
    model = build_fit_model(one, trials.train).eval()
    targets = objective.targets(trials.train)
    if objective.kind == "classes" and len(targets.unique()) < 2:
        raise StudyError(
            f"fold {one.fold.name} has training trials of one class only; a classifier needs two or more classes"
        )
    x = trials.x(few)
    y = trials.y(few, objective)
    batch = Batch(x, y, reference=x, reference_targets=y)
    objective.check_recipe(one.recipe)
    objective.check(model, batch)
    objective.check_metrics(metrics_of(one))
    check_edge_dropout(model, one.recipe)
    parameter_groups(model, one.recipe)  # raises if the recipe names a head or layers that the model lacks
    check_patience(one.recipe, trials.validation is not None)
    conditions = one.spec.conditions.build(model.cfg.n_layers, model.cfg.n_heads, model.layout)
    try:
        controls = controls_of(one.spec.conditions, model, conditions)
        result = sweep(model, x, conditions, reference=x, executor=reproducible_executor(model))
    except EdgeError as error:
        raise EdgeError(f"{_condition_at_fault(error, conditions, model, x)}{error}") from None
    shape, expected = tuple(result.logits[BASELINE].shape[1:]), tuple(model.cfg.output_shape)
    if shape != expected:
        raise StudyError(
            f"model {one.spec.model.architecture!r} returns {list(shape)} for each trial; expected {list(expected)}:"
            " make as many outputs as config.n_classes"
        )
    run_analyses(one.spec.fit_analyses, model, batch, [*conditions, *controls])
    measure(metrics_of(one), result.logits[BASELINE].numpy(), objective.targets(few).numpy())
    if objective.kind == "classes":  # raises if trials of one repetition belong to several classes
        for subject in set(trials.train.subject.tolist()):
            mine = trials.train.subject == subject
            outputs = np.zeros((int(mine.sum()), model.cfg.n_classes))
            measure(metrics_of(one), outputs, targets.numpy()[mine], trials.train.repetition_id[mine])
    rows = [{**dict(c.tags), **row} for c, row in zip(conditions, result.audit.to_dict("records"), strict=True)]
    return rows[1:]
