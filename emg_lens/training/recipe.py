"""The recipe of a fit, by itself: a study can be read without torch's models."""

import math
from typing import Literal

from pydantic import Field

from emg_lens.arguments import SpecModel

MOST_EPOCHS = 10**7


class TrainingRecipe(SpecModel):
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

    epochs: int = Field(default=2000, ge=1, le=MOST_EPOCHS)
    batch_size: int = Field(default=64, ge=1, lt=2**31)
    lr: float = Field(default=4e-5, gt=0, le=1000)
    weight_decay: float = Field(default=0.01, ge=0)
    anneal_epochs: int = Field(default=750, ge=0, le=MOST_EPOCHS)
    schedule: Literal["constant", "cosine"] = "constant"
    warmup_epochs: int = Field(default=0, ge=0, le=MOST_EPOCHS)
    clip_norm: float | None = Field(default=None, gt=0)
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    seed: int = Field(default=0, ge=0, lt=2**53)

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
