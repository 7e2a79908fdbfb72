"""Attention after a change of few rows of its input, as an update of low rank.

If few rows r of the input change, the scores of every other destination change in the columns r alone. With its
attention weights A, its mixed values z and the log L of its sum of exponentials before the change, and with the new
scores s' and values v',

    a = exp(s' - L),    n = 1 - Σ_r A + Σ_r a,    z' = (z - Σ_r A v + Σ_r a v') / n.

So z' W_O is a sum of vectors that are known (z W_O of each head, divided by n) and of a few others (v W_O and v' W_O).
This replaces the scores, the softmax, the mixing and the product with W_O of all destinations.
"""

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from emg_lens.sweeps.executors.folded_attention import LONG
from emg_lens.sweeps.executors.folded_block import FoldedBlock

USES = 4
"""Fewest inputs with changes of the same input: what is stored takes about as long as the attention of two."""
A_ROW = 16
"""Values of a head for each changed row: with fewer, the update is not faster (measured)."""
CANCELLED = 1 / 16
"""Least n: below it, z - Σ A v would lose more than four bits to cancellation."""


def pays_to_update(layer: FoldedBlock, n_tokens: int, n_rows: int) -> bool:
    """Whether the update is possible and faster. Rotated keys depend on the row, and empty rows have no weights."""
    attn = layer.attn
    possible = attn.rotary is None and layer.bias(None).empty is None
    return possible and n_tokens < LONG and attn.cfg.d_head >= A_ROW * max(n_rows, 2)


class StoredAttention:
    """Attention of an input, stored so that few of its rows can be changed."""

    def __init__(self, layer: FoldedBlock, packed: Float[Tensor, "trial pos qkv"]) -> None:
        self.layer = layer
        self.q, self.k, self.v = (part.contiguous() for part in layer.unpack(packed))  # [trial, head, pos, d_head]
        allowed = layer.bias(None).scores
        self.allowed = torch.zeros(1, 1, *[packed.shape[1]] * 2).to(packed) if allowed is None else allowed
        scores = self.q @ self.k.mT + self.allowed
        self.log_sums = scores.logsumexp(-1, keepdim=True)
        self.pattern = scores.sub_(self.log_sums).exp_()
        z = rearrange(self.pattern @ self.v, "trial head pos e -> head (trial pos) e")
        self.outputs = z @ layer.attn.W_O  # [head, trial and pos, d_model]

    def changed(
        self, resid: Float[Tensor, "trial pos d_model"], rows: Int[Tensor, " row"]
    ) -> Float[Tensor, "trial pos d_model"] | None:
        """Compute the residual stream after attention for an input that differs in some rows.

        It stays valid until the next call. None if digits would be lost, because nearly all attention of a destination
        was on these rows.
        """
        layer = self.layer
        q, k, v = layer.unpack(layer.pack(resid[:, rows]))
        added = (self.q @ k.mT + self.allowed[..., rows]).sub_(self.log_sums).exp_()
        removed = self.pattern[..., rows]
        total = 1 - removed.sum(-1) + added.sum(-1)
        if not (total.amin() >= CANCELLED and total.amax() < torch.inf):
            return None
        kept = total.reciprocal_()
        weights = torch.cat([added, removed.neg_()], -1).mul_(kept[..., None])
        values = rearrange(torch.cat([v, self.v[:, :, rows]], 2), "trial head row e -> head (trial row) e")

        flat = resid.flatten(0, 1)
        mid = torch.add(flat, layer.offset, out=layer.memory("changed", *flat.shape))
        for output, factor in zip(self.outputs, rearrange(kept, "trial head pos -> head (trial pos) 1"), strict=True):
            mid.addcmul_(output, factor)
        mid = mid.view_as(resid).baddbmm_(
            rearrange(weights, "trial head pos row -> trial pos (head row)"),
            rearrange(values @ layer.attn.W_O, "head (trial row) d -> trial (head row) d", trial=len(resid)),
        )
        return mid.index_copy_(1, rows, self._own(resid[:, rows], q, k, v, rows))

    def _own(self, resid: Tensor, q: Tensor, k: Tensor, v: Tensor, rows: Tensor) -> Float[Tensor, "trial row d_model"]:
        """Compute the changed rows themselves: their queries are new too."""
        scores = (q @ self.k.mT).index_copy_(-1, rows, q @ k.mT) + self.allowed[:, :, rows]
        pattern = scores.softmax(-1)
        z = pattern @ self.v + pattern[..., rows] @ (v - self.v[:, :, rows])
        return self.layer.add_attention(resid, z.transpose(1, 2))
