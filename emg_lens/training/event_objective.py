"""The objective `events`: detect gestures in a stream, with one probability per gesture and output step."""

from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from emg_lens.data.batch import Batch
from emg_lens.data.trials import TrialSet
from emg_lens.training.objectives import FitError, Objective, check_fit_trials, targets_of
from emg_lens.training.recipe import TrainingRecipe


class EventDetection(Objective):
    """Binary cross-entropy of every gesture at every output step (docs/sequences.md §3).

    The outputs of a release count only where its finger is held down: from the start of the pulse of a press to seven
    steps after the start of the next release's pulse (Kaifosh et al. 2025).
    """

    name = "events"
    kind = "events"
    metrics = ("event_f1", "detected", "right", "cler", "missed_per_hour", "false_per_hour", "latency_ms")

    def targets(self, trials: TrialSet) -> Float[Tensor, "window step column"]:
        """Targets of `emg_lens.data.pulses`."""
        if trials.targets is None or trials.targets.ndim != 3:
            raise FitError(
                "the trials have no events; the objective 'events' needs windows of a SequenceSet, for example the data"
                " set simulated-gestures"
            )
        return torch.as_tensor(trials.targets)

    def stand_ins(self, trials: TrialSet) -> TrialSet:
        """Give each trial one output step, without events."""
        names = ("a_press", "a_release", "b", "time (s)")
        return replace(trials, targets=np.zeros((len(trials), 1, len(names)), np.float32), target_names=names)

    def output_names(self, trials: TrialSet) -> tuple[str, ...]:
        """Names of the gestures."""
        return trials.target_names[:-1]

    def check(self, model: Any, batch: Batch, prefix: str = "") -> None:
        """Refuse a model whose output steps are not those of the targets."""
        shape, targets = tuple(getattr(model.cfg, "output_shape", ())), targets_of(batch, prefix)
        expected = (targets.shape[1], targets.shape[2] - 1) if targets.ndim == 3 else None
        if shape != expected:
            raise FitError(
                f"{prefix}the model predicts {list(shape)} for a window, and the event targets have"
                f" {list(targets.shape[1:])}; expected [step, gesture] and [step, gesture + 1]; give the data set the"
                " output steps of the model (first, every)"
            )
        check_fit_trials(batch, prefix)
        if not (targets[..., -1] >= 0).any():
            raise FitError(f"{prefix}no output step counts; the windowing leaves none")

    def losses(
        self,
        outputs: Float[Tensor, "window step gesture"],
        targets: Float[Tensor, "window step column"],
        recipe: TrainingRecipe,  # noqa: ARG002
    ) -> Float[Tensor, " window"]:
        """Binary cross-entropy, averaged over the steps and gestures of a window that count."""
        pulses, counted = targets[..., :-1] > 0, (targets[..., :-1] >= 0) & (targets[..., -1:] >= 0)
        losses = F.binary_cross_entropy_with_logits(outputs, pulses.to(outputs.dtype), reduction="none")
        return (losses * counted).sum((1, 2)) / counted.sum((1, 2)).clamp(min=1)


EVENTS = EventDetection()
