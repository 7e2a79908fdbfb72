"""One subject's part of a study: recordings -> trials -> fitted model -> sweep -> scores, on disk in one folder.

The folder appears under its name only when everything in it is complete, so a run that is killed never leaves half a
subject behind.
"""

import json
import shutil
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch

from emg_lens.data.recording import DataError
from emg_lens.data.registry import load_trials
from emg_lens.data.sources.simulated.simulation import Simulation, expected_accuracy
from emg_lens.data.trials import TrialSet
from emg_lens.models.encoder import count_parameters
from emg_lens.models.isonet import IsoNet
from emg_lens.studies.spec import Study, StudyError
from emg_lens.sweeps.conditions import BASELINE
from emg_lens.sweeps.engine import SweepResult, audit, sweep, trials_near_the_caches
from emg_lens.sweeps.side_by_side import torch_threads
from emg_lens.training.fitting import fit
from emg_lens.training.recipe import TrainingRecipe

FIT_SHARE = 0.95
"""Fraction of a subject's progress bar that fitting takes; the sweep takes the rest."""


@dataclass(frozen=True)
class SubjectTrials:
    """A subject's standardised trials: the statistics come from the training trials alone."""

    train: TrialSet
    test: TrialSet


def load_subject(study: Study, data: Path | None, subject: str) -> SubjectTrials:
    """Read one subject's recordings and make the study's training and test trials from them.

    Raises:
        DataError: A missing or damaged file, or a class that is missing in one of the two parts.
    """
    cohort = study.cohort
    trials = load_trials(
        cohort.dataset,
        data,
        cohort.recipe,
        cohort.segment,
        subjects=[subject],
        classes=cohort.labels,
        **cohort.options,
    )
    if cohort.modalities is not None:
        trials = trials.keep(cohort.modalities)
    present = sorted(set(trials.repetition.tolist()))
    test = [r for r in cohort.test_repetitions if r in present]
    wanted = present if cohort.train_repetitions is None else cohort.train_repetitions
    train = [r for r in wanted if r in present and r not in test]
    if not train or not test:
        raise DataError(
            f"subject {subject} has repetitions {present}; the study trains on"
            f" {cohort.train_repetitions or 'all others'} and tests on {list(cohort.test_repetitions)}"
        )
    try:
        train_set, test_set = trials.split(train, test)
    except DataError as error:
        raise DataError(f"subject {subject}: {error}") from None
    return SubjectTrials(
        train_set.standardised(train_set, cohort.rectify), test_set.standardised(train_set, cohort.rectify)
    )


def describe(study: Study, data: Path | None, subject: str, with_plan: bool) -> dict:
    """What a run must know of a subject before it starts: sizes, classes and, if asked for, the plan.

    The plan is a table, one row a condition but the baseline: its tags, and its audit on a model of these sizes.

    Raises:
        DataError: As `load_subject`.
        StudyError: An edge set or a size that does not fit these data.
    """
    trials = load_subject(study, data, subject)
    test = trials.test
    return {
        "n_train": len(trials.train),
        "modalities": test.modalities,
        "n_classes": test.n_classes,
        "plan": _plan_table(study, test) if with_plan else None,
    }


def _plan_table(study: Study, trials: TrialSet) -> pd.DataFrame:
    try:
        config = study.model.config(trials.modalities, trials.n_samples, trials.classes)
        model = IsoNet(config)
        conditions = study.conditions.build(config.n_layers)
        found = audit(model, conditions)
    except ValueError as error:  # EdgeError too: an edge set or a size that does not fit these data
        raise StudyError(str(error)) from None
    empty = found[(found["edges_cut"] == 0) & (found["condition"] != BASELINE)]
    if len(empty):
        first = conditions[int(empty.index[0])]
        raise StudyError(f"condition {first.name!r} cuts no edge of this model; edges: {first.edges}")
    tags = pd.DataFrame([{"condition": c.name, **c.tags} for c in conditions])
    return tags.merge(found, on="condition")[1:].reset_index(drop=True)


