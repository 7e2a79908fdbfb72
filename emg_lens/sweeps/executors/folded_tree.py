"""The tree of a plan from the folded blocks of an encoder whose arithmetic is known exactly.

Depth-first, so that a common prefix is computed once; siblings share queries, keys, values and scores.
"""

import math
from collections.abc import Callable
from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor

from emg_lens.models.encoder import HookedBiosignalEncoder
from emg_lens.sweeps.executors.folded_block import Bias, FoldedBlock, FoldedSideBySide, folded_layers
from emg_lens.sweeps.plan import Keep, Mask, Node, Root, Rows


class FoldedTree:
    """Depth-first walk over a root on one micro-batch. Memory grows with depth, not with the number of conditions.

    Threads may `run` it at once, each on its own micro-batch.
    """

    def __init__(self, model: HookedBiosignalEncoder) -> None:
        self.model, self.blocks = model, folded_layers(model)
        self.only_cls = model.cfg.readout == "cls" and isinstance(self.blocks[-1], FoldedBlock)

    def run(self, root: Root, x: Float[Tensor, "trial channel time"], keep: Keep, done: Rows = frozenset()) -> None:
        """Logits of every distinct condition of a root that is not done."""
        self._descend(root.tree, self.model.residual_in(x), 0, keep, done)

    def _descend(self, node: Node, resid: Tensor, depth: int, keep: Keep, done: Rows) -> None:
        """Run the children of `node`, whose output is `resid`, in block `depth`."""
        last = depth == len(self.blocks) - 1
        first, todo = node.in_order()[0].mask, node.unfinished(done)
        siblings = _siblings(self.blocks[depth], resid, first, [child.mask for child in todo], last and self.only_cls)
        for child in todo:
            after = siblings(child.mask)
            if not last:
                self._descend(child, after, depth + 1, keep, done)
            elif child.leaf is not None:
                keep({child.leaf: self.model.head(self.model.ln_final(after))})


def _siblings(
    layer: FoldedBlock | FoldedSideBySide, resid: Tensor, first: Mask | None, todo: list[Mask | None], only_cls: bool
) -> Callable[[Mask | None], Tensor]:
    """From a mask of `todo` to the residual stream behind a layer, of which `resid` goes into all.

    `first` is the mask of the first sibling, which may be done itself; others are computed as changes to it.
    """
    if isinstance(layer, FoldedSideBySide):
        return _StagesSideBySide(layer, resid, first, todo)
    others = [mask for mask in todo if mask != first]
    some_heads = any(len(heads) for mask in others if (heads := _fewer_heads(mask, first, layer)) is not None)
    mixer = (_ClsMixer if only_cls else _Mixer)(layer, resid, some_heads)
    if some_heads and len(todo) == len(others):
        mixer(first)
    return lambda mask: layer.after(mixer(mask))


class _StagesSideBySide:
    """Siblings of a layer in which stages work side by side: what a stage gives for a part of a mask, it gives once."""

    def __init__(self, layer: FoldedSideBySide, resid: Tensor, first: Mask | None, todo: list[Mask | None]) -> None:
        self.resid, self.spans = resid, [span for span, _ in layer.blocks]
        self.siblings = []
        for span, block in layer.blocks:
            parts = list(dict.fromkeys(mask and mask.part(span) for mask in todo))
            own = resid[:, span.start : span.stop].contiguous()
            self.siblings.append(lru_cache(None)(_siblings(block, own, first and first.part(span), parts, False)))

    def __call__(self, mask: Mask | None) -> Tensor:
        pieces, last = [], 0
        for span, siblings in zip(self.spans, self.siblings, strict=True):
            pieces += [self.resid[:, last : span.start], siblings(mask and mask.part(span))]
            last = span.stop
        return torch.cat([*pieces, self.resid[:, last:]], dim=1)


def _fewer_heads(mask: Mask | None, first: Mask | None, layer: FoldedBlock) -> list[int] | None:
    """The heads in which a mask differs from its first sibling's, if they are so few that it pays to know."""
    heads = None if mask is None else mask.changed_heads(first)
    return heads if heads is not None and 2 * len(heads) <= layer.attn.cfg.n_heads else None


HEAD_BY_HEAD = 2**15
"""Scores of one head from which on heads are worth a launch each."""


