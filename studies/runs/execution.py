"""The study runner: every fit once, in parallel, each finished one kept, then tables, figures and report.

A run lives in `<out>/<study>/<hash of the spec>/`. Starting it again continues where it stopped.
"""

import importlib
import json
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import joblib
from rich.console import Console

from emg_lens.errors import printable
from emg_lens.io.files import remove, remove_abandoned
from emg_lens.io.hashing import why_nothing_is_remembered
from emg_lens.io.locking import one_at_a_time
from emg_lens.io.machine import environment
from emg_lens.io.seals import BLANK, write_sealed
from emg_lens.io.workers import parallel
from emg_lens.studies.fits.duplicates import first_alike
from emg_lens.studies.fits.fit_store import copy_fit, writing
from emg_lens.studies.fits.fit_unit import Fit, fits_of, read_together
from emg_lens.studies.runs.progress import print_note, progress_bars, progress_writer
from emg_lens.studies.result import StudyResult
from emg_lens.studies.runs.manifest import RECORD
from emg_lens.studies.runs.plan import RunPlan, begun_plan, one_a_data_set, prepare
from emg_lens.studies.runs.schedule import wrap_around
from emg_lens.studies.spec.errors import StudyError
from emg_lens.studies.spec.study_spec import StudySpec
from emg_lens.studies.runs.memory_lock import is_large

FITS_AT_ONCE = 64
"""Models of one architecture that an accelerator fits in one stacked forward."""

_ONE_AT_A_TIME = threading.Lock()
"""torch's random state and number of threads belong to the process, so threads of one process take turns."""


def run_study(
    study: StudySpec,
    data: str | Path | None = None,
    out: str | Path = "runs",
    jobs: int | None = None,
    device: str = "cpu",
    console: Console | None = None,
) -> StudyResult:
    """Run a study, or continue it, and write its tables, figures and report.

    Args:
        study: The study.
        data: Folder of the data set; None for simulated cohorts.
        out: Where runs are kept.
        jobs: Fits at a time; default one a processor core. The numbers do not depend on it.
        device: A torch device. On an accelerator, fits of one architecture run at once (`fit_cohort`).
        console: Where warnings and progress go; default the terminal's standard error.

    Raises:
        StudyError: The study does not fit the data or the machine; nothing has been written.
        DataError: A missing or damaged recording; nothing has been written.
        BusyError: Another process runs this study in this folder.
    """
    console = console or Console(stderr=True)
    data = None if data is None else Path(data).expanduser().absolute()  # workers may stand elsewhere
    jobs = jobs or os.cpu_count() or 1
    _check_device(device)
    out = Path(out).expanduser().absolute()
    plan = begun_plan(study, data, out) or prepare(study, data, out, jobs, console)
    forgotten = None if data is None else why_nothing_is_remembered()
    for warning in [*plan.warnings, *([forgotten] if forgotten else [])]:
        print_note(console, warning)
    fits = fits_of(study, plan.subjects)
    with _alone_in(plan.folder, console):
        begun_plan(study, data, out)  # another process may have begun and ended it meanwhile, with other data
        _write_facts(study, data, plan)
        folders = {fit.folder_name: plan.folder / "fits" / fit.folder_name for fit in fits}
        left = [fit for fit in fits if not folders[fit.folder_name].exists()]
        if len(left) < len(fits):
            console.print(
                f"continuing {printable(str(plan.folder))}: {len(fits) - len(left)} of {len(fits)} fits are done",
                markup=False,
            )
        alike = first_alike(fits)
        todo = read_together([fit for fit in left if alike[fit.folder_name] is fit])
        with progress_bars(console, {fit.name: folders[fit.folder_name] for fit in todo}):
            if device == "cpu":
                _run_side_by_side(todo, plan, data, folders, jobs)
            else:
                _run_at_once(todo, data, folders, device)
        for fit in left:
            if alike[fit.folder_name] is not fit:
                copy_fit(folders[alike[fit.folder_name].folder_name], folders[fit.folder_name], fit.levels)
        result = StudyResult.collect(study, plan.folder, list(folders))
        result.write()
        _tidy(plan.folder)
    return result


