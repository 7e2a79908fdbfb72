"""Run a study: its fits in parallel, then tables, figures and report.

A run lives in `<out>/<study>/<hash of the spec>/`. A run that was stopped is resumed there; finished fits are kept.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from emg_lens.data.licence import licence_line
from emg_lens.errors import printable
from emg_lens.io.files import remove, remove_abandoned
from emg_lens.io.hashing import why_not_cached
from emg_lens.io.run_folder import RECORD, locked_folder, record_environment, write_run_files, writing
from emg_lens.studies.fits.duplicates import first_alike
from emg_lens.studies.fits.fit_store import copy_fit
from emg_lens.studies.fits.fit_unit import read_together
from emg_lens.studies.fits.plugin_check import check_plugins
from emg_lens.studies.report.view import VIEWS
from emg_lens.studies.result import StudyResult
from emg_lens.studies.runs.fit_workers import run_in_workers, run_stacked
from emg_lens.studies.runs.plan import RunPlan, prepare, recorded_plan, run_folder
from emg_lens.studies.runs.progress import print_note, progress_bars
from emg_lens.studies.spec.errors import StudyError
from emg_lens.studies.spec.study_spec import StudySpec


def run_study(
    study: StudySpec,
    data: str | Path | None = None,
    out: str | Path = "runs",
    jobs: int | None = None,
    device: str = "cpu",
    console: Console | None = None,
) -> StudyResult:
    """Run a study, or resume it; `Study.run` describes arguments and errors.

    Warnings and progress are printed to the `console`, by default the standard error of the terminal.
    """
    console = console or Console(stderr=True)
    data = None if data is None else Path(data).expanduser().absolute()  # workers may have another current folder
    jobs = jobs or os.cpu_count() or 1
    _check_device(device)
    check_views(study)
    folder = run_folder(study, Path(out).expanduser().absolute())
    new = None if (folder / RECORD).exists() else prepare(study, data, folder, jobs, console)
    with _lock(folder, console):
        # Another process may have made the record since then, with other data.
        plan = new if new is not None and not (folder / RECORD).exists() else recorded_plan(study, data, folder)
        check_plugins(plan.fits, folder)
        unremembered = None if data is None else why_not_cached()
        for warning in [*plan.warnings, *([unremembered] if unremembered else [])]:
            print_note(console, warning)
        _write_facts(study, data, plan)
        _run_fits(plan, data, jobs, device, console)
        result = StudyResult.collect(study, folder, [fit.folder_name for fit in plan.fits])
        result.write()
        _tidy(folder)
    return result


def check_views(study: StudySpec) -> None:
    """Raise an `UnknownNameError` if the study names an unknown view."""
    for name in study.views or ():
        VIEWS[name]


def _run_fits(plan: RunPlan, data: Path | None, jobs: int, device: str, console: Console) -> None:
    """Run the fits that are not finished; equal fits are run once and copied."""
    folders = {fit.folder_name: plan.folder / "fits" / fit.folder_name for fit in plan.fits}
    missing = [fit for fit in plan.fits if not folders[fit.folder_name].exists()]
    if len(missing) < len(plan.fits):
        finished = f"{len(plan.fits) - len(missing)} of {len(plan.fits)} fits are finished"
        console.print(f"resuming {printable(str(plan.folder))}: {finished}", markup=False)
    if missing and (note := record_environment(plan.folder)):
        print_note(console, f"{note}; each fit keeps its versions (How to reproduce, in the report)")
    first = first_alike(plan.fits)
    to_run = read_together([fit for fit in missing if first[fit.folder_name] is fit])
    with progress_bars(console, {fit.name: folders[fit.folder_name] for fit in to_run}):
        if device == "cpu":
            run_in_workers(to_run, plan.n_train, data, folders, jobs)
        else:
            run_stacked(to_run, data, folders, device)
    for fit in missing:
        if first[fit.folder_name] is not fit:
            copy_fit(folders[first[fit.folder_name].folder_name], folders[fit.folder_name], fit.levels)


def _check_device(device: str) -> None:
    if device == "cpu":
        return
    import torch

    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise StudyError(f"device {device!r} cannot be used here ({reason}); expected cpu, cuda or mps") from None


@contextmanager
def _lock(folder: Path, console: Console) -> Iterator[None]:
    """Hold the lock of a run's folder."""
    with locked_folder(folder) as reason:
        if reason is not None:
            print_note(console, f"{folder} cannot be locked ({reason}); do not run this study twice at a time")
        with writing(folder):
            (folder / "fits").mkdir(exist_ok=True)
        yield


def _write_facts(study: StudySpec, data: Path | None, plan: RunPlan) -> None:
    facts = {"folder": str(data) if data else None, "fingerprint": plan.fingerprint}
    facts |= {"warnings": plan.warnings, "n_train": plan.n_train, "subjects": plan.subjects}
    facts["licence"] = licence_line(data)
    write_run_files(plan.folder, study.to_yaml(), facts)


def _tidy(folder: Path) -> None:
    """Remove progress files and saved states of finished fits, and incomplete files of processes that were killed."""
    for part in (folder, folder / "figures", folder / "fits"):
        remove_abandoned(part)
    for left in (folder / "fits").glob(".*"):
        if left.suffix != ".partial":  # a living process may write it
            remove(left)
