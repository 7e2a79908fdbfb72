"""The recipe of a fit. This module imports no torch, so that study files can be read without it."""

import math
from typing import Annotated, Literal

from pydantic import Field, model_validator

from emg_lens.validation import SpecModel

MOST_EPOCHS = 10**7
Beta = Annotated[float, Field(ge=0, lt=1)]


class EdgeDropout(SpecModel):
    """Attention edges that are cut at random in training (`docs/cuts.md` §6.10).

    Attributes:
        edges: Edge expression, for example `"cross_modal()"`.
        p: Probability that a trial is without all these edges in a forward pass; 1 = always.
    """

    edges: str
    p: float = Field(gt=0, le=1)


class TrainingRecipe(SpecModel):
    """Settings of a fit. The defaults are the values of the IsoNet paper (§3), where the paper gives them.

    Attributes:
        epochs: Passes over the training trials.
        batch_size: Trials per step; the last step of an epoch takes the remaining trials.
        lr: Learning rate of AdamW, before the schedule lowers it.
        weight_decay: Weight decay of AdamW.
        anneal_epochs: T of λ(t) = min(1, t / T): number of epochs until the loss is the loss of the CLS head alone;
            0 = from the start.
        schedule: Learning rate after the warm-up: `"constant"`, or `"cosine"` (falling to zero).
        warmup_epochs: Number of epochs in which the learning rate rises linearly.
        schedule_by: `"epoch"`: the rate changes once per epoch. The cosine starts in the first epoch, so the rate stays
            below `lr` after a long warm-up. `"step"`: the rate changes at every step, and the cosine starts at the end
            of the warm-up.
        clip_norm: Largest norm of the gradient; None = unlimited.
        label_smoothing: Probability that the loss spreads over all classes.
        betas: Decay rates of AdamW's two moments.
        layer_decay: Block i (0-based) of n has the learning rate `lr * layer_decay ** (n - i)`. The embedding has one
            power more; the head and the final norm have `lr` (docs/pretraining.md §11.1). For models that declare the
            layer of each parameter (`parameter_layers`).
        fitted: `"all"` parameters, or only the parameters of the `"head"` (a linear probe).
        edge_dropout: Edges that are cut in training for randomly chosen trials, as in `emg_lens.hooks.edge_dropout`:
            `{"edges": "cross_modal()", "p": 0.5}`. Evaluation uses all edges. For `fit`, not for `fit_cohort`.
        patience: Stop after this number of consecutive epochs without a lower validation loss; None = run all epochs.
            `fit` then needs validation trials.
        seed: Seed of the order of trials and of dropout. Studies also derive the initial weights from it.

    Example:
        >>> from emg_lens import TrainingRecipe
        >>> recipe = TrainingRecipe(epochs=100, lr=1e-3, schedule="cosine", warmup_epochs=10)
        >>> [round(recipe.lr_factor(epoch), 3) for epoch in (0, 10, 50, 99)]
        [0.091, 0.976, 0.5, 0.0]
    """

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
    betas: tuple[Beta, Beta] = (0.9, 0.999)
    layer_decay: float = Field(default=1.0, gt=0, le=1)
    fitted: Literal["all", "head"] = "all"
    edge_dropout: EdgeDropout | None = None
    patience: int | None = Field(default=None, ge=1, le=MOST_EPOCHS)
    seed: int = Field(default=0, ge=0, lt=2**53)

    @model_validator(mode="after")
    def _has_no_unused_field(self) -> "TrainingRecipe":
        if self.fitted == "head" and self.layer_decay != 1:
            raise ValueError("fitted='head' fits no block, so layer_decay has no effect; remove one of them")
        if self.schedule_by == "step" and self.schedule == "constant" and not self.warmup_epochs:
            raise ValueError("schedule_by='step' has no effect; add schedule='cosine' or warmup_epochs")
        return self

    def summary(self) -> str:
        """Describe the recipe in one line."""
        epochs = range(min(self.epochs, self.warmup_epochs + 1))
        reached = max(self.lr_factor(epoch, step, steps=100) for epoch in epochs for step in (0, 99))
        more = [
            ("by step", self.schedule_by == "step"),
            (f"after {self.warmup_epochs} epochs of warm-up", self.warmup_epochs > 0),
            (f"the largest rate reached is {self.lr * reached:.3g}", reached < 0.995),
        ]
        fades, dropped = self.anneal_epochs > 0, self.edge_dropout
        others = [
            (f"gradients clipped to {self.clip_norm or 0:g}", self.clip_norm is not None),
            (f"label smoothing {self.label_smoothing:g}", self.label_smoothing > 0),
            (f"betas {self.betas[0]:g} and {self.betas[1]:g}", self.betas != (0.9, 0.999)),
            (f"learning rate times {self.layer_decay:g} per layer below the head", self.layer_decay != 1),
            ("only the head is fitted", self.fitted == "head"),
            (f"the loss of a second head, in models that have one, fades out over {self.anneal_epochs} epochs", fades),
            (f"{dropped.edges} cut in {100 * dropped.p:g} % of the trials" if dropped else "", dropped is not None),
            (f"stop after {self.patience} epochs without a lower validation loss", self.patience is not None),
        ]
        return (
            f"AdamW, {self.epochs} epochs, batches of {self.batch_size}, learning rate {self.lr:g}"
            f" ({', '.join([self.schedule, *(text for text, said in more if said)])}), weight decay"
            f" {self.weight_decay:g}, {''.join(f'{text}, ' for text, said in others if said)}seed {self.seed}"
        )

    def lr_factor(self, epoch: int, step: int = 0, steps: int = 1) -> float:
        """Return the learning rate of an epoch or step, as a fraction of `lr`.

        Args:
            epoch: Epoch (0-based).
            step: Step of the epoch (0-based); only `schedule_by="step"` uses it.
            steps: Number of steps per epoch.
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
