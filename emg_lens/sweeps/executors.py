"""Three ways to run a planned sweep, with the same results: `loop`, `tree` and `stacked`.

`loop` runs one hooked forward a condition, on any TransformerLens model. The other two run our encoders from their
parts: `tree` walks the plan depth-first, so that a common prefix is computed once and siblings share queries, keys and
values; `stacked` walks it level by level, all nodes of a layer side by side in the head axis of attention, which pays
where the machine waits for launches rather than for arithmetic (small batches, GPUs).

Each gives its outputs to `keep` as soon as they are finished, and leaves out those that are `done`.
"""

import math
from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from emg_lens.hooks import cutting
from emg_lens.layout import TokenLayout
from emg_lens.models.encoder import HookedBiosignalEncoder
from emg_lens.sweeps.conditions import Condition
from emg_lens.sweeps.folded import Bias, Layer, folded_layers
from emg_lens.sweeps.plan import Mask, Node, SweepPlan

Rows = frozenset[int]
Keep = Callable[[Mapping[int, Tensor | Exception]], None]
"""Called with outputs `[trial, class]` that have just been finished, by row: a condition, or a distinct condition."""


def loop(
    model: torch.nn.Module,
    x: Tensor,
    conditions: Sequence[Condition],
    layout: TokenLayout,
    keep: Keep,
    done: Rows = frozenset(),
) -> None:
    """One verified hooked forward a condition; a condition that raises does not stop the others."""
    for row, condition in enumerate(conditions):
        if row in done:
            continue
        output: Tensor | Exception
        try:
            with cutting(model, condition.edges, layout):
                output = model(x)
        except Exception as error:  # noqa: BLE001 - whatever it is, the other conditions' results are kept
            output = error
        keep({row: output})


class Tree:
    """Depth-first walk over a plan on one micro-batch. Memory grows with depth, not with the number of conditions.

    Threads may `run` it at once, each on its own micro-batch.
    """

    def __init__(self, model: HookedBiosignalEncoder, plan: SweepPlan) -> None:
        self.model, self.plan = model, plan
        self.layers = folded_layers(model)
        self.only_cls = model.cfg.readout == "cls"

    def run(self, x: Float[Tensor, "trial channel time"], keep: Keep, done: Rows = frozenset()) -> None:
        """Logits of every distinct condition that is not done."""
        self._descend(self.plan.root, self.model.residual_in(x), 0, keep, done)

    def _descend(self, node: Node, resid: Tensor, depth: int, keep: Keep, done: Rows) -> None:
        """Run the children of `node`, whose output is `resid`, in block `depth`."""
        layer, last = self.layers[depth], depth == len(self.layers) - 1
        children = node.in_order()
        first = children[0].mask
        others = _unfinished(children[1:], done)
        todo = _unfinished(children[:1], done) + others
        some_heads = any(len(heads) for c in others if (heads := _fewer_heads(c.mask, first, layer)) is not None)
        mixer = (_ClsMixer if last and self.only_cls else _Mixer)(layer, resid, some_heads)
        if some_heads and len(todo) == len(others):
            mixer(first)  # done itself, but others are computed as changes to it
        for child in todo:
            after = layer.after(mixer(child.mask))
            if not last:
                self._descend(child, after, depth + 1, keep, done)
            elif child.leaf is not None:
                keep({child.leaf: self.model.head(self.model.ln_final(after))})


def _unfinished(nodes: list[Node], done: Rows) -> list[Node]:
    """The nodes that lead to a condition which is not done."""
    return [node for node in nodes if not done.issuperset(node.leaves())] if done else nodes


def _fewer_heads(mask: Mask | None, first: Mask | None, layer: Layer) -> list[int] | None:
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

    def __init__(self, layer: Layer, resid: Tensor, some_heads: bool) -> None:
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

    def __init__(self, layer: Layer, resid: Tensor, some_heads: bool) -> None:  # noqa: ARG002
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


