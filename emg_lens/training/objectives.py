"""What a model is fitted for: its targets in a set of trials, its loss, its metrics.

One `fit` serves all of them. An objective registers itself: `OBJECTIVES.add("mine", Mine())`, or an entry point
`emg_lens.objectives` of another package.
"""

from abc import ABC, abstractmethod
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from emg_lens.data.trials import TrialSet
from emg_lens.errors import EmgLensError
from emg_lens.memory import trials_not_finite
from emg_lens.registry import Registry
from emg_lens.training.recipe import TrainingRecipe
from emg_lens.validation import checked, short


class FitError(EmgLensError, RuntimeError):
    """A fit that cannot start or went wrong: trials that do not fit the model, or a loss that is not a number."""


class Objective(ABC):
    """One entry of the registry; a fit changes nothing in it, so one object serves every fit.

    Attributes:
        name: What users call it.
        metrics: Metrics that tell how well it is met; the first stands in the table of a fit.
        one_by_one: Whether models have to be fitted one after the other, because what it draws depends on the trials.
    """

    name: str
    metrics: tuple[str, ...]
    one_by_one: bool = False

    @property
    def identity(self) -> str:
        """What tells it from others in a checkpoint: its name, and its settings where it has some."""
        return self.name

    @abstractmethod
    def targets(self, trials: TrialSet) -> Tensor:
        """What the model should give for each trial.

        Raises:
            FitError: The trials have none.
        """

    @abstractmethod
    def output_names(self, trials: TrialSet) -> tuple[str, ...]:
        """Name of each output: classes, targets."""

    @abstractmethod
    def check(self, model: Any, x: Tensor, targets: Tensor, whose: str = "") -> None:
        """Refuse what cannot be fitted; `whose` (`"subject 3: "`) starts the message.

        Raises:
            FitError: Trials or targets that do not fit the model.
        """

    @abstractmethod
    def losses(self, outputs: Tensor, targets: Tensor, recipe: TrainingRecipe) -> Float[Tensor, " trial"]:
        """Loss of each trial."""

    def batch_losses(
        self,
        model: Any,
        x: Float[Tensor, "trial channel time"],
        targets: Tensor,
        weight: float,
        recipe: TrainingRecipe,
        generator: torch.Generator,  # noqa: ARG002 - for objectives that draw
    ) -> tuple[Float[Tensor, " trial"], Tensor]:
        """Run the model on a batch; the loss of each trial, and the outputs that metrics read.

        An objective that changes the input (masks it) does it here.

        Args:
            model: The model; while a cohort is fitted, a function that stands for it.
            x: Trials.
            targets: What the model should give for them.
            weight: λ, the part of the loss that the outputs have; the auxiliary outputs of a model with two heads have
                the rest. At 1, auxiliary outputs are not computed.
            recipe: The recipe of the fit.
            generator: Where an objective draws random numbers from, on the CPU; its state is part of a checkpoint.
        """
        if weight >= 1:
            outputs = model(x)
            return self.losses(outputs, targets, recipe), outputs
        outputs, auxiliary = model(x, return_type="both")
        losses = weight * self.losses(outputs, targets, recipe)
        return losses + (1 - weight) * self.losses(auxiliary, targets, recipe), outputs


class Classification(Objective):
    """Cross-entropy of class logits; the annealed loss of a model with two heads is the paper's (IsoNet, §3)."""

    name = "classification"
    metrics = ("accuracy", "repetition_accuracy", "balanced_accuracy", "macro_f1", "log_prob")

    def targets(self, trials: TrialSet) -> Int[Tensor, " trial"]:
        """Class index of each trial."""
        return torch.as_tensor(trials.y, dtype=torch.int64)

    def output_names(self, trials: TrialSet) -> tuple[str, ...]:
        """Names of the classes."""
        return trials.classes

    def check(self, model: Any, x: Tensor, targets: Tensor, whose: str = "") -> None:
        """Refuse labels that are no class indices of the model."""
        n_classes = _n_outputs(model, whose)
        check_tensors(x, targets, whose)
        if targets.is_floating_point() or targets.dtype == torch.bool or targets.ndim != 1:
            raise FitError(
                f"{whose}labels are {targets.dtype} {list(targets.shape)}; expected class indices (torch.int64), one a"
                " trial; for values, fit with objective='regression'"
            )
        check_trials(x, targets, whose)
        if int(targets.min()) < 0 or int(targets.max()) >= n_classes:
            raise FitError(
                f"{whose}labels run from {int(targets.min())} to {int(targets.max())}; the model has classes 0 to"
                f" {n_classes - 1}"
            )

    def losses(
        self, outputs: Float[Tensor, "trial class"], targets: Int[Tensor, " trial"], recipe: TrainingRecipe
    ) -> Float[Tensor, " trial"]:
        """Cross-entropy, with the recipe's label smoothing."""
        return F.cross_entropy(outputs, targets, reduction="none", label_smoothing=recipe.label_smoothing)