def build_model(study: Study, trials: TrialSet, seed: int) -> IsoNet:
    """A freshly initialised model for these trials; the same seed gives the same weights."""
    config = study.model.config(trials.modalities, trials.n_samples, trials.classes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return IsoNet(config)


def subject_seed(study: Study, subject: str) -> int:
    """Each subject's own seed: a function of the study's seed and the subject's name alone."""
    return (study.training.seed * 1_000_003 + zlib.crc32(subject.encode())) % 2**31


def run_subject(
    study: Study,
    data: Path | None,
    subject: str,
    folder: Path,
    device: str,
    tell: Callable[[float], None],
    share: float = 1.0,
) -> None:
    """Fit, sweep and write `folder`: model.safetensors, config.json, fit.csv, scores.csv, subject.json.

    One thread does the arithmetic whatever the number of workers, so that the numbers do not depend on it. The fit is
    saved beside the folder as it goes on, and continues from there.

    Args:
        study: The study.
        data: Folder of the data set; None for one that needs none.
        subject: Whose part.
        folder: Where the results appear, complete.
        device: A torch device.
        tell: Called with the finished fraction.
        share: Of the fit, how much is done before it is left, saved, to another call; 1 does everything.
    """
    with torch_threads(1):
        checkpoint = folder.with_name(f".{folder.name}.fit")
        trials = load_subject(study, data, subject)
        seed = subject_seed(study, subject)
        model = build_model(study, trials.train, seed).to(device)
        recipe: TrainingRecipe = study.training.model_copy(update={"seed": seed})
        x, y = torch.from_numpy(trials.train.x), torch.from_numpy(trials.train.y)
        n_epochs = round(share * recipe.epochs)
        history = fit(model, x, y, recipe, lambda epoch: tell(FIT_SHARE * epoch / recipe.epochs), checkpoint, n_epochs)
        if share < 1:
            return
        started = time.perf_counter()
        conditions = study.conditions.build(model.cfg.n_layers)
        x = torch.from_numpy(trials.test.x)
        at_once = trials_near_the_caches(model.cfg.n_ctx)  # as the executor, not chosen by speed: digits would change
        result = sweep(model, x, conditions, executor="tree", batch_size=at_once)
        scores = tidy_scores(study, subject, trials.test, result)
        facts = {
            "subject": subject,
            "seed": seed,
            "seconds": round(history.attrs["seconds"] + time.perf_counter() - started, 2),
            "n_parameters": count_parameters(model),
            "n_train": len(trials.train),
            "n_test": len(trials.test),
            "n_test_movements": len(set(trials.test.movement.tolist())),
            "classes": list(trials.test.classes),
            "modalities": trials.test.modalities,
            "n_samples": trials.test.n_samples,
            "fs": trials.test.fs,
            "notes": list(trials.test.notes),
        }
        _write_folder(folder, model, history, scores, facts)
        checkpoint.unlink(missing_ok=True)
        tell(1.0)


def tidy_scores(study: Study, subject: str, test: TrialSet, result: SweepResult) -> pd.DataFrame:
    """One row a condition: subject, condition, tags, accuracy, n_test, chance, expected, and the audit's columns."""
    accuracy = result.accuracy(torch.from_numpy(test.y))
    for tag in ("edges", "mode", "layer"):
        if tag not in accuracy:
            accuracy[tag] = pd.NA
    table = accuracy.merge(result.audit, on="condition", validate="one_to_one")
    table.insert(0, "subject", subject)
    table["n_test"] = len(test)
    table["chance"] = 1 / test.n_classes
    sees = {e.name: e.sees for e in study.conditions.extra if e.sees is not None}
    if sees:
        simulation = Simulation.model_validate(study.cohort.options.get("simulation") or {})
        base = float(table.loc[table["condition"] == BASELINE, "accuracy"].iloc[0])
        implied = {name: min(base, expected_accuracy(simulation, modalities)) for name, modalities in sees.items()}
        table["expected"] = table["condition"].map(implied)
    return table


def _write_folder(folder: Path, model: IsoNet, history: pd.DataFrame, scores: pd.DataFrame, facts: dict) -> None:
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    model.to("cpu").save_pretrained(partial)
    history.to_csv(partial / "fit.csv", index=False)
    scores.to_csv(partial / "scores.csv", index=False)
    (partial / "subject.json").write_text(json.dumps(facts, indent=1))
    partial.rename(folder)
