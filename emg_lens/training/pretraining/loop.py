"""Pre-train an encoder to reconstruct masked tokens, in one or several processes; a resumed run gives the same losses.

`accelerate` provides device, precision and processes. The windows, masks and dropout of a step depend only on the
recipe's seed and on the position in the epoch, so training can resume at any step. Details: docs/pretraining.md §10.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from jaxtyping import Float
from pydantic import NonNegativeInt, PositiveInt
from torch import Tensor

from emg_lens.data.corpus import Corpus
from emg_lens.io.checkpoint import CheckpointFile
from emg_lens.lens.identity import model_identity
from emg_lens.training.fitting import seeded
from emg_lens.training.objectives import FitError
from emg_lens.training.optimizer import MOMENTS
from emg_lens.training.pretraining.masking import n_patches, reconstruction_losses, total_loss
from emg_lens.training.pretraining.processes import errors_of_other_processes
from emg_lens.training.pretraining.recipe import PretrainingRecipe
from emg_lens.training.pretraining.window_batches import Stretch, WindowBatch, WindowBatches, read_batches
from emg_lens.validation import checked

COLUMNS = (
    "step", "epoch", "lr", "train_masked", "train_visible", "validation_masked", "validation_visible", "windows_per_s",
)  # fmt: skip
"""Columns of the table of losses."""
N_PROBED = 64
"""Windows, spread over a corpus, that are read first to find one that is not constant."""
DROPOUT = 2
"""Stream of random numbers for dropout; the masks use streams 0 and 1."""


@checked
def pretrain(
    model: torch.nn.Module,
    windows: Corpus,
    recipe: PretrainingRecipe,
    *,
    validation: Corpus | None = None,
    checkpoint: str | Path | None = None,
    log_steps: PositiveInt = 10,
    workers: NonNegativeInt = 0,
    accelerator: Accelerator | None = None,
    on_row: Callable[[pd.DataFrame, int], None] | None = None,
    stop_after: NonNegativeInt | None = None,
) -> pd.DataFrame:
    """Pre-train `model` in place, in this process or in all processes that `accelerate` started.

    A loss is the mean over windows; within a window, all masked (or visible) samples have the same weight. The result
    depends on the initial weights, the windows and the recipe. On one machine, it is the same up to rounding for any
    number of processes if the model has no dropout.

    Args:
        model: A model that has patches of channels as tokens and returns `[window, channel, time]` for
            `model(x, masked=mask)`. It is in evaluation mode afterwards.
        windows: Windows for training.
        recipe: Settings of the training.
        validation: Windows for the validation loss after each epoch, always with the same masks.
        checkpoint: File for the state, which is saved every few seconds and at the end. The same call resumes from it,
            also within an epoch. With several processes, the first one reads and writes it.
        log_steps: Steps between two rows of the table. The last step of an epoch also has a row. The state is saved at
            a row.
        workers: Processes that read ahead, for each process that computes; 0 = none.
        accelerator: Device, precision and processes; default: what `accelerate` chooses.
        on_row: Called in the first process after each new row, with the table so far and the number of all steps.
        stop_after: Step after which to save the state and stop; another call resumes.

    Returns:
        One row every `log_steps` steps: step, epoch (with a fraction), lr, masked and visible loss of training (mean
        since the last row) and of validation (NaN except at the end of an epoch), and windows per second.

    Raises:
        FitError: Too few windows for one step, windows that do not fit the model or are constant, a batch that cannot
            be divided evenly among the processes, a loss that became NaN or infinite, or the end of another process.
        DataError: Windows that cannot be read, or contain NaN, infinity or values above `shards.LARGEST_SAMPLE`.
        CheckpointError: The file is damaged, belongs to another pre-training, or cannot be written.
    """
    here: Any = accelerator or Accelerator()
    _check(model, windows, validation, recipe, here)
    file = None
    if checkpoint is not None and here.is_main_process:
        identity = {  # does not depend on the number of processes or on `micro_batch`
            **model_identity(model),
            "device": here.device.type,
            "windows": windows.fingerprint(),
            "validation": "none" if validation is None else validation.fingerprint(),
            "recipe": recipe.model_dump_json(exclude={"micro_batch"}),
            "precision": here.mixed_precision,
            "log_steps": str(log_steps),
        }
        file = CheckpointFile(checkpoint, "pre-training", identity)
    model.to(here.device)
    run = _Run(model, windows, validation, recipe, here, workers)
    with errors_of_other_processes(), seeded(recipe.seed, here.device):
        _resume(run, file, checkpoint is not None)
        run.prepare()
        last = recipe.epochs * run.steps if stop_after is None else min(stop_after, recipe.epochs * run.steps)
        while run.done < last:
            for _ in _rest_of_epoch(run, log_steps, last):
                if on_row is not None and here.is_main_process:
                    on_row(run.table(), recipe.epochs * run.steps)
                if file is not None and file.is_due():
                    file.save(run.tensors(), {})
        if file is not None:
            file.save(run.tensors(), {})
        here.wait_for_everyone()
    model.eval()
    return run.table()


@dataclass
class _Run:
    """The state of a pre-training, and its settings."""

    model: Any
    windows: Corpus
    validation: Corpus | None
    recipe: PretrainingRecipe
    accelerator: Accelerator
    workers: int
    done: int = 0
    rows: list[tuple[float, ...]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.patches = n_patches(self.model)
        self.steps = len(self.windows) // self.recipe.batch_size
        self.batches = partial(WindowBatches, recipe=self.recipe, patches=self.patches)
        self.per_process = self.recipe.batch_size // self.accelerator.num_processes
        self.parameters = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        recipe = self.recipe
        self.optimizer: Any = torch.optim.AdamW(
            self.parameters.values(), lr=recipe.lr, betas=recipe.betas, weight_decay=recipe.weight_decay
        )
        self.forward: Any = self.model

    def prepare(self) -> None:
        """Pass model and optimizer to `accelerate`, after their state was restored."""
        self.forward, self.optimizer = self.accelerator.prepare(self.model, self.optimizer)

    def stretches(self, step: int) -> list[Stretch]:
        """Return the micro-batches of this process in a step of an epoch."""
        first = step * self.recipe.batch_size + self.accelerator.process_index * self.per_process
        starts = range(first, first + self.per_process, self.recipe.micro_batch)
        return [(start, min(start + self.recipe.micro_batch, first + self.per_process)) for start in starts]

    def losses(self, batch: WindowBatch) -> tuple[Float[Tensor, " window"], Float[Tensor, " window"]]:
        """Return the masked and the visible loss of each window."""
        batch = batch.to(self.accelerator.device)
        with self.accelerator.autocast():
            output = self.forward(batch.x, masked=batch.masked)
        return reconstruction_losses(output, batch.x, batch.masked, batch.real, self.patches, self.recipe.beta)

    def table(self) -> pd.DataFrame:
        """Return the losses so far."""
        return pd.DataFrame(self.rows, columns=list(COLUMNS)).astype({"step": int})

    def tensors(self) -> dict[str, Tensor]:
        """Return the state as tensors for a checkpoint."""
        tensors = {"rows": torch.tensor(self.rows, dtype=torch.float64).view(-1, len(COLUMNS))}
        tensors["done"] = torch.tensor(self.done)
        state = getattr(self.optimizer, "optimizer", self.optimizer).state
        for name, parameter in self.parameters.items():
            moments = {kind: state[parameter][kind] for kind in MOMENTS} if parameter in state else {}
            tensors |= {f"weight.{name}": parameter.detach()} | {f"{kind}.{name}": v for kind, v in moments.items()}
        return {name: tensor.contiguous() for name, tensor in tensors.items()}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore the state of a checkpoint, before `prepare`."""
        self.done, self.rows = int(tensors["done"]), [tuple(row) for row in tensors["rows"].tolist()]
        for name, parameter in self.parameters.items():
            parameter.data.copy_(tensors[f"weight.{name}"])
            if self.done:
                moments = {kind: tensors[f"{kind}.{name}"].clone() for kind in MOMENTS}
                moments |= {kind: moments[kind].to(parameter.device) for kind in MOMENTS[:2]}
                self.optimizer.state[parameter] = moments


