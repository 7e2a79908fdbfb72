"""Attention for training on a CPU: scores, dropout and mixing with a backward pass in the order that GEMM likes.

torch has no fused kernel for attention with dropout on a CPU; it falls back to a plain one that checks every row for
NaN. Heads are small there (8 values in the shipped studies), and a batched product is two to four times faster if the
positions, not those few values, run along its rows: so here every tensor is `[n, d_head, pos]`, n = head and trial.
"""

import math
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.amp import custom_bwd, custom_fwd
from torch.autograd.function import once_differentiable

from emg_lens.models.dropout import keep_mask


def attend(
    q: Float[Tensor, "batch dest head d_head"],
    k: Float[Tensor, "batch src head d_head"],
    v: Float[Tensor, "batch src head d_head"],
    severed: Bool[Tensor, "head dest src"] | None,
    dropout: float,
) -> Float[Tensor, "batch dest head d_head"]:
    """Values mixed by attention, on a CPU. Differentiable once.

    No row of `severed` may be empty: it would give NaN.
    """
    shape = (q.shape[2], q.shape[0], k.shape[1], q.shape[1])  # head, batch, src, dest
    kept = keep_mask(shape, dropout, q.dtype).flatten(0, 1)
    q, k, v = (t.permute(2, 0, 3, 1).flatten(0, 1) for t in (q, k, v))
    z = _Mix.apply(q, k, v, severed, kept)
    return z.view(*shape[:2], -1, shape[3]).permute(1, 3, 0, 2)


class _Mix(torch.autograd.Function):
    """`softmax(q^T k / sqrt(d_head))`, times the dropout mask, times v; the pattern is held as `[n, src, dest]`."""

    @staticmethod
    @custom_fwd(device_type="cpu", cast_inputs=torch.float32)
    def forward(
        ctx: Any,
        q: Float[Tensor, "n d_head dest"],
        k: Float[Tensor, "n d_head src"],
        v: Float[Tensor, "n d_head src"],
        severed: Bool[Tensor, "head dest src"] | None,
        kept: Float[Tensor, "n src dest"],
    ) -> Float[Tensor, "n d_head dest"]:
        ctx.scale = 1 / math.sqrt(q.shape[1])
        q = q * ctx.scale
        scores = torch.bmm(k.mT, q)
        if severed is not None:
            scores.unflatten(0, (len(severed), -1)).masked_fill_(severed.mT[:, None], -torch.inf)
        pattern = scores.softmax(1)
        mixed = kept.mul_(pattern)  # nobody else has the mask
        z = torch.bmm(v, mixed)
        ctx.save_for_backward(q, k, v, pattern, mixed, z)
        return z

    @staticmethod
    @custom_bwd(device_type="cpu")
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, d_z: Float[Tensor, "n d_head dest"]
    ) -> tuple[Tensor | None, ...]:
        q, k, v, pattern, mixed, z = ctx.saved_tensors
        # d_scores = mixed * d_mixed - pattern * (sum of mixed * d_mixed over src), and that sum is z · d_z.
        d_scores = torch.bmm(v.mT, d_z).mul_(mixed)
        d_scores.addcmul_(pattern, (z * d_z).sum(1, keepdim=True), value=-1)
        return torch.bmm(k, d_scores).mul_(ctx.scale), torch.bmm(q, d_scores.mT), torch.bmm(d_z, mixed.mT), None, None
