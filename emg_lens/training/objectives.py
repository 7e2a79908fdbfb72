"""Objectives: what a model is fitted for. An objective defines targets, loss and metrics.

`fit` works with any objective. Register your own with `OBJECTIVES.add("mine", Mine())`, or through the entry-point
group `emg_lens.objectives` of another package (docs/extending.md).
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from emg_lens.data.batch import Batch
from emg_lens.data.trials import TrialSet
from emg_lens.errors import EmgLensError
from emg_lens.memory import trials_not_finite
from emg_lens.registry import Registry
from emg_lens.scoring.metric_registry import OutputKind
from emg_lens.scoring.metrics import METRICS
from emg_lens.training.recipe import TrainingRecipe
from emg_lens.validation import checked


class FitError(EmgLensError, RuntimeError):
    """A fit that cannot start, or whose loss became NaN or infinite."""


class Objective(ABC):
    """Targets, loss and metrics of a fit. The same object can be used for several fits.

    Attributes:
        name: Name in study files and calls.
        kind: Kind of output that the model predicts. Metrics, storage and reports depend on it.
        metrics: Metrics to report, all of this kind; `fit` tabulates the first one.
        one_by_one: Whether the loss uses random numbers for each trial, or `torch.vmap` cannot map it. Such models
            cannot be fitted as a cohort.
        smooths_labels: Whether the loss uses the recipe's `label_smoothing`. If not, such a recipe is refused.
    """

    name: str
    kind: OutputKind
    metrics: tuple[str, ...]
    one_by_one: bool = False
    smooths_labels: bool = False

    @property
    def identity(self) -> str:
        """Text that identifies the objective in a checkpoint: its name, and its settings, if any."""
        return self.name

    @abstractmethod
    def targets(self, trials: TrialSet) -> Tensor:
        """Read the targets of trials, in their own units.

        Raises:
            FitError: The trials have no such targets.
        """

    def stand_ins(self, trials: TrialSet) -> TrialSet:
        """Give invented targets to trials that stand for recordings, so that a study can be checked without these."""
        return trials

    @abstractmethod
    def output_names(self, trials: TrialSet) -> tuple[str, ...]:
        """Names of the model's outputs: classes or targets."""

    @abstractmethod
    def check(self, model: Any, batch: Batch, prefix: str = "") -> None:
        """Refuse a batch that the model cannot be fitted to. `prefix` (`"subject 3: "`) starts the message.

        Raises:
            FitError: Trials or targets that do not fit the model.
        """

    def check_recipe(self, recipe: TrainingRecipe) -> None:
        """Refuse a setting of the recipe that has no effect on this loss."""
        if recipe.label_smoothing and not self.smooths_labels:
            raise FitError(
                f"label_smoothing={recipe.label_smoothing} has no effect on the loss of objective {self.name!r}; set it"
                " to 0"
            )

    @abstractmethod
    def losses(self, outputs: Tensor, targets: Tensor, recipe: TrainingRecipe) -> Float[Tensor, " trial"]:
        """Compute the loss of each trial."""

    def batch_losses(
        self,
        model: Any,
        batch: Batch,
        weight: float,
        recipe: TrainingRecipe,
        generator: torch.Generator,  # noqa: ARG002 - for objectives that draw random numbers
    ) -> tuple[Float[Tensor, " trial"], Tensor]:
        """Run the model on a batch. An objective that changes the input (e.g. masks it) overrides this method.

        Args:
            model: The model; in a cohort, a function with the same inputs and outputs.
            batch: Trials and targets.
            weight: λ, the weight of the outputs in the loss. The auxiliary outputs of a model with two heads have
                weight 1 - λ; at λ = 1 they are not computed.
            recipe: Recipe of the fit.
            generator: Source of the objective's random numbers, on the CPU. Checkpoints save its state.

        Returns:
            Loss of each trial, and the outputs that the metrics score.
        """
        if weight >= 1:
            outputs = model(batch.x)
            return self.losses(outputs, targets_of(batch), recipe), outputs
        outputs, auxiliary = model(batch.x, return_type="both")
        losses = weight * self.losses(outputs, targets_of(batch), recipe)
        return losses + (1 - weight) * self.losses(auxiliary, targets_of(batch), recipe), outputs

    def scored_targets(self, targets: np.ndarray, outputs: np.ndarray) -> np.ndarray:  # noqa: ARG002
        """Return the targets that all conditions are scored on, given the outputs of the intact model.

        An objective whose scores align outputs and targets freezes the alignment here. Aligned anew for each condition,
        a damaged model would be scored by an alignment that fits its errors.
        """
        return targets

    def check_metrics(self, names: Iterable[str]) -> None:
        """Refuse metrics that score another kind of output."""
        for name in names:
            if METRICS[name].kind != self.kind:
                raise FitError(
                    f"metric {name!r} scores {METRICS[name].kind}, but objective {self.name!r} predicts {self.kind};"
                    f" choose for example {', '.join(self.metrics)}"
                )