def _rest_of_epoch(run: _Run, log_steps: int, last: int) -> Iterator[None]:
    """Do the remaining steps of an epoch, and yield after each new row of the table."""
    epoch, first = divmod(run.done, run.steps)
    every = [run.stretches(step) for step in range(first, min(run.steps, first + last - run.done))]
    batches = read_batches(run.batches(run.windows, epoch=epoch), [one for some in every for one in some], run.workers)
    sums, n_steps, started = torch.zeros(2, device=run.accelerator.device, dtype=torch.float64), 0, time.perf_counter()
    for step, stretches in enumerate(every, first):
        lr = run.recipe.lr_at(epoch, step, run.steps)
        run.forward.train()
        for group in run.optimizer.param_groups:
            group["lr"] = lr
        for micro in range(len(stretches)):
            sums += _accumulate(run, next(batches), micro, last=micro == len(stretches) - 1)
        if run.recipe.clip_norm is not None:
            run.accelerator.clip_grad_norm_(run.forward.parameters(), run.recipe.clip_norm)
        run.optimizer.step()
        run.optimizer.zero_grad()
        run.done += 1
        n_steps += 1
        ends = step + 1 == run.steps
        if not ends and (step + 1) % log_steps and run.done < last:
            continue
        total = _summed(run, sums)
        masked, visible = (total / (n_steps * run.recipe.batch_size)).tolist()
        if not (math.isfinite(masked) and math.isfinite(visible)):
            raise FitError(f"the loss became {masked} in step {run.done}; try a lower lr than {run.recipe.lr:g}")
        speed = n_steps * run.recipe.batch_size / (time.perf_counter() - started)
        held_out = _validation_losses(run) if ends and run.validation is not None else (math.nan, math.nan)
        run.rows.append((run.done, run.done / run.steps, lr, masked, visible, *held_out, speed))
        yield
        sums, n_steps, started = torch.zeros_like(sums), 0, time.perf_counter()


