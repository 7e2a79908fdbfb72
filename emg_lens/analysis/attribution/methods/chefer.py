"""Relevance from attention times gradient, propagated through the layers (Chefer et al. 2021)."""

import torch
from torch import Tensor

from emg_lens.analysis.attribution.differentiation import differentiate
from emg_lens.analysis.attribution.method import METHODS, EdgeMethod
from emg_lens.analysis.attribution.methods.all_positions import assemble, readout_share, take_apart
from emg_lens.analysis.attribution.question import PerPlace, Question


class Chefer(EdgeMethod):
    """Score the share of each edge in the relevance of the readout.

    The weight of an edge is the positive part of A · G, divided by the number of heads; W is the sum over heads. The
    relevance R starts as the identity, and every layer adds W R. The score of an edge of layer l is
    U[readout, dest] · weight[dest, src] · (sum of row src of R before layer l), where U is the product of 1 + W over
    all later layers. This is the part of the readout's relevance that passes over the edge.
    """

    quantity = "relevance"
    cannot_see = (
        "It cannot see edges that lower the metric, because negative products are set to 0, and edges that another"
        " route can replace (OR, backup), because their gradient is 0."
    )

    def edge_scores(self, question: Question, x: Tensor, y: Tensor) -> PerPlace:
        """Compute the share of every edge for some trials."""
        derivatives = differentiate(question, x, y)
        positive = {
            place: (pattern * derivatives.gradient[place]).clamp(min=0)
            for place, pattern in derivatives.pattern.items()
        }
        full = assemble(question, positive)
        full = full / full.shape[2]
        added = full.sum(2)
        mixing = added + torch.eye(added.shape[-1], dtype=added.dtype, device=added.device)
        share = readout_share(question, mixing)[:, 1:, None, :, None]
        row_sums = [mixing.new_ones(len(mixing), mixing.shape[-1])]
        for layer in range(mixing.shape[1] - 1):
            row_sums.append(torch.einsum("bij,bj->bi", mixing[:, layer], row_sums[-1]))
        return take_apart(question, share * full * torch.stack(row_sums, 1)[:, :, None, None], positive)


METHODS.add("chefer", Chefer())
