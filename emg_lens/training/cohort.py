"""Fitting many models at once: one stacked forward pass a step instead of one a model.

The weights of all models are the rows of matrices, the forward pass is mapped over rows (`torch.func`), and the sum of
the losses is differentiated once: row s of the gradient is the gradient of model s. Each model sees the batches, the
learning rates and the clipping of its own `emg_lens.training.fitting.fit`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.func import functional_call, vmap

from emg_lens.lens.points import is_heard
from emg_lens.training.fitting import (
    Pair,
    check_loss,
    columns,
    held_out_columns,
    objective_draws,
    output_weight,
    seeded,
    summary,
)
from emg_lens.training.objectives import Objective, as_objective
from emg_lens.training.optimizer import VectorAdamW
from emg_lens.training.packing import AUXILIARY, FROZEN, Group, Packing, parameter_groups
from emg_lens.training.recipe import TrainingRecipe
from emg_lens.validation import ArgumentError, checked


@checked
def fit_cohort(
    models: Sequence[Any],
    xs: Sequence[Float[Tensor, "_trial channel time"]],
    targets: Sequence[Tensor],
    recipes: TrainingRecipe | Sequence[TrainingRecipe],
    *,
    objective: str | Objective = "classification",
    held_out: Sequence[Pair] | None = None,
    on_epoch: Callable[[int], None] | None = None,
) -> list[pd.DataFrame]:
    """Fit one model a subject, all in place and all at once.

    Without dropout every parameter is that of `fit`, up to rounding; with it they are another draw, because dropout
    draws for all subjects at once, and so depends on who is in the cohort. torch's global random state is left as it
    was found.

    Args:
        models: One model a subject, all of one architecture and on one device.
        xs: Trials of each subject, standardised; their number may differ.
        targets: What the objective wants for them, as in `fit`.
        recipes: How to fit: one for all, or one a subject, which then differ in their seeds only.
        objective: What for: a name of the registry, or an objective whose `batch_losses` torch can map (`torch.vmap`).
        held_out: Trials and targets of each subject for the held-out curve, as in `fit`.
        on_epoch: Called after every epoch with the number of finished epochs (progress bars).

    Returns:
        For each subject what `fit` returns: one row an epoch.

    Raises:
        ArgumentError: Models, trials and recipes of different number; models that differ in architecture or device;
            hooks on a model (they would see all subjects at once); recipes that differ in more than their seeds, stop
            early, or change the learning rate by steps of which subjects have different numbers.
        FitError: Trials that do not fit their model, or a loss that became NaN or infinite.
    """
    objective = as_objective(objective)
    every = [recipes] * len(models) if isinstance(recipes, TrainingRecipe) else list(recipes)
    looks = [None] * len(models) if held_out is None else list(held_out)
    _check(models, xs, targets, every, looks)
    _check_schedule(every[0], [len(x) for x in xs])
    if objective.one_by_one:
        raise ArgumentError(f"objective={objective.name!r} draws for each trial; fit its models one by one, with fit")
    for s, (model, x, wanted, look) in enumerate(zip(models, xs, targets, looks, strict=True)):
        objective.check(model, x, wanted, whose=f"subject {s}: ")
        if look is not None:
            objective.check(model, *look, whose=f"subject {s}, held-out: ")
    subjects = [_Subject(*each) for each in zip(range(len(models)), models, xs, targets, every, looks, strict=True)]
    subjects.sort(key=lambda subject: -len(subject.x))  # who is still at work in a step comes first
    # The fused kernels of attention cannot be mapped over subjects.
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        rows = _fit(subjects, objective, on_epoch)
    names = columns(objective, held_out is not None)
    return [pd.DataFrame(rows[s], columns=names) for s in range(len(models))]


@dataclass
class _Subject:
    """One model of the cohort, and what it is fitted to; `number` is its place in the call."""

    number: int
    model: Any
    x: Float[Tensor, "trial channel time"]
    targets: Tensor
    recipe: TrainingRecipe
    held_out: Pair | None


def _fit(
    subjects: list[_Subject], objective: Objective, on_epoch: Callable[[int], None] | None
) -> dict[int, list[tuple[float, ...]]]:
    """Rows of each subject's table, by its number; the models hold the fitted weights."""
    model, recipe = subjects[0].model, subjects[0].recipe
    device = next(model.parameters()).device
    stack = _Stack([subject.model for subject in subjects], recipe)
    x, targets = (torch.cat(parts).to(device) for parts in zip(*((s.x, s.targets) for s in subjects), strict=True))
    sizes = [len(subject.x) for subject in subjects]
    orders = [torch.Generator().manual_seed(subject.recipe.seed) for subject in subjects]
    draws = objective_draws(recipe.seed)
    rows: dict[int, list[tuple[float, ...]]] = {subject.number: [] for subject in subjects}
    for subject in subjects:
        subject.model.train()
    with seeded(recipe.seed, device):
        for epoch in range(recipe.epochs):
            weight, lr, losses, outputs = output_weight(model, recipe, epoch), 0.0, [], []
            index, real = _epoch_order(sizes, orders, device)
            batches = list(_batches(index, real, sizes, recipe.batch_size))
            for step, (batch, there) in enumerate(batches):
                lr = recipe.lr * recipe.lr_factor(epoch, step, len(batches))

                def batch_losses(
                    parameters: dict[str, Tensor], x: Tensor, targets: Tensor, weight: float = weight
                ) -> tuple[Tensor, Tensor]:
                    stand_in = _Stateless(model, parameters)
                    return objective.batch_losses(stand_in, x, targets, weight, recipe, draws)

                found, out = stack.step(batch_losses, x[batch], targets[batch], there, weight < 1, lr, recipe)
                losses.append(found)
                outputs.append(out)
            for row, subject in enumerate(subjects):
                mine = (torch.cat([part[row] for part in parts if row < len(part)]) for parts in (losses, outputs))
                losses_, outputs_ = (values[: sizes[row]] for values in mine)
                loss, metric = summary(objective, losses_, outputs_, targets[index[row, : sizes[row]]])
                check_loss(loss, epoch, recipe.lr, whose=f"subject {subject.number}: ")
                stand_in = _Stateless(model, stack.parameters(row))
                curve = held_out_columns(stand_in, objective, subject.held_out, subject.recipe, epoch)
                rows[subject.number].append((epoch + 1, loss, metric, weight, lr, *curve))
            if on_epoch is not None:
                on_epoch(epoch + 1)
    stack.unload([subject.model for subject in subjects])
    return rows


