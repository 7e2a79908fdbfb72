"""The objective of pre-training for the one `fit`: windows in memory, no labels, the losses of `pretrain`."""

from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from emg_lens.data.batch import Batch
from emg_lens.data.trials import TrialSet
from emg_lens.training.objectives import FitError, Objective, check_trials, targets_of
from emg_lens.training.pretraining.masking import draw_mask, n_patches, reconstruction_losses, total_loss
from emg_lens.training.recipe import TrainingRecipe
from emg_lens.validation import ArgumentError


@dataclass(frozen=True)
class MaskedReconstruction(Objective):
    """Samples of hidden tokens, told from those that are not: what pre-training fits (docs/pretraining.md §10.2).

    The targets are the windows themselves: `fit(model, Batch(x, x), recipe, objective="masked-reconstruction")`, x
    scaled as for pre-training (docs/pretraining.md §10.1). Every window and epoch has new random hidden tokens.

    Attributes:
        masked_fraction: Of the tokens of a window that are hidden.
        beta: See `torch.nn.functional.smooth_l1_loss`.
        visible_weight: Of the error of the visible tokens.
    """

    masked_fraction: float = 0.5
    beta: float = 1.0
    visible_weight: float = 0.1
    name = "masked-reconstruction"
    kind = "values"
    metrics = ("reconstruction_error",)
    one_by_one = True

    def __post_init__(self) -> None:
        if not (0 < self.masked_fraction < 1 and self.beta > 0 and self.visible_weight >= 0):
            raise ArgumentError(
                f"{self}; expected a masked_fraction between 0 and 1, beta above 0, visible_weight 0 or more"
            )

    @property
    def identity(self) -> str:
        """Name and settings."""
        return f"{self.name} {self.masked_fraction:g} {self.beta:g} {self.visible_weight:g}"

    def targets(self, trials: TrialSet) -> NoReturn:  # noqa: ARG002
        """Refused: trials hold what is performed in them.

        Raises:
            FitError: Always.
        """
        raise FitError(
            "masked reconstruction has no targets but the scaled windows themselves, so it is no objective of a study:"
            " emg-lens pretrain fits it to whole data sets, fit(model, Batch(x, x), recipe, objective=...) to windows"
        )

    def output_names(self, trials: TrialSet) -> tuple[str, ...]:  # noqa: ARG002
        """None: the outputs are samples."""
        return ()

    def check(self, model: Any, batch: Batch, prefix: str = "") -> None:
        """Refuse a model that does not fill in signals, and targets that are not the windows."""
        x, targets = batch.x, targets_of(batch, prefix)
        given = getattr(getattr(model, "cfg", None), "output_shape", None)
        if given is None or tuple(x.shape[1:]) != given or not getattr(model.cfg, "mask_token", False):
            raise FitError(
                f"{prefix}{type(model).__name__} gives {given} for windows of {tuple(x.shape[1:])}; expected the"
                " samples of its input and a mask token, as a TinyMyo with head='reconstruction' has them, and whole"
                " patches"
            )
        n_patches(model)
        check_trials(batch, prefix)
        if targets.shape != x.shape or not torch.equal(targets, x):
            raise FitError(
                f"{prefix}targets are other values than the windows; give the windows twice: Batch(x, x)"
            )

    def losses(self, outputs: Tensor, targets: Tensor, recipe: TrainingRecipe) -> NoReturn:  # noqa: ARG002
        """Refused: without the mask there is no loss.

        Raises:
            FitError: Always.
        """
        raise FitError("masked reconstruction has a loss for a mask alone: batch_losses draws one")

    def batch_losses(
        self,
        model: Any,
        batch: Batch,
        weight: float,  # noqa: ARG002
        recipe: TrainingRecipe,
        generator: torch.Generator,
    ) -> tuple[Float[Tensor, " trial"], Tensor]:
        """Hide tokens of each window; loss and reconstruction. Of models with two heads, the first is fitted.

        Raises:
            FitError: A recipe that smooths labels.
        """
        if recipe.label_smoothing:
            raise FitError(f"label_smoothing={recipe.label_smoothing} means nothing in a reconstruction; leave it at 0")
        tokens = np.ones(len(model.layout), bool)
        seeds = torch.randint(2**62, (len(batch),), generator=generator).tolist()
        drawn = [torch.from_numpy(draw_mask(tokens, self.masked_fraction, (seed,))) for seed in seeds]
        masked = torch.stack(drawn).to(batch.x.device)
        found = model(batch.x, masked=masked)
        real, patches = torch.ones_like(masked), n_patches(model)
        of_both = reconstruction_losses(found, targets_of(batch), masked, real, patches, self.beta)
        return total_loss(*of_both, self.visible_weight), found


MASKED_RECONSTRUCTION = MaskedReconstruction()
