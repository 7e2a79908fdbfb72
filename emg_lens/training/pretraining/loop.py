"""Pre-training an encoder to fill in masked tokens: one process or many, stopped and continued to the same losses.

`accelerate` gives device, precision and processes. What each step reads, masks and drops out is a function of the
recipe's seed and of the place in the corpus, never of who computes it or of what was computed before, so that a step
can be taken up anywhere. Facts: docs/pretraining.md §10.
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
from emg_lens.training.pretraining.masking import n_patches, reconstruction_losses, total_loss
from emg_lens.training.pretraining.recipe import PretrainingRecipe
from emg_lens.training.pretraining.window_batches import Stretch, WindowBatch, WindowBatches, read_batches
from emg_lens.validation import checked

COLUMNS = (
    "step", "epoch", "lr", "train_masked", "train_visible", "validation_masked", "validation_visible", "windows_per_s",
)  # fmt: skip
"""Of the table of losses."""
MOMENTS = ("exp_avg", "exp_avg_sq", "step")
"""What AdamW remembers of a parameter, as torch names it."""
LOOKED_AT = 64
"""Windows, from all over a corpus, of which one that changes is enough."""
DROPOUT = 2
"""Stream of the random numbers that dropout draws; the masks have the first two."""


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
    """Pre-train `model` in place, on this process or, where `accelerate` started several, on all of them together.

    Losses are means over windows, each window counting its masked (visible) samples alike. The result is a function of
    the starting weights, the windows and the recipe, on one machine, with one number of processes. With another number
    of processes it is the same up to rounding, if nothing drops out.

    Args:
        model: A model whose tokens are patches of channels, and which gives `[window, channel, time]` for
            `model(x, masked=mask)`. It is left in evaluation mode.
        windows: What it learns from.
        recipe: How.
        validation: What its loss is told of after each epoch, with the same masks every time.
        checkpoint: File in which the state is saved every few seconds and at the end; the same call continues from it,
            in the middle of an epoch too. Where several processes run, the first one reads and writes it.
        log_steps: Steps between two rows of the table; the last step of an epoch has one, too. States are saved there.
        workers: Processes that read ahead, for each process that computes; 0: none.
        accelerator: Device, precision and processes; default what `accelerate` finds.
        on_row: Called in the first process after each new row with the table so far and the number of all steps.
        stop_after: Steps after which to stop, with the state saved, and leave the rest to another call.

    Returns:
        One row every `log_steps`: step, epoch (finished ones, with the part of the running one), lr, masked and visible
        loss of training (mean of the steps since the last row) and of validation (NaN but at the end of an epoch), and
        windows a second.

    Raises:
        FitError: Fewer windows than a step takes, windows that do not fit the model or never change, a batch that
            cannot be shared out evenly, or a loss that became NaN or infinite.
        DataError: Windows that cannot be read, or hold NaN, infinity or values beyond `shards.LARGEST_SAMPLE`.
        CheckpointError: The file is damaged, of another pre-training, or cannot be written.
    """
    here: Any = accelerator or Accelerator()
    _check(model, windows, validation, recipe, here)
    file = None
    if checkpoint is not None and here.is_main_process:
        identity = _identity(model, windows, validation, recipe, here, log_steps)
        file = CheckpointFile(checkpoint, "pre-training", identity)
    model.to(here.device)
    run = _Run(model, windows, validation, recipe, here, workers)
    with seeded(recipe.seed, here.device):
        _continue(run, file, checkpoint is not None)
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
    """All that a pre-training changes, and what it needs at every step.

    Attributes:
        done: Steps that were made.
        rows: Of the table of losses.
    """

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
        self.share = self.recipe.batch_size // self.accelerator.num_processes
        named = [p for p in self.model.named_parameters() if p[1].requires_grad]
        self.parameters = dict(named)
        recipe = self.recipe
        self.optimizer: Any = torch.optim.AdamW(
            self.parameters.values(), lr=recipe.lr, betas=recipe.betas, weight_decay=recipe.weight_decay
        )
        self.forward: Any = self.model

    def prepare(self) -> None:
        """Hand model and optimizer to `accelerate`; their state must be there by then."""
        self.forward, self.optimizer = self.accelerator.prepare(self.model, self.optimizer)

    def stretches(self, step: int) -> list[Stretch]:
        """What this process runs in a step (of an epoch), micro-batch by micro-batch."""
        first = step * self.recipe.batch_size + self.accelerator.process_index * self.share
        starts = range(first, first + self.share, self.recipe.micro_batch)
        return [(start, min(start + self.recipe.micro_batch, first + self.share)) for start in starts]

    def losses(self, batch: WindowBatch) -> tuple[Float[Tensor, " window"], Float[Tensor, " window"]]:
        """Masked and visible loss of each window."""
        batch = batch.to(self.accelerator.device)
        with self.accelerator.autocast():
            found = self.forward(batch.x, masked=batch.masked)
        return reconstruction_losses(found, batch.x, batch.masked, batch.real, self.patches, self.recipe.beta)

    def table(self) -> pd.DataFrame:
        """The losses so far."""
        return pd.DataFrame(self.rows, columns=list(COLUMNS)).astype({"step": int})

    def tensors(self) -> dict[str, Tensor]:
        """The state as a checkpoint keeps it."""
        found = {"rows": torch.tensor(self.rows, dtype=torch.float64).view(-1, len(COLUMNS))}
        found["done"] = torch.tensor(self.done)
        state = getattr(self.optimizer, "optimizer", self.optimizer).state
        for name, parameter in self.parameters.items():
            moments = {kind: state[parameter][kind] for kind in MOMENTS} if parameter in state else {}
            found |= {f"weight.{name}": parameter.detach()} | {f"{kind}.{name}": v for kind, v in moments.items()}
        return {name: tensor.contiguous() for name, tensor in found.items()}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Take the state that a checkpoint holds, before `prepare`."""
        self.done, self.rows = int(tensors["done"]), [tuple(row) for row in tensors["rows"].tolist()]
        for name, parameter in self.parameters.items():
            parameter.data.copy_(tensors[f"weight.{name}"])
            if self.done:
                moments = {kind: tensors[f"{kind}.{name}"].clone() for kind in MOMENTS}
                moments |= {kind: moments[kind].to(parameter.device) for kind in MOMENTS[:2]}
                self.optimizer.state[parameter] = moments