class _Mixer:
    """The residual stream after attention, of siblings: one set of queries, keys, values and scores, one mask each.

    The first sibling is computed whole. Another that differs from it in few heads is the first plus the change of
    those heads' outputs; for that, the first is kept (`some_heads`).

    Large products go head by head: so they read the projections as they lie, where one product of all heads would copy
    them first, and a head's pattern stays in the caches. With shared scores this makes attention on a CPU about three
    times faster than torch's fused kernel, which takes one mask a call.
    """

    def __init__(self, layer: FoldedBlock, resid: Tensor, some_heads: bool) -> None:
        self.layer, self.some_heads = layer, some_heads
        q, k, self.v = (t.transpose(0, 1) for t in layer.project(layer.inputs(resid)))  # [head, trial, pos, d_head]
        n_heads, n_trials, n_tokens, _ = q.shape
        self.by_head = n_trials * n_tokens**2 >= HEAD_BY_HEAD
        if self.by_head:
            self.scores = layer.lasting("scores", n_heads, n_trials, n_tokens, n_tokens)
            for out, q_head, k_head in zip(self.scores, q, k, strict=True):
                torch.bmm(q_head, k_head.mT, out=out)
        else:
            self.scores = q @ k.mT
        self.base = torch.add(resid, layer.offset, out=layer.lasting("base", *resid.shape))
        self.first: tuple[Mask | None, Tensor, Tensor] | None = None  # mask, z, result

    def __call__(self, mask: Mask | None) -> Float[Tensor, "trial pos d_model"]:
        layer, bias = self.layer, self.layer.bias(mask)
        if self.first is not None:
            first_mask, first_z, first_result = self.first
            heads = _fewer_heads(mask, first_mask, layer)
            if heads is not None and bias.empty is None and layer.bias(first_mask).empty is None:
                return layer.add_heads(first_result, self._mix(bias, heads) - first_z[:, :, heads], heads)
        keep = self.first is None and self.some_heads
        z = self._mix(bias, list(range(len(self.scores))), keep)
        result = layer.add_heads(self.base, z, keep=keep)
        if bias.empty is not None:
            result -= layer.without_values(bias.empty)
        if keep:
            self.first = (mask, z, result)
        return result

    def _mix(self, bias: Bias, heads: list[int], keep: bool = False) -> Float[Tensor, "trial dest head d_head"]:
        """Values mixed by the attention of some heads; good until any layer's next call, unless they are to `keep`."""
        if not self.by_head:
            return self._mix_of(bias, slice(None) if len(heads) == len(self.scores) else heads).permute(1, 2, 0, 3)
        _, n_trials, n_tokens, d_head = self.v.shape
        shape = (n_trials, n_tokens, len(heads), d_head)
        z = self.v.new_empty(shape) if keep else self.layer.memory("z", *shape)
        for i, head in enumerate(heads):
            z[:, :, i] = self._mix_of(bias, head)
        return z

    def _mix_of(self, bias: Bias, which: int | list[int] | slice) -> Float[Tensor, "*head trial dest d_head"]:
        """The same for one head (without the head axis) or for several in one go."""
        n_heads, scores = len(self.scores), self.scores[which]
        if bias.scores is not None:
            scores = scores + bias.scores[0].expand(n_heads, -1, -1)[which].unsqueeze(-3)
        pattern = scores.softmax(-1)
        if bias.empty is not None:  # a row with every edge cut attends to nothing
            pattern = pattern.masked_fill(bias.empty.expand(n_heads, -1)[which][..., None, :, None], 0.0)
        return pattern @ self.v[which]


class _ClsMixer:
    """As `_Mixer` for the CLS row alone: keys and values of the other positions are never formed.

    q · (x W_K) = (q W_K^T) · x, and Σ p (x W_V) = (Σ p x) W_V. Rotated keys have to be formed.
    """

    def __init__(self, layer: FoldedBlock, resid: Tensor, some_heads: bool) -> None:  # noqa: ARG002
        self.layer, self.x = layer, layer.inputs(resid)
        self.base = resid[:, :1] + layer.offset
        attn = layer.attn
        if attn.rotary is not None:
            q, k, _ = layer.project(self.x)
            self.scores = (q[:, :, :1] @ k.mT).squeeze(2)
        else:
            q = torch.einsum("bd,hde->bhe", self.x[:, 0], attn.W_Q) + attn.b_Q
            q = torch.einsum("bhe,hde->bhd", q / math.sqrt(q.shape[-1]), attn.W_K)
            self.scores = q @ self.x.mT  # [trial, head, src]

    def __call__(self, mask: Mask | None) -> Float[Tensor, "trial 1 d_model"]:
        layer, bias = self.layer, self.layer.bias(mask)
        scores = self.scores if bias.scores is None else self.scores + bias.scores[:, :, 0]
        pattern = scores.softmax(-1)
        if bias.empty is not None:
            pattern = pattern.nan_to_num()  # a row with every edge cut attends to nothing
        z = torch.einsum("bhd,hde->bhe", pattern @ self.x, layer.attn.W_V)
        result = layer.add_heads(self.base, z[:, None])
        return result if bias.empty is None else result - layer.without_values(bias.empty[:, :1])
