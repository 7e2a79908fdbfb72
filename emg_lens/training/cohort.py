"""Fit many models at once: each step is one stacked forward pass of all models.

The weights of all models are the rows of matrices. `torch.func` maps the forward pass over rows, and one backward pass
differentiates the sum of the losses: row s of the gradient is the gradient of model s. Each model has the same
batches, learning rates and clipping as if `emg_lens.training.fitting.fit` fitted it alone.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.func import functional_call, vmap

from emg_lens.data.batch import Batch
from emg_lens.lens.points import has_hook
from emg_lens.training.fitting import (
    check_loss,
    columns,
    held_out_columns,
    objective_generator,
    output_weight,
    seeded,
    summary,
)
from emg_lens.training.objectives import Objective, as_objective, targets_of
from emg_lens.training.optimizer import VectorAdamW
from emg_lens.training.packing import AUXILIARY, FROZEN, Group, Packing, parameter_groups
from emg_lens.training.recipe import TrainingRecipe
from emg_lens.validation import ArgumentError, checked


@checked
def fit_cohort(
    models: Sequence[Any],
    batches: Sequence[Batch],
    recipes: TrainingRecipe | Sequence[TrainingRecipe],
    *,
    objective: str | Objective = "classification",
    held_out: Sequence[Batch] | None = None,
    on_epoch: Callable[[int], None] | None = None,
) -> list[pd.DataFrame]:
    """Fit one model per subject, all in place and all at once.

    Without dropout every parameter equals the result of `fit` up to rounding. With dropout it differs, because one
    random mask is generated for all subjects together. torch's global random state does not change.

    Args:
        models: One model per subject, all of one architecture and on one device.
        batches: Training trials of each subject, as in `fit`. Subjects may have different numbers of trials.
        recipes: One recipe for all, or one per subject; these may differ in their seeds only.
        objective: Name of an objective, or an `Objective` whose `batch_losses` works with `torch.vmap`.
        held_out: Held-out trials of each subject for the learning curve, as in `fit`.
        on_epoch: Called after every epoch with the number of finished epochs (progress bars).

    Returns:
        For each subject the table that `fit` returns: one row per epoch.

    Raises:
        ArgumentError: Models, batches and recipes of different number; models that differ in architecture or device;
            hooks on a model (they would run on all subjects at once); recipes that differ in more than their seeds, use
            `patience` or `edge_dropout`, or schedule by step when subjects have different numbers of steps.
        FitError: Trials that do not fit their model, or a loss that became NaN or infinite.
    """
    objective = as_objective(objective)
    all_recipes = [recipes] * len(models) if isinstance(recipes, TrainingRecipe) else list(recipes)
    all_held_out = [None] * len(models) if held_out is None else list(held_out)
    _check(models, batches, all_recipes, all_held_out)
    objective.check_recipe(all_recipes[0])  # they differ in seeds only
    _check_schedule(all_recipes[0], [len(batch) for batch in batches])
    if objective.one_by_one:
        raise ArgumentError(
            f"the loss of objective {objective.name!r} needs random numbers for each trial, or torch.vmap cannot map"
            " it; fit the models one by one, with fit"
        )
    for s, (model, batch, other) in enumerate(zip(models, batches, all_held_out, strict=True)):
        objective.check(model, batch, f"subject {s}: ")
        if other is not None:
            objective.check(model, other, f"subject {s}, held-out: ")
    each = zip(range(len(models)), models, batches, all_recipes, all_held_out, strict=True)
    # Sorted by size, so that in each step the subjects that still have trials come first.
    subjects = sorted((_Subject(*parts) for parts in each), key=lambda subject: -len(subject.batch))
    # torch.vmap cannot map the fused kernels of attention.
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        rows = _fit(subjects, objective, on_epoch)
    names = columns(objective, held_out is not None)
    return [pd.DataFrame(rows[s], columns=names) for s in range(len(models))]


@dataclass
class _Subject:
    """One model of the cohort with its trials; `number` is its index in the list of models."""

    number: int
    model: Any
    batch: Batch
    recipe: TrainingRecipe
    held_out: Batch | None


def _fit(
    subjects: list[_Subject], objective: Objective, on_epoch: Callable[[int], None] | None
) -> dict[int, list[tuple[float, ...]]]:
    """Fit the models in place, and return the rows of each subject's table, by number of the subject."""
    model, recipe = subjects[0].model, subjects[0].recipe
    device = next(model.parameters()).device
    stack = _Stack([subject.model for subject in subjects], recipe)
    parts = zip(*((s.batch.x, targets_of(s.batch)) for s in subjects), strict=True)
    x, targets = (torch.cat(part).to(device) for part in parts)
    sizes = [len(subject.batch) for subject in subjects]
    orders = [torch.Generator().manual_seed(subject.recipe.seed) for subject in subjects]
    generator = objective_generator(recipe.seed)
    rows: dict[int, list[tuple[float, ...]]] = {subject.number: [] for subject in subjects}
    for subject in subjects:
        subject.model.train()
    with seeded(recipe.seed, device):
        for epoch in range(recipe.epochs):
            weight, lr, losses, outputs = output_weight(model, recipe, epoch), 0.0, [], []
            index, real = _epoch_order(sizes, orders, device)
            steps = list(_batches(index, real, sizes, recipe.batch_size))
            for step, (trials, is_real) in enumerate(steps):
                lr = recipe.lr * recipe.lr_factor(epoch, step, len(steps))

                def batch_losses(
                    parameters: dict[str, Tensor], x: Tensor, targets: Tensor, weight: float = weight
                ) -> tuple[Tensor, Tensor]:
                    stand_in = _Stateless(model, parameters)
                    return objective.batch_losses(stand_in, Batch(x, targets), weight, recipe, generator)

                step_losses, step_outputs = stack.step(
                    batch_losses, x[trials], targets[trials], is_real, weight < 1, lr, recipe
                )
                losses.append(step_losses)
                outputs.append(step_outputs)
            for row, subject in enumerate(subjects):
                own = (torch.cat([part[row] for part in parts if row < len(part)]) for parts in (losses, outputs))
                own_losses, own_outputs = (values[: sizes[row]] for values in own)
                loss, metric = summary(model, objective, own_losses, own_outputs, targets[index[row, : sizes[row]]])
                check_loss(loss, epoch, recipe.lr, f"subject {subject.number}: ")
                stand_in = _Stateless(model, stack.parameters(row))
                curve = held_out_columns(stand_in, objective, subject.held_out, subject.recipe, epoch)
                rows[subject.number].append((epoch + 1, loss, metric, weight, lr, *curve))
            if on_epoch is not None:
                on_epoch(epoch + 1)
    stack.unload([subject.model for subject in subjects])
    return rows