def _rest_of_epoch(run: _Run, log_steps: int, last: int) -> Iterator[None]:
    """Make the steps that are left of an epoch, and stop whenever a new row is in the table."""
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
        total = _summed(run, sums).cpu().numpy()
        masked, visible = (total / (n_steps * run.recipe.batch_size)).tolist()
        _check_losses(masked, visible, run)
        speed = n_steps * run.recipe.batch_size / (time.perf_counter() - started)
        told = _validated(run) if ends and run.validation is not None else (math.nan, math.nan)
        run.rows.append((run.done, run.done / run.steps, lr, masked, visible, *told, speed))
        yield
        sums, n_steps, started = torch.zeros_like(sums), 0, time.perf_counter()


def _accumulate(run: _Run, batch: WindowBatch, micro: int, last: bool) -> Float[Tensor, "2"]:
    """Add the gradient of a micro-batch; the sums of its windows' losses."""
    recipe, accelerator = run.recipe, run.accelerator
    stream = (recipe.seed, DROPOUT, run.done, accelerator.process_index, micro)
    torch.manual_seed(int(np.random.SeedSequence(stream).generate_state(1, np.uint32)[0]))
    # Gradients of processes are averaged once, with the last micro-batch: of sums over shares, so that it is the mean
    # over the whole batch.
    with nullcontext() if last else accelerator.no_sync(run.forward):
        masked, visible = run.losses(batch)
        accelerator.backward(total_loss(masked, visible, recipe.visible_weight).sum() / run.share)
    return torch.stack([masked.detach().double().sum(), visible.detach().double().sum()])


