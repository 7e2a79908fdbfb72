"""What a run will do, known before it starts: its fits, its folder, and what the user should know first."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from rich.console import Console

from emg_lens.data.registry import data_fingerprint, doubled_files, files_stamp
from emg_lens.data.registry import subjects as list_subjects
from emg_lens.data.segment import unique_notes
from emg_lens.data.splits import RepetitionSplit
from emg_lens.io.seals import DamagedFileError, check_seal
from emg_lens.io.workers import parallel
from emg_lens.io.yaml_text import YAMLTextError, read_mapping, text_of_file
from emg_lens.studies.fits.duplicates import alike_warnings, draw_warnings
from emg_lens.studies.fits.fit_unit import fits_of
from emg_lens.studies.report.view import VIEWS
from emg_lens.studies.runs.manifest import RECORD, read_record
from emg_lens.studies.spec.cohort import CHOSEN_LATER, Cohort
from emg_lens.studies.spec.errors import StudyError
from emg_lens.studies.spec.study_spec import FORMER, StudySpec
from emg_lens.studies.statistics.families import family_sizes
from emg_lens.studies.statistics.power import power_warnings

SHOWN = 3
"""How many changed files a message names."""


@dataclass(frozen=True)
class RunPlan:
    """What a run will do.

    Attributes:
        subjects: All subjects of each cell's cohort, by the cell's place in `StudySpec.cells`.
        n_train: Training trials of each fit, by the name of its folder: what its part of the run costs.
        folder: The run's folder.
        fingerprint: Of the data.
        warnings: What the user should know before waiting: significance that n subjects cannot reach, odd data.
        notes: What was repaired or assumed while recordings were read; of a run that was begun before, nothing.
    """

    subjects: tuple[tuple[str, ...], ...]
    n_train: dict[str, int] = field(repr=False)
    folder: Path
    fingerprint: str
    warnings: tuple[str, ...]
    notes: tuple[str, ...] = ()


def prepare(study: StudySpec, data: Path | None, out: Path, jobs: int, console: Console) -> RunPlan:
    """Find the subjects and check every fit's recordings and model against the study.

    Args:
        study: The study.
        data: Folder of the data set; None for simulated cohorts.
        out: Where runs are kept.
        jobs: Fits to read at a time.
        console: Where a line of progress goes.

    Raises:
        StudyError, DataError: What does not fit, in one line.
    """
    study.check()
    for name in study.views or ():
        VIEWS[name]  # an unknown name raises now, not after the fits
    _of_weights(study)
    subjects = tuple(_subjects(spec.cohort, data) for _, spec in study.cells)
    n_fits = sum(len(spec.split.folds(names)) for (_, spec), names in zip(study.cells, subjects, strict=True))
    with console.status(f"reading the recordings of {n_fits} fits"):
        facts = _facts(study, data, subjects, jobs)
    every = [fit for cell in facts for fit in cell]
    for (_, spec), cell in zip(study.cells, facts, strict=True):
        if isinstance(spec.split, RepetitionSplit):
            spec.split.check(r for fit in cell for r in fit["repetitions"])
        _check_labels(spec.cohort, cell)
    _check_compared(study, facts)
    _check_reference(study, facts)
    warnings = _doubled(study, data) + draw_warnings(study, [cell[0]["recorded"] for cell in facts])
    warnings += alike_warnings(fits_of(study, subjects))
    warnings += list(dict.fromkeys(w for cell in facts for w in _warnings(study, cell)))
    n_train = {fit["folder"]: fit["n_train"] for fit in every}
    notes = unique_notes(note for fit in every for note in fit["notes"])
    return RunPlan(subjects, n_train, run_folder(study, out), fingerprint(study, data), tuple(warnings), notes)


def begun_plan(study: StudySpec, data: Path | None, out: Path) -> RunPlan | None:
    """The plan of a run that was begun before: its data were checked then. None for a new one.

    Raises:
        StudyError: It was begun with other data, or its record is damaged.
    """
    folder = run_folder(study, out)
    if not (folder / RECORD).exists():
        if any((folder / "fits").glob("[!.]*")):
            raise StudyError(f"{folder} holds fits of unknown data: its {RECORD} is missing; delete it and run again")
        return None
    known, now = read_record(folder), fingerprint(study, data)
    if known["fingerprint"] != now:
        what = "data or weights" if _of_weights(study) else "data"
        raise StudyError(
            f"{folder} was made with other {what} (fingerprint {known['fingerprint']}, now"
            f" {now}{_written_since(study, data, folder / RECORD)}); give another --out, or delete that folder"
        )
    subjects = tuple(tuple(names) for names in known["subjects"])
    if len(subjects) != len(study.cells):
        raise StudyError(f"{folder / RECORD} is of another study; delete {folder} and run again")
    return RunPlan(subjects, known["n_train"], folder, now, tuple(known["warnings"]))


def run_folder(study: StudySpec, out: Path) -> Path:
    """Where a study's run lives."""
    return out / study.name / study.digest()


