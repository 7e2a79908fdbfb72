"""Live edges: which attention edges have a causal path to the readout, given everything that is cut.

Information moves from src to dest along attention edges and stays in place along the residual stream. Walking back
from the readout, a position is live after layer l if something live above it reads it. An edge is live if it is not
cut and its dest is live after its layer; cutting dead edges changes nothing, to the bit. With a CLS readout the last
layer's other rows are dead, which is why Table 3 of the IsoNet paper must show no effect there (docs/isonet-protocol.md §4.7).
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from emg_lens.validation import checked


@dataclass(frozen=True)
class Reach:
    """What a cut leaves alive.

    Attributes:
        live_rows: `[layer, pos]`: this position's output of this layer has a path to the readout.
        live_cut: `[layer, head, dest, src]`: the cut edges whose dest is live; the others cannot matter.
    """

    live_rows: Bool[Tensor, "layer pos"]
    live_cut: Bool[Tensor, "layer head dest src"]

    @property
    def is_null(self) -> bool:
        """Whether the cut cannot change the logits, whatever the weights."""
        return not bool(self.live_cut.any())


def one_head_for_all(*masks: Bool[Tensor, "layer head dest src"] | None) -> slice:
    """Which heads of masks are to be looked at: the first, where all heads are one in memory, else all of them."""
    return slice(1) if all(mask is None or mask.stride(1) == 0 for mask in masks) else slice(None)


@checked
def reach(
    cut: Bool[Tensor, "layer head dest src"],
    readout: Int[Tensor, " position"],
    permanent_mask: Bool[Tensor, "layer head dest src"] | None = None,
) -> Reach:
    """Find the live part of a cut.

    Exact for residual models in which each position's new value depends on its own old value and on what its attention
    reads. Edges in `severed` do not exist in the model, so they neither carry information nor count as cut.

    Args:
        cut: The edges that are cut.
        readout: Positions of the last layer's output that reach the logits.
        severed: Edges that the model does not have (a causal mask, `cfg.masked_edges`).
    """
    n_layers, _, n_tokens, _ = cut.shape
    if permanent_mask is not None:
        cut = cut & ~permanent_mask
    absent = cut if permanent_mask is None else cut | permanent_mask
    live_rows = torch.zeros(n_layers, n_tokens, dtype=torch.bool)
    live = torch.zeros(n_tokens, dtype=torch.bool)
    live[readout] = True
    for layer in reversed(range(n_layers)):
        live_rows[layer] = live
        if not live.all():
            connected = ~absent[layer].all(dim=0)  # [dest, src]: a head reads src
            live = live | connected[live].any(dim=0)
    return Reach(live_rows, cut if live_rows.all() else cut & live_rows[:, None, :, None])