class _Stateless:
    """A model with parameters that are given, not its own."""

    def __init__(self, model: Any, parameters: dict[str, Tensor]) -> None:
        self._model, self._parameters = model, parameters

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return functional_call(self._model, self._parameters, args, kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)


class _Stack:
    """The weights of all models, `[subject, value]`, a matrix a group of parameters; their optimizer with them."""

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
        """One step of the first `len(x)` models; loss and outputs of every trial."""
        n = len(x)
        rows = {name: matrix[:n] for name, matrix in self.matrices.items()}
        idle = {FROZEN} if reads_auxiliary else {FROZEN, AUXILIARY}
        learning = [group for group in rows if group.kind not in idle]
        for name in learning:
            rows[name] = rows[name].detach().requires_grad_()
        losses, outputs = vmap(
            lambda rows, x, targets: batch_losses(self._views(rows), x, targets), randomness="different"
        )(rows, x, targets)
        loss = (losses * real).sum(1) / real.sum(1)
        slopes = torch.autograd.grad(loss.sum(), [rows[name] for name in learning])
        if recipe.clip_norm is not None:
            norm = torch.stack([slope.norm(dim=1) for slope in slopes]).norm(dim=0)
            factor = (recipe.clip_norm / (norm + 1e-6)).clamp(max=1)  # as torch.nn.utils.clip_grad_norm_
            slopes = [slope * factor[:, None] for slope in slopes]
        keys = [(name, s) for name in learning for s in range(n)]
        vectors = [self.matrices[name][s] for name, s in keys]
        slopes_of_keys, lrs = [row for slope in slopes for row in slope], [lr * group.lr_scale for group, _ in keys]
        self.optimizer.step(keys, vectors, slopes_of_keys, lrs, recipe.weight_decay, recipe.betas)
        return losses.detach(), outputs.detach()

    def parameters(self, row: int) -> dict[str, Tensor]:
        """The parameters of one model, by name, as views."""
        return self._views({name: matrix[row] for name, matrix in self.matrices.items()})

    def unload(self, models: Sequence[Any]) -> None:
        """Copy the rows into the models, and leave these in evaluation mode."""
        for row, model in enumerate(models):
            found = self.parameters(row)
            with torch.no_grad():
                for name, parameter in model.named_parameters():
                    parameter.copy_(found[name])
            model.eval()

    def _views(self, rows: Mapping[Group, Float[Tensor, " value"]]) -> dict[str, Tensor]:
        return {name: view for group, row in rows.items() for name, view in self.packings[group].views(row).items()}


