"""Running a pre-training from its file: shards, model, losses, checkpoint, all in one folder.

A run lives in `<out>/<name>/<hash of the file>/`: spec.yaml, environment.json, data.json, losses.csv,
checkpoint.safetensors, and at the end the folder `model`. Starting it again continues where it stopped. Shards that it
writes are in `<out>/corpora/<hash>/` and serve other runs too. `accelerate launch -m emg_lens pretrain ...` runs it in
several processes or on several machines, which then need `--out` on a disk that they share (docs/pretraining.md §10.3).
"""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, is_tensorboard_available, is_wandb_available
from pydantic import NonNegativeInt
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from emg_lens.data.corpus import Corpus
from emg_lens.data.corpus_writer import corpus_digest, write_corpus
from emg_lens.errors import EmgLensError, printable
from emg_lens.io.files import new_folder, remove_abandoned, replacing
from emg_lens.io.locking import one_at_a_time
from emg_lens.io.machine import environment
from emg_lens.io.manifests import check_manifest, write_manifest
from emg_lens.io.seals import BLANK, DamagedFileError, check_seal, write_sealed
from emg_lens.models.registry import ModelError, architecture, build_model
from emg_lens.training.fitting import seeded
from emg_lens.training.pretraining.loop import pretrain
from emg_lens.training.pretraining.spec import PretrainingError, PretrainingSpec
from emg_lens.validation import checked

RECORD, LOSSES, CHECKPOINT, MODEL = "data.json", "losses.csv", "checkpoint.safetensors", "model"

Precision = Literal["no", "bf16"]
Tracker = Literal["tensorboard", "wandb"]
Device = Literal["auto", "cpu"]
TABLE_SECONDS = 2.0
"""Between two writings of the table of losses."""
INSTALLED: dict[str, Callable[[], bool]] = {"tensorboard": is_tensorboard_available, "wandb": is_wandb_available}


