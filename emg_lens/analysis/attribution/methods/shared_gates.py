"""Integrated gradients of gates that all candidate edges share."""

from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from emg_lens.analysis.attribution.differentiation import differentiate
from emg_lens.analysis.attribution.method import METHODS, EdgeMethod
from emg_lens.analysis.attribution.question import PerPlace, Question
from emg_lens.hooks.hook_points import Place
from emg_lens.validation import check_fields


@dataclass(frozen=True)
class SharedGates(EdgeMethod):
    """Close all candidate edges together, in small steps, and add up what each edge loses on the way.

    With gate g, a candidate edge has the attention weight g A. The other edges of its row (the floor, and edges in no
    group) take the rest, in proportion to their own weights F. The score of an edge is the integral from g = 0 to 1 of
    A (G - mean of G over these edges, weighted with F). The scores sum to the metric of the unmasked model minus the
    metric with all candidates cut (docs/attribution.md §3; integrated gradients: Sundararajan et al. 2017).

    Attributes:
        passes: Number of gates for each trial, even; each needs one forward and one backward.
    """

    passes: Annotated[int, Field(ge=2, multiple_of=2)] = 8

    complete = True
    quantity = "part of the drop of the {}"
    cannot_see = (
        "It cannot see a route that only works while another route is silent (stand-by): all routes close together, so"
        " that the second route gets too little credit."
    )

    def __post_init__(self) -> None:
        check_fields(self)

    def edge_scores(self, question: Question, x: Tensor, y: Tensor) -> PerPlace:
        """Compute the integral for some trials."""
        candidates = {place: mask.to(x.device) for place, mask in question.split(question.candidates).items()}
        totals: dict[Place, Tensor] = {}
        for gate, weight in zip(*integration_points(self.passes, len(x)), strict=True):
            on_others: dict[Place, Tensor] = {}

            def edit(place: Place, scores: Tensor, pattern: Tensor, gate=gate, on_others=on_others) -> Tensor:
                weights = scores.masked_fill(candidates[place], -torch.inf).softmax(-1).nan_to_num(0.0)
                on_others[place] = weights.detach()
                lost = pattern * candidates[place] * (1 - gate.to(pattern))
                return pattern - lost + weights * lost.sum(-1, keepdim=True)

            derivatives = differentiate(question, x, y, edit=edit)
            for place, gradient in derivatives.gradient.items():
                to_others = (on_others[place] * gradient).sum(-1, keepdim=True)
                step = weight.to(gradient) * derivatives.pattern[place] * candidates[place] * (gradient - to_others)
                totals[place] = totals[place] + step if place in totals else step
        return totals


def integration_points(
    passes: int, n_trials: int
) -> tuple[Float[Tensor, "pass trial 1 1 1"], Float[Tensor, "pass trial 1 1 1"]]:
    """Return gates from 0 to 1 and their weights: a two-point Gauss rule on each of several panels.

    The panels start at another place in every trial. A kink at the same gate in all trials, for example where a ReLU
    opens, then does not give the same error in all trials.
    """
    n_panels = passes // 2
    shift = (0.5 + np.arange(n_trials) * (np.sqrt(5) - 1) / 2) % 1  # evenly spread for any number of trials
    inner = (np.arange(n_panels - 1)[:, None] + shift) / max(n_panels - 1, 1)
    borders = np.concatenate([np.zeros((1, n_trials)), inner, np.ones((1, n_trials))])
    middle, half = (borders[1:] + borders[:-1]) / 2, (borders[1:] - borders[:-1]) / 2
    gates = np.concatenate([middle - half / np.sqrt(3), middle + half / np.sqrt(3)])
    shape = (passes, n_trials, 1, 1, 1)
    return torch.from_numpy(gates).view(shape), torch.from_numpy(np.concatenate([half, half])).view(shape)


METHODS.add("shared_gates", SharedGates())