def _epoch_order(
    sizes: Sequence[int], orders: Sequence[torch.Generator], device: torch.device
) -> tuple[Int[Tensor, "subject trial"], Float[Tensor, "subject trial"]]:
    """Each subject's trials in an epoch's order, as indices into the joined trials, and 1 where they are no padding."""
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
    """The batches of an epoch: of the first rows, those that still have trials; as wide as the longest is."""
    for first in range(0, max(sizes), batch_size):
        n = sum(size > first for size in sizes)
        yield index[:n, first : first + batch_size], real[:n, first : first + batch_size]


def _check(
    models: Sequence[Any],
    xs: Sequence[Tensor],
    targets: Sequence[Tensor],
    recipes: Sequence[TrainingRecipe],
    looks: Sequence[Pair | None],
) -> None:
    counts = {
        "models": len(models), "xs": len(xs), "targets": len(targets), "recipes": len(recipes), "held_out": len(looks)
    }  # fmt: skip
    if not models or len(set(counts.values())) > 1:
        raise ArgumentError(f"a cohort needs one model, x, targets and recipe a subject, got {counts}")
    outputs = sorted({m.cfg.n_classes for m in models})
    if len(outputs) > 1:
        raise ArgumentError(f"models of one cohort need the same classes, got n_classes {outputs}; fit them one by one")
    first = models[0]
    for s, model in enumerate(models):
        if type(model) is not type(first) or replace(model.cfg, class_names=[]) != replace(first.cfg, class_names=[]):
            raise ArgumentError(f"model {s} has another configuration than model 0: {model.cfg} / {first.cfg}")
        if _parts(model) != _parts(first) or not all(map(torch.equal, model.buffers(), first.buffers())):
            raise ArgumentError(f"model {s} has other frozen parameters or buffers than model 0; fit them one by one")
        heard = [name for name, point in model.hook_dict.items() if is_heard(point)]
        if heard:
            raise ArgumentError(f"model {s} has hooks, at {heard}; a cohort is fitted without: model.reset_hooks()")
    devices = {str(next(m.parameters()).device) for m in models}
    if len(devices) > 1:
        raise ArgumentError(f"models of one cohort stand on one device, got {sorted(devices)}")
    if any(r.model_copy(update={"seed": recipes[0].seed}) != recipes[0] for r in recipes):
        raise ArgumentError("recipes of one cohort differ in their seeds only; fit the others one by one")


def _check_schedule(recipe: TrainingRecipe, sizes: Sequence[int]) -> None:
    if recipe.patience is not None:
        raise ArgumentError(
            f"patience={recipe.patience} ends each fit at another epoch; models of one cohort are fitted side by side:"
            " fit them one by one"
        )
    steps = sorted({-(-size // recipe.batch_size) for size in sizes})
    if recipe.schedule_by == "step" and len(steps) > 1:
        raise ArgumentError(
            f"schedule_by='step' gives each step of all subjects one learning rate, and their epochs have {steps} steps"
            f" of {recipe.batch_size} trials: fit them one by one, or schedule_by='epoch'"
        )


def _parts(model: Any) -> dict[Group, list[str]]:
    return {group: list(parameters) for group, parameters in parameter_groups(model).items()}