def _accumulate(run: _Run, batch: WindowBatch, micro: int, last: bool) -> Float[Tensor, "2"]:
    """Add the gradient of a micro-batch, and return the sums of its masked and visible losses."""
    recipe, accelerator = run.recipe, run.accelerator
    stream = (recipe.seed, DROPOUT, run.done, accelerator.process_index, micro)
    torch.manual_seed(int(np.random.SeedSequence(stream).generate_state(1, np.uint32)[0]))
    # The gradients of all processes are averaged once, with the last micro-batch. Each is a sum divided by the windows
    # of one process, so the average is the mean over the whole batch.
    with nullcontext() if last else accelerator.no_sync(run.forward):
        masked, visible = run.losses(batch)
        accelerator.backward(total_loss(masked, visible, recipe.visible_weight).sum() / run.per_process)
    return torch.stack([masked.detach().double().sum(), visible.detach().double().sum()])


@torch.no_grad()
def _validation_losses(run: _Run) -> tuple[float, float]:
    """Return the masked and the visible loss of the validation windows."""
    assert run.validation is not None
    n, size, processes = len(run.validation), run.recipe.micro_batch, run.accelerator.num_processes
    mine = range(run.accelerator.process_index * size, n, processes * size)
    stretches = [(first, min(first + size, n)) for first in mine]
    sums = torch.zeros(2, device=run.accelerator.device, dtype=torch.float64)
    run.model.eval()
    # Processes have different numbers of batches, so they must not synchronise.
    forward, run.forward = run.forward, run.model
    for batch in read_batches(run.batches(run.validation, epoch=None), stretches, run.workers):
        sums += torch.stack([losses.double().sum() for losses in run.losses(batch)])
    run.forward = forward
    masked, visible = (_summed(run, sums) / n).tolist()
    return masked, visible


def _summed(run: _Run, sums: Tensor) -> Tensor:
    """Add up the sums of all processes."""
    return run.accelerator.reduce(sums, "sum").cpu()  # pyright: ignore[reportAttributeAccessIssue]


def _resume(run: _Run, file: CheckpointFile | None, expected: bool) -> None:
    """Restore the state of the file. The first process sends it to the others."""
    if file is not None and not file.tensors:
        file.save(run.tensors(), {})  # a path that cannot be written to is an error now, not later
    state = [None if file is None else file.tensors]
    if expected and run.accelerator.num_processes > 1:
        broadcast_object_list(state)
    if state[0]:
        with file.reading_state() if file is not None else nullcontext():
            run.restore(state[0])
        if file is not None:
            file.tensors = {}


def _check(
    model: torch.nn.Module,
    windows: Corpus,
    validation: Corpus | None,
    recipe: PretrainingRecipe,
    accelerator: Accelerator,
) -> None:
    n_patches(model)
    cfg: Any = model.cfg
    for name, corpus in (("windows", windows), ("validation", validation)):
        if corpus is not None and (corpus.n_channels, corpus.n_samples) != (cfg.n_channels, cfg.n_samples):
            raise FitError(
                f"{name} have {corpus.n_channels} channels and {corpus.n_samples} samples, but the model expects"
                f" {cfg.n_channels} and {cfg.n_samples}; build it with modalities={dict(corpus.modalities)} and"
                f" n_samples={corpus.n_samples}"
            )
    if len(windows) < recipe.batch_size:
        raise FitError(
            f"{len(windows)} windows are fewer than one step needs (batch_size={recipe.batch_size}); give a smaller"
            " batch_size"
        )
    if recipe.batch_size % accelerator.num_processes:
        raise FitError(
            f"batch_size={recipe.batch_size} is not a multiple of the number of processes, {accelerator.num_processes};"
            " give a multiple"
        )
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise FitError("no parameter of the model requires a gradient; unfreeze the parameters to be trained")
    for corpus in (windows, *([] if validation is None else [validation])):
        _check_not_constant(corpus)


def _check_not_constant(corpus: Corpus) -> None:
    """Read windows until one is not constant, usually the first."""
    some = np.unique(np.linspace(0, len(corpus) - 1, N_PROBED).astype(int))
    parts = [*np.split(some, len(some)), *np.array_split(np.arange(len(corpus)), -(-len(corpus) // N_PROBED))]
    if not any(np.ptp(corpus.read(part), axis=2).any() for part in parts):
        raise FitError(
            f"all {len(corpus)} windows are constant (the first is from {corpus.file_of(0)}), so there is nothing to"
            " reconstruct; check the recordings"
        )
