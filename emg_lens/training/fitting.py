"""Fit one model: AdamW on the loss of an objective. The same call gives the same numbers.

`emg_lens.training.cohort` fits many models at once.
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

from emg_lens.data.batch import Batch
from emg_lens.io.checkpoint import CheckpointFile, digest, tensor_bytes
from emg_lens.lens.identity import model_identity
from emg_lens.scoring.metrics import METRICS, measure
from emg_lens.training.objectives import FitError, Objective, anneal_weight, as_objective, targets_of
from emg_lens.training.optimizer import VectorAdamW
from emg_lens.training.packing import AUXILIARY, Group, packed
from emg_lens.training.recipe import TrainingRecipe
from emg_lens.training.recipe_edges import check_edge_dropout, dropping_edges
from emg_lens.validation import checked

HELD_OUT_POINTS = 10
"""Largest number of epochs, spread evenly, after which held-out trials are evaluated. The last epoch is one of them."""

VALIDATION_LOSS = "validation_loss"
"""Column that decides which epoch is the best."""


@checked
def fit(
    model: Any,
    batch: Batch,
    recipe: TrainingRecipe,
    *,
    objective: str | Objective = "classification",
    held_out: Batch | None = None,
    validation: Batch | None = None,
    on_epoch: Callable[[int], None] | None = None,
    checkpoint: str | Path | None = None,
    stop_after: NonNegativeInt | None = None,
) -> pd.DataFrame:
    """Fit `model` in place.

    The result depends only on the starting weights, the trials and the recipe (on one machine, with one number of torch
    threads). torch's global random state does not change.

    Args:
        model: Any registered model. Its weights are the starting point. Afterwards it is in evaluation mode, without
            gradients.
        batch: Training trials: `Batch(x, targets)`, x standardized `[trial, channel, time]`. The objective decides what
            the targets are: class index of each trial `[trial]`, or z-scored values `[trial, target]`.
        recipe: How to fit. For a model with one head λ is 1 in all epochs.
        objective: What to fit for: the name of a registered objective, or an `Objective`.
        held_out: Trials to evaluate after some epochs (`HELD_OUT_POINTS`), for the learning curve alone. They change
            neither weights nor random numbers.
        validation: Trials to evaluate after every epoch. The model keeps the weights of the epoch with the lowest
            validation loss, and `recipe.patience` can end the fit early. Never use test trials here.
        on_epoch: Called after every epoch with the number of finished epochs (progress bars).
        checkpoint: File in which the fit saves its state every few seconds, between epochs, and at the end. The same
            call, with a model of the same starting weights, resumes from it and gives bit-identical weights. The file
            stays; delete it when you are done.
        stop_after: Number of finished epochs after which to stop and save. Another call does the rest.

    Returns:
        One row per epoch: epoch, loss, the first metric of the objective (on training trials in training mode),
        cls_weight (λ), lr (of the last step). `held_out` adds held_out_loss and held_out_{metric}, computed in
        evaluation mode at λ = 1, NaN in epochs without evaluation. `validation` adds the same two columns for every
        epoch. `attrs["seconds"]` is the time of all epochs, earlier calls included.

    Raises:
        FitError: Trials or targets do not fit the model and the objective; the recipe needs validation trials or
            declarations that the model lacks; or the loss became NaN or infinite.
        EdgeError: The edges of `recipe.edge_dropout` do not fit the model, or it never had them.
        UnknownNameError: No objective has this name.
        CheckpointError: The file is damaged, belongs to another fit, or cannot be written.

    Example:
        >>> import torch
        >>> from emg_lens import TrainingRecipe, build_model, fit
        >>> from emg_lens.data import Batch
        >>> y = torch.arange(60) % 2
        >>> x = torch.randn(60, 4, 20) + y[:, None, None]  # class 1 has larger values
        >>> model = build_model("multimodal-mlp", modalities={"emg": 4}, n_samples=20, n_classes=2)
        >>> history = fit(model, Batch(x, y), TrainingRecipe(epochs=20, lr=0.01))
        >>> history.columns.tolist()
        ['epoch', 'loss', 'accuracy', 'cls_weight', 'lr']
        >>> float(history["accuracy"].iloc[-1])
        1.0
    """
    objective = as_objective(objective)
    objective.check_recipe(recipe)
    objective.check(model, batch)
    if held_out is not None:
        objective.check(model, held_out, "held-out: ")
    if validation is not None:
        objective.check(model, validation, "validation: ")
    elif recipe.patience is not None:
        raise FitError(f"patience={recipe.patience} needs validation trials: fit(..., validation=Batch(x, targets))")
    check_edge_dropout(model, recipe)
    file = None
    if checkpoint is not None:
        file = CheckpointFile(checkpoint, "fit", _identity(model, objective, batch, held_out, validation, recipe))
    device = next(model.parameters()).device
    batch = batch.without_reference().to(device)
    model.train()
    with seeded(recipe.seed, device), packed(model, recipe) as vectors:
        if not vectors:
            raise FitError("no parameter of the model requires a gradient; unfreeze what is to be fitted")
        names = columns(objective, held_out is not None, validation is not None)
        saved = model.state_dict().keys()
        buffers = {name: buffer for name, buffer in model.named_buffers() if name in saved}
        state = _State(vectors, buffers, recipe.seed, names)
        if file is not None and file.tensors:
            with file.reading_state():
                state.restore(file.tensors)
            file.tensors.clear()
        elif file is not None:
            file.save(state.tensors(), {})  # so that an unwritable path fails before the first epoch
        for epoch in range(len(state.rows), recipe.epochs if stop_after is None else min(stop_after, recipe.epochs)):
            if state.has_ended(recipe):
                break
            started = time.perf_counter()
            with dropping_edges(model, recipe):
                row = _run_epoch(model, objective, batch, recipe, state)
            row += held_out_columns(model, objective, held_out, recipe, epoch)
            if validation is not None:
                row += evaluate(model, objective, validation, recipe)
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
    model: Any, objective: Objective, batch: Batch, recipe: TrainingRecipe, state: "_State"
) -> tuple[float, ...]:
    epoch, lr = len(state.rows), 0.0
    weight = output_weight(model, recipe, epoch)
    fitted = [group for group in state.vectors if group.kind != AUXILIARY or weight < 1]
    order, losses, outputs = torch.randperm(len(batch), generator=state.order).to(batch.x.device), [], []
    chosen = order.split(recipe.batch_size)
    for step, trials in enumerate(chosen):
        lr = recipe.lr * recipe.lr_factor(epoch, step, len(chosen))
        step_losses, step_outputs = objective.batch_losses(model, batch[trials], weight, recipe, state.objective_random)
        step_losses.mean().backward()
        state.step(fitted, lr, recipe)
        losses.append(step_losses.detach())
        outputs.append(step_outputs.detach())
    recording = None if batch.repetition_id is None else batch.repetition_id[order]
    loss, metric = summary(model, objective, torch.cat(losses), torch.cat(outputs), targets_of(batch)[order], recording)
    check_loss(loss, epoch, recipe.lr)
    return epoch + 1, loss, metric, weight, lr


class _State:
    """Everything that a fit changes."""

    def __init__(
        self, vectors: dict[Group, nn.Parameter], buffers: dict[str, Tensor], seed: int, columns: list[str]
    ) -> None:
        self.vectors, self.columns = vectors, columns
        self.buffers = buffers  # of batch normalization
        self.optimizer = VectorAdamW(vectors)
        self.order, self.objective_random = torch.Generator().manual_seed(seed), objective_generator(seed)
        self.rows: list[tuple[float, ...]] = []
        self.seconds = 0.0
        validated = VALIDATION_LOSS in columns
        self.best = {group: vector.detach().clone() for group, vector in vectors.items()} if validated else {}
        self.best_buffers = {name: buffer.clone() for name, buffer in buffers.items()} if validated else {}

    def has_ended(self, recipe: TrainingRecipe) -> bool:
        """Whether the validation loss did not fall for `patience` epochs."""
        if recipe.patience is None or not self.rows:
            return False
        return len(self.rows) - 1 - self._best_epoch >= recipe.patience

    def keep_best(self) -> None:
        """Copy the parameters after an epoch with the lowest validation loss so far."""
        if self.best and self._best_epoch == len(self.rows) - 1:
            for group, vector in self.vectors.items():
                self.best[group].copy_(vector.detach())
            for name, buffer in self.buffers.items():
                self.best_buffers[name].copy_(buffer)

    def take_best(self) -> None:
        """At the end: restore the vectors of the best epoch, if there are validation trials."""
        for group, vector in self.best.items() if self.rows else ():
            self.vectors[group].data.copy_(vector)
        for name, buffer in self.best_buffers.items() if self.rows else ():
            self.buffers[name].copy_(buffer)

    @property
    def _best_epoch(self) -> int:
        """First epoch (0-based) with the lowest validation loss."""
        at = self.columns.index(VALIDATION_LOSS)
        return min(range(len(self.rows)), key=lambda epoch: self.rows[epoch][at])

    def step(self, fitted: list[Group], lr: float, recipe: TrainingRecipe) -> None:
        """Clip the gradients of these vectors, make a step of AdamW, and set the gradients to zero."""
        vectors: list[Tensor] = [self.vectors[group] for group in fitted]
        if recipe.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(vectors, recipe.clip_norm)
        gradients = [vector.grad for vector in vectors if vector.grad is not None]
        lrs = [lr * group.lr_scale for group in fitted]
        self.optimizer.step(fitted, vectors, gradients, lrs, recipe.weight_decay, recipe.betas)
        for gradient in gradients:
            gradient.zero_()

    def tensors(self) -> dict[str, Tensor]:
        """The state as tensors for a checkpoint."""
        tensors = {"order": self.order.get_state(), "objective_random": self.objective_random.get_state()}
        tensors["rows"] = torch.tensor(self.rows, dtype=torch.float64).view(-1, len(self.columns))
        tensors |= {"random.cpu": torch.get_rng_state(), "seconds": torch.tensor(self.seconds)}
        device = self._device
        if device.type != "cpu":
            tensors["random.device"] = torch.get_device_module(device).get_rng_state(device)
        for group, vector in self.vectors.items():
            moments = self.optimizer.moments[group].items()
            tensors |= {group.name: vector.detach(), **{f"{group.name}.{kind}": value for kind, value in moments}}
        tensors |= {f"buffer.{name}": buffer for name, buffer in self.buffers.items()}
        tensors |= {f"buffer.{name}.best": buffer for name, buffer in self.best_buffers.items()}
        return tensors | {f"{group.name}.best": vector for group, vector in self.best.items()}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore the state from a checkpoint, with the random state of torch."""
        self.order.set_state(tensors["order"])
        self.objective_random.set_state(tensors["objective_random"])
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
        for name, buffer in self.buffers.items():
            buffer.copy_(tensors[f"buffer.{name}"])
        for name, buffer in self.best_buffers.items():
            buffer.copy_(tensors[f"buffer.{name}.best"])

    @property
    def _device(self) -> torch.device:
        return next(iter(self.vectors.values())).device


