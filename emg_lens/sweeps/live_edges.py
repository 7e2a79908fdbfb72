"""Live edges: attention edges that have a causal path to the readout, given everything that is cut.

Information moves from src to dest along attention edges, and stays at its position along the residual stream. Going
back from the readout, a position is live after a layer if a live position of the next layer reads it. An edge is live
if its dest is live after its layer. Cutting dead edges changes no bit of the output. With a CLS readout, the other rows
of the last layer are dead, so Table 3 of the IsoNet paper must show no effect there (docs/isonet-protocol.md §4.7).
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from emg_lens.validation import ArgumentError, checked, short


@dataclass(frozen=True)
class Reach:
    """The live positions of a model under a cut, and the live part of the cut.

    Attributes:
        live_rows: `[layer, pos]`: whether the output of this layer at this position has a path to the readout.
        live_cut: `[layer, head, dest, src]`: the cut edges with a live dest; the other cut edges cannot matter.
    """

    live_rows: Bool[Tensor, "layer pos"]
    live_cut: Bool[Tensor, "layer head dest src"]

    @property
    def is_null(self) -> bool:
        """Whether the cut cannot change the outputs, for any weights."""
        return not bool(self.live_cut.any())


def one_head_for_all(*masks: Bool[Tensor, "layer head dest src"] | None) -> slice:
    """Choose the heads of masks to look at: the first if all heads share one memory, otherwise all."""
    return slice(1) if all(mask is None or mask.stride(1) == 0 for mask in masks) else slice(None)


@checked
def reach(
    cut: Bool[Tensor, "layer head dest src"],
    readout: Int[Tensor, " position"],
    permanent_mask: Bool[Tensor, "layer head dest src"] | None = None,
) -> Reach:
    """Find the live part of a cut.

    This is exact for models in which positions exchange information through attention edges only.

    Args:
        cut: The edges that are cut.
        readout: Positions of the last layer's output that reach the outputs.
        permanent_mask: Edges that the model never had (`cfg.masked_edges`, a causal mask, edges beyond the reach of
            relative positions). They do not count as cut.

    Returns:
        The live positions of each layer, and the live cut edges.

    Example:
        >>> import torch
        >>> from emg_lens import TokenLayout, reach, unimodal
        >>> layout = TokenLayout.channels({"emg": 2, "acc": 1})  # position 0 is CLS
        >>> cut = unimodal().mask(layout, n_layers=2, n_heads=1)
        >>> live = reach(cut, readout=layout.positions("cls"))
        >>> live.live_rows.tolist()
        [[True, True, True, True], [True, False, False, False]]
        >>> int(cut.sum()), int(live.live_cut.sum())
        (10, 5)
    """
    for name, mask in (("cut", cut), ("permanent_mask", permanent_mask)):
        if mask is not None and (mask.dtype != torch.bool or mask.ndim != 4):
            raise ArgumentError(f"{name}={short(mask)}; expected torch.bool [layer, head, dest, src]")
    if readout.is_floating_point() or readout.is_complex():
        raise ArgumentError(f"readout={short(readout)}; expected positions, layout.positions('cls')")
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
