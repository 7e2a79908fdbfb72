"""Attention of siblings in the folded tree: one set of queries, keys and values, and one mask for each sibling.

There are two ways to the same numbers. With shared scores, the scores are computed once, and each sibling adds its
mask. One by one, torch's fused kernel computes the scores for each mask, in pieces that stay in the caches. Sharing is
faster for several siblings with short sequences. Long scores do not fit a cache: 800 tokens in three heads are 8 MB per
trial, which a CPU writes and reads three times for each sibling.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from jaxtyping import Float, Int
from torch import Tensor

from emg_lens.sweeps.executors.folded_block import Bias, FoldedBlock, Projections
from emg_lens.sweeps.plan import Mask

HEAD_BY_HEAD = 2**15
"""Scores of one head from which on each head is computed in a call of its own."""
LONG = 384
"""Tokens from which on shared scores are slower, with three siblings and d_head 64 (measured)."""


def pays_one_by_one(resid: Float[Tensor, "trial pos d_model"], masks: Sequence[Mask | None]) -> bool:
    """Whether the fused kernel is faster for these siblings."""
    return len(masks) == 1 or resid.shape[1] >= LONG


class _Attention(ABC):
    """The residual stream after attention, for siblings."""

    def __init__(self, layer: FoldedBlock, resid: Tensor, projections: Projections | None = None) -> None:
        self.layer, self.resid = layer, resid
        self.projections = layer.unpack(layer.pack(resid)) if projections is None else projections

    def __call__(self, mask: Mask | None) -> Float[Tensor, "trial pos d_model"]:
        bias = self.layer.bias(mask)
        result = self.layer.add_attention(self.resid, self.mix(bias))
        return result if bias.empty is None else result.sub_(self.layer.without_values(bias.empty))

    def of_rows(self, mask: Mask, rows: Int[Tensor, " row"]) -> Float[Tensor, "trial row d_model"]:
        """Compute some rows of the residual stream after attention."""
        bias = self.layer.bias(mask)
        assert bias.scores is not None
        z = self.mix_rows(bias.scores[:, :, rows], rows)
        empty = None if bias.empty is None else bias.empty[:, rows]
        if empty is not None:
            z = z.masked_fill(empty[..., None], 0.0)
        result = self.layer.add_attention(self.resid[:, rows], z.transpose(1, 2))
        return result if empty is None else result.sub_(self.layer.without_values(empty))

    def mix_rows(
        self, allowed: Float[Tensor, "1 head|1 row src"], rows: Int[Tensor, " row"]
    ) -> Float[Tensor, "trial head row d_head"]:
        """Mix values in some rows, with any content in rows without edges."""
        q, k, v = self.projections
        return F.scaled_dot_product_attention(q[:, :, rows], k, v, attn_mask=allowed, scale=1.0)

    @abstractmethod
    def mix(self, bias: Bias) -> Float[Tensor, "trial dest head d_head"]:
        """Mix values by attention; valid until any layer's next call."""


class OneByOne(_Attention):
    """torch's fused kernel for each mask; no scores are kept."""

    def mix(self, bias: Bias) -> Tensor:
        """As in the base class."""
        (q, k, v), scores = self.projections, bias.scores
        if bias.n_apart > 1:
            q, k, v = (_apart(t, bias.n_apart) for t in (q, k, v))
            scores = None if scores is None else _mask_apart(scores, bias.n_apart, len(self.resid))
        z = F.scaled_dot_product_attention(q, k, v, attn_mask=scores, scale=1.0)
        if bias.n_apart > 1:
            z = rearrange(z, "(trial part) head pos e -> trial head (part pos) e", part=bias.n_apart)
        if bias.empty is not None:  # some versions of the fused kernel give NaN there
            z = z.masked_fill(bias.empty[..., None], 0.0)
        return z.transpose(1, 2)


def _apart(x: Float[Tensor, "trial head pos d_head"], n: int) -> Float[Tensor, "trial_and_part head own_pos d_head"]:
    """Return stretches of positions as separate trials; a view."""
    return rearrange(x, "trial head (part pos) e -> (trial part) head pos e", part=n)