@dataclass(frozen=True)
class PretrainedRun:
    """A finished pre-training.

    Attributes:
        folder: Of the run.
        losses: As `pretrain` returns them.
        model: The model, in evaluation mode.
        windows: What it learned from.
        validation: What it was watched on.
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
    """Run a pre-training, or continue it.

    Args:
        spec: The pre-training.
        data: Folder that the spec's folders are below.
        out: Where runs and shards are kept.
        workers: Processes that read ahead, for each process that computes.
        precision: `"bf16"`: matrix products in bfloat16.
        device: `"auto"`: the accelerator that there is, or what `accelerate` was told.
        log_to: A tracker that gets every row of the losses too; it must be installed.
        console: Where progress goes; default nowhere.

    Raises:
        PretrainingError: The file does not fit the data, a folder that was made with other data or cannot be written
            to, or a tracker that is not installed.
        DataError: Recordings or shards that cannot be read.
        FitError, CheckpointError: As `pretrain`.
        BusyError: Another process runs it in this folder.
        DamagedFileError: A finished run's table of losses does not hold what was written.
    """
    if log_to is not None and not INSTALLED[log_to]():
        raise PretrainingError(f"{log_to} is not installed; pip install {log_to}, or leave it out")
    out = Path(out).expanduser().absolute()
    folder = out / spec.name / spec.digest()
    try:
        accelerator = Accelerator(
            cpu=device == "cpu", mixed_precision=precision, log_with=log_to, project_dir=str(folder) if log_to else None
        )
    except ValueError as error:  # accelerate has one device and precision a process
        raise PretrainingError(f"this process cannot compute with precision={precision!r} ({error})") from None
    # Only the first process writes, and shows what it does.
    first = accelerator.is_main_process
    if not first:
        console = None
    shards = _in_turn(accelerator, lambda: [str(path) for path in _shards(spec, data, out, console)])
    whole = Corpus.open(shards, spec.corpus.modalities, spec.corpus.scale, spec.corpus.padding)
    windows, validation = whole.divide(spec.held_out)
    model = _build(spec, whole)
    with _alone_in(folder) if first else nullcontext():
        if first:
            _write_facts(spec, folder, data, windows, validation, precision)
            remove_abandoned(folder)
        accelerator.wait_for_everyone()
        if not (folder / MODEL).exists():
            if console is not None and (folder / CHECKPOINT).exists():
                console.print(f"continuing {printable(str(folder))}", markup=False, highlight=False)
            if log_to is not None:
                accelerator.init_trackers(spec.name)
            with _told(console, folder, accelerator) as on_row:
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
            accelerator.end_training()
            if first:
                _write_losses(folder, losses)
                write_manifest(folder, [LOSSES])
                with new_folder(folder / MODEL) as partial:
                    model.save_pretrained(partial)
            accelerator.wait_for_everyone()
    model = type(model).from_pretrained(folder / MODEL)
    check_manifest(folder)
    return PretrainedRun(folder, pd.read_csv(folder / LOSSES), model, windows, validation)


def _build(spec: PretrainingSpec, corpus: Corpus) -> Any:
    """The model with its first weights."""
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
        raise PretrainingError(f"model {entry.name!r} cannot fill in masked samples ({error}); try tinymyo") from None


def _shards(spec: PretrainingSpec, data: str | Path | None, out: Path, console: Console | None) -> list[Path]:
    """The folders of the shards, which are written first where the spec names data sets."""
    if spec.corpus.folders:
        places = [Path(folder).expanduser() for folder in spec.corpus.folders]
        if data is None and not all(place.is_absolute() for place in places):
            raise PretrainingError(f"{spec.name} reads shards in {', '.join(spec.corpus.folders)}; give --data")
        return [Path(data or ".").expanduser().absolute() / place for place in places]
    folder = out / "corpora" / corpus_digest(spec.corpus.parts, data)
    with console.status(f"writing windows of {', '.join(spec.corpus.parts)}") if console else nullcontext():
        write_corpus(spec.corpus.parts, data, folder)
    return [folder]


def _in_turn(accelerator: Accelerator, work: Callable[[], Any]) -> Any:
    """What the first process finds, told to all; an error of its is an error in all."""
    found: list[Any] = [None]
    if accelerator.is_main_process:
        try:
            found = [work()]
        except EmgLensError as error:
            found = [error]
    if accelerator.num_processes > 1:
        broadcast_object_list(found)
    if isinstance(found[0], Exception):
        raise found[0]
    return found[0]


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PretrainingError(f"cannot write to {str(folder)!r}: {error.strerror}; give another --out") from None
    with one_at_a_time(folder / ".lock", instead="wait until it is done, or give another --out"):
        yield


def _write_facts(
    spec: PretrainingSpec,
    folder: Path,
    data: str | Path | None,
    windows: Corpus,
    validation: Corpus,
    precision: Precision,
) -> None:
    """Say what the run is of; refuse a folder of other data or of another precision."""
    told = {"windows": windows.fingerprint(), "validation": validation.fingerprint()}
    counts = {"n_windows": len(windows), "n_validation": len(validation), "held_out": list(validation.subjects)}
    facts = {"folder": None if data is None else str(data), "precision": precision, **told, **counts}
    path = folder / RECORD
    try:
        if path.exists():
            check_seal(path)
            known = json.loads(path.read_text(encoding="utf-8"))
            if any(known.get(name) != value for name, value in told.items()):
                raise PretrainingError(f"{folder} was made with other data; give another --out, or delete that folder")
            if known.get("precision", precision) != precision:
                raise PretrainingError(
                    f"{folder} was made with --precision {known['precision']}, not {precision}; give another --out"
                )
            return
        write_sealed(folder / "spec.yaml", f"# {BLANK}\n{spec.to_yaml()}")
        for name, content in (("environment.json", environment()), (RECORD, facts)):
            write_sealed(folder / name, json.dumps({"checksum": BLANK, **content}, indent=1))
    except DamagedFileError as error:
        raise PretrainingError(f"{error}; delete {folder} and run again") from None
    except OSError as error:
        raise PretrainingError(f"cannot write to {str(folder)!r}: {error.strerror}; give another --out") from None


@contextmanager
def _told(
    console: Console | None, folder: Path, accelerator: Accelerator
) -> Iterator[Callable[[pd.DataFrame, int], None]]:
    """What writes each row of losses to the table, the bar and the tracker."""
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f} %"))
    shown = console or Console(quiet=True)
    with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=shown, transient=True) as progress:
        bar, due = progress.add_task("pre-training", total=None), 0.0

        def on_row(losses: pd.DataFrame, n_steps: int) -> None:
            row: dict[str, float] = losses.iloc[-1].dropna().to_dict()  # pyright: ignore[reportAssignmentType]
            what = f"masked loss {row['train_masked']:.4f}, {row['windows_per_s']:.0f} windows/s"
            progress.update(bar, completed=int(row["step"]), total=n_steps, description=what)
            nonlocal due
            if time.monotonic() >= due:  # a table that is safe on a disk takes its time
                _write_losses(folder, losses)
                due = time.monotonic() + TABLE_SECONDS
            if accelerator.trackers:
                accelerator.log(row, step=int(row["step"]))

        yield on_row


def _write_losses(folder: Path, losses: pd.DataFrame) -> None:
    with replacing(folder / LOSSES) as partial:
        losses.to_csv(partial, index=False)
