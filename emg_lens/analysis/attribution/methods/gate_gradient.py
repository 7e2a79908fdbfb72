"""The derivative of the metric with respect to a gate on every edge."""

from torch import Tensor

from emg_lens.analysis.attribution.differentiation import differentiate
from emg_lens.analysis.attribution.method import METHODS, EdgeMethod
from emg_lens.analysis.attribution.question import PerPlace, Question


class GateGradient(EdgeMethod):
    """Score each edge with the derivative of the metric with respect to its attention score.

    This is also the derivative with respect to a gate that multiplies the exponential of the score
    (`emg_lens.hooks.gate_edges`), at gate 1: A (G - mean of G over the row, weighted with A).
    """

    quantity = "slope of the {} in the gate"
    cannot_see = (
        "It cannot see an edge that takes nearly all attention of its row, because the gradient of its score is then 0,"
        " and an edge that another route can replace (OR, backup)."
    )

    def edge_scores(self, question: Question, x: Tensor, y: Tensor) -> PerPlace:
        """Compute the derivative for some trials."""
        derivatives = differentiate(question, x, y)
        scores = {}
        for place, pattern in derivatives.pattern.items():
            gradient = derivatives.gradient[place]
            scores[place] = pattern * (gradient - (pattern * gradient).sum(-1, keepdim=True))
        return scores


METHODS.add("gate_gradient", GateGradient())
