"""Exact Shapley values of a few groups of edges, with pair interactions."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from emg_lens.analysis.attribution.exact_game import ExactGame
from emg_lens.analysis.attribution.method import METHODS, AttributionMethod
from emg_lens.analysis.attribution.question import Question
from emg_lens.validation import ArgumentError

MOST_GROUPS = 12


@dataclass(frozen=True)
class Shapley(AttributionMethod):
    """Run the model with every set of groups kept: 2ⁿ sets for n groups, at most 12.

    The scores sum to the metric of the unmasked model minus the metric with all candidates cut.
    `Attribution.interactions` names the pairs of groups that add more together than separately (AND), or less (OR).
    `Attribution.game` is the game itself, for shapiq.
    """

    complete = True
    quantity = "part of the drop of the {}"
    cannot_see = (
        "It cannot see how many routes there are: if k groups replace each other, each gets 1/k of the drop;"
        " `interactions` calls such pairs OR."
    )

    def scores(self, question: Question) -> Float[Tensor, "trial group"]:
        """Compute the Shapley value of every group for every trial."""
        game = self.game(question)
        return torch.from_numpy(np.ascontiguousarray(game.shapley_values().T))

    def game(self, question: Question) -> ExactGame:
        """Return the metric for every set of kept groups; the model runs only the first time."""
        n = len(question.groups)
        if n > MOST_GROUPS:
            raise ArgumentError(
                f"method='shapley' with {n} groups needs 2^{n} runs; expected at most {MOST_GROUPS} groups: give"
                " by={name: edges}, or method='contexts', which takes any number of groups"
            )
        return ExactGame(tuple(question.groups.table["edge"]), question.with_every_set)


METHODS.add("shapley", Shapley())