def _run_side_by_side(
    todo: Sequence[Fit], plan: RunPlan, data: Path | None, folders: dict[str, Path], jobs: int
) -> None:
    costs = [plan.n_train[fit.folder_name] * fit.recipe.epochs for fit in todo]
    parts = wrap_around(costs, joblib.effective_n_jobs(jobs)) if todo else []
    cohorts = one_a_data_set(fit.spec for fit in todo)
    if jobs > 1 and not any(is_large(one, data) for one in cohorts):  # there is time, and memory
        threading.Thread(target=_import_for_the_end, daemon=True).start()
    tasks = [(_fit_task, (todo[i], data, folders[todo[i].folder_name], share)) for i, share in parts]
    parallel(jobs, tasks)


def _fit_task(fit: Fit, data: Path | None, folder: Path, share: float) -> None:
    from emg_lens.studies.fits.fit_execution import run_fit  # in the worker: this process needs no models

    if not folder.exists():  # a cluster runs a finished task again where its answer was lost with a worker
        with _ONE_AT_A_TIME:
            run_fit(fit, data, folder, "cpu", progress_writer(folder), share)


def _run_at_once(todo: Sequence[Fit], data: Path | None, folders: dict[str, Path], device: str) -> None:
    """Fits of one cell and of one shape at once, in this process; draws of electrodes count as one cell."""
    from emg_lens.studies.fits.fit_execution import run_fit, run_fits_at_once

    cells: dict[str, list[Fit]] = {}
    for fit in todo:
        if getattr(fit.spec.split, "validation", None) is not None or fit.recipe.schedule_by == "step":
            run_fit(fit, data, folders[fit.folder_name], device, progress_writer(folders[fit.folder_name]))
            continue  # each has an end or learning rates of its own
        parts = {"cohort", "split", "model", "objective", "conditions"}
        content = fit.spec.model_dump_json(include=parts, exclude={"cohort": {"electrodes"}})
        recipe = fit.spec.training.model_copy(update={"seed": 0}).model_dump_json()
        cells.setdefault(content + recipe, []).append(fit)
    for alike in cells.values():
        for first in range(0, len(alike), FITS_AT_ONCE):
            some = alike[first : first + FITS_AT_ONCE]
            where = [folders[fit.folder_name] for fit in some]
            run_fits_at_once(some, data, where, device, progress_writer(*where))


def _check_device(device: str) -> None:
    if device == "cpu":
        return
    import torch

    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise StudyError(f"device {device!r} cannot be used here: {str(error).splitlines()[0]}") from None


@contextmanager
def _alone_in(folder: Path, console: Console) -> Iterator[None]:
    """Inside, no other process runs the study of this folder."""
    with writing(folder):
        (folder / "fits").mkdir(parents=True, exist_ok=True)
    with one_at_a_time(folder / ".lock", instead="wait until it is done, or give another --out") as without:
        if without is not None:
            print_note(console, f"{folder} cannot be locked ({without}); do not run this study twice at a time")
        yield


def _write_facts(study: StudySpec, data: Path | None, plan: RunPlan) -> None:
    facts = {"folder": str(data) if data else None, "fingerprint": plan.fingerprint}
    facts |= {"warnings": plan.warnings, "n_train": plan.n_train, "subjects": plan.subjects}
    with writing(plan.folder):
        write_sealed(plan.folder / "spec.yaml", f"# {BLANK}\n{study.to_yaml()}")
        for name, content in (("environment.json", environment()), (RECORD, facts)):
            write_sealed(plan.folder / name, json.dumps({"checksum": BLANK, **content}, indent=1))


def _import_for_the_end() -> None:
    """Tables and figures need a second of imports; now nobody waits for them."""
    for name in ("emg_lens.studies.report.page", "emg_lens.studies.report.figures", "scipy.stats"):
        importlib.import_module(name)


def _tidy(folder: Path) -> None:
    """Remove progress files and states of fits that are finished, and what killed processes have left half written."""
    for part in (folder, folder / "figures", folder / "fits"):
        remove_abandoned(part)
    for left in (folder / "fits").glob(".*"):
        if left.suffix != ".partial":  # which somebody writes
            remove(left)