def fingerprint(study: StudySpec, data: Path | None) -> str:
    """Of the data of all levels, and of the weights that they begin with.

    Raises:
        StudyError: Weights that are missing.
    """
    of_data = [data_fingerprint(c.dataset, data, **c.options) for c in _cohorts(study)]
    return "-".join([*of_data, *_of_weights(study)])


def _of_weights(study: StudySpec) -> list[str]:
    begun = list(dict.fromkeys(spec.model.pretrained for _, spec in study.cells if spec.model.pretrained))
    if not begun:
        return []
    from emg_lens.models.pretrained import ModelFileError, weights_fingerprint  # a study without needs no models

    try:
        return [weights_fingerprint(begun)]
    except (ModelFileError, OSError) as error:
        raise StudyError(str(error)) from None


def one_a_data_set(specs: Iterable[StudySpec]) -> list[Cohort]:
    """One cohort of each data set, with its options, that some studies read."""
    return list({one.cohort.model_dump_json(include={"dataset", "options"}): one.cohort for one in specs}.values())


def _cohorts(study: StudySpec) -> list[Cohort]:
    return one_a_data_set(spec for _, spec in study.cells)


def _written_since(study: StudySpec, data: Path | None, record: Path) -> str:
    """The files of the data that were written after a run's record, in words; nothing where their times do not tell."""
    when = record.stat().st_mtime_ns
    stamps = [stamp for c in _cohorts(study) for stamp in files_stamp(c.dataset, data, **c.options)]
    newer = sorted({Path(path).name for path, _, written in stamps if written > when})
    more = f" and {len(newer) - SHOWN} more" if len(newer) > SHOWN else ""
    return f"; written since: {', '.join(newer[:SHOWN])}{more}" if newer else ""


def _doubled(study: StudySpec, data: Path | None) -> list[str]:
    """A warning where two subjects have the same recordings."""
    pairs = [pair for c in _cohorts(study) for pair in doubled_files(c.dataset, data, **c.options)]
    if not pairs:
        return []
    more = f", and {len(pairs) - 1} more" * (len(pairs) > 1)
    return [f"subjects share recordings: {pairs[0][0]} and {pairs[0][1]} hold the same bytes{more}; is it one person?"]


def _subjects(cohort: Cohort, data: Path | None) -> tuple[str, ...]:
    known = list_subjects(cohort.dataset, data, **cohort.options)
    if cohort.subjects is None:
        return known
    names = {str(w) for w in cohort.subjects}
    missing = names - set(known)
    if missing:
        raise StudyError(f"no subject {sorted(missing)} in the data; known: {', '.join(known)}")
    return tuple(s for s in known if s in names)


