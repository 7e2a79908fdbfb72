"""Fitting one model to the trials of one subject: AdamW, annealed dual-head loss, the same numbers every time."""

import math
from collections.abc import Callable
from typing import Literal

import pandas as pd
import torch
from jaxtyping import Float, Int
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from emg_lens.models.isonet import IsoNet, anneal_weight, annealed_loss


class TrainingRecipe(BaseModel):
    """How a model is fitted. Defaults that the IsoNet paper states are the paper's (§3); the others are ours.

    Attributes:
        epochs: Passes over the training trials.
        batch_size: Trials a step; the last step of an epoch takes what is left.
        lr: Peak learning rate of AdamW.
        weight_decay: Weight decay of AdamW.
        anneal_epochs: T of λ(t) = min(1, t / T): epochs until only the CLS head drives learning; 0 = from the start.
        schedule: Learning rate over the run: `"constant"`, or `"cosine"` down to zero.
        warmup_epochs: Epochs of linear rise to `lr`.
        clip_norm: Largest norm of the gradient; `None` = unlimited.
        label_smoothing: Probability mass spread over the wrong classes in the loss.
        seed: Seed of the initial weights and of the order of trials.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    epochs: int = Field(2000, ge=1)
    batch_size: int = Field(64, ge=1)
    lr: float = Field(4e-5, gt=0)
    weight_decay: float = Field(0.01, ge=0)
    anneal_epochs: int = Field(750, ge=0)
    schedule: Literal["constant", "cosine"] = "constant"
    warmup_epochs: int = Field(0, ge=0)
    clip_norm: float | None = Field(None, gt=0)
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    seed: int = 0

    def summary(self) -> str:
        """The recipe in a line."""
        return (
            f"AdamW, {self.epochs} epochs, batches of {self.batch_size}, learning rate {self.lr:g} ({self.schedule}),"
            f" weight decay {self.weight_decay:g}, λ annealed over {self.anneal_epochs} epochs, seed {self.seed}"
        )

    def lr_factor(self, epoch: int) -> float:
        """Learning rate of an epoch, as a fraction of `lr`."""
        warm = min(1.0, (epoch + 1) / (self.warmup_epochs + 1))
        if self.schedule == "constant":
            return warm
        return warm * 0.5 * (1 + math.cos(math.pi * epoch / self.epochs))


class FitError(RuntimeError):
    """A fit that went wrong: the loss is not a number."""


def fit(
    model: IsoNet,
    x: Float[Tensor, "trial channel time"],
    y: Int[Tensor, " trial"],
    recipe: TrainingRecipe,
    on_epoch: Callable[[int], None] | None = None,
) -> pd.DataFrame:
    """Fit `model` in place.

    Args:
        model: The model; its weights are the starting point (build it under `torch.manual_seed(recipe.seed)`).
        x: Trials, standardised.
        y: Class index of each trial.
        recipe: How to fit.
        on_epoch: Called after every epoch with the number of finished epochs (progress bars).

    Returns:
        One row an epoch: epoch, loss, accuracy (of the training trials in training mode), cls_weight (λ), lr.

    Raises:
        FitError: The loss became NaN or infinite.
    """
    device = next(model.parameters()).device
    x, y = x.to(device), y.to(device)
    generator = torch.Generator().manual_seed(recipe.seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay, foreach=True)
    rows = []
    model.train()
    for epoch in range(recipe.epochs):
        weight = anneal_weight(epoch, recipe.anneal_epochs)
        lr = recipe.lr * recipe.lr_factor(epoch)
        for group in optimizer.param_groups:
            group["lr"] = lr
        total = torch.zeros(2, device=device)
        for batch in torch.randperm(len(x), generator=generator).to(device).split(recipe.batch_size):
            cls_logits, mean_logits = model(x[batch], return_type="both")
            loss = annealed_loss(cls_logits, mean_logits, y[batch], weight, recipe.label_smoothing)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            if recipe.clip_norm is not None:
                torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.clip_norm)
            optimizer.step()
            hits = (cls_logits.argmax(-1) == y[batch]).sum()
            total += torch.stack([loss.detach() * len(batch), hits])
        mean_loss, accuracy = (total / len(x)).tolist()
        if not math.isfinite(mean_loss):
            raise FitError(
                f"the training loss became {mean_loss} in epoch {epoch + 1}; try a lower lr than {recipe.lr}"
            )
        rows.append((epoch + 1, mean_loss, accuracy, weight, lr))
        if on_epoch is not None:
            on_epoch(epoch + 1)
    model.eval()
    return pd.DataFrame(rows, columns=["epoch", "loss", "accuracy", "cls_weight", "lr"])
