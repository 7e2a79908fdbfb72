"""Check a study without its recordings, on stand-ins: what is wrong with each of them is wrong in the study."""

import re

import numpy as np
import torch

from emg_lens.data.folds import Fold
from emg_lens.data.registry import describe_dataset
from emg_lens.data.trials import TrialSet
from emg_lens.errors import EmgLensError
from emg_lens.studies.fits.fit_unit import Fit
from emg_lens.studies.fits.model_building import build_fit_model, metrics_of, objective_of
from emg_lens.studies.spec.cohort import Cohort
from emg_lens.studies.spec.errors import StudyError
from emg_lens.studies.spec.factors import SEED
from emg_lens.studies.spec.study_spec import StudySpec
from emg_lens.sweeps.plan import changed_input
from emg_lens.training.packing import parameter_groups
from emg_lens.training.recipe import TrainingRecipe
from emg_lens.training.recipe_edges import check_edge_dropout

STAND_INS = (({"emg": 8, "acc": 3}, 200), ({"emg": 4, "gyro": 3, "force": 2}, 480), ({"emg": 16}, 1000))
"""Channels by modality, and samples, of trials that stand for the recordings."""
NEED_RECORDINGS = ("subjects", "gestures", "split", "channels", "analyses", "published numbers")
VARIABLE = re.compile(r"\$\{?\w")


def check_without_data(study: StudySpec) -> tuple[str, ...]:
    """Check names, settings, weights, conditions and training of a study.

    Returns:
        What only recordings can show.

    Raises:
        StudyError: The study is wrong for all recordings.
    """
    study.check()
    unchecked, checked = [*NEED_RECORDINGS], set()
    for levels, spec in study.cells:
        same = spec.model_copy(update={"training": spec.training.model_copy(update={SEED: 0})}).model_dump_json()
        if same in checked:
            continue
        checked.add(same)
        if VARIABLE.search(spec.model.pretrained or ""):
            unchecked.append(f"the model with the weights {spec.model.pretrained}")
        problem = _problem(levels, spec, *STAND_INS[0])
        if problem and all(_problem(levels, spec, *other) == problem for other in STAND_INS[1:]):
            where = ", ".join(f"{factor}={level}" for factor, level in levels.items() if factor != SEED)
            raise StudyError(f"{f'at {where}: ' * bool(where)}{problem}")
    return tuple(dict.fromkeys(unchecked))


def _problem(levels: dict[str, str], spec: StudySpec, channels: dict[str, int], n_samples: int) -> str:
    """The message of the first error with one stand-in; empty if there is none."""
    one, at = Fit(levels, Fold("-", (), (), spec.split), spec), ""
    try:
        describe_dataset(spec.cohort.dataset).check_options(spec.cohort.options)
        objective = objective_of(one)
        objective.check_metrics(metrics_of(one))
        check_patience(one.recipe, getattr(spec.split, "validation", True) is not None)
        if VARIABLE.search(spec.model.pretrained or ""):
            return ""
        trials = objective.stand_ins(_trials(spec.cohort, channels, n_samples))
        model = build_fit_model(one, trials)
        check_edge_dropout(model, one.recipe)
        parameter_groups(model, one.recipe)
        size = (model.cfg.n_layers, model.cfg.n_heads, model.layout)
        x = torch.from_numpy(trials.x)
        for condition in spec.conditions.build(*size):
            at = f"condition {condition.name!r}: "
            condition.edges.mask(model.layout, *size[:2])
            changed_input(x, condition.input_changes, model.layout, x)
    except EmgLensError as error:
        return f"{at}{error}"
    return ""


def check_patience(recipe: TrainingRecipe, has_validation: bool) -> None:
    """Refuse patience without validation trials, which show when to stop."""
    if recipe.patience is not None and not has_validation:
        raise StudyError(
            f"training.patience={recipe.patience} needs validation trials: split: {{…, validation: [...]}}"
        )


def _trials(cohort: Cohort, channels: dict[str, int], n_samples: int) -> TrialSet:
    """Trials of ones, with the modalities, the length and the classes that a cohort names."""
    segment, fs = cohort.segment, cohort.recipe.fs or 100.0
    names = tuple(cohort.groups or ()) or cohort.modalities
    if names:
        channels = {name: 2 + n_samples % 7 for name in names}
    if cohort.recipe.fs and (length := segment.window_s or segment.piece_s or segment.stop_s):
        n_samples = round((length - segment.start_s * (length is segment.stop_s)) * fs)
    classes = [str(label) for label in cohort.labels or range(6)]
    n = len(classes)
    is_file = describe_dataset(cohort.dataset).finished
    x, targets = np.ones((n, sum(channels.values()), n_samples)), np.ones((n, 2)) if cohort.targets or is_file else None
    names = ("a", "b") if targets is not None else ()
    return TrialSet.from_arrays(
        x, classes, ["-"] * n, range(n), channels, fs, classes=classes, targets=targets, target_names=names
    )
