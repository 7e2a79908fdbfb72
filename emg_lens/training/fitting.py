"""Fitting one model: AdamW on the loss of an objective, the same numbers every time.

`emg_lens.training.cohort` fits many models at once, by the same recipe.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float
from pydantic import NonNegativeInt
from torch import Tensor, nn

from emg_lens.io.checkpoint import CheckpointFile, content, digest
from emg_lens.lens.identity import model_identity
from emg_lens.scoring.metrics import measure
from emg_lens.training.objectives import FitError, Objective, anneal_weight, as_objective
from emg_lens.training.optimizer import VectorAdamW
from emg_lens.training.packing import AUXILIARY, Group, packed
from emg_lens.training.recipe import TrainingRecipe
from emg_lens.validation import checked

HELD_OUT_POINTS = 10
"""Epochs of a fit, at most and spread evenly, after which the held-out trials are looked at; the last is one."""

VALIDATION_LOSS = "validation_loss"
"""The column that tells the best epoch."""

Pair = tuple[Tensor, Tensor]
"""Trials `[trial, channel, time]` and their targets."""


@checked
def fit(
    model: Any,
    x: Float[Tensor, "trial channel time"],
    targets: Tensor,
    recipe: TrainingRecipe,
    *,
    objective: str | Objective = "classification",
    held_out: Pair | None = None,
    validation: Pair | None = None,
    on_epoch: Callable[[int], None] | None = None,
    checkpoint: str | Path | None = None,
    stop_after: NonNegativeInt | None = None,
) -> pd.DataFrame:
    """Fit `model` in place.

    The result is a function of the starting weights, the trials and the recipe (on one machine, with one number of
    torch threads). torch's global random state is left as it was found.

    Args:
        model: Any registered model; its weights are the starting point. It is left in evaluation mode, without
            gradients.
        x: Trials, standardised.
        targets: What the objective wants: class index of each trial, or z-scored values `[trial, target]`.
        recipe: How to fit. A model with one head has nothing to anneal: λ is 1 throughout.
        objective: What for: a name of the registry, or an objective.
        held_out: Trials and targets to look at in some epochs (`HELD_OUT_POINTS`), for the curve alone: they change
            neither weights nor random numbers.
        validation: Trials and targets to look at after every epoch: the weights of the epoch with the lowest loss on
            them are what remains, and with `recipe.patience` the fit ends early. They must be none of those tested.
        on_epoch: Called after every epoch with the number of finished epochs (progress bars).
        checkpoint: File in which the state of the fit is saved every few seconds, between epochs, and at the end. The
            same call, with a model of the same starting weights, continues from it and gives the weights of an
            uninterrupted fit, to the bit. The file stays; delete it when you are done.
        stop_after: Finished epochs after which to stop, with the file saved, and leave the rest to another call.

    Returns:
        One row an epoch: epoch, loss, the objective's first metric (of the training trials in training mode),
        cls_weight (λ), lr (of its last step); with `held_out` also held_out_loss and held_out_{metric}, in evaluation
        mode and at λ = 1, NaN in epochs without a look; with `validation` the same of these, in every epoch. Its
        `attrs["seconds"]` is the time all epochs took, those of earlier calls too.

    Raises:
        FitError: Trials or targets that do not fit the model and the objective, a recipe that needs validation trials
            or to know more of the model than it says, or the loss became NaN or infinite.
        UnknownNameError: No such objective.
        CheckpointError: The file is damaged, of another fit (it says what differs), or cannot be written.
    """
    objective = as_objective(objective)
    objective.check(model, x, targets)
    if held_out is not None:
        objective.check(model, *held_out, whose="held-out: ")
    if validation is not None:
        objective.check(model, *validation, whose="validation: ")
    elif recipe.patience is not None:
        raise FitError(f"patience={recipe.patience} needs trials to look at: fit(..., validation=(x, targets))")
    file = None
    if checkpoint is not None:
        identity = _identity(model, objective, (x, targets), held_out, validation, recipe)
        file = CheckpointFile(checkpoint, "fit", identity)
    device = next(model.parameters()).device
    x, targets = x.to(device), targets.to(device)
    model.train()
    with seeded(recipe.seed, device), packed(model, recipe) as vectors:
        if not vectors:
            raise FitError("no parameter of the model requires a gradient; unfreeze what is to be fitted")
        names = columns(objective, held_out is not None, validation is not None)
        state = _State(vectors, recipe.seed, names)
        if file is not None and file.tensors:
            with file.taking():
                state.restore(file.tensors)
            file.tensors.clear()
        elif file is not None:
            file.save(state.tensors(), {})  # so that a path that cannot be written to is known
        for epoch in range(len(state.rows), recipe.epochs if stop_after is None else min(stop_after, recipe.epochs)):
            if state.is_patient_enough(recipe):
                break
            started = time.perf_counter()
            row = _run_epoch(model, objective, x, targets, recipe, state)
            row += held_out_columns(model, objective, held_out, recipe, epoch)
            if validation is not None:
                row += look(model, objective, validation, recipe)
            state.rows.append(row)
            state.keep_best()
            state.seconds += time.perf_counter() - started
            if file is not None and file.is_due():
                file.save(state.tensors(), {})
            if on_epoch is not None:
                on_epoch(epoch + 1)
        if file is not None:
            file.save(state.tensors(), {})
        state.take_best()
    model.eval()
    history = pd.DataFrame(state.rows, columns=state.columns)
    history.attrs["seconds"] = state.seconds
    return history


def _run_epoch(
    model: Any, objective: Objective, x: Tensor, targets: Tensor, recipe: TrainingRecipe, state: "_State"
) -> tuple[float, ...]:
    epoch, lr = len(state.rows), 0.0
    weight = output_weight(model, recipe, epoch)
    learning = [group for group in state.vectors if group.kind != AUXILIARY or weight < 1]  # what is read
    order, losses, outputs = torch.randperm(len(x), generator=state.order).to(x.device), [], []
    batches = order.split(recipe.batch_size)
    for step, batch in enumerate(batches):
        lr = recipe.lr * recipe.lr_factor(epoch, step, len(batches))
        found, out = objective.batch_losses(model, x[batch], targets[batch], weight, recipe, state.draws)
        found.mean().backward()
        state.step(learning, lr, recipe)
        losses.append(found.detach())
        outputs.append(out.detach())
    loss, metric = summary(objective, torch.cat(losses), torch.cat(outputs), targets[order])
    check_loss(loss, epoch, recipe.lr)
    return epoch + 1, loss, metric, weight, lr


class _State:
    """All that a fit changes.

    Attributes:
        vectors: The weights, as `packed` gives them.
        optimizer: AdamW's state of each vector.
        order: What the order of trials is drawn from. (Dropout draws from torch's global generators.)
        draws: What the objective draws from.
        columns: Of the table that the fit returns.
        rows: Its rows, one an epoch.
        best: With validation trials, the vectors as they were after the best epoch so far.
        seconds: That the epochs took.
    """

    def __init__(self, vectors: dict[Group, nn.Parameter], seed: int, columns: list[str]) -> None:
        self.vectors, self.columns = vectors, columns
        self.optimizer = VectorAdamW(vectors)
        self.order, self.draws = torch.Generator().manual_seed(seed), objective_draws(seed)
        self.rows: list[tuple[float, ...]] = []
        self.seconds = 0.0
        validated = VALIDATION_LOSS in columns
        self.best = {group: vector.detach().clone() for group, vector in vectors.items()} if validated else {}

    def is_patient_enough(self, recipe: TrainingRecipe) -> bool:
        """Whether the fit ends early."""
        if recipe.patience is None or not self.rows:
            return False
        return len(self.rows) - 1 - self._best_epoch >= recipe.patience

    def keep_best(self) -> None:
        """After an epoch: keep its vectors if there are validation trials and their loss is the lowest so far."""
        if self.best and self._best_epoch == len(self.rows) - 1:
            for group, vector in self.vectors.items():
                self.best[group].copy_(vector.detach())

    def take_best(self) -> None:
        """At the end: the vectors of the best epoch, if there are validation trials."""
        for group, vector in self.best.items() if self.rows else ():
            self.vectors[group].data.copy_(vector)

    @property
    def _best_epoch(self) -> int:
        """The first epoch (from 0) of the lowest validation loss."""
        at = self.columns.index(VALIDATION_LOSS)
        return min(range(len(self.rows)), key=lambda epoch: self.rows[epoch][at])

    def step(self, learning: list[Group], lr: float, recipe: TrainingRecipe) -> None:
        """A step of AdamW on these vectors, their gradients clipped; the gradients are zero afterwards."""
        vectors: list[Tensor] = [self.vectors[group] for group in learning]
        if recipe.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(vectors, recipe.clip_norm)
        slopes = [vector.grad for vector in vectors if vector.grad is not None]
        lrs = [lr * group.lr_scale for group in learning]
        self.optimizer.step(learning, vectors, slopes, lrs, recipe.weight_decay, recipe.betas)
        for slope in slopes:
            slope.zero_()

    def tensors(self) -> dict[str, Tensor]:
        """The state as a checkpoint keeps it."""
        found = {"order": self.order.get_state(), "draws": self.draws.get_state(), "random.cpu": torch.get_rng_state()}
        found["rows"] = torch.tensor(self.rows, dtype=torch.float64).view(-1, len(self.columns))
        found["seconds"] = torch.tensor(self.seconds)
        device = self._device
        if device.type != "cpu":
            found["random.device"] = torch.get_device_module(device).get_rng_state(device)
        for group, vector in self.vectors.items():
            name, moments = group.name, self.optimizer.moments[group]
            found |= {name: vector.detach(), **{f"{name}.{kind}": value for kind, value in moments.items()}}
        return found | {f"{group.name}.best": vector for group, vector in self.best.items()}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Take the state that a checkpoint holds, and the random state of torch with it."""
        self.order.set_state(tensors["order"])
        self.draws.set_state(tensors["draws"])
        torch.set_rng_state(tensors["random.cpu"])
        self.rows = [(int(epoch), *rest) for epoch, *rest in tensors["rows"].tolist()]
        self.seconds = float(tensors["seconds"])
        device = self._device
        if device.type != "cpu":
            torch.get_device_module(device).set_rng_state(tensors["random.device"], device)
        for group, vector in self.vectors.items():
            vector.data.copy_(tensors[group.name])
            for kind, value in self.optimizer.moments[group].items():
                value.copy_(tensors[f"{group.name}.{kind}"])
        for group, vector in self.best.items():
            vector.copy_(tensors[f"{group.name}.best"])

    @property
    def _device(self) -> torch.device:
        return next(iter(self.vectors.values())).device


def _identity(
    model: Any,
    objective: Objective,
    trained: Pair,
    held_out: Pair | None,
    validation: Pair | None,
    recipe: TrainingRecipe,
) -> dict[str, str]:
    """What makes a fit this one, as short texts."""
    x, targets = trained
    trials = {"x": digest(content(x)), "targets": digest(content(targets))}
    curve = "none" if held_out is None else digest(part for tensor in held_out for part in content(tensor))
    identity = {**model_identity(model), **trials, "held_out": curve}
    if validation is not None:
        identity["validation"] = digest(part for tensor in validation for part in content(tensor))
    return {**identity, "objective": objective.identity, "recipe": recipe.model_dump_json()}


# --- shared with cohorts --------------------------------------------------------------------------------------


def columns(objective: Objective, with_held_out: bool, with_validation: bool = False) -> list[str]:
    """Columns of the table that a fit returns."""
    metric = objective.metrics[0]
    found = ["epoch", "loss", metric, "cls_weight", "lr"]
    found += ["held_out_loss", f"held_out_{metric}"] * with_held_out
    return found + [VALIDATION_LOSS, f"validation_{metric}"] * with_validation


def output_weight(model: Any, recipe: TrainingRecipe, epoch: int) -> float:
    """λ of an epoch (0-based); 1 for a model with one head."""
    return anneal_weight(epoch, recipe.anneal_epochs) if model.auxiliary_parameters else 1.0


def objective_draws(seed: int) -> torch.Generator:
    """A fresh generator for the objective, of another stream than the order of trials."""
    return torch.Generator().manual_seed(seed + 2**32)


def summary(
    objective: Objective, losses: Float[Tensor, " trial"], outputs: Tensor, targets: Tensor
) -> tuple[float, float]:
    """Mean loss, and the objective's first metric."""
    name, loss = objective.metrics[0], float(losses.cpu().double().mean())
    if not math.isfinite(loss):
        return loss, math.nan
    arrays = (t.cpu().float().numpy() if t.is_floating_point() else t.cpu().numpy() for t in (outputs, targets))
    return loss, measure([name], *arrays)[name]


def held_out_columns(
    model: Any, objective: Objective, pair: Pair | None, recipe: TrainingRecipe, epoch: int
) -> tuple[float, ...]:
    """Loss and metric of held-out trials after an epoch (0-based), NaN in those without a look; `()` without trials."""
    if pair is None:
        return ()
    if (epoch + 1) * HELD_OUT_POINTS // recipe.epochs == epoch * HELD_OUT_POINTS // recipe.epochs:
        return math.nan, math.nan
    return look(model, objective, pair, recipe)


def look(model: Any, objective: Objective, pair: Pair, recipe: TrainingRecipe) -> tuple[float, float]:
    """Loss and metric of trials in evaluation mode and at λ = 1; neither weights nor random numbers change."""
    device = next(model.parameters()).device
    x, targets = (tensor.to(device) for tensor in pair)
    draws, losses, outputs = objective_draws(recipe.seed), [], []
    model.eval()
    with torch.no_grad(), seeded(recipe.seed, device):
        for part, wanted in zip(x.split(recipe.batch_size), targets.split(recipe.batch_size), strict=True):
            found, out = objective.batch_losses(model, part, wanted, 1.0, recipe, draws)
            losses.append(found)
            outputs.append(out)
    model.train()
    return summary(objective, torch.cat(losses), torch.cat(outputs), targets)


def check_loss(loss: float, epoch: int, lr: float, whose: str = "") -> None:
    """Refuse to go on after epoch `epoch` (0-based) once the loss is not a number.

    Raises:
        FitError: It is not.
    """
    if not math.isfinite(loss):
        raise FitError(f"{whose}the training loss became {loss} in epoch {epoch + 1}; try a lower lr than {lr:g}")


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Start the random state of torch from `seed`, on the CPU and on `device`; afterwards it is as it was."""
    on_cpu = device.type == "cpu"
    with torch.random.fork_rng([] if on_cpu else [device], device_type="cuda" if on_cpu else device.type):
        (torch.default_generator.manual_seed if on_cpu else torch.manual_seed)(seed)
        yield
