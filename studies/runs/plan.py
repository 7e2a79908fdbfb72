"""The plan of a run: its fits, its folder, and what the user should know before it starts."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console

from emg_lens.data.registry import data_fingerprint, duplicate_files, file_states
from emg_lens.data.registry import subjects as list_subjects
from emg_lens.data.segment import unique_notes
from emg_lens.data.splits import RepetitionSplit
from emg_lens.io.run_folder import RECORD
from emg_lens.io.workers import parallel
from emg_lens.studies.fits.duplicates import alike_warnings, electrode_warnings
from emg_lens.studies.fits.fit_unit import Fit, fits_of
from emg_lens.studies.runs.run_files import read_record
from emg_lens.studies.spec.cohort import CHOSEN_LATER, Cohort
from emg_lens.studies.spec.errors import StudyError
from emg_lens.studies.spec.study_spec import StudySpec
from emg_lens.studies.statistics.families import family_sizes
from emg_lens.studies.statistics.power import power_warnings

SHOWN = 3
"""Number of changed files that a message names."""


@dataclass(frozen=True)
class RunPlan:
    """The plan of a run.

    Attributes:
        fits: All fits of the study.
        subjects: All subjects of each cell's cohort, in the order of `StudySpec.cells`.
        n_train: Number of training trials of each fit, by the name of its folder.
        folder: The run's folder.
        fingerprint: Fingerprint of the data and of pretrained weights.
        warnings: What the user should know before waiting, for example that n subjects cannot reach significance.
        notes: What was repaired or assumed while recordings were read; empty for a resumed run.
    """

    fits: tuple[Fit, ...] = field(repr=False)
    subjects: tuple[tuple[str, ...], ...]
    n_train: dict[str, int] = field(repr=False)
    folder: Path
    fingerprint: str
    warnings: tuple[str, ...]
    notes: tuple[str, ...] = ()


def prepare(study: StudySpec, data: Path | None, folder: Path, jobs: int, console: Console) -> RunPlan:
    """Plan a new run: find the subjects, and check the recordings and the model of every fit. Nothing is written.

    Args:
        study: The study.
        data: Folder of the data set; None for simulated cohorts.
        folder: The run's folder.
        jobs: Number of fits that are read at a time.
        console: Where progress is printed.

    Raises:
        StudyError: The study does not fit the data, or the folder holds fits of unknown data.
        DataError: A recording is missing or damaged.
    """
    if not (folder / RECORD).exists() and any((folder / "fits").glob("[!.]*")):
        raise StudyError(f"{folder} holds fits of unknown data: its {RECORD} is missing; delete it and run again")
    study.check()
    _weights_fingerprint(study)  # raises if weights are missing
    subjects = tuple(_subjects(spec.cohort, data) for _, spec in study.cells)
    fits = fits_of(study, subjects)
    with console.status(f"reading the recordings of {len(fits)} fits"):
        facts = _facts(study, fits, data, jobs)
    for (_, spec), cell in zip(study.cells, facts, strict=True):
        if isinstance(spec.split, RepetitionSplit):
            spec.split.check(r for fit in cell for r in fit["repetitions"])
        _check_labels(spec.cohort, cell)
    _check_compared(study, facts)
    _check_reference(study, facts)
    warnings = [
        *_duplicate_warnings(study, data),
        *electrode_warnings(study, [cell[0]["recorded"] for cell in facts]),
        *alike_warnings(fits),
        *dict.fromkeys(warning for cell in facts for warning in _warnings(study, cell)),
    ]
    n_train = {fit["folder"]: fit["n_train"] for cell in facts for fit in cell}
    notes = unique_notes(note for cell in facts for fit in cell for note in fit["notes"])
    return RunPlan(tuple(fits), subjects, n_train, folder, fingerprint(study, data), tuple(warnings), notes)


def recorded_plan(study: StudySpec, data: Path | None, folder: Path) -> RunPlan:
    """Read the saved plan of a run, so that it can be resumed. Its data are not checked again, except by fingerprint.

    Raises:
        StudyError: The data differ from the data of the original run, or the record belongs to another study.
        RunFolderError: The record is missing or damaged.
    """
    record, now = read_record(folder), fingerprint(study, data)
    if record["fingerprint"] != now:
        what = "data or weights" if _weights_fingerprint(study) else "data"
        raise StudyError(
            f"{folder} was made with other {what} (fingerprint {record['fingerprint']}, now"
            f" {now}{_changed_since(study, data, folder / RECORD)}); give another --out, or delete that folder"
        )
    subjects = tuple(tuple(names) for names in record["subjects"])
    if len(subjects) != len(study.cells):
        raise StudyError(f"{folder / RECORD} belongs to another study; delete {folder} and run again")
    fits = tuple(fits_of(study, subjects))
    return RunPlan(fits, subjects, record["n_train"], folder, now, tuple(record["warnings"]))


def run_folder(study: StudySpec, out: Path) -> Path:
    """Return the folder of a study's run."""
    return out / study.name / study.digest()


