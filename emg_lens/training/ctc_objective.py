"""The objective `ctc`: predict the text of an utterance without knowing when each symbol is said."""

from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from emg_lens.data.batch import Batch
from emg_lens.data.trials import TrialSet
from emg_lens.data.utterances import TEXT_COLUMNS
from emg_lens.scoring.token_metrics import SLACK
from emg_lens.training.objectives import FitError, Objective, check_fit_trials, targets_of
from emg_lens.training.recipe import TrainingRecipe


class ConnectionistTemporalClassification(Objective):
    """Negative log-probability of the text per symbol (Graves et al. 2006; `torch.nn.functional.ctc_loss`).

    Output steps after the end of the utterance do not count (docs/silent-speech.md §3).
    """

    name = "ctc"
    kind = "tokens"
    metrics = ("word_error_rate", "character_error_rate")
    one_by_one = True  # torch.vmap cannot map the loss

    def targets(self, trials: TrialSet) -> Float[Tensor, "trial letter 2"]:
        """Index of each symbol, -1 after the end of the text; length of the utterance as a fraction of the trial."""
        if trials.targets is None or trials.target_names != TEXT_COLUMNS:
            raise FitError(
                "the trials have no texts; the objective 'ctc' needs trials of text_trials, for example the data set"
                " simulated-speech"
            )
        return torch.as_tensor(trials.targets)

    def stand_ins(self, trials: TrialSet) -> TrialSet:
        """Give each trial a text of one symbol."""
        return replace(trials, targets=np.ones((len(trials), 1, 2), np.float32), target_names=TEXT_COLUMNS)

    def output_names(self, trials: TrialSet) -> tuple[str, ...]:
        """Names of the symbols; the space and the blank are the last two."""
        return trials.classes

    def check(self, model: Any, batch: Batch, prefix: str = "") -> None:
        """Refuse a model without one row of outputs per time step, and texts that do not fit into their steps."""
        n_steps, n_symbols = check_steps(model, prefix)
        targets = targets_of(batch, prefix)
        check_fit_trials(batch, prefix)
        if targets.ndim != 3 or targets.shape[2] != 2 or not targets.is_floating_point():
            raise FitError(f"{prefix}targets are {targets.dtype} {list(targets.shape)}; expected [trial, symbol, 2]")
        symbols, lengths, own_steps = _parts(targets, n_steps)
        if int(symbols.max()) >= n_symbols - 1:
            raise FitError(
                f"{prefix}symbols run to {int(symbols.max())}; the model has symbols 0 to {n_symbols - 2} and the blank"
            )
        repeats = ((symbols[:, 1:] == symbols[:, :-1]) & (symbols[:, 1:] >= 0)).sum(1)
        short = own_steps < lengths + repeats
        if short.any():
            trial = int(short.nonzero()[0])
            names = model.cfg.class_names
            text = "".join(names[k] for k in symbols[trial].tolist() if k >= 0).replace(names[n_symbols - 2], " ")
            raise FitError(
                f"{prefix}utterance {trial} ({text!r}) has {int(own_steps[trial])} output steps; its"
                f" {int(lengths[trial])} symbols and {int(repeats[trial])} repeats need"
                f" {int((lengths + repeats)[trial])}: leave it out, or use a front end with more steps per second"
            )

    def losses(
        self,
        outputs: Float[Tensor, "trial step symbol"],
        targets: Float[Tensor, "trial letter 2"],
        recipe: TrainingRecipe,  # noqa: ARG002
    ) -> Float[Tensor, " trial"]:
        """Negative log-probability of each text, divided by its number of symbols."""
        symbols, lengths, n_steps = _parts(targets, outputs.shape[1])
        log_probs = outputs.log_softmax(-1).transpose(0, 1)
        blank = outputs.shape[2] - 1
        losses = F.ctc_loss(log_probs, symbols.clamp(min=0), n_steps, lengths, blank, reduction="none")
        return losses / lengths.clamp(min=1)


def check_steps(model: Any, prefix: str = "") -> tuple[int, int]:
    """Return the numbers of output steps and of outputs; refuse a model without outputs at every time step."""
    cfg = getattr(model, "cfg", None)
    shape = tuple(getattr(cfg, "output_shape", ()))
    several = len(getattr(cfg, "modalities", {})) > 1 and getattr(cfg, "readout", "each") == "each"
    if len(shape) != 2 or several:
        what = "an output for each modality at a time step" if several else f"{list(shape)} values for a trial"
        raise FitError(
            f"{prefix}the model predicts {what}; expected one row of outputs per time step [step, output], as from"
            " tinymyo-speech with one modality"
        )
    return int(shape[0]), int(shape[1])


def _parts(targets: Float[Tensor, "trial letter 2"], n_steps: int) -> tuple[Tensor, Tensor, Tensor]:
    """Symbols `[trial, symbol]`, and the number of symbols and of output steps of each trial."""
    symbols = targets[..., 0].round().long()
    steps = torch.ceil(targets[:, 0, 1].double() * n_steps - SLACK).clamp(min=1).long()
    return symbols, (symbols >= 0).sum(1), steps


CTC = ConnectionistTemporalClassification()