def _identity(
    model: Any,
    objective: Objective,
    batch: Batch,
    held_out: Batch | None,
    validation: Batch | None,
    recipe: TrainingRecipe,
) -> dict[str, str]:
    """Short texts that identify this fit in its checkpoint."""
    trials = {"x": digest(tensor_bytes(batch.x)), "targets": digest(tensor_bytes(targets_of(batch)))}
    identity = {**model_identity(model), **trials, "held_out": "none" if held_out is None else _digest(held_out)}
    if validation is not None:
        identity["validation"] = _digest(validation)
    return {**identity, "objective": objective.identity, "recipe": recipe.model_dump_json()}


def _digest(batch: Batch) -> str:
    return digest(part for tensor in (batch.x, targets_of(batch)) for part in tensor_bytes(tensor))


# --- shared with cohorts --------------------------------------------------------------------------------------


def columns(objective: Objective, with_held_out: bool, with_validation: bool = False) -> list[str]:
    """Columns of the table that a fit returns."""
    metric = objective.metrics[0]
    names = ["epoch", "loss", metric, "cls_weight", "lr"]
    names += ["held_out_loss", f"held_out_{metric}"] * with_held_out
    return names + [VALIDATION_LOSS, f"validation_{metric}"] * with_validation


def output_weight(model: Any, recipe: TrainingRecipe, epoch: int) -> float:
    """Weight λ of the CLS loss in an epoch (0-based); 1 for a model with one head."""
    return anneal_weight(epoch, recipe.anneal_epochs) if model.auxiliary_parameters else 1.0


