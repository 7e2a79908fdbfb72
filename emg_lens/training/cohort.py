"""Fitting the models of many subjects at once: one stacked forward pass a step instead of one a subject.

The weights of all subjects are the rows of one matrix, the forward pass is mapped over rows (`torch.func`), and the
sum of the losses is differentiated once: row s of the gradient is the gradient of subject s. Each subject sees the
batches, the learning rates and the clipping of its own `emg_lens.training.fitting.fit`.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torch.func import functional_call, vmap

from emg_lens.lens.points import is_heard
from emg_lens.models.isonet import IsoNet, anneal_weight
from emg_lens.training.fitting import HISTORY, TrainingRecipe, check_loss, check_trials, seeded


def fit_cohort(
    models: Sequence[IsoNet],
    xs: Sequence[Float[Tensor, "trial channel time"]],
    ys: Sequence[Int[Tensor, " trial"]],
    recipes: TrainingRecipe | Sequence[TrainingRecipe],
    on_epoch: Callable[[int], None] | None = None,
) -> list[pd.DataFrame]:
    """Fit one model a subject, all in place and all at once.

    Without dropout the weights are those of `fit` up to rounding; with it they are another draw, because dropout
    draws for all subjects at once, and so depends on who is in the cohort. torch's global random state is left as it
    was found.

    Args:
        models: One model a subject, all of one architecture and on one device.
        xs: Trials of each subject, standardised; their number may differ.
        ys: Class index of each trial.
        recipes: How to fit: one for all, or one a subject, which then differ in their seeds only.
        on_epoch: Called after every epoch with the number of finished epochs (progress bars).

    Returns:
        For each subject what `fit` returns: one row an epoch: epoch, loss, accuracy, cls_weight (λ), lr.

    Raises:
        ValueError: Models, trials and recipes of different number; models that differ in architecture or device;
            hooks on a model (they would see all subjects at once); recipes that differ in more than their seeds.
        FitError: Trials that do not fit their model, or a loss that became NaN or infinite.
    """
    every = [recipes] * len(models) if isinstance(recipes, TrainingRecipe) else list(recipes)
    _check(models, xs, ys, every)
    steps = [-(-len(x) // r.batch_size) for x, r in zip(xs, every, strict=True)]
    order = sorted(range(len(models)), key=lambda s: -steps[s])  # who is still at work in a step comes first
    # The fused kernels of attention cannot be mapped over subjects.
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        return _fit(models, xs, ys, every, order, on_epoch)


def _fit(
    models: Sequence[IsoNet],
    xs: Sequence[Tensor],
    ys: Sequence[Tensor],
    recipes: Sequence[TrainingRecipe],
    order: list[int],
    on_epoch: Callable[[int], None] | None,
) -> list[pd.DataFrame]:
    """As `fit_cohort`, for checked input; rows of tensors stand in the order of `order`."""
    model, recipe, device = models[0], recipes[0], next(models[0].parameters()).device
    stack = _Stack.of([models[s] for s in order])
    rows = [torch.nn.Parameter(row) for row in stack.weights]  # views: an idle subject is one without a gradient
    optimizer = torch.optim.AdamW(rows, lr=recipe.lr, weight_decay=recipe.weight_decay, fused=True)
    x, y = torch.cat([xs[s] for s in order]).to(device), torch.cat([ys[s] for s in order]).to(device)
    sizes = torch.tensor([len(xs[s]) for s in order])
    draws = [torch.Generator().manual_seed(recipes[s].seed) for s in order]
    histories: list[list[tuple]] = [[] for _ in models]
    for each in models:
        each.train()
    with seeded(recipe.seed, device):
        for epoch in range(recipe.epochs):
            weight, lr = anneal_weight(epoch, recipe.anneal_epochs), recipe.lr * recipe.lr_factor(epoch)
            optimizer.param_groups[0]["lr"] = lr
            totals = torch.zeros(2, len(models), device=device)
            for batch, real in _batches(sizes, draws, recipe.batch_size, device):
                totals[:, : len(batch)] += _step(
                    model, stack, rows, optimizer, recipe, weight, x[batch], y[batch], real
                )
            for s, (loss, accuracy) in zip(order, (totals.cpu() / sizes).T.tolist(), strict=True):
                check_loss(loss, epoch, recipe.lr, whose=f"subject {s}: ")
                histories[s].append((epoch + 1, loss, accuracy, weight, lr))
            if on_epoch is not None:
                on_epoch(epoch + 1)
    stack.unload([models[s] for s in order])
    return [pd.DataFrame(history, columns=HISTORY) for history in histories]


def _step(
    model: IsoNet,
    stack: "_Stack",
    rows: list[torch.nn.Parameter],
    optimizer: torch.optim.Optimizer,
    recipe: TrainingRecipe,
    weight: float,
    x: Float[Tensor, "subject batch channel time"],
    y: Int[Tensor, "subject batch"],
    real: Float[Tensor, "subject batch"],
) -> Float[Tensor, "2 subject"]:
    """One step of the first `len(x)` subjects; the sums of loss and of hits over their real trials."""

    def logits(row: Tensor, x: Tensor) -> Any:
        return functional_call(model, stack.parameters(row), (x, "both" if weight < 1 else "logits"))

    weights = stack.weights[: len(x)].detach().requires_grad_()
    found = vmap(logits, randomness="different")(weights, x)
    cls_logits, mean_logits = found if weight < 1 else (found, None)
    losses = weight * _cross_entropy(cls_logits, y, recipe)
    if mean_logits is not None:
        losses = losses + (1 - weight) * _cross_entropy(mean_logits, y, recipe)
    counts = real.sum(1)
    loss = (losses * real).sum(1) / counts
    (gradient,) = torch.autograd.grad(loss.sum(), weights)
    if recipe.clip_norm is not None:
        norm = gradient.norm(dim=1, keepdim=True)
        gradient *= (recipe.clip_norm / (norm + 1e-6)).clamp(max=1)  # as torch.nn.utils.clip_grad_norm_
    optimizer.zero_grad()
    for row, slope in zip(rows, gradient, strict=False):
        row.grad = slope
    optimizer.step()
    hits = ((cls_logits.argmax(-1) == y) * real).sum(1)
    return torch.stack([loss.detach() * counts, hits])


def _cross_entropy(
    logits: Float[Tensor, "subject batch class"], y: Int[Tensor, "subject batch"], recipe: TrainingRecipe
) -> Float[Tensor, "subject batch"]:
    smoothing = recipe.label_smoothing
    return F.cross_entropy(logits.mT, y, reduction="none", label_smoothing=smoothing)


def _batches(
    sizes: Int[Tensor, " subject"], draws: list[torch.Generator], batch_size: int, device: torch.device
) -> Iterable[tuple[Int[Tensor, "subject batch"], Float[Tensor, "subject batch"]]]:
    """The batches of an epoch: indices into the joined trials of all subjects, and 1 where a place is no padding.

    Only the first rows, of the subjects that still have trials, are there; a batch is as wide as its longest.
    """
    n_most, starts = int(sizes.max()), (sizes.cumsum(0) - sizes).tolist()
    index, real = torch.zeros(len(sizes), n_most, dtype=torch.int64), torch.zeros(len(sizes), n_most)
    for s, (size, draw) in enumerate(zip(sizes.tolist(), draws, strict=True)):
        index[s, :size] = starts[s] + torch.randperm(size, generator=draw)
        real[s, :size] = 1
    at_work = [int((sizes > first).sum()) for first in range(0, n_most, batch_size)]
    index, real = index.to(device), real.to(device)
    for n, some, ones in zip(at_work, index.split(batch_size, 1), real.split(batch_size, 1), strict=True):
        yield some[:n], ones[:n]


@dataclass(frozen=True)
class _Stack:
    """The weights of all subjects, `[subject, value]`, and where each parameter stands in a row.

    A parameter is kept in the order of its memory, so that matrix products read it here as they read it there.
    """

    weights: Float[Tensor, "subject value"]
    names: tuple[str, ...]
    shapes: tuple[torch.Size, ...]
    orders: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, models: list[IsoNet]) -> "_Stack":
        named = dict(models[0].named_parameters())
        orders = tuple(tuple(sorted(range(p.ndim), key=p.stride, reverse=True)) for p in named.values())
        rows = [
            torch.cat([p.detach().permute(o).flatten() for p, o in zip(m.parameters(), orders, strict=True)])
            for m in models
        ]
        return cls(torch.stack(rows), tuple(named), tuple(p.shape for p in named.values()), orders)

    def parameters(self, row: Float[Tensor, " value"]) -> dict[str, Tensor]:
        """The parameters of one row, by name, as views of it."""
        parts = row.split([shape.numel() for shape in self.shapes])
        found = {}
        for name, part, shape, order in zip(self.names, parts, self.shapes, self.orders, strict=True):
            back = sorted(range(len(order)), key=order.__getitem__)
            found[name] = part.view([shape[d] for d in order]).permute(back)
        return found

    def unload(self, models: list[IsoNet]) -> None:
        """Copy the rows into the models, and leave these in evaluation mode."""
        for model, row in zip(models, self.weights, strict=True):
            found = self.parameters(row)
            with torch.no_grad():
                for name, parameter in model.named_parameters():
                    parameter.copy_(found[name])
            model.eval()


def _check(
    models: Sequence[IsoNet], xs: Sequence[Tensor], ys: Sequence[Tensor], recipes: Sequence[TrainingRecipe]
) -> None:
    counts = {"models": len(models), "xs": len(xs), "ys": len(ys), "recipes": len(recipes)}
    if not models or len(set(counts.values())) > 1:
        raise ValueError(f"a cohort needs one model, x, y and recipe a subject, got {counts}")
    classes = sorted({m.cfg.n_classes for m in models})
    if len(classes) > 1:
        raise ValueError(f"models of one cohort need the same classes, got n_classes {classes}; fit them one by one")
    shapes = [replace(m.cfg, class_names=[]) for m in models]
    other = next((s for s, shape in enumerate(shapes) if shape != shapes[0]), None)
    if other is not None:
        raise ValueError(f"model {other} has another configuration than model 0: {models[other].cfg} / {models[0].cfg}")
    devices = {str(next(m.parameters()).device) for m in models}
    if len(devices) > 1:
        raise ValueError(f"models of one cohort stand on one device, got {sorted(devices)}")
    if any(r.model_copy(update={"seed": recipes[0].seed}) != recipes[0] for r in recipes):
        raise ValueError("recipes of one cohort differ in their seeds only; fit the others one by one")
    for s, model in enumerate(models):
        heard = [name for name, module in model.named_modules() if is_heard(module)]  # pyright: ignore[reportArgumentType]
        if heard:
            raise ValueError(f"model {s} has hooks, at {heard}; a cohort is fitted without: model.reset_hooks()")
    for s, (model, x, y) in enumerate(zip(models, xs, ys, strict=True)):
        check_trials(model, x, y, whose=f"subject {s}: ")