class Regression(Objective):
    """Mean squared error over targets, which arrive z-scored so that each counts alike."""

    name = "regression"
    metrics = ("r2", "mae", "rmse", "pearson")

    def targets(self, trials: TrialSet) -> Float[Tensor, "trial target"]:
        """The values, in their own unit."""
        if trials.targets is None:
            raise FitError(
                f"the trials have no targets; with_targets([...]) makes some of {list(trials.modalities)} the targets"
            )
        return torch.as_tensor(trials.targets, dtype=torch.float32)

    def output_names(self, trials: TrialSet) -> tuple[str, ...]:
        """Names of the targets."""
        return trials.target_names

    def check(self, model: Any, x: Tensor, targets: Tensor, whose: str = "") -> None:
        """Refuse targets that are no finite values, one an output of the model."""
        n_outputs = _n_outputs(model, whose)
        check_tensors(x, targets, whose)
        if not targets.is_floating_point() or targets.ndim != 2 or targets.shape[1] != n_outputs:
            raise FitError(
                f"{whose}targets are {targets.dtype} {list(targets.shape)}; expected floats [trial, {n_outputs}], one"
                " an output of the model; for class indices, fit with objective='classification'"
            )
        check_trials(x, targets, whose)
        bad = len(trials_not_finite(targets))
        if bad:
            raise FitError(f"{whose}targets of {bad} of {len(x)} trials are NaN or infinite; drop these trials first")

    def losses(
        self,
        outputs: Float[Tensor, "trial target"],
        targets: Float[Tensor, "trial target"],
        recipe: TrainingRecipe,
    ) -> Float[Tensor, " trial"]:
        """Squared error, mean over targets."""
        if recipe.label_smoothing:
            raise FitError(f"label_smoothing={recipe.label_smoothing} means nothing in a regression; leave it at 0")
        return (outputs - targets).square().mean(1)


OBJECTIVES: Registry[Objective] = Registry("objective", "emg_lens.objectives")
OBJECTIVES.add("classification", Classification())
OBJECTIVES.add("regression", Regression())


@checked
def as_objective(given: str | Objective) -> Objective:
    """The objective itself, or that of this name.

    Raises:
        UnknownNameError: No such objective.
    """
    return OBJECTIVES[given] if isinstance(given, str) else given


def anneal_weight(epoch: int, anneal_epochs: int) -> float:
    """λ(t) = min(1, t / T): the weight of the CLS loss in epoch t (IsoNet paper, §3). T = 0 means CLS alone."""
    return 1.0 if anneal_epochs <= 0 else min(1.0, epoch / anneal_epochs)


def check_trials(x: Tensor, targets: Tensor, whose: str = "") -> None:
    """Refuse trials that no model can be fitted to.

    Raises:
        FitError: No trial, another number of targets, values that are not finite.
    """
    if len(x) == 0 or len(x) != len(targets):
        raise FitError(
            f"{whose}{len(x)} trials and {len(targets)} targets; a fit needs one target a trial, and a trial"
        )
    bad = len(trials_not_finite(x))
    if bad:
        raise FitError(f"{whose}{bad} of {len(x)} trials hold NaN or infinite values; drop or repair them first")


def check_tensors(x: Tensor, targets: Tensor, whose: str = "") -> None:
    """Refuse what are no tensors.

    Raises:
        FitError: Trials or targets of another kind.
    """
    for name, given in (("x", x), ("targets", targets)):
        if not isinstance(given, Tensor) or not given.ndim:
            raise FitError(f"{whose}{name} is {short(given)}; expected a torch tensor: torch.as_tensor({name})")


def _n_outputs(model: Any, whose: str) -> int:
    n_outputs = getattr(getattr(model, "cfg", None), "n_classes", None)
    if not isinstance(n_outputs, int):
        raise FitError(f"{whose}{type(model).__name__} has no cfg.n_classes, which says how many outputs it gives")
    if getattr(model.cfg, "readout", None) == "each":
        raise FitError(
            f"{whose}the model gives {n_outputs} outputs at every token (readout='each'), and targets are one a trial;"
            " build it with readout='mean'"
        )
    if n_outputs < 1:
        raise FitError(
            f"{whose}the model has no outputs (readout={getattr(model.cfg, 'readout', None)!r}); build it with"
            " readout='cls' or 'mean' and n_classes"
        )
    given = getattr(model.cfg, "output_shape", (n_outputs,))
    if given != (n_outputs,):
        raise FitError(
            f"{whose}the model gives {list(given)} values a trial, and this objective wants one an output:"
            f" [{n_outputs}]; a TinyMyo with head='regression' gives those with pooled=True"
        )
    return n_outputs
