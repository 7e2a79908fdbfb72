"""Three ways to run a planned sweep, with the same results: `loop`, `tree` and `stacked`.

`loop` runs one hooked forward a condition, on any TransformerLens model. The other two run our encoders from their
parts: `tree` walks the plan depth-first, so that a common prefix is computed once and siblings share queries, keys and
values; `stacked` puts the conditions side by side in the head axis of one forward, which pays where the machine waits
for launches rather than for arithmetic (small batches, GPUs).
"""

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from emg_lens.components import Attention, Block
from emg_lens.encoder import HookedBiosignalEncoder
from emg_lens.hooks import cutting
from emg_lens.layout import TokenLayout
from emg_lens.studies.conditions import Condition
from emg_lens.studies.plan import Mask, Node, Plan

Logits = Float[Tensor, "trial class"]
Tell = Callable[[int], None]
"""Called with the number of forwards that have just been finished."""


def loop(
    model: torch.nn.Module, x: Tensor, conditions: Sequence[Condition], layout: TokenLayout, tell: Tell
) -> dict[str, Tensor | Exception]:
    """One verified hooked forward a condition; a condition that raises does not stop the others."""
    outputs: dict[str, Tensor | Exception] = {}
    for condition in conditions:
        try:
            with cutting(model, condition.edges, layout):
                outputs[condition.name] = model(x)
        except Exception as error:  # noqa: BLE001 - whatever it is, the other conditions' results are kept
            outputs[condition.name] = error
        tell(1)
    return outputs


class Tree:
    """Depth-first walk over a plan on one micro-batch. Memory grows with depth, not with the number of conditions."""

    def __init__(self, model: HookedBiosignalEncoder, plan: Plan) -> None:
        self.model, self.plan = model, plan
        self.blocks: list[Block] = list(model.blocks)  # pyright: ignore[reportAttributeAccessIssue]
        self.only_cls = model.cfg.readout == "cls"
        self.biases: dict[Mask, Tensor] = {}

    def run(self, x: Float[Tensor, "trial channel time"], tell: Tell) -> list[Logits]:
        """Logits of every distinct condition, in the plan's order."""
        logits: list[Logits] = [torch.empty(0)] * len(self.plan.distinct)
        self._descend(self.plan.root, self.model.residual_in(x), 0, logits, tell)
        return logits

    def _descend(self, node: Node, resid: Tensor, layer: int, logits: list[Logits], tell: Tell) -> None:
        """Run the children of `node`, whose output is `resid`, in block `layer`."""
        block = self.blocks[layer]
        last = layer == len(self.blocks) - 1
        attn_in = block.ln1(resid) if self.model.cfg.norm == "pre" else resid
        one_row = last and self.only_cls
        if one_row:
            resid = resid[:, :1]
        mixer = (_ClsMixer if one_row and block.attn.rotary is None else _Mixer)(block.attn, attn_in, self._bias, one_row)
        for child in node.in_order():
            after = block.after_attention(resid, mixer(child.mask))
            if not last:
                self._descend(child, after, layer + 1, logits, tell)
            elif child.leaf is not None:
                logits[child.leaf] = self.model.head(self.model.ln_final(after))
                tell(1)

    def _bias(self, mask: Mask, attn: Attention) -> Float[Tensor, "head dest src"]:
        """The mask (and what is severed) as something to add to scores: 0 or -inf."""
        if mask not in self.biases:
            cut = mask.tensor(self.model.cfg.n_heads).to(attn.W_Q.device)
            if attn.severed is not None:
                cut = cut | attn.severed
            bias = torch.zeros(cut.shape, device=cut.device, dtype=attn.W_Q.dtype)
            self.biases[mask] = bias.masked_fill_(cut, -torch.inf)
        return self.biases[mask]


class _Mixer:
    """Attention outputs of siblings: one set of queries, keys and values, one mask each.

    The first sibling is computed whole. Another that differs from it in few heads is the first plus the change of
    those heads' outputs.
    """

    def __init__(self, attn: Attention, x: Tensor, bias: Callable[[Mask, Attention], Tensor], one_row: bool) -> None:
        self.attn, self.bias = attn, bias
        q, k, v = attn.project(x)
        q = q[:, :1] if one_row else q
        self.q, self.k, self.v = (t.transpose(1, 2) for t in (q, k, v))
        self.rows = slice(0, 1) if one_row else slice(None)
        self.first: tuple[Tensor, Tensor, Tensor] | None = None  # bias, z, output

    def __call__(self, mask: Mask | None) -> Float[Tensor, "trial pos d_model"]:
        bias = self._scores_bias(mask)
        if self.first is not None:
            first_bias, first_z, first_output = self.first
            heads = (bias != first_bias).any(dim=(1, 2)).nonzero().flatten()
            if 2 * len(heads) <= len(bias):
                change = self._mix(bias[heads], heads) - first_z[:, :, heads]
                return first_output + torch.einsum("bphe,hed->bpd", change, self.attn.W_O[heads])
        z = self._mix(bias)
        output = self.attn.output(z)
        if self.first is None:
            self.first = (bias, z, output)
        return output

    def _scores_bias(self, mask: Mask | None) -> Float[Tensor, "head dest src"]:
        n_heads, n_tokens = self.k.shape[1], self.k.shape[2]
        if mask is not None:
            return self.bias(mask, self.attn)[:, self.rows]
        bias = torch.zeros(n_heads, n_tokens, n_tokens, device=self.q.device, dtype=self.q.dtype)
        if self.attn.severed is not None:
            bias = bias.masked_fill(self.attn.severed, -torch.inf)
        return bias[:, self.rows]

    def _mix(self, bias: Float[Tensor, "head dest src"], heads: Tensor | None = None) -> Tensor:
        q, k, v = (t if heads is None else t[:, heads] for t in (self.q, self.k, self.v))
        z = F.scaled_dot_product_attention(q, k, v, attn_mask=bias if bias.isinf().any() else None)
        return _without_empty_rows(z, bias).transpose(1, 2)


