"""What a run must know of its fits before it starts: sizes, classes and, of the first of each cell, the plan."""

from pathlib import Path
from typing import Any

from emg_lens.errors import EmgLensError
from emg_lens.hooks.edges import none
from emg_lens.studies.fit_units import Fit, fits_of
from emg_lens.studies.fits import build_fit_model, load_fit, metrics_of
from emg_lens.studies.spec import StudyError, StudySpec
from emg_lens.sweeps.engine import audit
from emg_lens.training.metrics import METRICS


def describe_fits(
    study: StudySpec, data: Path | None, subjects: tuple[tuple[str, ...], ...], cell: int
) -> list[dict[str, Any]]:
    """Facts about every fit of a cell.

    Args:
        study: The study.
        data: Folder of the data set.
        subjects: Of every cell.
        cell: Place of the cell in `StudySpec.cells`.

    Raises:
        DataError: A recording that is missing or damaged, or a fold that cannot be divided.
        StudyError: A model, condition or metric that does not fit these data.
    """
    fits = [one for one in fits_of(study, subjects) if one.levels == study.cells[cell][0]]
    return [_describe(one, data, with_plan=one is fits[0]) for one in fits]


def _describe(one: Fit, data: Path | None, with_plan: bool) -> dict[str, Any]:
    trials = load_fit(one, data)
    try:
        plan = _plan_rows(one, trials.train) if with_plan else []
    except EmgLensError as error:
        raise StudyError(str(error)) from None
    return {
        "folder": one.folder_name,
        "fold": one.fold.name,
        "test_subjects": one.fold.test_subjects,
        "n_train": len(trials.train),
        "modalities": trials.test.modalities,
        "n_classes": len(set(trials.train.y.tolist())),
        "repetitions": sorted({*trials.train.repetition.tolist(), *trials.test.repetition.tolist()}),
        "plan": plan,
    }


def _plan_rows(one: Fit, train: Any) -> list[dict[str, Any]]:
    """One row a condition but the baseline: its tags, and its audit on a model of these sizes."""
    for name in metrics_of(one):
        METRICS[name]  # noqa: B018 - an unknown name raises
    model = build_fit_model(one, train)
    conditions = one.spec.conditions.build(model.cfg.n_layers, model.cfg.n_heads)
    found = audit(model, conditions)
    for condition, n_cut in zip(conditions, found["edges_cut"], strict=True):
        if n_cut == 0 and condition.edges != none():
            raise StudyError(f"condition {condition.name!r} cuts no edge of this model; edges: {condition.edges}")
    rows = [{**dict(c.tags), **row} for c, row in zip(conditions, found.to_dict("records"), strict=True)]
    return rows[1:]
