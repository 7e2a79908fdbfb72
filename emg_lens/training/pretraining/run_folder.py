"""Run a pre-training from its specification, in a folder that holds losses, checkpoint and model.

The folder is `<out>/<name>/<hash of the specification>/`. It holds spec.yaml, environment.json, data.json, losses.csv
and checkpoint.safetensors, and at the end the folder `model`. A second call resumes an interrupted run. Shards are
written to `<out>/corpora/<hash>/`, and other runs use them too. `torchrun -m emg_lens pretrain ...` uses several
processes or machines, which need `--out` on a shared disk (docs/pretraining.md §10.3).
"""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import torch
from accelerate import Accelerator
from accelerate.utils import is_tensorboard_available, is_wandb_available
from pydantic import NonNegativeInt
from rich.console import Console

from emg_lens.data.corpus import Corpus
from emg_lens.data.corpus_writer import corpus_digest, write_corpus
from emg_lens.errors import printable
from emg_lens.io.checksums import check_checksums, write_checksums
from emg_lens.io.files import new_folder, remove_abandoned, replacing
from emg_lens.io.progress import TimedProgress
from emg_lens.io.run_folder import RECORD, RunFolderError, locked_folder, read_facts_of_run, write_run_files, writing
from emg_lens.models.registry import ModelError, architecture, build_model
from emg_lens.training.fitting import seeded
from emg_lens.training.pretraining.loop import pretrain
from emg_lens.training.pretraining.processes import by_first_process, errors_of_other_processes
from emg_lens.training.pretraining.spec import PretrainingError, PretrainingSpec
from emg_lens.validation import checked

LOSSES, CHECKPOINT, MODEL = "losses.csv", "checkpoint.safetensors", "model"

Precision = Literal["no", "bf16"]
Tracker = Literal["tensorboard", "wandb"]
Device = Literal["auto", "cpu"]
TABLE_SECONDS = 2.0
"""Minimum time between two updates of losses.csv."""
INSTALLED: dict[str, Callable[[], bool]] = {"tensorboard": is_tensorboard_available, "wandb": is_wandb_available}


@dataclass(frozen=True)
class PretrainedRun:
    """A finished pre-training.

    Attributes:
        folder: Folder of the run.
        losses: Table of losses, as `pretrain` returns it.
        model: The model, in evaluation mode.
        windows: Windows that the model was trained on.
        validation: Windows of the validation loss.
    """

    folder: Path
    losses: pd.DataFrame
    model: Any
    windows: Corpus
    validation: Corpus


@checked
def run_pretraining(
    spec: PretrainingSpec,
    data: str | Path | None = None,
    out: str | Path = "runs",
    *,
    workers: NonNegativeInt = 0,
    precision: Precision = "no",
    device: Device = "auto",
    log_to: Tracker | None = None,
    console: Console | None = None,
) -> PretrainedRun:
    """Run a pre-training, or resume it.

    Args:
        spec: The pre-training.
        data: Folder that contains the spec's folders.
        out: Folder for runs and shards.
        workers: Processes that read ahead, for each process that computes.
        precision: `"bf16"`: matrix products in bfloat16.
        device: `"auto"`: an accelerator if there is one, or the configuration of `accelerate`.
        log_to: A tracker that also gets every row of the losses; it must be installed.
        console: Console for progress; default: no progress is shown.

    Raises:
        PretrainingError: The specification does not fit the data, or the tracker is not installed.
        RunFolderError: The folder was made with other data or precision, or it cannot be written to.
        DataError: Recordings or shards cannot be read.
        FitError, CheckpointError: As in `pretrain`.
        BusyError: Another process runs this pre-training in this folder.
        DamagedFileError: The table of losses of a finished run was changed.
    """
    if log_to is not None and not INSTALLED[log_to]():
        raise PretrainingError(f"{log_to} is not installed; run pip install {log_to}, or leave out --log-to")
    out = Path(out).expanduser().absolute()
    folder = out / spec.name / spec.digest()
    try:
        accelerator = Accelerator(
            cpu=device == "cpu", mixed_precision=precision, log_with=log_to, project_dir=str(folder) if log_to else None
        )
    except ValueError as error:  # accelerate allows one device and precision per process
        raise PretrainingError(f"this process cannot compute with precision={precision!r} ({error})") from None
    # Only the first process writes files and shows progress.
    first = accelerator.is_main_process
    if not first:
        console = None
    with ExitStack() as locks, errors_of_other_processes():
        by_first = partial(by_first_process, accelerator)
        shards = by_first(lambda: [str(path) for path in _shards(spec, data, out, console)])
        whole = Corpus.open(shards, spec.corpus.modalities, spec.corpus.scale, spec.corpus.padding)
        windows, validation = whole.divide(spec.held_out)
        model = _build(spec, whole)
        reason = by_first(lambda: locks.enter_context(locked_folder(folder)))
        if reason is not None and console is not None:
            note = f"note: {folder} cannot be locked ({reason}); do not run this pre-training twice at a time"
            console.print(printable(note), markup=False, highlight=False)
        by_first(lambda: _claim(spec, folder, data, windows, validation, precision))
        if not by_first(lambda: (folder / MODEL).exists()):
            if console is not None and (folder / CHECKPOINT).exists():
                console.print(f"resuming {printable(str(folder))}", markup=False, highlight=False)
            if log_to is not None:
                accelerator.init_trackers(spec.name)
            with _progress(console, folder, accelerator) as on_row:
                losses = pretrain(
                    model,
                    windows,
                    spec.recipe,
                    validation=validation,
                    checkpoint=folder / CHECKPOINT,
                    log_steps=spec.log_steps,
                    workers=workers,
                    accelerator=accelerator,
                    on_row=on_row,
                )
            by_first(lambda: _write_result(folder, losses, model))
        model = type(model).from_pretrained(folder / MODEL)
        check_checksums(folder)
        accelerator.end_training()  # also ends the communication between the processes
    return PretrainedRun(folder, pd.read_csv(folder / LOSSES), model, windows, validation)