class _Stateless:
    """A model that runs with the given parameters in place of its own."""

    def __init__(self, model: Any, parameters: dict[str, Tensor]) -> None:
        self._model, self._parameters = model, parameters

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return functional_call(self._model, self._parameters, args, kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)


class _Stack:
    """Weights of all models and their optimizer: one matrix `[subject, value]` per group of parameters."""

    def __init__(self, models: Sequence[Any], recipe: TrainingRecipe) -> None:
        groups = [parameter_groups(model, recipe) for model in models]
        self.packings = {name: Packing.of(group) for name, group in groups[0].items()}
        self.matrices: dict[Group, Float[Tensor, "subject value"]] = {
            name: torch.stack([packing.pack(each[name]) for each in groups]) for name, packing in self.packings.items()
        }
        self.optimizer = VectorAdamW(
            {
                (group, s): row
                for group, rows in self.matrices.items()
                if group.kind != FROZEN
                for s, row in enumerate(rows)
            }
        )

    def step(
        self,
        batch_losses: Callable[[dict[str, Tensor], Tensor, Tensor], tuple[Tensor, Tensor]],
        x: Float[Tensor, "subject batch channel time"],
        targets: Tensor,
        real: Float[Tensor, "subject batch"],
        reads_auxiliary: bool,
        lr: float,
        recipe: TrainingRecipe,
    ) -> tuple[Float[Tensor, "subject batch"], Tensor]:
        """Make one step of the first `len(x)` models; return loss and outputs of every trial."""
        n = len(x)
        rows = {name: matrix[:n] for name, matrix in self.matrices.items()}
        idle = {FROZEN} if reads_auxiliary else {FROZEN, AUXILIARY}
        fitted = [group for group in rows if group.kind not in idle]
        for name in fitted:
            rows[name] = rows[name].detach().requires_grad_()
        losses, outputs = vmap(
            lambda rows, x, targets: batch_losses(self._views(rows), x, targets), randomness="different"
        )(rows, x, targets)
        loss = (losses * real).sum(1) / real.sum(1)
        gradients = torch.autograd.grad(loss.sum(), [rows[name] for name in fitted])
        if recipe.clip_norm is not None:
            norm = torch.stack([gradient.norm(dim=1) for gradient in gradients]).norm(dim=0)
            factor = (recipe.clip_norm / (norm + 1e-6)).clamp(max=1)  # as torch.nn.utils.clip_grad_norm_
            gradients = [gradient * factor[:, None] for gradient in gradients]
        keys = [(name, s) for name in fitted for s in range(n)]
        vectors = [self.matrices[name][s] for name, s in keys]
        key_gradients = [row for gradient in gradients for row in gradient]
        lrs = [lr * group.lr_scale for group, _ in keys]
        self.optimizer.step(keys, vectors, key_gradients, lrs, recipe.weight_decay, recipe.betas)
        return losses.detach(), outputs.detach()

    def parameters(self, row: int) -> dict[str, Tensor]:
        """The parameters of one model, by name, as views."""
        return self._views({name: matrix[row] for name, matrix in self.matrices.items()})

    def unload(self, models: Sequence[Any]) -> None:
        """Copy the rows into the models, and set these to evaluation mode."""
        for row, model in enumerate(models):
            fitted = self.parameters(row)
            with torch.no_grad():
                for name, parameter in model.named_parameters():
                    parameter.copy_(fitted[name])
            model.eval()

    def _views(self, rows: Mapping[Group, Float[Tensor, " value"]]) -> dict[str, Tensor]:
        return {name: view for group, row in rows.items() for name, view in self.packings[group].views(row).items()}


