"""A block of the folded executor: no hooks, folded weights and biases, memory that is used again.

It copies the arithmetic of `Block` and its parts, so it is only for classes that declare `folds`.
"""

import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from emg_lens.models.components import Block
from emg_lens.models.encoder import HookedBiosignalEncoder
from emg_lens.models.staged import SideBySide, blocks_of
from emg_lens.sweeps.plan import Mask

Projections = tuple[Tensor, Tensor, Tensor]
"""Queries, keys and values `[batch, head, pos, d_head]`."""
BIASES_KEPT = 16
"""Unpacked masks that are kept: enough for conditions over layers; one for every condition would fill the memory."""

IN_PLACE = {F.gelu: torch.ops.aten.gelu_, F.relu: torch.relu_}
"""In-place forms of an MLP's activation: allocating memory takes longer than the arithmetic."""


@dataclass(frozen=True)
class FoldedSideBySide:
    """A layer with several stages: the positions and the block of each."""

    blocks: Sequence[tuple[range, "FoldedBlock"]]


@dataclass(frozen=True)
class Bias:
    """A mask in the form that attention needs.

    Attributes:
        scores: 0 or -inf, to be added to the scores; `None` adds nothing. It has four axes, because with three torch
            does not use its fused kernel (over twice the time at 49 tokens, four times at 800).
        empty: Rows without any edge, or None if there are none.
        n_apart: Number of stretches of equal length without edges between them: the channels, if all edges between
            channels are cut.
    """

    scores: Float[Tensor, "1 head|1 dest src"] | None
    empty: Bool[Tensor, "head|1 dest"] | None
    n_apart: int = 1


class Memory(threading.local):
    """Memory of one thread that is used again: new pages for every node would take up to a tenth of a sweep's time."""

    def __init__(self, like: Tensor) -> None:
        self.like = like
        self.pieces: dict[object, Tensor] = {}

    def __call__(self, key: object, *shape: int) -> Tensor:
        """Return contiguous memory of a shape with any content. The next call with the same key may overwrite it."""
        size = math.prod(shape)
        if key not in self.pieces or len(self.pieces[key]) < size:
            self.pieces[key] = self.like.new_empty(size)
        return self.pieces[key][:size].view(shape)


