"""Attention for training on a CPU, with positions as the innermost axis in memory.

torch has no fused kernel for attention with dropout on a CPU; its plain kernel checks every row for NaN. Heads are
small in the shipped studies (8 values). A batched product is two to four times faster if positions, and not these few
values, run along its rows: a fit takes a fifth less time. Here every tensor is `[head, ..., pos]` in memory, but has
the usual shape.
"""

import math

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor

from emg_lens.models.dropout import drop


def project(
    x: Float[Tensor, "batch pos d_model"],
    weight: Float[Tensor, "row d_model"],
    bias: Float[Tensor, " row"],
    d_head: int,
) -> Float[Tensor, "batch pos map_and_head d_head"]:
    """Compute queries, keys and values of all heads in one linear map."""
    packed = torch.addmm(bias[:, None], weight, x.flatten(0, 1).T)
    return rearrange(packed, "(head e) (batch pos) -> batch pos head e", e=d_head, batch=len(x))


def attend(
    q: Float[Tensor, "batch dest head d_head"],
    k: Float[Tensor, "batch src head d_head"],
    v: Float[Tensor, "batch src head d_head"],
    permanent_mask: Bool[Tensor, "head dest src"] | None,
    dropout: float,
) -> Float[Tensor, "batch dest head d_head"]:
    """Mix values by attention.

    No row of `permanent_mask` may be completely masked, because it would give NaN.
    """
    n_heads = q.shape[2]
    q, k, v = (rearrange(t, "batch pos head e -> (head batch) e pos") for t in (q, k, v))
    scores = torch.bmm(k.mT, q / math.sqrt(q.shape[1]))  # [head and batch, src, dest]
    if permanent_mask is not None:
        by_head = rearrange(scores, "(head batch) src dest -> head batch src dest", head=n_heads)
        scores = by_head.masked_fill(permanent_mask.mT[:, None], -torch.inf).flatten(0, 1)
    z = torch.bmm(v, drop(scores.softmax(1), dropout))
    return rearrange(z, "(head batch) e dest -> batch dest head e", head=n_heads)


def output(
    z: Float[Tensor, "batch pos head d_head"], weight: Float[Tensor, "column d_model"], bias: Float[Tensor, " d_model"]
) -> Float[Tensor, "batch pos d_model"]:
    """Compute the sum of the outputs of all heads."""
    columns = rearrange(z, "batch pos head e -> (head e) (batch pos)")
    return torch.addmm(bias, columns.T, weight).view(*z.shape[:2], -1)
