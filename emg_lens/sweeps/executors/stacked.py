"""A plan level by level: all nodes of a layer side by side in the head axis of attention.

It pays where the machine waits for launches rather than for arithmetic: small batches, GPUs.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from emg_lens.models.encoder import HookedBiosignalEncoder
from emg_lens.sweeps.executors.folded_block import Bias, FoldedBlock, folded_layers
from emg_lens.sweeps.plan import Keep, Mask, Node, Root, Rows


class Stacked:
    """Level by level: all nodes of a layer (or as many as lead to `at_once` conditions) in one forward of it.

    For models of one stage: those of several have layers in which tokens of different number are side by side.
    """

    def __init__(self, model: HookedBiosignalEncoder, at_once: int) -> None:
        self.model, self.at_once = model, at_once
        self.blocks = [layer for layer in folded_layers(model) if isinstance(layer, FoldedBlock)]
        self.only_cls = model.cfg.readout == "cls"

    def run(self, root: Root, x: Float[Tensor, "trial channel time"], keep: Keep, done: Rows = frozenset()) -> None:
        """Logits of every distinct condition of a root that is not done, and of those computed together with one."""
        start, paths = self.model.residual_in(x), _paths(root.tree)
        leaves = list(paths)
        for first in range(0, len(leaves), self.at_once):
            some = leaves[first : first + self.at_once]
            if done.issuperset(some):
                continue
            resid = start[None]  # [node, trial, pos, d_model]
            nodes = [0] * len(some)  # of each leaf, which node it is in
            for depth in range(len(self.blocks)):
                below = [(node, paths[leaf][depth]) for node, leaf in zip(nodes, some, strict=True)]
                children = list(dict.fromkeys(below))
                resid = self._level(depth, resid, children)
                index = {child: i for i, child in enumerate(children)}
                nodes = [index[child] for child in below]
            out = self.model.head(self.model.ln_final(resid.flatten(0, 1))).chunk(len(resid))
            keep({leaf: out[node] for leaf, node in zip(some, nodes, strict=True)})

    def _level(self, depth: int, resid: Tensor, children: list[tuple[int, Mask | None]]) -> Tensor:
        """Outputs of children, given as (parent, mask), from the parents' outputs `[parent, trial, pos, d_model]`."""
        layer, n_parents = self.blocks[depth], len(resid)
        qkv = layer.project(layer.inputs(resid).flatten(0, 1))
        parent = torch.tensor([node for node, _ in children], device=resid.device)
        q, k, v = (
            t.unflatten(0, (n_parents, -1)).transpose(0, 1).index_select(1, parent).flatten(1, 2) for t in qkv
        )  # [trial, child * head, pos, d_head]
        bias = self._bias(layer, [mask for _, mask in children], resid.shape[2])
        base = resid
        if depth == len(self.blocks) - 1 and self.only_cls:  # the other rows reach nothing
            q, base = q[:, :, :1], resid[:, :, :1]
            bias = Bias(
                None if bias.scores is None else bias.scores[:, :, :1],
                None if bias.empty is None else bias.empty[:, :1],
            )
        z = self._mix(q, k, v, bias).unflatten(2, (len(children), -1)).permute(2, 0, 1, 3, 4)
        base = base.index_select(0, parent)
        mid = layer.add_attention(base.flatten(0, 1), z.flatten(0, 1))
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

    def _bias(self, layer: FoldedBlock, masks: list[Mask | None], n_tokens: int) -> Bias:
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


def _paths(tree: Node) -> dict[int, list[Mask | None]]:
    """What each distinct condition cuts, layer by layer; neighbours in the tree are neighbours here."""
    paths: dict[int, list[Mask | None]] = {}

    def follow(node: Node, so_far: list[Mask | None]) -> None:
        for child in node.children.values():
            path = [*so_far, child.mask]
            if child.leaf is not None:
                paths[child.leaf] = path
            follow(child, path)

    follow(tree, [])
    return paths