class _ClsMixer(_Mixer):
    """As `_Mixer` for the CLS row alone: keys and values of the other positions are never formed.

    q · (x W_K + b_K) = (q W_K^T) · x + q · b_K, and Σ p (x W_V + b_V) = (Σ p x) W_V + b_V Σ p.
    """

    def __init__(self, attn: Attention, x: Tensor, bias: Callable[[Mask, Attention], Tensor], one_row: bool) -> None:
        assert one_row
        self.attn, self.bias, self.x = attn, bias, x
        q = torch.einsum("bd,hde->bhe", x[:, 0], attn.W_Q) + attn.b_Q
        q = q / math.sqrt(q.shape[-1])
        self.scores = torch.einsum("bhe,hde->bhd", q, attn.W_K) @ x.transpose(1, 2)
        self.scores = self.scores + (q * attn.b_K).sum(-1, keepdim=True)

    def __call__(self, mask: Mask | None) -> Float[Tensor, "trial 1 d_model"]:
        scores = self.scores
        if mask is not None:
            scores = scores + self.bias(mask, self.attn)[:, 0]
        elif self.attn.severed is not None:
            scores = scores.masked_fill(self.attn.severed[:, 0], -torch.inf)
        pattern = scores.softmax(-1).nan_to_num()  # a row with every edge cut attends to nothing
        z = torch.einsum("bhd,hde->bhe", pattern @ self.x, self.attn.W_V)
        z = z + self.attn.b_V * pattern.sum(-1, keepdim=True)
        return self.attn.output(z[:, None])


def _without_empty_rows(z: Float[Tensor, "trial head dest d_head"], bias: Float[Tensor, "head dest src"]) -> Tensor:
    empty = bias.isinf().all(-1)
    return torch.where(empty[..., None], 0.0, z) if empty.any() else z


class Stacked:
    """All distinct conditions (or as many as fit) in one forward, side by side in the head axis of attention."""

    def __init__(self, model: HookedBiosignalEncoder, plan: Plan, at_once: int) -> None:
        self.model, self.at_once = model, at_once
        self.paths = _paths(plan.root, len(plan.distinct))

    def run(self, x: Float[Tensor, "trial channel time"], tell: Tell) -> list[Logits]:
        """Logits of every distinct condition, in the plan's order."""
        start, logits = self.model.residual_in(x), []
        for first in range(0, len(self.paths), self.at_once):
            paths = self.paths[first : first + self.at_once]
            resid = start.repeat(len(paths), 1, 1)  # [condition * trial, pos, d_model]
            for layer, block in enumerate(self.model.blocks):
                resid = self._block(block, resid, [path[layer] for path in paths])  # pyright: ignore[reportArgumentType]
            logits += self.model.head(self.model.ln_final(resid)).chunk(len(paths))
            tell(len(paths))
        return logits

    def _block(self, block: Block, resid: Tensor, masks: list[Mask | None]) -> Tensor:
        attn, n = block.attn, len(masks)
        cut = torch.stack([self._cut(mask, attn, resid) for mask in masks])  # [condition, head, dest, src]
        q, k, v = (
            t.unflatten(0, (n, -1)).permute(1, 0, 3, 2, 4).flatten(1, 2)  # [trial, condition * head, pos, d_head]
            for t in attn.project(block.ln1(resid) if self.model.cfg.norm == "pre" else resid)
        )
        bias = torch.zeros(cut.shape, device=cut.device, dtype=q.dtype).masked_fill_(cut, -torch.inf).flatten(0, 1)
        z = _without_empty_rows(F.scaled_dot_product_attention(q, k, v, attn_mask=bias), bias)
        z = z.unflatten(1, (n, -1)).permute(1, 0, 3, 2, 4).flatten(0, 1)
        return block.after_attention(resid, attn.output(z))

    def _cut(self, mask: Mask | None, attn: Attention, like: Tensor) -> Tensor:
        n_heads, n_tokens = self.model.cfg.n_heads, like.shape[1]
        cut = torch.zeros(n_heads, n_tokens, n_tokens, dtype=torch.bool) if mask is None else mask.tensor(n_heads)
        cut = cut.to(like.device)
        return cut if attn.severed is None else cut | attn.severed


def _paths(root: Node, n: int) -> list[list[Mask | None]]:
    """What each distinct condition cuts, layer by layer."""
    paths: list[list[Mask | None]] = [[]] * n

    def follow(node: Node, so_far: list[Mask | None]) -> None:
        for child in node.children.values():
            path = [*so_far, child.mask]
            if child.leaf is not None:
                paths[child.leaf] = path
            follow(child, path)

    follow(root, [])
    return paths