class FoldedBlock:
    """A block without its hooks: what does not depend on the mask is computed once for all siblings.

    Biases are folded, because each would take a pass over the activations. b_K adds the same number to all scores of a
    row, which softmax ignores. b_V passes through attention unchanged (its rows sum to one), so it joins b_O. The b_out
    of a post-LN block joins the norm before the MLP, and b_in subtracts it again.
    """

    def __init__(self, block: Block, memory: Memory) -> None:
        attn, mlp = block.attn, block.mlp
        self.block, self.attn, self.post = block, attn, block.cfg.norm == "post"
        scale = 1 / math.sqrt(attn.cfg.d_head)
        weights = (attn.W_Q * scale, attn.W_K, attn.W_V)
        self.w_qkv = torch.cat([w.transpose(0, 1).flatten(1) for w in weights], dim=1)
        keys = attn.b_K if attn.rotary is not None else torch.zeros_like(attn.b_K)
        self.b_qkv = torch.cat([b.flatten() for b in (attn.b_Q * scale, keys, torch.zeros_like(attn.b_V))])
        self.value_offset = torch.einsum("he,hed->hd", attn.b_V, attn.W_O)
        self.offset: Tensor = attn.b_O + self.value_offset.sum(0)
        moved = mlp.b_out if self.post else torch.zeros_like(mlp.b_out)
        self.b_mid = (block.ln1 if self.post else block.ln2).b + moved
        self.b_in = mlp.b_in - moved @ mlp.W_in
        self.permanent_mask = attn.permanent_mask
        self.memory, self.like = memory, memory.like
        self.bias = lru_cache(BIASES_KEPT)(self._bias)

    def lasting(self, what: str, *shape: int) -> Tensor:
        """Return memory that stays valid until this layer asks for the same again; deeper layers may run in between."""
        return self.memory((self, what), *shape)

    def inputs(self, resid: Float[Tensor, "batch pos d_model"]) -> Tensor:
        """Return the input of attention."""
        return resid if self.post else self.block.ln1(resid)

    def pack(self, resid: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos qkv"]:
        """Compute queries over √d_head, keys and values, without b_V and, mostly, b_K, from the input of the block.

        They stay valid until the next call, because the memory is used again.
        """
        rows = self.inputs(resid).flatten(0, 1)
        packed = torch.addmm(self.b_qkv, rows, self.w_qkv, out=self.lasting("new", len(rows), len(self.b_qkv)))
        return packed.view(*resid.shape[:2], -1)

    def unpack(self, packed: Float[Tensor, "batch pos qkv"]) -> Projections:
        """Split into queries, keys and values, and rotate them if the positions are rotary."""
        packed = packed.view(*packed.shape[:2], 3, *self.attn.b_Q.shape)
        q, k, v = packed.unbind(2)
        if self.attn.rotary is not None:
            q, k = self.attn.rotary.all_turned(packed[:, :, :2])
        return q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)

    def after(self, mid: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos d_model"]:
        """Compute the rest of the block from the residual stream after attention."""
        block, mlp, rows = self.block, self.block.mlp, mid.flatten(0, 1)
        norm = block.ln1 if self.post else block.ln2
        normed = F.layer_norm(rows, norm.w.shape, norm.w, self.b_mid, norm.eps)
        pre = torch.addmm(self.b_in, normed, mlp.W_in, out=self.memory("pre", len(rows), len(self.b_in)))
        hidden = IN_PLACE.get(mlp.act_fn, mlp.act_fn)(pre)
        if self.post:
            return block.ln2(normed.addmm_(hidden, mlp.W_out)).view_as(mid)
        return torch.add(rows, mlp.b_out).addmm_(hidden, mlp.W_out).view_as(mid)

    def add_attention(self, resid: Tensor, z: Tensor) -> Tensor:
        """Compute the residual stream after attention from the one before it and z `[batch, pos, head, d_head]`.

        It stays valid until the next call of any layer.
        """
        rows = resid.flatten(0, 1)
        out = torch.add(rows, self.offset, out=self.memory("mid", *rows.shape))
        return out.addmm_(z.flatten(2).flatten(0, 1), self.attn.W_O.flatten(0, 1)).view_as(resid)

    def without_values(self, empty: Bool[Tensor, "head|1 dest"]) -> Float[Tensor, "dest d_model"]:
        """Return what `offset` wrongly adds to rows without any edge."""
        empty = empty.expand(len(self.value_offset), -1)
        return empty.T.to(self.value_offset.dtype) @ self.value_offset

    def _bias(self, mask: Mask | None) -> Bias:
        """Unpack a mask and add the permanent mask."""
        if mask is None and self.permanent_mask is None:
            return Bias(None, None)
        cut = torch.tensor(False) if mask is None else mask.tensor()
        cut = cut.to(self.like.device)
        cut = cut if self.permanent_mask is None else cut | self.permanent_mask
        empty = cut.all(-1)
        scores = torch.zeros(cut.shape, device=cut.device, dtype=self.like.dtype).masked_fill_(cut, -torch.inf)
        return Bias(scores[None], empty if empty.any() else None, _stretches_apart(~cut.all(0)))


def _stretches_apart(read: Bool[Tensor, "dest src"]) -> int:
    """Return the largest number of stretches of equal length without edges between them."""
    n, dest, reads = len(read), torch.arange(len(read), device=read.device), read.any(1)
    ordered = read.byte()
    first = torch.where(reads, ordered.argmax(1), dest).minimum(dest)
    last = torch.where(reads, n - 1 - ordered.flip(1).argmax(1), dest).maximum(dest)
    return next(k for k in range(n, 0, -1) if n % k == 0 and torch.equal(first // (n // k), last // (n // k)))


def folded_layers(model: HookedBiosignalEncoder) -> list[FoldedBlock | FoldedSideBySide]:
    """Fold the layers of a model; they share one memory."""
    memory = Memory(blocks_of(model.blocks[0])[0].mlp.b_in)
    layers: list[FoldedBlock | FoldedSideBySide] = []
    for layer in model.blocks:
        if isinstance(layer, SideBySide):
            layers.append(FoldedSideBySide([(span, FoldedBlock(block, memory)) for span, block in layer.blocks]))
        else:
            layers.append(FoldedBlock(layer, memory))  # pyright: ignore[reportArgumentType]
    return layers