def objective_generator(seed: int) -> torch.Generator:
    """New random generator for the objective. The order of the trials has another generator."""
    return torch.Generator().manual_seed(seed + 2**32)


def summary(
    model: Any,
    objective: Objective,
    losses: Float[Tensor, " trial"],
    outputs: Tensor,
    targets: Tensor,
    repetition_id: Tensor | None = None,
) -> tuple[float, float]:
    """Mean loss, and the first metric of the objective; windows of one recording are joined if the metric needs it."""
    name, loss = objective.metrics[0], float(losses.cpu().double().mean())
    if not math.isfinite(loss):
        return loss, math.nan
    predicted, correct = (
        t.cpu().float().numpy() if t.is_floating_point() else t.cpu().numpy() for t in (outputs, targets)
    )
    if METRICS[name].repetitions != "joined":
        return loss, measure([name], predicted, correct)[name]
    recording = None if repetition_id is None else repetition_id.cpu().numpy()
    return loss, measure([name], predicted, correct, recording, tuple(model.cfg.class_names))[name]


def held_out_columns(
    model: Any, objective: Objective, held_out: Batch | None, recipe: TrainingRecipe, epoch: int
) -> tuple[float, ...]:
    """Loss and metric of held-out trials after an epoch (0-based); NaN in epochs without evaluation."""
    if held_out is None:
        return ()
    if (epoch + 1) * HELD_OUT_POINTS // recipe.epochs == epoch * HELD_OUT_POINTS // recipe.epochs:
        return math.nan, math.nan
    return evaluate(model, objective, held_out, recipe)


