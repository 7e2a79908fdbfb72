"""Attention weights as scores."""

from torch import Tensor

from emg_lens.analysis.attribution.method import METHODS, EdgeMethod
from emg_lens.analysis.attribution.methods.all_positions import attention_weights
from emg_lens.analysis.attribution.question import PerPlace, Question


class AttentionMass(EdgeMethod):
    """Score each edge with its attention weight, in units of attention and not of the metric."""

    quantity = "attention weight"
    cannot_see = (
        "It cannot see what a value contains or whether anything reads it: an edge with much attention may be unused,"
        " and a used edge may have little attention."
    )

    def edge_scores(self, question: Question, x: Tensor, y: Tensor) -> PerPlace:  # noqa: ARG002
        """Return the attention weights of some trials."""
        return attention_weights(question, x)


METHODS.add("attention", AttentionMass())