def _build(spec: PretrainingSpec, corpus: Corpus) -> Any:
    """Build the model with its initial weights."""
    entry, settings = architecture(spec.model.architecture), dict(spec.model.settings)
    if "head" in entry.settings:
        settings.setdefault("head", "reconstruction")
    try:
        with seeded(spec.recipe.seed, torch.device("cpu")):
            return build_model(
                entry.name, modalities=corpus.modalities, n_samples=corpus.n_samples, n_classes=0, **settings
            )
    except ModelError as error:
        if "head" in entry.settings:
            raise
        raise PretrainingError(
            f"model {entry.name!r} cannot reconstruct masked tokens ({error}); use tinymyo"
        ) from None


def _shards(spec: PretrainingSpec, data: str | Path | None, out: Path, console: Console | None) -> list[Path]:
    """Return the folders of the shards, after writing those of data sets."""
    if spec.corpus.folders:
        places = [Path(folder).expanduser() for folder in spec.corpus.folders]
        if data is None and not all(place.is_absolute() for place in places):
            raise PretrainingError(
                f"{spec.name} reads shards from {', '.join(spec.corpus.folders)}; give their parent folder with --data"
            )
        return [Path(data or ".").expanduser().absolute() / place for place in places]
    folder = out / "corpora" / corpus_digest(spec.corpus.parts, data)
    with console.status(f"writing windows of {', '.join(spec.corpus.parts)}") if console else nullcontext():
        write_corpus(spec.corpus.parts, data, folder)
    return [folder]


def _claim(
    spec: PretrainingSpec,
    folder: Path,
    data: str | Path | None,
    windows: Corpus,
    validation: Corpus,
    precision: Precision,
) -> None:
    """Write the run's files, or check that the folder belongs to the same data and precision."""
    remove_abandoned(folder)
    record = {
        "folder": None if data is None else str(data),
        "precision": precision,
        "windows": windows.fingerprint(),
        "validation": validation.fingerprint(),
        "n_windows": len(windows),
        "n_validation": len(validation),
        "held_out": list(validation.subjects),
    }
    if not (folder / RECORD).exists():
        write_run_files(folder, spec.to_yaml(), record)
        return
    known = read_facts_of_run(folder, RECORD, {"windows": str, "validation": str, "precision": str})
    if any(known[name] != record[name] for name in ("windows", "validation")):
        raise RunFolderError(f"{folder} was made with other data; give another --out, or delete that folder")
    if known["precision"] != precision:
        raise RunFolderError(
            f"{folder} was made with --precision {known['precision']}, not {precision}; give another --out"
        )


@contextmanager
def _progress(
    console: Console | None, folder: Path, accelerator: Accelerator
) -> Iterator[Callable[[pd.DataFrame, int], None]]:
    """Yield a function that reports each row of losses: in the csv file, the progress bar and the tracker."""
    with TimedProgress(console or Console(quiet=True)) as progress:
        bar, due = progress.add_task("pre-training", total=None), 0.0

        def on_row(losses: pd.DataFrame, n_steps: int) -> None:
            row: dict[str, float] = losses.iloc[-1].dropna().to_dict()  # pyright: ignore[reportAssignmentType]
            loss = f"masked loss {row['train_masked']:.4f}"
            progress.update(bar, completed=int(row["step"]), total=n_steps, description=loss)
            nonlocal due
            if time.monotonic() >= due:  # flushing a file to the disk is slow
                _write_losses(folder, losses)
                due = time.monotonic() + TABLE_SECONDS
            if accelerator.trackers:
                accelerator.log(row, step=int(row["step"]))

        yield on_row


def _write_result(folder: Path, losses: pd.DataFrame, model: Any) -> None:
    _write_losses(folder, losses)
    with writing(folder):
        write_checksums(folder, [LOSSES])
        with new_folder(folder / MODEL) as temporary:
            model.save_pretrained(temporary)


def _write_losses(folder: Path, losses: pd.DataFrame) -> None:
    with writing(folder), replacing(folder / LOSSES) as temporary:
        losses.to_csv(temporary, index=False)