def evaluate(model: Any, objective: Objective, batch: Batch, recipe: TrainingRecipe) -> tuple[float, float]:
    """Loss and metric in evaluation mode and at λ = 1. Neither weights nor random numbers change."""
    device = next(model.parameters()).device
    generator, losses, outputs = objective_generator(recipe.seed), [], []
    model.eval()
    with torch.no_grad(), seeded(recipe.seed, device):
        for part in batch.without_reference().to(device).split(recipe.batch_size):
            part_losses, part_outputs = objective.batch_losses(model, part, 1.0, recipe, generator)
            losses.append(part_losses)
            outputs.append(part_outputs)
    model.train()
    return summary(model, objective, torch.cat(losses), torch.cat(outputs), targets_of(batch), batch.repetition_id)


def check_loss(loss: float, epoch: int, lr: float, prefix: str = "") -> None:
    """Check that the training loss of an epoch (0-based) is finite."""
    if not math.isfinite(loss):
        raise FitError(f"{prefix}the training loss became {loss} in epoch {epoch + 1}; use a lower lr than {lr:g}")


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch's random state on the CPU and on `device` inside the context, and restore it on exit."""
    on_cpu = device.type == "cpu"
    with torch.random.fork_rng([] if on_cpu else [device], device_type="cuda" if on_cpu else device.type):
        (torch.default_generator.manual_seed if on_cpu else torch.manual_seed)(seed)
        yield
