"""The recipe of a pre-training by masked reconstruction, and two published ones (docs/pretraining.md §10.2)."""

import math
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, model_validator

from emg_lens.training.recipe import Beta
from emg_lens.validation import SpecModel

MOST_EPOCHS = 10**6


class PretrainingRecipe(SpecModel):
    """Settings of a pre-training by masked reconstruction. The defaults are the values of the published code.

    Attributes:
        epochs: Passes over the training windows.
        batch_size: Windows per optimiser step, over all processes. An incomplete last batch is left out of the epoch;
            in each epoch it contains other windows.
        micro_batch: Largest number of windows that a process computes at once; the gradients of a step are accumulated.
        lr: Peak learning rate of AdamW.
        min_lr: Learning rate at the end of the cosine.
        warmup_lr: Learning rate at the start of the linear warm-up.
        warmup_epochs: Length of the warm-up.
        schedule: `"by epoch"`: the rate changes once per epoch, and the cosine counts from the first epoch, so the rate
            stays below `lr` after a warm-up (timm's `CosineLRScheduler`, as in the published code). `"by step"`: the
            rate changes in every step, and the cosine starts at the peak.
        betas: Betas of AdamW.
        weight_decay: Weight decay of AdamW, for all parameters.
        clip_norm: Largest norm of the gradient; `None` = no limit.
        masked_fraction: Fraction of the tokens of a window that is masked, at random for each window and epoch. The
            number of masked tokens is `int(masked_fraction * tokens)`.
        beta: Beta of the Smooth-L1 loss: the loss is quadratic for smaller errors and linear for larger ones.
        visible_weight: Weight of the loss of the visible tokens; the loss of the masked tokens has weight 1.
        seed: Seed of initial weights, order of windows, masks and dropout.

    Example:
        >>> from emg_lens import PretrainingRecipe
        >>> recipe = PretrainingRecipe.published("tinymyo-thesis", epochs=20, warmup_epochs=5)
        >>> recipe.batch_size, recipe.masked_fraction
        (4096, 0.5)
        >>> recipe.lr_at(epoch=0, step=0, steps=10)  # the learning rate of the first of 10 steps
        1e-06
    """

    epochs: int = Field(default=50, ge=1, le=MOST_EPOCHS)
    batch_size: int = Field(default=4096, ge=1, lt=2**31)
    micro_batch: int = Field(default=128, ge=1, lt=2**31)
    lr: float = Field(default=1e-4, gt=0, le=1000)
    min_lr: float = Field(default=1e-6, ge=0, le=1000)
    warmup_lr: float = Field(default=1e-6, ge=0, le=1000)
    warmup_epochs: float = Field(default=10, ge=0, le=MOST_EPOCHS)
    schedule: Literal["by epoch", "by step"] = "by epoch"
    betas: tuple[Beta, Beta] = (0.9, 0.999)
    weight_decay: float = Field(default=0.01, ge=0)
    clip_norm: float | None = Field(default=3.0, gt=0)
    masked_fraction: float = Field(default=0.5, gt=0, lt=1)
    beta: float = Field(default=1.0, gt=0)
    visible_weight: float = Field(default=0.1, ge=0)
    seed: int = Field(default=42, ge=0, lt=2**53)

    @model_validator(mode="after")
    def _ordered(self) -> "PretrainingRecipe":
        if max(self.min_lr, self.warmup_lr) > self.lr:
            raise ValueError(
                f"min_lr={self.min_lr:g} or warmup_lr={self.warmup_lr:g} is above the peak lr={self.lr:g}; reduce it"
            )
        if self.warmup_epochs > self.epochs:
            raise ValueError(
                f"warmup_epochs={self.warmup_epochs:g} is longer than the training, epochs={self.epochs}; reduce it"
            )
        return self

    @classmethod
    def published(cls, name: str, **fields: Any) -> "PretrainingRecipe":
        """Return a published recipe, with some fields replaced.

        Args:
            name: `"tinymyo-released"` (the published code) or `"tinymyo-thesis"`.
            **fields: Fields to replace.
        """
        return cls(like=name, **fields)  # pyright: ignore[reportCallIssue]

    @model_validator(mode="before")
    @classmethod
    def _like(cls, content: Any) -> Any:
        """Read `{like: tinymyo-thesis, epochs: 3}`: a published recipe with other values for some fields."""
        if isinstance(content, str):
            content = {"like": content}
        if not isinstance(content, Mapping) or "like" not in content:
            return content
        name = content["like"]
        if not isinstance(name, str) or name not in PUBLISHED:
            raise ValueError(f"like={name!r} is not a published recipe; known: {', '.join(PUBLISHED)}")
        return {**PUBLISHED[name], **{key: value for key, value in content.items() if key != "like"}}

    def lr_at(self, epoch: int, step: int, steps: int) -> float:
        """Return the learning rate of a step.

        Args:
            epoch: Number of the epoch, from 0.
            step: Number of the step within the epoch, from 0.
            steps: Steps per epoch.
        """
        by_step = self.schedule == "by step"
        done = epoch + step / steps if by_step else epoch
        if done < self.warmup_epochs:
            return self.warmup_lr + (self.lr - self.warmup_lr) * done / self.warmup_epochs
        begin = self.warmup_epochs if by_step else 0.0
        part = (done - begin) / max(self.epochs - begin, 1e-9)
        return self.min_lr + (self.lr - self.min_lr) * 0.5 * (1 + math.cos(math.pi * min(part, 1.0)))

    def summary(self) -> str:
        """Describe the recipe in one line."""
        return (
            f"{self.epochs} epochs, {self.batch_size} windows a step, {self.masked_fraction:.0%} of the tokens masked,"
            f" learning rate {self.lr:g} (cosine {self.schedule}, {self.warmup_epochs:g} epochs of warm-up)"
        )


PUBLISHED: dict[str, dict[str, Any]] = {
    "tinymyo-released": {},
    "tinymyo-thesis": {"betas": (0.9, 0.98), "schedule": "by step"},
}
"""Published recipes, as differences from the defaults. docs/pretraining.md §10.2 compares thesis and code."""
