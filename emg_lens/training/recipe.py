"""The recipe of a fit, by itself: a study can be read without torch's models."""

import math
from typing import ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from emg_lens.validation import SpecModel

MOST_EPOCHS = 10**7


class TrainingRecipe(SpecModel):
    """How a model is fitted. Defaults that the IsoNet paper states are the paper's (§3); the others are ours.

    Attributes:
        epochs: Passes over the training trials.
        batch_size: Trials a step; the last step of an epoch takes what is left.
        lr: Learning rate of AdamW, before the schedule lowers it.
        weight_decay: Weight decay of AdamW.
        anneal_epochs: T of λ(t) = min(1, t / T): epochs until only the CLS head drives learning; 0 = from the start.
        schedule: Learning rate over the run: `"constant"`, or `"cosine"` down to zero.
        warmup_epochs: Epochs of linear rise.
        schedule_by: `"epoch"`: the rate changes once an epoch, and the cosine counts from the first epoch, so that it
            stays below `lr` after a long warm-up. `"step"`: it changes every step, and the cosine begins where the
            warm-up ends.
        clip_norm: Largest norm of the gradient; `None` = unlimited.
        label_smoothing: Probability mass spread over the wrong classes in the loss.
        betas: Of AdamW.
        layer_decay: The learning rate of block i (from 0) of n is `lr * layer_decay ** (n - i)`, that of the embedding
            one power lower, and that of the head and the final norm `lr` (docs/pretraining.md §11.1). For models that say
            which parameters stand in which block (`parameter_layers`).
        fitted: `"all"` parameters, or those of the `"head"` alone: a linear probe. All others keep their values.
        patience: Stop after so many epochs in a row without a lower loss of the validation trials, which `fit` then
            needs; `None` = all epochs.
        seed: Seed of the order of trials and of dropout; studies derive the initial weights from it too.
    """

    ADDED: ClassVar[tuple[str, ...]] = ("schedule_by", "betas", "layer_decay", "fitted", "patience")

    epochs: int = Field(default=2000, ge=1, le=MOST_EPOCHS)
    batch_size: int = Field(default=64, ge=1, lt=2**31)
    lr: float = Field(default=4e-5, gt=0, le=1000)
    weight_decay: float = Field(default=0.01, ge=0)
    anneal_epochs: int = Field(default=750, ge=0, le=MOST_EPOCHS)
    schedule: Literal["constant", "cosine"] = "constant"
    warmup_epochs: int = Field(default=0, ge=0, le=MOST_EPOCHS)
    schedule_by: Literal["epoch", "step"] = "epoch"
    clip_norm: float | None = Field(default=None, gt=0)
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    betas: tuple[float, float] = (0.9, 0.999)
    layer_decay: float = Field(default=1.0, gt=0, le=1)
    fitted: Literal["all", "head"] = "all"
    patience: int | None = Field(default=None, ge=1, le=MOST_EPOCHS)
    seed: int = Field(default=0, ge=0, lt=2**53)

    @field_validator("betas")
    @classmethod
    def _below_one(cls, betas: tuple[float, float]) -> tuple[float, float]:
        if not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"betas must be from 0 to below 1, got {list(betas)}")
        return betas

    @model_validator(mode="after")
    def _of_use(self) -> "TrainingRecipe":
        if self.fitted == "head" and self.layer_decay != 1:
            raise ValueError("fitted='head' fits no block, so layer_decay would do nothing; leave one of them out")
        if self.schedule_by == "step" and self.schedule == "constant" and not self.warmup_epochs:
            raise ValueError("schedule_by='step' needs schedule='cosine' or warmup_epochs, or it would do nothing")
        return self

    def summary(self) -> str:
        """The recipe in a line."""
        epochs = range(min(self.epochs, self.warmup_epochs + 1))
        reached = max(self.lr_factor(epoch, step, steps=100) for epoch in epochs for step in (0, 99))
        more = [
            ("by step", self.schedule_by == "step"),
            (f"after {self.warmup_epochs} epochs of warm-up", self.warmup_epochs > 0),
            (f"at most {100 * reached:.0f} % of it is reached", reached < 0.995),
        ]
        others = [
            (f"gradients clipped to {self.clip_norm or 0:g}", self.clip_norm is not None),
            (f"label smoothing {self.label_smoothing:g}", self.label_smoothing > 0),
            (f"betas {self.betas[0]:g} and {self.betas[1]:g}", self.betas != (0.9, 0.999)),
            (f"times {self.layer_decay:g} a layer from the head down", self.layer_decay != 1),
            ("the head alone is fitted", self.fitted == "head"),
            (f"at most {self.patience} epochs without a lower validation loss", self.patience is not None),
        ]
        return (
            f"AdamW, {self.epochs} epochs, batches of {self.batch_size}, learning rate {self.lr:g}"
            f" ({', '.join([self.schedule, *(text for text, said in more if said)])}), weight decay"
            f" {self.weight_decay:g}, {''.join(f'{text}, ' for text, said in others if said)}"
            f"λ of a second head, if there is one, annealed over {self.anneal_epochs} epochs, seed {self.seed}"
        )

    def lr_factor(self, epoch: int, step: int = 0, steps: int = 1) -> float:
        """Learning rate as a fraction of `lr`.

        Args:
            epoch: Which epoch, from 0.
            step: Which step of the epoch, from 0; it counts with `schedule_by="step"`.
            steps: Steps of an epoch.
        """
        if self.schedule_by == "step":
            done, begin = epoch * steps + step, self.warmup_epochs * steps
            if done < begin or self.schedule == "constant":
                return min(1.0, (done + 1) / (begin + 1))
            return 0.5 * (1 + math.cos(math.pi * (done - begin) / (self.epochs * steps - begin)))
        warm = min(1.0, (epoch + 1) / (self.warmup_epochs + 1))
        if self.schedule == "constant":
            return warm
        return warm * 0.5 * (1 + math.cos(math.pi * epoch / self.epochs))
