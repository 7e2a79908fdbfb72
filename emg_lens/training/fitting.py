"""Fitting one model to the trials of one subject: AdamW, annealed dual-head loss, the same numbers every time.

`emg_lens.training.cohort` fits the models of many subjects at once, by the same recipe.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
        seed: Seed of the order of trials and of dropout; studies derive the initial weights from it too.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    epochs: int = Field(default=2000, ge=1)
    batch_size: int = Field(default=64, ge=1)
    lr: float = Field(default=4e-5, gt=0)
    weight_decay: float = Field(default=0.01, ge=0)
    anneal_epochs: int = Field(default=750, ge=0)
    schedule: Literal["constant", "cosine"] = "constant"
    warmup_epochs: int = Field(default=0, ge=0)
    clip_norm: float | None = Field(default=None, gt=0)
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
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


HISTORY = ["epoch", "loss", "accuracy", "cls_weight", "lr"]
"""Columns of the table that a fit returns."""


class FitError(RuntimeError):
    """A fit that cannot start or went wrong: trials that do not fit the model, or a loss that is not a number."""


def fit(
    model: IsoNet,
    x: Float[Tensor, "trial channel time"],
    y: Int[Tensor, " trial"],
    recipe: TrainingRecipe,
    on_epoch: Callable[[int], None] | None = None,
) -> pd.DataFrame:
    """Fit `model` in place.

    The result is a function of the starting weights, the trials and the recipe (on one machine, with one number of
    torch threads). torch's global random state is left as it was found.

    Args:
        model: The model; its weights are the starting point. It is left in evaluation mode, without gradients.
        x: Trials, standardised.
        y: Class index of each trial.
        recipe: How to fit.
        on_epoch: Called after every epoch with the number of finished epochs (progress bars).

    Returns:
        One row an epoch: epoch, loss, accuracy (of the training trials in training mode), cls_weight (λ), lr.

    Raises:
        FitError: Trials that do not fit the model, or the loss became NaN or infinite.
    """
    check_trials(model, x, y)
    device = next(model.parameters()).device
    x, y = x.to(device), y.to(device)
    parameters = list(model.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=recipe.lr, weight_decay=recipe.weight_decay, fused=True)
    order = torch.Generator().manual_seed(recipe.seed)
    rows = []
    model.train()
    with seeded(recipe.seed, device):
        for epoch in range(recipe.epochs):
            weight, lr = anneal_weight(epoch, recipe.anneal_epochs), recipe.lr * recipe.lr_factor(epoch)
            optimizer.param_groups[0]["lr"] = lr
            loss_sum, hits = torch.zeros((), device=device), torch.zeros((), device=device)
            for batch in torch.randperm(len(x), generator=order).to(device).split(recipe.batch_size):
                labels = y[batch]
                cls_logits, mean_logits = model(x[batch], return_type="both") if weight < 1 else (model(x[batch]), None)
                loss = annealed_loss(cls_logits, mean_logits, labels, weight, recipe.label_smoothing)
                optimizer.zero_grad()
                loss.backward()
                if recipe.clip_norm is not None:
                    torch.nn.utils.clip_grad_norm_(parameters, recipe.clip_norm)
                optimizer.step()
                loss_sum += loss.detach() * len(batch)
                hits += (cls_logits.detach().argmax(-1) == labels).sum()
            mean_loss, accuracy = float(loss_sum) / len(x), float(hits) / len(x)
            check_loss(mean_loss, epoch, recipe.lr)
            rows.append((epoch + 1, mean_loss, accuracy, weight, lr))
            if on_epoch is not None:
                on_epoch(epoch + 1)
    optimizer.zero_grad()
    model.eval()
    return pd.DataFrame(rows, columns=HISTORY)


def check_trials(model: IsoNet, x: Tensor, y: Tensor, whose: str = "") -> None:
    """Refuse trials that a model cannot be fitted to; `whose` (`"subject 3: "`) starts the message.

    Raises:
        FitError: No trials, another number of labels, labels of no class, values that are not finite.
    """
    n_classes = model.cfg.n_classes
    if len(x) == 0 or len(x) != len(y):
        raise FitError(f"{whose}{len(x)} trials and {len(y)} labels; a fit needs one label a trial, and a trial")
    if y.is_floating_point() or y.dtype == torch.bool:
        raise FitError(f"{whose}labels are {y.dtype}; expected class indices (torch.int64)")
    if int(y.min()) < 0 or int(y.max()) >= n_classes:
        raise FitError(
            f"{whose}labels run from {int(y.min())} to {int(y.max())}; the model has classes 0 to {n_classes - 1}"
        )
    bad = int((~x.isfinite()).flatten(1).any(1).sum())
    if bad:
        raise FitError(f"{whose}{bad} of {len(x)} trials hold NaN or infinite values; drop or repair them first")


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
