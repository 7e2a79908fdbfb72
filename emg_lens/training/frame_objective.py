"""The objective `frames`: predict frames of speech and their phonemes, also from silent utterances."""

from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from emg_lens.data.batch import Batch
from emg_lens.data.trials import TrialSet
from emg_lens.data.utterances import FRAME_COLUMNS
from emg_lens.scoring.frame_metrics import N_COLUMNS, PHONEME_WEIGHT, aligned_steps, with_frozen_alignment
from emg_lens.training.ctc_objective import check_steps
from emg_lens.training.objectives import FitError, Objective, check_fit_trials, targets_of
from emg_lens.training.recipe import TrainingRecipe


class SpeechFrames(Objective):
    """Distance ‖prediction − frame‖₂ plus half the cross-entropy of the phoneme (Gaddy and Klein 2021, §2.3).

    The frames of a silent utterance are those of its voiced twin. They are aligned with the model's own outputs
    (`aligned_steps`) in every step of the training. Every target frame counts once (docs/silent-speech.md §3).
    """

    name = "frames"
    kind = "frames"
    metrics = ("mel_distance", "phoneme_accuracy")
    one_by_one = True  # torch.vmap cannot map the alignment

    def targets(self, trials: TrialSet) -> Float[Tensor, "trial frame column"]:
        """Values of each frame, its phoneme, its output step or -1, and the number of steps of the utterance."""
        if trials.targets is None or trials.target_names[-N_COLUMNS:] != FRAME_COLUMNS:
            raise FitError(
                "the trials have no frames of speech; the objective 'frames' needs trials of frame_trials, for example"
                " the data set simulated-speech with task: audio"
            )
        return torch.as_tensor(trials.targets)

    def stand_ins(self, trials: TrialSet) -> TrialSet:
        """Give each trial one frame of one value."""
        names = ("value", *FRAME_COLUMNS)
        return replace(trials, targets=np.ones((len(trials), 1, len(names)), np.float32), target_names=names)

    def output_names(self, trials: TrialSet) -> tuple[str, ...]:
        """Names of the values of a frame, then of the phonemes."""
        return (*trials.target_names[:-N_COLUMNS], *trials.classes)

    def check(self, model: Any, batch: Batch, prefix: str = "") -> None:
        """Refuse a model whose steps or outputs are not those of the targets."""
        (n_steps, n_outputs), targets = check_steps(model, prefix), targets_of(batch, prefix)
        check_fit_trials(batch, prefix)
        n_values = targets.shape[-1] - N_COLUMNS
        if targets.ndim != 3 or not 1 <= n_values < n_outputs:
            raise FitError(
                f"{prefix}targets are {list(targets.shape)} and the model has {n_outputs} outputs; expected"
                " [trial, frame, value + 3] and one output per value and phoneme"
            )
        if int(targets[..., n_values].max()) >= n_outputs - n_values or int(targets[..., -1].max()) > n_steps:
            raise FitError(
                f"{prefix}targets have phonemes up to {int(targets[..., n_values].max())} and"
                f" {int(targets[..., -1].max())} steps; the model has phonemes 0 to {n_outputs - n_values - 1} and"
                f" {n_steps} steps: an output step must be as long as a frame"
            )
        if not (targets[..., -1] > 0).any(1).all():
            raise FitError(f"{prefix}an utterance has no target frame; leave it out")

    def losses(
        self,
        outputs: Float[Tensor, "trial step output"],
        targets: Float[Tensor, "trial frame column"],
        recipe: TrainingRecipe,  # noqa: ARG002
    ) -> Float[Tensor, " trial"]:
        """Loss of each trial; its mean over trials is the mean over all target frames."""
        n_values, counted = targets.shape[2] - N_COLUMNS, targets[..., -1] > 0
        found = aligned_steps(outputs.detach().float().cpu().numpy(), targets.cpu().numpy())
        steps = torch.from_numpy(found).to(outputs.device)[..., None].expand(-1, -1, outputs.shape[2])
        values, phonemes = outputs.gather(1, steps).split([n_values, outputs.shape[2] - n_values], dim=2)
        distance = torch.linalg.vector_norm(values - targets[..., :n_values], dim=2)
        missed = F.cross_entropy(phonemes.transpose(1, 2), targets[..., n_values].long(), reduction="none")
        sums = ((distance + PHONEME_WEIGHT * missed) * counted).sum(1)
        return sums * len(sums) / counted.sum()

    def scored_targets(self, targets: np.ndarray, outputs: np.ndarray) -> np.ndarray:
        """Freeze the alignment of silent utterances to that of the intact model."""
        return with_frozen_alignment(outputs, targets)


FRAMES = SpeechFrames()