def fingerprint(study: StudySpec, data: Path | None) -> str:
    """Return the fingerprint of the data of all levels and of the pretrained weights.

    Raises:
        StudyError: Weights are missing.
    """
    of_data = [data_fingerprint(c.dataset, data, **c.options) for c in _cohorts(study)]
    return "-".join([*of_data, *_weights_fingerprint(study)])


def _weights_fingerprint(study: StudySpec) -> list[str]:
    """Return one fingerprint of all pretrained weights; empty if the study uses none."""
    pretrained = list(dict.fromkeys(spec.model.pretrained for _, spec in study.cells if spec.model.pretrained))
    if not pretrained:
        return []
    from emg_lens.models.pretrained import ModelFileError, weights_fingerprint  # other studies need no models here

    try:
        return [weights_fingerprint(pretrained)]
    except (ModelFileError, OSError) as error:
        raise StudyError(str(error)) from None


def one_a_data_set(specs: Iterable[StudySpec]) -> list[Cohort]:
    """Return one cohort for each data set with its options that these studies read."""
    return list({one.cohort.model_dump_json(include={"dataset", "options"}): one.cohort for one in specs}.values())


def _cohorts(study: StudySpec) -> list[Cohort]:
    return one_a_data_set(spec for _, spec in study.cells)


def _changed_since(study: StudySpec, data: Path | None, record: Path) -> str:
    """List the data files that were written after the record of the run, as the end of a message."""
    when = record.stat().st_mtime_ns
    states = [state for c in _cohorts(study) for state in file_states(c.dataset, data, **c.options)]
    newer = sorted({Path(path).name for path, _, written in states if written > when})
    more = f" and {len(newer) - SHOWN} more" if len(newer) > SHOWN else ""
    return f"; written since: {', '.join(newer[:SHOWN])}{more}" if newer else ""


def _duplicate_warnings(study: StudySpec, data: Path | None) -> list[str]:
    """Warn if two subjects have the same recordings."""
    pairs = [pair for c in _cohorts(study) for pair in duplicate_files(c.dataset, data, **c.options)]
    if not pairs:
        return []
    (first, second), more = pairs[0], f" ({len(pairs) - 1} more pairs)" * (len(pairs) > 1)
    return [f"{first} and {second} of two subjects hold the same bytes{more}; check whether they are one person"]


def _subjects(cohort: Cohort, data: Path | None) -> tuple[str, ...]:
    known = list_subjects(cohort.dataset, data, **cohort.options)
    if cohort.subjects is None:
        return known
    names = {str(name) for name in cohort.subjects}
    missing = sorted(names - set(known))
    if missing:
        raise StudyError(f"cohort.subjects: the data have no subject {', '.join(missing)}; known: {', '.join(known)}")
    return tuple(name for name in known if name in names)