class Classification(Objective):
    """Cross-entropy of class logits. A model with two heads gets the annealed loss of the IsoNet paper (§3)."""

    name = "classification"
    kind = "classes"
    metrics = ("accuracy", "repetition_accuracy", "balanced_accuracy", "macro_f1", "log_prob")
    smooths_labels = True

    def targets(self, trials: TrialSet) -> Int[Tensor, " trial"]:
        """Class index of each trial."""
        return torch.as_tensor(trials.y, dtype=torch.int64)

    def output_names(self, trials: TrialSet) -> tuple[str, ...]:
        """Names of the classes."""
        return trials.classes

    def check(self, model: Any, batch: Batch, prefix: str = "") -> None:
        """Refuse labels that are not class indices of the model."""
        n_classes, targets = _n_outputs(model, prefix), targets_of(batch, prefix)
        if targets.dtype != torch.int64 or targets.ndim != 1:
            raise FitError(
                f"{prefix}labels are {targets.dtype} {list(targets.shape)}; expected one class index (torch.int64) per"
                " trial; for values, fit with objective='regression'"
            )
        check_fit_trials(batch, prefix)
        if int(targets.min()) < 0 or int(targets.max()) >= n_classes:
            raise FitError(
                f"{prefix}labels run from {int(targets.min())} to {int(targets.max())}; the model has classes 0 to"
                f" {n_classes - 1}"
            )

    def losses(
        self, outputs: Float[Tensor, "trial class"], targets: Int[Tensor, " trial"], recipe: TrainingRecipe
    ) -> Float[Tensor, " trial"]:
        """Cross-entropy, with the recipe's label smoothing."""
        return F.cross_entropy(outputs, targets, reduction="none", label_smoothing=recipe.label_smoothing)


class Regression(Objective):
    """Mean squared error over z-scored targets, so that each target has the same weight."""

    name = "regression"
    kind = "values"
    metrics = ("r2", "mae", "rmse", "pearson")

    def targets(self, trials: TrialSet) -> Float[Tensor, "trial target"]:
        """Values of the targets, in their own units."""
        if trials.targets is None:
            raise FitError(
                f"the trials have no targets; with_targets([...]) makes some of {list(trials.modalities)} the targets"
            )
        return torch.as_tensor(trials.targets, dtype=torch.float32)

    def output_names(self, trials: TrialSet) -> tuple[str, ...]:
        """Names of the targets."""
        return trials.target_names

    def check(self, model: Any, batch: Batch, prefix: str = "") -> None:
        """Refuse targets that are not finite values, one per output of the model."""
        n_outputs, targets = _n_outputs(model, prefix), targets_of(batch, prefix)
        if not targets.is_floating_point() or targets.ndim != 2 or targets.shape[1] != n_outputs:
            raise FitError(
                f"{prefix}targets are {targets.dtype} {list(targets.shape)}; expected floats [trial, {n_outputs}], one"
                " per output of the model; for class indices, fit with objective='classification'"
            )
        check_fit_trials(batch, prefix)
        bad = len(trials_not_finite(targets))
        if bad:
            raise FitError(f"{prefix}targets of {bad} of {len(batch)} trials are NaN or infinite; drop these trials")

    def losses(
        self,
        outputs: Float[Tensor, "trial target"],
        targets: Float[Tensor, "trial target"],
        recipe: TrainingRecipe,  # noqa: ARG002
    ) -> Float[Tensor, " trial"]:
        """Squared error, averaged over targets."""
        return (outputs - targets).square().mean(1)


OBJECTIVES: Registry[Objective] = Registry("objective", "emg_lens.objectives", Objective)
OBJECTIVES.add("classification", Classification())
OBJECTIVES.add("regression", Regression())


@checked
def as_objective(given: str | Objective) -> Objective:
    """Look up an objective by name; an `Objective` is returned as it is."""
    return OBJECTIVES[given] if isinstance(given, str) else given


def anneal_weight(epoch: int, anneal_epochs: int) -> float:
    """λ(t) = min(1, t / T): weight of the CLS loss in epoch t (IsoNet paper, §3). T = 0 means the CLS loss alone."""
    return 1.0 if anneal_epochs <= 0 else min(1.0, epoch / anneal_epochs)


def targets_of(batch: Batch, prefix: str = "") -> Tensor:
    """Return the targets of a batch."""
    if batch.targets is None:
        raise FitError(f"{prefix}the batch has no targets; expected one per trial: Batch(x, targets)")
    return batch.targets


def check_fit_trials(batch: Batch, prefix: str = "") -> None:
    """Refuse trials that no model can be fitted to."""
    if not len(batch):
        raise FitError(f"{prefix}0 trials; a fit needs one or more")
    if batch.lengths is not None:
        raise FitError(f"{prefix}trials have different lengths, which no model can use; cut all trials to one length")
    bad = len(trials_not_finite(batch.x))
    if bad:
        raise FitError(f"{prefix}{bad} of {len(batch)} trials contain NaN or infinite values; drop or repair them")


def _n_outputs(model: Any, prefix: str) -> int:
    n_outputs = getattr(getattr(model, "cfg", None), "n_classes", None)
    if not isinstance(n_outputs, int):
        raise FitError(f"{prefix}{type(model).__name__} has no cfg.n_classes; expected its number of outputs")
    if getattr(model.cfg, "readout", None) == "each":
        raise FitError(
            f"{prefix}the model predicts {n_outputs} outputs at every token (readout='each'), but there is one target"
            " per trial; build the model with readout='mean'"
        )
    if n_outputs < 1:
        raise FitError(
            f"{prefix}the model has no outputs (readout={getattr(model.cfg, 'readout', None)!r}); build it with"
            " readout='cls' or 'mean' and n_classes"
        )
    shape = getattr(model.cfg, "output_shape", (n_outputs,))
    if shape != (n_outputs,):
        raise FitError(
            f"{prefix}the model predicts {list(shape)} values per trial; this objective expects [{n_outputs}];"
            " a TinyMyo with head='regression' gives this shape with pooled=True"
        )
    return n_outputs
