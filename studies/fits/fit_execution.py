"""Run fits: prepare the trials, fit the model, sweep the conditions, run the analyses, and write the folder.

The folder gets its name only when all its files are complete. A run that is killed leaves no incomplete fit.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from emg_lens.analysis.fit_analysis import run_analyses
from emg_lens.io.checkpoint import digest
from emg_lens.io.files import new_folder
from emg_lens.io.run_folder import environment, writing
from emg_lens.studies.fits.fit_memory import FitMemory
from emg_lens.studies.fits.fit_quality import quality_table
from emg_lens.studies.fits.fit_store import write_fit
from emg_lens.studies.fits.fit_unit import Fit
from emg_lens.studies.fits.model_building import objective_of
from emg_lens.studies.fits.prepared_fit import PreparedFit, prepare_fit
from emg_lens.sweeps.conditions import BASELINE
from emg_lens.sweeps.engine import sweep
from emg_lens.sweeps.settings import device_of, reproducible_executor
from emg_lens.sweeps.side_by_side import torch_threads
from emg_lens.training.cohort import fit_cohort
from emg_lens.training.fitting import fit

PASSES_PER_EPOCH = 3
"""Work on a trial in one epoch, in forward passes: one forward, and a backward pass that takes as long as two."""
SWEEP_FRACTION = 0.9
"""Fraction of the time after fitting that the sweep takes; writing files takes the rest."""

OnProgress = Callable[[float], None]


def run_fit(
    fit_unit: Fit, data: Path | None, folder: Path, device: str, on_progress: OnProgress, until: float = 1.0
) -> None:
    """Run one fit and write its folder (`emg_lens.studies.fits.fit_store` lists the files).

    One thread computes, however many workers there are, so that the numbers do not depend on the workers. The state of
    an unfinished fit is saved next to the folder, and the next call with the same versions continues from it.

    Args:
        fit_unit: The fit.
        data: Folder of the data set; None for simulated cohorts.
        folder: Folder of the results.
        device: A torch device.
        on_progress: Called with the finished fraction of the fit.
        until: Fraction of the epochs after which the fit stops and saves its state for another call; 1 finishes it.
    """
    if until < 1:
        fit_unit = replace(fit_unit, writes_leakage=False)  # the call that finishes the fit does
    memory, recipe = FitMemory(fit_unit.spec.cohort, data), fit_unit.recipe
    with torch_threads(1):
        with memory.large_step():
            prepared = prepare_fit(fit_unit, data, device)
        fraction, checkpoint = fitting_fraction(prepared), checkpoint_file(folder, prepared.facts["plugins"])
        history = fit(
            prepared.model,
            prepared.train,
            recipe,
            objective=objective_of(fit_unit).name,
            held_out=prepared.test,
            validation=prepared.validation,
            on_epoch=lambda epoch: on_progress(fraction * epoch / recipe.epochs),
            checkpoint=checkpoint,
            stop_after=round(until * recipe.epochs),
        )
        if until < 1:
            return
        _finish(prepared, history, memory, folder, _between(on_progress, fraction, 1.0))
        checkpoint.unlink(missing_ok=True)
        on_progress(1.0)


def checkpoint_file(folder: Path, plugins: Mapping[str, str]) -> Path:
    """Return the path of an unfinished fit's state. Other versions do not continue it: they start the fit again."""
    versions = {name: version for name, version in environment().items() if name != "machine"} | dict(plugins)
    return folder.with_name(f".{folder.name}.{digest([repr(versions).encode()])}.fit")


def run_fits_at_once(
    fits: Sequence[Fit], data: Path | None, folders: Sequence[Path], device: str, on_progress: OnProgress
) -> None:
    """Run fits of one architecture and recipe with all models in one stacked forward pass, for accelerators.

    Models that `torch.vmap` cannot map are fitted one after the other.
    Without dropout, the weights equal the weights from `run_fit` up to rounding. With dropout, other units are dropped.

    Args:
        fits: The fits.
        data: Folder of the data set; None for simulated cohorts.
        folders: Folder of the results of each fit.
        device: A torch device.
        on_progress: Called with the finished fraction of all these fits.
    """
    memory, epochs = FitMemory(fits[0].spec.cohort, data), fits[0].recipe.epochs
    with memory.large_step():
        prepared = [prepare_fit(one, data, device) for one in fits]
    if getattr(prepared[0].model, "one_by_one", False) or objective_of(fits[0]).one_by_one:
        for k, (one, folder) in enumerate(zip(fits, folders, strict=True)):
            run_fit(one, data, folder, device, lambda done, k=k: on_progress((k + done) / len(fits)))
        return
    fraction = fitting_fraction(prepared[0])
    histories = fit_cohort(
        [one.model for one in prepared],
        [one.train for one in prepared],
        [one.recipe for one in fits],
        objective=objective_of(fits[0]).name,
        held_out=[one.test for one in prepared],
        on_epoch=lambda epoch: on_progress(fraction * epoch / epochs),
    )
    ends = np.linspace(fraction, 1.0, len(fits) + 1)
    for one, history, folder, start, stop in zip(prepared, histories, folders, ends[:-1], ends[1:], strict=True):
        _finish(one, history, memory, folder, _between(on_progress, start, stop))
    on_progress(1.0)


def fitting_fraction(prepared: PreparedFit) -> float:
    """Estimate the fraction of the computation that fitting takes; the sweep takes the rest."""
    fitting = PASSES_PER_EPOCH * prepared.fit_unit.recipe.epochs * len(prepared.train)
    return fitting / (fitting + len(prepared.conditions) * len(prepared.test))


def _between(on_progress: OnProgress, start: float, stop: float) -> OnProgress:
    """Report the finished fraction of a sweep as a part of the whole, between these fractions."""
    return lambda done: on_progress(float(start + SWEEP_FRACTION * (stop - start) * done))


def _finish(
    prepared: PreparedFit, history: pd.DataFrame, memory: FitMemory, folder: Path, on_progress: OnProgress
) -> None:
    """Run the analyses, the reference and the sweep of a fitted model, and write the folder."""
    model, conditions = prepared.model, prepared.conditions
    with memory.large_step():
        started = time.perf_counter()  # after the wait for other processes
        batch = prepared.test.to(device_of(model))
        analyses = run_analyses(prepared.fit_unit.spec.fit_analyses, model, batch, conditions)
        del batch
        quality = quality_table(prepared, memory.scratch(prepared.training_output_bytes, folder.parent))
        if not any(one.input_changes or one.in_the_model for one in conditions):
            prepared.release_training()
    result = sweep(
        model,
        prepared.test.x,
        conditions,
        reference=prepared.test.reference,
        executor=reproducible_executor(model),
        on_progress=on_progress,
        scratch=memory.scratch(prepared.output_bytes, folder.parent),
    )
    objective = objective_of(prepared.fit_unit)
    prepared.targets = objective.scored_targets(prepared.targets, result.logits[BASELINE].numpy())
    seconds = history.attrs.get("seconds", 0.0) + time.perf_counter() - started
    prepared.release_training()
    with memory.large_step(), writing(folder), new_folder(folder) as partial:
        write_fit(partial, prepared, history, result, analyses, quality, seconds)