@torch.no_grad()
def _validated(run: _Run) -> tuple[float, float]:
    """Masked and visible loss of the validation windows."""
    assert run.validation is not None
    n, size, processes = len(run.validation), run.recipe.micro_batch, run.accelerator.num_processes
    mine = range(run.accelerator.process_index * size, n, processes * size)
    stretches = [(first, min(first + size, n)) for first in mine]
    sums = torch.zeros(2, device=run.accelerator.device, dtype=torch.float64)
    run.model.eval()
    forward, run.forward = run.forward, run.model  # processes have different numbers of batches: no meeting inside
    for batch in read_batches(run.batches(run.validation, epoch=None), stretches, run.workers):
        sums += torch.stack([losses.double().sum() for losses in run.losses(batch)])
    run.forward = forward
    masked, visible = (_summed(run, sums) / n).tolist()
    return masked, visible


def _summed(run: _Run, sums: Tensor) -> Tensor:
    """The sums of all processes."""
    found: Any = run.accelerator.reduce(sums, "sum")
    return found


def _continue(run: _Run, file: CheckpointFile | None, expected: bool) -> None:
    """Take the state of the file, which the first process hands on to the others."""
    if file is not None and not file.tensors:
        file.save(run.tensors(), {})  # so that a path that cannot be written to is known
    found = [None if file is None else file.tensors]
    if expected and run.accelerator.num_processes > 1:
        broadcast_object_list(found)
    if found[0]:
        if file is not None:
            with file.taking():
                run.restore(found[0])
            file.tensors = {}
        else:
            run.restore(found[0])


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
                f"{name} are [{corpus.n_channels} channels, {corpus.n_samples} samples], the model takes"
                f" [{cfg.n_channels}, {cfg.n_samples}]; build it with modalities={dict(corpus.modalities)} and"
                f" n_samples={corpus.n_samples}"
            )
    if len(windows) < recipe.batch_size:
        raise FitError(
            f"{len(windows)} windows are fewer than a step takes (batch_size={recipe.batch_size}); give a smaller one"
        )
    if recipe.batch_size % accelerator.num_processes:
        raise FitError(
            f"batch_size={recipe.batch_size} cannot be shared by {accelerator.num_processes} processes evenly; give a"
            " multiple of their number"
        )
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise FitError("no parameter of the model requires a gradient; unfreeze what is to be trained")
    for corpus in (windows, *([] if validation is None else [validation])):
        _check_that_something_changes(corpus)


def _check_that_something_changes(corpus: Corpus) -> None:
    """Read windows, some from all over the corpus first, until one is not constant: the first, as a rule."""
    some = np.unique(np.linspace(0, len(corpus) - 1, LOOKED_AT).astype(int))
    parts = [*np.split(some, len(some)), *np.array_split(np.arange(len(corpus)), -(-len(corpus) // LOOKED_AT))]
    if not any(np.ptp(corpus.read(part), axis=2).any() for part in parts):
        raise FitError(
            f"no channel changes in any of {len(corpus)} windows (the first one is of {corpus.file_of(0)}), so that"
            " there is nothing to fill in"
        )


def _check_losses(masked: float, visible: float, run: _Run) -> None:
    if not (math.isfinite(masked) and math.isfinite(visible)):
        raise FitError(f"the loss became {masked} in step {run.done}; try a lower lr than {run.recipe.lr:g}")


def _identity(
    model: torch.nn.Module,
    windows: Corpus,
    validation: Corpus | None,
    recipe: PretrainingRecipe,
    accelerator: Accelerator,
    log_steps: int,
) -> dict[str, str]:
    """What makes a pre-training this one, as short texts; how many processes run it does not."""
    corpora = {"windows": windows, "validation": validation}
    told = {name: "none" if one is None else one.fingerprint() for name, one in corpora.items()}
    # How much runs at once is a matter of memory.
    how = {"recipe": recipe.model_dump_json(exclude={"micro_batch"}), "precision": accelerator.mixed_precision}
    return {**model_identity(model), "device": accelerator.device.type, **told, **how, "log_steps": str(log_steps)}