def _mask_apart(
    scores: Float[Tensor, "1 head|1 dest src"], n: int, n_trials: int
) -> Float[Tensor, "trial_and_part head|1 own_dest own_src"] | None:
    """Return what a mask adds within stretches of positions; None if nothing."""
    own = rearrange(scores[0], "head (p dest) (q src) -> head p q dest src", p=n, q=n).diagonal(dim1=1, dim2=2)
    return repeat(own, "head dest src part -> (trial part) head dest src", trial=n_trials) if own.any() else None


class SharedScores(_Attention):
    """Scores that are computed once for all siblings.

    Large products are computed head by head. So they read the projections without copying them first, and the pattern
    of one head stays in the caches.
    """

    def __init__(self, layer: FoldedBlock, resid: Tensor, projections: Projections | None = None) -> None:
        super().__init__(layer, resid, projections)
        self.q, self.k, self.v = (t.transpose(0, 1) for t in self.projections)  # [head, trial, pos, d_head]
        n_heads, n_trials, n_tokens, _ = self.q.shape
        self.by_head = n_trials * n_tokens**2 >= HEAD_BY_HEAD
        if self.by_head:
            self.scores = layer.lasting("scores", n_heads, n_trials, n_tokens, n_tokens)
            for out, q_head, k_head in zip(self.scores, self.q, self.k, strict=True):
                torch.bmm(q_head, k_head.mT, out=out)
        else:
            self.scores = self.q @ self.k.mT

    def mix(self, bias: Bias) -> Tensor:
        """As in the base class."""
        if not self.by_head:
            return (self._pattern(bias, slice(None)) @ self.v).permute(1, 2, 0, 3)
        n_heads, n_trials, n_tokens, d_head = self.v.shape
        z = self.layer.memory("z", n_trials, n_tokens, n_heads, d_head)
        for head in range(n_heads):
            torch.bmm(self._pattern(bias, head), self.v[head], out=z[:, :, head])
        return z

    def mix_rows(self, allowed: Tensor, rows: Tensor) -> Tensor:
        """As in the base class, from the shared scores."""
        pattern = (self.scores[:, :, rows] + allowed.transpose(0, 1)).softmax(-1)
        return torch.stack([one @ v for one, v in zip(pattern, self.v, strict=True)], 1)

    def _pattern(self, bias: Bias, which: int | slice) -> Float[Tensor, "*head trial dest src"]:
        """Compute the pattern of one head (without the head axis) or of all; valid until any layer's next call."""
        n_heads, scores = len(self.scores), self.scores[which]
        pattern = self.layer.memory("pattern", *scores.shape)
        if bias.scores is not None:
            scores = torch.add(scores, bias.scores[0].expand(n_heads, -1, -1)[which].unsqueeze(-3), out=pattern)
        torch.softmax(scores, -1, out=pattern)
        if bias.empty is not None:  # a row with every edge cut gives zero
            pattern.masked_fill_(bias.empty.expand(n_heads, -1)[which][..., None, :, None], 0.0)
        return pattern


class ClsRow:
    """The CLS row alone, without keys and values of the other positions.

    q · (x W_K) = (q W_K^T) · x, and Σ p (x W_V) = (Σ p x) W_V. Rotated keys must be computed.
    """

    def __init__(self, layer: FoldedBlock, resid: Tensor) -> None:
        self.layer, self.x, self.resid = layer, layer.inputs(resid), resid[:, :1]
        attn = layer.attn
        if attn.rotary is not None:
            q, k, _ = layer.unpack(layer.pack(resid))
            self.scores = (q[:, :, :1] @ k.mT).squeeze(2)
        else:
            q = torch.einsum("bd,hde->bhe", self.x[:, 0], attn.W_Q) + attn.b_Q
            q = torch.einsum("bhe,hde->bhd", q / math.sqrt(q.shape[-1]), attn.W_K)
            self.scores = q @ self.x.mT  # [trial, head, src]

    def __call__(self, mask: Mask | None) -> Float[Tensor, "trial 1 d_model"]:
        """Compute the CLS row after attention under a mask."""
        layer, bias = self.layer, self.layer.bias(mask)
        scores = self.scores if bias.scores is None else self.scores + bias.scores[:, :, 0]
        pattern = scores.softmax(-1)
        if bias.empty is not None:
            pattern = pattern.nan_to_num()  # a row with every edge cut gives zero
        z = torch.einsum("bhd,hde->bhe", pattern @ self.x, layer.attn.W_V)
        result = layer.add_attention(self.resid, z[:, None])
        return result if bias.empty is None else result - layer.without_values(bias.empty[:, :1])
