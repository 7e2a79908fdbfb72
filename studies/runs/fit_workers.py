"""Run the fits of a study: side by side in worker processes, or stacked on an accelerator."""

import importlib
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

import joblib

from emg_lens.io.workers import parallel
from emg_lens.studies.fits.fit_memory import FitMemory
from emg_lens.studies.fits.fit_unit import Fit
from emg_lens.studies.runs.plan import one_a_data_set
from emg_lens.studies.runs.progress import progress_writer
from emg_lens.studies.runs.schedule import start_order

FITS_AT_ONCE = 64
"""Models of one architecture that an accelerator fits in one stacked forward pass."""

_ONE_AT_A_TIME = threading.Lock()
"""The random state and the number of threads of torch belong to the process, so its threads run one fit at a time."""


def run_in_workers(
    fits: Sequence[Fit], n_train: Mapping[str, int], data: Path | None, folders: Mapping[str, Path], jobs: int
) -> None:
    """Run fits on the processor, several at a time.

    Args:
        fits: The fits.
        n_train: Number of training trials of each fit, by the name of its folder.
        data: Folder of the data set; None for simulated cohorts.
        folders: Folder of each fit, by its name.
        jobs: Number of fits at a time.
    """
    durations = [n_train[fit.folder_name] * fit.recipe.epochs for fit in fits]
    parts = start_order(durations, joblib.effective_n_jobs(jobs)) if fits else []
    cohorts = one_a_data_set(fit.spec for fit in fits)
    if jobs > 1 and not any(FitMemory(cohort, data).is_large for cohort in cohorts):
        threading.Thread(target=_import_report_modules, daemon=True).start()
    tasks = [(run_part, (fits[i], data, folders[fits[i].folder_name], until)) for i, until in parts]
    parallel(jobs, tasks)


def run_part(fit: Fit, data: Path | None, folder: Path, until: float) -> None:
    """Run one fit up to a fraction of its epochs, unless it is finished (a cluster may start a finished task again)."""
    from emg_lens.studies.fits.fit_execution import run_fit  # only workers need models

    if not folder.exists():
        with _ONE_AT_A_TIME:
            run_fit(fit, data, folder, "cpu", progress_writer(folder), until)


def run_stacked(fits: Sequence[Fit], data: Path | None, folders: Mapping[str, Path], device: str) -> None:
    """Run fits on an accelerator in this process; fits that differ only in seed, fold and electrodes run at once.

    What is left for the CPU is small, and is fastest in one thread.

    Args:
        fits: The fits.
        data: Folder of the data set; None for simulated cohorts.
        folders: Folder of each fit, by its name.
        device: A torch device.
    """
    from emg_lens.studies.fits.fit_execution import run_fit, run_fits_at_once
    from emg_lens.sweeps.side_by_side import torch_threads

    alone: list[Fit] = []
    cells: dict[str, list[Fit]] = {}
    for fit in fits:
        if (
            fit.recipe.schedule_by == "step"
            or fit.recipe.edge_dropout is not None
            or getattr(fit.spec.split, "validation", None) is not None
        ):  # such fits differ in their last epoch or in their learning rates, or have hooks
            alone.append(fit)
            continue
        parts = {"cohort", "split", "model", "objective", "conditions", "analyses"}
        content = fit.spec.model_dump_json(include=parts, exclude={"cohort": {"electrodes"}})
        recipe = fit.spec.training.model_copy(update={"seed": 0}).model_dump_json()
        cells.setdefault(content + recipe, []).append(fit)
    with torch_threads(1):
        for fit in alone:
            run_fit(fit, data, folders[fit.folder_name], device, progress_writer(folders[fit.folder_name]))
        for of_cell in cells.values():
            for first in range(0, len(of_cell), FITS_AT_ONCE):
                at_once = of_cell[first : first + FITS_AT_ONCE]
                places = [folders[fit.folder_name] for fit in at_once]
                run_fits_at_once(at_once, data, places, device, progress_writer(*places))


def _import_report_modules() -> None:
    """Import what tables and figures need while the workers compute; this takes about a second."""
    for name in ("emg_lens.studies.report.page", "emg_lens.plotting.saving", "scipy.stats"):
        importlib.import_module(name)
