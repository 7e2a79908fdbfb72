"""First order of a cut: the derivative of the metric along the renormalised row."""

import torch
from jaxtyping import Bool, Float, Int
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

    quantity = "predicted drop of the {}"
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
        index = question.index[place].expand(pattern.shape[1:]).flatten(0, 1)  # [row, src]
        index, order = index.sort(dim=-1)  # the edges of a group lie side by side in each row
        a, g = (one.double().cpu().flatten(1, 2) for one in (pattern, derivatives.gradient[place]))
        a, g = (one.gather(-1, order.expand(len(one), -1, -1)) for one in (a, g))
        row, group = torch.nonzero(_is_first(index) & (index < n_groups), as_tuple=True)[0], index[_is_first(index)]
        group = group[group < n_groups]
        first = (index[row] == group[:, None]).int().argmax(-1)
        end = first + (index[row] == group[:, None]).sum(-1)
        (mass, others), (product, other_product) = (_inside_and_outside(one, row, first, end) for one in (a, a * g))
        empty = others <= 0  # the whole row is cut: its output is zero
        drop = product - torch.where(empty, 0.0, mass * other_product / others.masked_fill(empty, 1.0))
        drops = drops + drop.new_zeros(len(a), n_groups).index_add_(1, group, drop)
    assert isinstance(drops, Tensor)
    return drops


def _is_first(index: Int[Tensor, "row src"]) -> Bool[Tensor, "row src"]:
    """Mark the first edge of each group in each row."""
    return torch.cat([torch.ones_like(index[:, :1], dtype=torch.bool), index[:, 1:] != index[:, :-1]], dim=1)


def _inside_and_outside(
    values: Float[Tensor, "trial row src"],
    row: Int[Tensor, " pair"],
    first: Int[Tensor, " pair"],
    end: Int[Tensor, " pair"],
) -> tuple[Float[Tensor, "trial pair"], Float[Tensor, "trial pair"]]:
    """Sum a row from `first` to `end`, and the rest of it. Neither is a difference, which would lose digits."""
    zero = values.new_zeros(*values.shape[:2], 1)
    before = torch.cat([zero, values.cumsum(-1)], dim=-1)
    after = torch.cat([values.flip(-1).cumsum(-1).flip(-1), zero], dim=-1)
    longest = int((end - first).max()) if len(first) else 0
    place = first[:, None] + torch.arange(longest)
    inside = values[:, row[:, None], place.clamp(max=values.shape[-1] - 1)] * (place < end[:, None])
    return inside.sum(-1), before[:, row, first] + after[:, row, end]


METHODS.add("first_order", FirstOrder())
