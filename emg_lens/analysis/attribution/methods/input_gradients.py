"""Integrated gradients of the input, as scores of edges (as in EAP-IG: Hanna et al. 2024)."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from pydantic import PositiveInt
from torch import Tensor

from emg_lens.analysis.attribution.differentiation import differentiate
from emg_lens.analysis.attribution.method import METHODS, AttributionMethod
from emg_lens.analysis.attribution.methods.all_positions import attention_weights
from emg_lens.analysis.attribution.methods.first_order import predicted_drops
from emg_lens.analysis.attribution.question import Question
from emg_lens.validation import ArgumentError, check_fields, short


@dataclass(frozen=True)
class InputGradients(AttributionMethod):
    """Predict the drop of a cut from gradients that are averaged over weaker inputs.

    The gradient G is averaged over the inputs t · x for t from 0 to 1. Zero is the training mean of standardized
    signals. The drop is then predicted as in `FirstOrder`, with the attention weights of the full input.

    Attributes:
        passes: Points of the Gauss-Legendre rule; each needs one forward and one backward.
    """

    passes: PositiveInt = 8

    quantity = "predicted drop of the {}"
    cannot_see = (
        "It cannot see a route that only works while another route is cut (stand-by, or a second source in the same row"
        " of attention), and its scores depend on the baseline input, zeros."
    )

    def __post_init__(self) -> None:
        check_fields(self)

    def scores(self, question: Question) -> Float[Tensor, "trial group"]:
        """Compute the predicted drop of every group."""
        if not question.x.is_floating_point():
            raise ArgumentError(
                f"x={short(question.x)}; input_gradients scales the input, so it expects signals as floats, not token"
                " numbers; use another method, for example shared_gates"
            )
        return torch.cat([self._drops(question, x, y) for x, y in question.batches()])

    def _drops(self, question: Question, x: Tensor, y: Tensor) -> Float[Tensor, "trial group"]:
        nodes, weights = np.polynomial.legendre.leggauss(self.passes)
        steps = [differentiate(question, x * float(t), y) for t in (nodes + 1) / 2]
        mean = {
            place: sum(float(weight) / 2 * step.gradient[place] for weight, step in zip(weights, steps, strict=True))
            for place in steps[0].gradient
        }
        return predicted_drops(question, replace(steps[0], pattern=attention_weights(question, x), gradient=mean))


METHODS.add("input_gradients", InputGradients())
