"""Integrated gradients of gates that all candidate edges share."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from emg_lens.analysis.attribution.differentiation import differentiate
from emg_lens.analysis.attribution.method import METHODS, EdgeMethod
from emg_lens.analysis.attribution.question import PerPlace, Question
from emg_lens.hooks.hook_points import Place
from emg_lens.validation import check_fields


@dataclass(frozen=True)
class SharedGates(EdgeMethod):
    """Close all candidate edges together, in small steps, and add up what each edge loses on the way.

    With gate g, a candidate edge has the attention weight g A. The floor edges of its row take the rest, in proportion
    to their own weights F. The score of an edge is the integral from g = 0 to 1 of A (G - mean of G over the floor,
    weighted with F). The scores sum to the metric of the unmasked model minus the metric with all candidates cut
    (docs/attribution.md §3; integrated gradients: Sundararajan et al. 2017).

    Attributes:
        passes: Points of the Gauss-Legendre rule; each needs one forward and one backward.
    """

    passes: int = 8

    complete = True
    cannot_see = (
        "It cannot see a route that only works while another route is silent (stand-by): all routes close together, so"
        " that the second route gets too little credit."
    )

    def __post_init__(self) -> None:
        check_fields(self)

    def edge_scores(self, question: Question, x: Tensor, y: Tensor) -> PerPlace:
        """Compute the integral for some trials."""
        candidates = {place: mask.to(x.device) for place, mask in question.split(question.candidates).items()}
        floor = {place: mask.to(x.device) for place, mask in question.split(question.floor).items()}
        nodes, weights = np.polynomial.legendre.leggauss(self.passes)
        totals: dict[Place, Tensor] = {}
        for gate, weight in zip((nodes + 1) / 2, weights / 2, strict=True):
            on_floor: dict[Place, Tensor] = {}

            def edit(place: Place, scores: Tensor, pattern: Tensor, gate=gate, on_floor=on_floor) -> Tensor:
                weights = scores.masked_fill(~floor[place], -torch.inf).softmax(-1).nan_to_num(0.0)
                on_floor[place] = weights.detach()
                lost = pattern * candidates[place] * (1 - float(gate))
                return pattern - lost + weights * lost.sum(-1, keepdim=True)

            derivatives = differentiate(question, x, y, edit=edit)
            for place, gradient in derivatives.gradient.items():
                to_floor = (on_floor[place] * gradient).sum(-1, keepdim=True)
                step = float(weight) * derivatives.pattern[place] * candidates[place] * (gradient - to_floor)
                totals[place] = totals[place] + step if place in totals else step
        return totals


METHODS.add("shared_gates", SharedGates())