def _facts(study: StudySpec, fits: Sequence[Fit], data: Path | None, jobs: int) -> list[list[dict]]:
    """Describe every fit, cell by cell; cells with the same recordings and folds are read together."""
    of_cell: dict[tuple, list[Fit]] = {tuple(levels.items()): [] for levels, _ in study.cells}
    for fit in fits:
        of_cell[tuple(fit.levels.items())].append(fit)
    cells = list(of_cell.values())
    alike: dict[str, list[int]] = {}
    for number, (_, spec) in enumerate(study.cells):
        content = {"cohort": spec.cohort.model_dump(exclude=CHOSEN_LATER - {"subjects"}), "split": spec.split}
        alike.setdefault(repr(content), []).append(number)
    tasks: list[tuple[Callable, tuple]] = []
    numbers: list[list[int]] = []
    for group in alike.values():
        n_folds = len(cells[group[0]])
        size = -(-n_folds * len(alike) // jobs)  # neighbouring folds often need the same recordings
        for first in range(0, n_folds, size):
            tasks.append((_describe, ([cells[i][first : first + size] for i in group], data, first == 0)))
            numbers.append(group)
    facts: list[list[dict]] = [[] for _ in cells]
    for group, described in zip(numbers, parallel(jobs, tasks), strict=True):
        for number, of_fits in zip(group, described, strict=True):
            facts[number] += of_fits
    return facts


def _describe(*arguments: Any) -> list[list[dict]]:
    from emg_lens.studies.fits.dry_run import describe_fits  # only workers need models

    return describe_fits(*arguments)


def _check_labels(cohort: Cohort, fits: Sequence[Mapping[str, Any]]) -> None:
    """Refuse labels that no subject performs; a single subject may lack some."""
    performed = {name for fit in fits for name in fit["performed"]}
    never = [name for name in fits[0]["classes"] if name not in performed]
    if cohort.labels is not None and never:
        raise StudyError(f"cohort.labels: no subject performs {', '.join(never)}; leave it out")


def _check_compared(study: StudySpec, facts: Sequence[Sequence[Mapping[str, Any]]]) -> None:
    """Refuse levels that are compared within subjects and test different subjects."""
    for comparison in study.statistics.compare:
        tested: dict[tuple[str, ...], dict[str, set[str]]] = {}
        for (levels, _), fits in zip(study.cells, facts, strict=True):
            others = tuple(levels[name] for name in study.compared_factors if name != comparison.factor)
            level = tested.setdefault(others, {}).setdefault(levels[comparison.factor], set())
            level |= {subject for fit in fits for subject in fit["test_subjects"]}
        for by_level in tested.values():
            for level, subjects in by_level.items():
                unpaired = sorted(subjects ^ by_level[comparison.to])
                if unpaired:
                    raise StudyError(
                        f"statistics.compare: {comparison.factor}={level} and {comparison.factor}={comparison.to} do"
                        f" not test the same subjects: {', '.join(unpaired)}; leave the comparison out, or choose"
                        " cohort.subjects"
                    )


def _check_reference(study: StudySpec, facts: Sequence[Sequence[Mapping[str, Any]]]) -> None:
    """Refuse published numbers that no table of the study could show."""
    reference = study.reference
    if reference is None:
        return
    for (levels, _), fits in zip(study.cells, facts, strict=True):
        if reference.metric not in fits[0]["metrics"]:
            known = ", ".join(fits[0]["metrics"])
            raise StudyError(f"reference.metric={reference.metric!r} is not measured; the study measures {known}")
        compared = {name: levels[name] for name in study.compared_factors}
        try:
            reference.check_conditions(compared, [row["condition"] for row in fits[0]["plan"]])
        except ValueError as error:
            raise StudyError(str(error)) from None


def _warnings(study: StudySpec, fits: Sequence[Mapping[str, Any]]) -> list[str]:
    """Warn about one cell: significance that cannot be reached, and folds that lack classes."""
    channels = {json.dumps(fit["modalities"]) for fit in fits}
    if len(channels) > 1:
        raise StudyError(
            f"subjects differ in their channels: {' and '.join(sorted(channels))}; choose channels that all subjects"
            " have with cohort.modalities"
        )
    tested = {subject for fit in fits for subject in fit["test_subjects"]}
    plan, warnings = pd.DataFrame(fits[0]["plan"]), []
    if len(plan):
        warnings += power_warnings(len(tested), family_sizes(plan, study.statistics.family), study.statistics)
    most = max(fit["n_classes"] for fit in fits)
    fewer = [f"{fit['fold']} ({fit['n_classes']})" for fit in fits if fit["n_classes"] < most]
    if fewer:
        warnings.append(f"folds with fewer than {most} classes: {', '.join(fewer)}")
    return warnings
