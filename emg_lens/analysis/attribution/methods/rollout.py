"""Attention rollout (Abnar and Zuidema 2020)."""

import torch
from torch import Tensor

from emg_lens.analysis.attribution.method import METHODS, EdgeMethod
from emg_lens.analysis.attribution.methods.all_positions import (
    assemble,
    attention_weights,
    readout_share,
    take_apart,
)
from emg_lens.analysis.attribution.question import PerPlace, Question


class Rollout(EdgeMethod):
    """Multiply the attention of all layers, and score the share of each edge in what the readout receives.

    A layer mixes positions with R = (mean over heads of A + identity) / 2, where the identity stands for the residual
    stream. A row without attention is left as it is. The score of an edge of layer l is
    U[readout, dest] · A[dest, src] / (2 · heads), where U is the product of the matrices R of all later layers.
    """

    quantity = "part of the attention rollout"
    cannot_see = (
        "It cannot see the values and the label, and it averages the heads: every edge with attention on a path to the"
        " readout gets a score, whether or not its content is used."
    )

    def edge_scores(self, question: Question, x: Tensor, y: Tensor) -> PerPlace:  # noqa: ARG002
        """Compute the share of every edge for some trials."""
        weights = attention_weights(question, x)
        full = assemble(question, weights)
        mean = full.mean(2)
        identity = torch.eye(mean.shape[-1], dtype=mean.dtype, device=mean.device)
        has_attention = mean.sum(-1, keepdim=True) > 0
        mixing = torch.where(has_attention, (mean + identity) / 2, identity)
        share = readout_share(question, mixing)[:, 1:, None, :, None]
        return take_apart(question, share * full / (2 * full.shape[2]), weights)


METHODS.add("rollout", Rollout())