def _epoch_order(
    sizes: Sequence[int], orders: Sequence[torch.Generator], device: torch.device
) -> tuple[Int[Tensor, "subject trial"], Float[Tensor, "subject trial"]]:
    """Order of each subject's trials in an epoch: indices into the joined trials, and 1 for trials, 0 for padding."""
    index, real = torch.zeros(len(sizes), max(sizes), dtype=torch.int64), torch.zeros(len(sizes), max(sizes))
    start = 0
    for row, (size, order) in enumerate(zip(sizes, orders, strict=True)):
        index[row, :size] = start + torch.randperm(size, generator=order)
        real[row, :size] = 1
        start += size
    return index.to(device), real.to(device)


def _batches(
    index: Int[Tensor, "subject trial"], real: Float[Tensor, "subject trial"], sizes: Sequence[int], batch_size: int
) -> Iterator[tuple[Int[Tensor, "subject batch"], Float[Tensor, "subject batch"]]]:
    """Batches of an epoch. Each holds the rows that still have trials, padded to the longest row."""
    for first in range(0, max(sizes), batch_size):
        n = sum(size > first for size in sizes)
        yield index[:n, first : first + batch_size], real[:n, first : first + batch_size]


def _check(
    models: Sequence[Any],
    batches: Sequence[Batch],
    recipes: Sequence[TrainingRecipe],
    held_out: Sequence[Batch | None],
) -> None:
    counts = {"models": len(models), "batches": len(batches), "recipes": len(recipes), "held_out": len(held_out)}
    if not models or len(set(counts.values())) > 1:
        raise ArgumentError(f"a cohort needs one model, batch and recipe per subject, got {counts}")
    first = models[0]
    if getattr(first, "one_by_one", False):
        raise ArgumentError(
            f"torch.vmap cannot map a training step of {type(first).__name__}; fit the models one by one, with fit"
        )
    for s, model in enumerate(models):
        if type(model) is not type(first) or replace(model.cfg, class_names=[]) != replace(first.cfg, class_names=[]):
            raise ArgumentError(
                f"the configurations of models 0 and {s} differ: {first.cfg} and {model.cfg}; fit the models one by one"
            )
        parts = [[(group, *names) for group, names in parameter_groups(one).items()] for one in (model, first)]
        if parts[0] != parts[1] or not all(map(torch.equal, model.buffers(), first.buffers())):
            raise ArgumentError(
                f"the frozen parameters or buffers of models 0 and {s} differ; fit the models one by one"
            )
        hooked = [name for name, point in model.hook_dict.items() if has_hook(point)]
        if hooked:
            raise ArgumentError(f"model {s} has hooks at {hooked}; remove them before the fit: model.reset_hooks()")
    devices = {str(next(m.parameters()).device) for m in models}
    if len(devices) > 1:
        raise ArgumentError(f"models of one cohort are on {sorted(devices)}; expected one device")
    if any(r.model_copy(update={"seed": recipes[0].seed}) != recipes[0] for r in recipes):
        raise ArgumentError("recipes of one cohort may differ in their seeds only; fit the models one by one")


def _check_schedule(recipe: TrainingRecipe, sizes: Sequence[int]) -> None:
    if recipe.patience is not None:
        raise ArgumentError(
            f"patience={recipe.patience} may stop each fit after a different epoch, but a cohort needs one number of"
            " epochs; fit the models one by one"
        )
    if recipe.edge_dropout is not None:
        raise ArgumentError("edge_dropout cuts edges by hooks, which would run on all subjects at once; use fit")
    steps = sorted({-(-size // recipe.batch_size) for size in sizes})
    if recipe.schedule_by == "step" and len(steps) > 1:
        raise ArgumentError(
            f"schedule_by='step' sets one learning rate per step for all subjects, but their epochs have {steps} steps"
            f" of {recipe.batch_size} trials; fit the models one by one, or use schedule_by='epoch'"
        )
