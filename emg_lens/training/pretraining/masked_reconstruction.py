"""The objective "masked-reconstruction" for `fit`: windows in memory, no labels, the loss of `pretrain`."""

from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from emg_lens.data.batch import Batch
from emg_lens.data.trials import TrialSet
from emg_lens.training.objectives import FitError, Objective, check_fit_trials, targets_of
from emg_lens.training.pretraining.masking import n_patches, random_mask, reconstruction_losses, total_loss
from emg_lens.training.recipe import TrainingRecipe
from emg_lens.validation import ArgumentError


@dataclass(frozen=True)
class MaskedReconstruction(Objective):
    """Reconstruct the samples of masked tokens from the visible ones (docs/pretraining.md §10.2).

    The targets are the windows themselves: `fit(model, Batch(x, x), recipe, objective="masked-reconstruction")`, with
    x scaled as for pre-training (docs/pretraining.md §10.1). Each window has another random mask in every epoch.

    Attributes:
        masked_fraction: Fraction of the tokens of a window that is masked.
        beta: See `torch.nn.functional.smooth_l1_loss`.
        visible_weight: Weight of the error of the visible tokens.
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
        """The name and the settings."""
        return f"{self.name} {self.masked_fraction:g} {self.beta:g} {self.visible_weight:g}"

    def targets(self, trials: TrialSet) -> NoReturn:  # noqa: ARG002
        """Raise an error: this objective does not use the labels of trials."""
        raise FitError(
            "masked-reconstruction is not an objective for studies, because its targets are the windows themselves;"
            " use emg-lens pretrain for data sets, or fit(model, Batch(x, x), recipe, objective=...) for windows"
        )

    def output_names(self, trials: TrialSet) -> tuple[str, ...]:  # noqa: ARG002
        """Return an empty tuple, because the outputs are samples, which have no names."""
        return ()

    def check(self, model: Any, batch: Batch, prefix: str = "") -> None:
        """Check that the model reconstructs its input, and that the targets are the windows."""
        x, targets = batch.x, targets_of(batch, prefix)
        given = getattr(getattr(model, "cfg", None), "output_shape", None)
        if given is None or tuple(x.shape[1:]) != given or not getattr(model.cfg, "mask_token", False):
            raise FitError(
                f"{prefix}{type(model).__name__} with outputs of shape {given} cannot reconstruct windows of shape"
                f" {tuple(x.shape[1:])}; expected outputs of the same shape as the windows, whole patches, and a mask"
                " token, for example a TinyMyo with head='reconstruction'"
            )
        n_patches(model)
        check_fit_trials(batch, prefix)
        if targets.shape != x.shape or not torch.equal(targets, x):
            raise FitError(f"{prefix}the targets differ from the windows; give the windows twice: Batch(x, x)")

    def losses(self, outputs: Tensor, targets: Tensor, recipe: TrainingRecipe) -> NoReturn:  # noqa: ARG002
        """Raise an error: the loss needs a mask."""
        raise FitError("the loss of masked reconstruction needs a mask; call batch_losses, which makes one")

    def batch_losses(
        self,
        model: Any,
        batch: Batch,
        weight: float,  # noqa: ARG002
        recipe: TrainingRecipe,  # noqa: ARG002
        generator: torch.Generator,
    ) -> tuple[Float[Tensor, " trial"], Tensor]:
        """Mask tokens of each window; return the losses and the reconstruction. Only the first head is trained."""
        tokens = np.ones(len(model.layout), bool)
        seeds = torch.randint(2**62, (len(batch),), generator=generator).tolist()
        masks = [torch.from_numpy(random_mask(tokens, self.masked_fraction, (seed,))) for seed in seeds]
        masked = torch.stack(masks).to(batch.x.device)
        reconstruction = model(batch.x, masked=masked)
        real, patches = torch.ones_like(masked), n_patches(model)
        losses = reconstruction_losses(reconstruction, targets_of(batch), masked, real, patches, self.beta)
        return total_loss(*losses, self.visible_weight), reconstruction


MASKED_RECONSTRUCTION = MaskedReconstruction()
