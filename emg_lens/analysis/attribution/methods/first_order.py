"""First order of a cut: the derivative of the metric along the renormalised row."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from emg_lens.analysis.attribution.differentiation import Derivatives, differentiate
from emg_lens.analysis.attribution.method import METHODS, AttributionMethod
from emg_lens.analysis.attribution.question import Question


class FirstOrder(AttributionMethod):
    """Predict the drop of a cut from one gradient.

    A cut of a set J in a row with attention A moves the mass A_J to the other edges of the row. To first order, the
    metric falls by A_J (mean of G over J - mean of G over the rest), where G is the derivative of the metric with
    respect to A, and both means are weighted with A (docs/attribution.md §2). The predicted drops of all rows are
    added. The result is exact where the metric is linear in the pattern of one row.
    """

    cannot_see = (
        "It cannot see an edge that another route can replace (OR, backup): there the gradient is 0 although the edge"
        " is used."
    )

    def scores(self, question: Question) -> Float[Tensor, "trial group"]:
        """Compute the predicted drop of every group."""
        return torch.cat([predicted_drops(question, differentiate(question, x, y)) for x, y in question.batches()])


def predicted_drops(question: Question, derivatives: Derivatives) -> Float[Tensor, "trial group"]:
    """Predict the drop of a cut of each group, from attention weights and gradients."""
    n_groups, drops = len(question.groups), 0.0
    for place, pattern in derivatives.pattern.items():
        a, g = pattern.double().cpu().flatten(1, 2), derivatives.gradient[place].double().cpu().flatten(1, 2)
        index = question.index[place].expand(pattern.shape[1:]).flatten(0, 1)  # [row, src]
        row = torch.arange(len(index))[:, None].expand(index.shape)
        chosen = index < n_groups
        pairs, pair_of = torch.unique(torch.stack([row[chosen], index[chosen]]), dim=1, return_inverse=True)

        def of_pairs(values: Tensor, chosen: Any = chosen, pairs: Tensor = pairs, pair_of: Tensor = pair_of) -> Tensor:
            return values.new_zeros(len(values), pairs.shape[1]).index_add_(1, pair_of, values[:, chosen])

        mass, product = of_pairs(a), of_pairs(a * g)
        other_mass = a.sum(-1)[:, pairs[0]] - mass
        other_product = (a * g).sum(-1)[:, pairs[0]] - product
        empty = other_mass <= 0  # the whole row is cut: its output is zero
        drop = product - torch.where(empty, 0.0, mass * other_product / other_mass.masked_fill(empty, 1.0))
        drops = drops + drop.new_zeros(len(a), n_groups).index_add_(1, pairs[1], drop)
    assert isinstance(drops, Tensor)
    return drops


METHODS.add("first_order", FirstOrder())
