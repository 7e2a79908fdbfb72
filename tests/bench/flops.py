"""The arithmetic that a sweep cannot avoid: floating-point operations of a plan, and of the naive loop beside it.

A product of an [a, b] and a [b, c] matrix counts 2abc; softmax, norms, GELU, biases and residual sums are not counted
(under 2 % at the paper's size). Per trial, with n tokens, width d, h heads (h · d_head = d), MLP width m:

| what | operations | how often |
|---|---|---|
| embedding of c channels of s samples | 2 c s d | once an input |
| queries, keys, values, scores | 6 n d² + 2 n² d | once for each node that has children (siblings share them) |
| mixing | 2 n² d | once a node |
| output projection | 2 n d² | once a node |
| MLP | 4 n d m | once a node |
| where only CLS is read: siblings share | 4 d² + 2 h n d | once for each node that has children |
| where only CLS is read: a node | 2 h n d + 4 d² + 4 d m | once a node |

Where only CLS is read (the last layer): the query (2 d²), taken through W_K to
the width of the tokens (2 d²) and multiplied with them; then the mixed tokens, W_V, W_O, the MLP. A node that
differs from its first sibling in k of h heads needs k/h of the mixing and
of the output projection. The logits (2 d · classes) come once a leaf.
"""

from dataclasses import dataclass

from emg_lens.lens.config import EncoderConfig
from emg_lens.sweeps.plan import Node, SweepPlan


@dataclass(frozen=True)
class Flops:
    """Operations for one trial.

    Attributes:
        loop: Every condition a full forward.
        bound: Every distinct node once, readout rows only.
    """

    loop: int
    bound: int


def count(cfg: EncoderConfig, plan: SweepPlan) -> Flops:
    """Operations of a sweep, all of it planned; the loop's conditions are those of the plan, equal ones included."""
    embedding, logits = 2 * cfg.n_channels * cfg.n_samples * cfg.d_model, 2 * cfg.d_model * cfg.n_classes
    whole = _shared(cfg, False) + _own(cfg, False)
    loop = len(plan.of) * (embedding + cfg.n_layers * whole + logits)
    bound = len(plan.distinct) * logits + sum(embedding + _below(root.tree, cfg, 0) for root in plan.roots)
    return Flops(round(loop), round(bound))


def attention_flops(cfg: EncoderConfig, plan: SweepPlan) -> int:
    """Of the bound, what goes into scores and mixing, in a model whose readout reads every token."""
    n_parents = len(plan.roots) + sum(plan.n_nodes[:-1])
    return 2 * cfg.n_ctx**2 * cfg.d_model * (n_parents + sum(plan.n_nodes))


def _below(node: Node, cfg: EncoderConfig, layer: int) -> float:
    """Operations of all descendants of a node whose children are in block `layer`."""
    if not node.children:
        return 0
    one_row = layer == cfg.n_layers - 1 and cfg.readout == "cls"
    own = _own(cfg, one_row)
    return _shared(cfg, one_row) + sum(own + _below(child, cfg, layer + 1) for child in node.children.values())


def _shared(cfg: EncoderConfig, one_row: bool) -> float:
    """What siblings share."""
    n, d = cfg.n_ctx, cfg.d_model
    return 4 * d * d + 2 * cfg.n_heads * n * d if one_row else 6 * n * d * d + 2 * n * n * d


def _own(cfg: EncoderConfig, one_row: bool) -> float:
    """What a node needs by itself."""
    n, d, m = cfg.n_ctx, cfg.d_model, cfg.d_mlp
    if one_row:
        return 2 * cfg.n_heads * n * d + 4 * d * d + 4 * d * m
    return 2 * n * n * d + 2 * n * d * d + 4 * n * d * m