class Stacked:
    """Level by level: all nodes of a layer (or as many as lead to `at_once` conditions) in one forward of it."""

    def __init__(self, model: HookedBiosignalEncoder, plan: SweepPlan, at_once: int) -> None:
        self.model, self.at_once = model, at_once
        self.layers = folded_layers(model)
        self.paths = _paths(plan.root)
        self.only_cls = model.cfg.readout == "cls"

    def run(self, x: Float[Tensor, "trial channel time"], keep: Keep, done: Rows = frozenset()) -> None:
        """Logits of every distinct condition that is not done, and of those that are computed together with one."""
        start, leaves = self.model.residual_in(x), list(self.paths)
        for first in range(0, len(leaves), self.at_once):
            some = leaves[first : first + self.at_once]
            if done.issuperset(some):
                continue
            resid = start[None]  # [node, trial, pos, d_model]
            nodes = [0] * len(some)  # of each leaf, which node it is in
            for depth in range(len(self.layers)):
                below = [(node, self.paths[leaf][depth]) for node, leaf in zip(nodes, some, strict=True)]
                children = list(dict.fromkeys(below))
                resid = self._level(depth, resid, children)
                index = {child: i for i, child in enumerate(children)}
                nodes = [index[child] for child in below]
            out = self.model.head(self.model.ln_final(resid.flatten(0, 1))).chunk(len(resid))
            keep({leaf: out[node] for leaf, node in zip(some, nodes, strict=True)})

    def _level(self, depth: int, resid: Tensor, children: list[tuple[int, Mask | None]]) -> Tensor:
        """Outputs of children, given as (parent, mask), from the parents' outputs `[parent, trial, pos, d_model]`."""
        layer, n_parents = self.layers[depth], len(resid)
        qkv = layer.project(layer.inputs(resid).flatten(0, 1))
        parent = torch.tensor([node for node, _ in children], device=resid.device)
        q, k, v = (
            t.unflatten(0, (n_parents, -1)).transpose(0, 1).index_select(1, parent).flatten(1, 2) for t in qkv
        )  # [trial, child * head, pos, d_head]
        bias = self._bias(layer, [mask for _, mask in children], resid.shape[2])
        base = resid
        if depth == len(self.layers) - 1 and self.only_cls:  # the other rows reach nothing
            q, base = q[:, :, :1], resid[:, :, :1]
            bias = Bias(
                None if bias.scores is None else bias.scores[:, :, :1],
                None if bias.empty is None else bias.empty[:, :1],
            )
        z = self._mix(q, k, v, bias).unflatten(2, (len(children), -1)).permute(2, 0, 1, 3, 4)
        base = (base + layer.offset).index_select(0, parent)
        mid = layer.add_heads(base.flatten(0, 1), z.flatten(0, 1))
        if bias.empty is not None:
            per_child = bias.empty.unflatten(0, (len(children), -1))
            mid = mid.view_as(base) - torch.stack([layer.without_values(empty) for empty in per_child])[:, None]
        return layer.after(mid.view(-1, *base.shape[2:])).view_as(base)

    @staticmethod
    def _mix(q: Tensor, k: Tensor, v: Tensor, bias: Bias) -> Float[Tensor, "trial dest head d_head"]:
        z = F.scaled_dot_product_attention(q, k, v, attn_mask=bias.scores, scale=1.0)
        if bias.empty is not None:  # some versions of the fused kernel give NaN there
            z = z.masked_fill(bias.empty[..., None], 0.0)
        return z.transpose(1, 2)

    def _bias(self, layer: Layer, masks: list[Mask | None], n_tokens: int) -> Bias:
        """The masks of all children, side by side in the head axis."""
        kinds = {mask: i for i, mask in enumerate(dict.fromkeys(masks))}
        biases = [layer.bias(mask) for mask in kinds]
        if all(bias.scores is None for bias in biases):
            return Bias(None, None)
        shape = (self.model.cfg.n_heads, n_tokens, n_tokens)
        zero = layer.like.new_zeros(1)
        scores = torch.stack([(zero if b.scores is None else b.scores[0]).expand(shape) for b in biases])
        scores = scores[[kinds[mask] for mask in masks]].flatten(0, 1)
        empty = scores.isinf().all(-1) if any(bias.empty is not None for bias in biases) else None
        return Bias(scores[None], empty)


def _paths(root: Node) -> dict[int, list[Mask | None]]:
    """What each distinct condition cuts, layer by layer; neighbours in the tree are neighbours here."""
    paths: dict[int, list[Mask | None]] = {}

    def follow(node: Node, so_far: list[Mask | None]) -> None:
        for child in node.children.values():
            path = [*so_far, child.mask]
            if child.leaf is not None:
                paths[child.leaf] = path
            follow(child, path)

    follow(root, [])
    return paths