def _facts(study: StudySpec, data: Path | None, subjects: tuple[tuple[str, ...], ...], jobs: int) -> list[list[dict]]:
    """What must be known of every fit, cell by cell; cells with the same recordings and folds are read together."""
    alike: dict[str, list[int]] = {}
    for cell, (_, spec) in enumerate(study.cells):
        content = {"cohort": spec.cohort.model_dump(exclude=CHOSEN_LATER - {"subjects"}), "split": spec.split}
        alike.setdefault(repr(content), []).append(cell)
    tasks: list[tuple[Callable, tuple]] = []
    for cells in alike.values():
        n_folds = len(study.cells[cells[0]][1].split.folds(subjects[cells[0]]))
        size = -(-n_folds * len(alike) // jobs)  # neighbouring folds often need the same recordings
        for first in range(0, n_folds, size):
            folds = tuple(range(first, min(first + size, n_folds)))
            tasks.append((_describe, (study, data, subjects, tuple(cells), folds)))
    found: list[list[dict]] = [[] for _ in study.cells]
    for (_, (*_, cells, _)), described in zip(tasks, parallel(jobs, tasks), strict=True):
        for cell, facts in zip(cells, described, strict=True):
            found[cell] += facts
    return found


def _describe(*arguments: Any) -> list[list[dict]]:
    from emg_lens.studies.fits.dry_run import describe_fits  # in the worker: this process needs no models

    return describe_fits(*arguments)


def _check_labels(cohort: Cohort, fits: Sequence[Mapping[str, Any]]) -> None:
    """Refuse labels that nobody performs; a fit sees its own subjects only, and one may lack what others have."""
    performed = {name for fit in fits for name in fit["performed"]}
    never = [name for name in fits[0]["classes"] if name not in performed]
    if cohort.labels is not None and never:
        raise StudyError(f"no subject performs {', '.join(never)}; leave it out of cohort.labels")


def _check_compared(study: StudySpec, facts: Sequence[Sequence[Mapping[str, Any]]]) -> None:
    """Refuse levels that are to be compared subject by subject and have different subjects."""
    for comparison in study.statistics.compare:
        tested: dict[tuple[str, ...], dict[str, set[str]]] = {}
        for (levels, _), fits in zip(study.cells, facts, strict=True):
            others = tuple(levels[name] for name in study.compared_factors if name != comparison.factor)
            level = tested.setdefault(others, {}).setdefault(levels[comparison.factor], set())
            level |= {subject for fit in fits for subject in fit["test_subjects"]}
        for by_level in tested.values():
            for level, subjects in by_level.items():
                odd = sorted(subjects ^ by_level[comparison.to])
                if odd:
                    raise StudyError(
                        f"statistics.compare sets {comparison.factor} {level!r} against {comparison.to!r}, which do not"
                        f" test the same subjects: {', '.join(odd)}; leave the comparison out, or choose subjects"
                    )


def _check_reference(study: StudySpec, facts: Sequence[Sequence[Mapping[str, Any]]]) -> None:
    """Refuse published numbers that no table of the study could show."""
    for (levels, _), fits in zip(study.cells, facts, strict=True) if study.reference is not None else ():
        assert study.reference is not None
        if study.reference.metric not in fits[0]["metrics"]:
            known = ", ".join(fits[0]["metrics"])
            raise StudyError(f"reference.metric {study.reference.metric!r} is not measured; the study measures {known}")
        compared = {name: levels[name] for name in study.compared_factors}
        try:
            study.reference.check_conditions(compared, [row["condition"] for row in fits[0]["plan"]])
        except ValueError as error:
            raise StudyError(str(error)) from None


def _warnings(study: StudySpec, fits: Sequence[Mapping[str, Any]]) -> list[str]:
    """Of one cell: significance out of reach, and classes that some subjects lack."""
    channels = {json.dumps(fit["modalities"]) for fit in fits}
    if len(channels) > 1:
        raise StudyError(f"subjects differ in their channels: {' and '.join(sorted(channels))}; choose modalities")
    tested = {subject for fit in fits for subject in fit["test_subjects"]}
    plan = pd.DataFrame(fits[0]["plan"])
    found = []
    if len(plan):
        found += power_warnings(len(tested), family_sizes(plan, study.statistics.family), study.statistics)
    most = max(fit["n_classes"] for fit in fits)
    few = [f"{fit['fold']} ({fit['n_classes']})" for fit in fits if fit["n_classes"] < most]
    if few:
        found.append(f"folds with fewer than {most} classes: {', '.join(few)}")
    return found
