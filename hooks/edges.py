"""The basic edge sets: attention edges selected by modality, channel, time patch or position.

Combine them with `|`, `&`, `-`, `~` and `.at(layers=..., heads=...)` (`emg_lens.hooks.algebra`). An edge set prints as
the Python expression that makes it. Study files use the same expressions; `emg_lens.hooks.parse` reads them.
"""

from collections.abc import Iterable

from emg_lens.hooks.algebra import EdgeError, EdgeSet, index_tuple
from emg_lens.hooks.edge_kinds import (
    ClsEdges,
    CrossModal,
    Every,
    Flow,
    Lag,
    Nothing,
    Positions,
    SameChannel,
    SamePatch,
    SelfEdges,
    Unimodal,
)

__all__ = [
    "EdgeError",
    "EdgeSet",
    "cls_edges",
    "cross_modal",
    "every",
    "flow",
    "lag",
    "none",
    "positions",
    "same_channel",
    "same_patch",
    "self_edges",
    "unimodal",
]


def unimodal(*modalities: str) -> EdgeSet:
    """Select edges within a modality, self-edges included.

    This is the category "unimodal" of the IsoNet paper, §2.3. CLS belongs to no modality, so its edges are not
    selected; Table 3 of the paper requires this (docs/isonet-protocol.md §4.4).

    Args:
        *modalities: Names of modalities; default: all.

    Example:
        >>> from emg_lens import TokenLayout, unimodal
        >>> layout = TokenLayout.channels({"emg": 2, "acc": 1}, cls=True)  # cls, emg.0, emg.1, acc.0
        >>> unimodal().mask(layout, n_layers=1, n_heads=1)[0, 0].int()  # [dest, src], 1 = cut
        tensor([[0, 0, 0, 0],
                [0, 1, 1, 0],
                [0, 1, 1, 0],
                [0, 0, 0, 1]], dtype=torch.int32)
    """
    return Unimodal(modalities)


def cross_modal(*modalities: str) -> EdgeSet:
    """Select edges between different modalities, in both directions.

    This is the category "cross-modal" of the IsoNet paper, §2.3. Edges of CLS are not selected.

    Args:
        *modalities: Names of two or more modalities; default: all.

    Example:
        >>> from emg_lens import TokenLayout, cross_modal
        >>> layout = TokenLayout.channels({"emg": 2, "acc": 1}, cls=True)  # cls, emg.0, emg.1, acc.0
        >>> cross_modal().mask(layout, n_layers=1, n_heads=1)[0, 0].int()  # [dest, src], 1 = cut
        tensor([[0, 0, 0, 0],
                [0, 0, 0, 1],
                [0, 0, 0, 1],
                [0, 1, 1, 0]], dtype=torch.int32)
    """
    return CrossModal(modalities)


def flow(src: str, dest: str) -> EdgeSet:
    """Select edges on which the `dest` tokens attend to the `src` tokens; information flows from `src` to `dest`.

    Args:
        src: Name of a modality or group, `"cls"`, or the name of one token such as `"emg.3"`.
        dest: Likewise.

    Example:
        >>> from emg_lens import TokenLayout, flow
        >>> layout = TokenLayout.channels({"emg": 2, "acc": 1}, cls=True)  # cls, emg.0, emg.1, acc.0
        >>> flow("emg", "cls").mask(layout, n_layers=1, n_heads=1)[0, 0].nonzero().tolist()  # pairs (dest, src)
        [[0, 1], [0, 2]]
    """
    return Flow(src, dest)


def cls_edges() -> EdgeSet:
    """Select edges between CLS and other tokens, in both directions.

    They are neither in `unimodal` nor in `cross_modal`. A study with `unimodal() | cls_edges()` differs from the IsoNet
    paper (docs/isonet-protocol.md §4.4).

    Example:
        >>> from emg_lens import TokenLayout, cls_edges
        >>> layout = TokenLayout.channels({"emg": 1, "acc": 1}, cls=True)  # cls, emg.0, acc.0
        >>> cls_edges().mask(layout, n_layers=1, n_heads=1)[0, 0].nonzero().tolist()  # pairs (dest, src)
        [[0, 1], [0, 2], [1, 0], [2, 0]]
    """
    return ClsEdges()


def self_edges() -> EdgeSet:
    """Select the edge of every token with itself, CLS included.

    Example:
        >>> from emg_lens import self_edges, unimodal
        >>> unimodal() - self_edges()  # edges between different tokens of a modality
        EdgeSet(unimodal() - self_edges())
    """
    return SelfEdges()


def same_channel() -> EdgeSet:
    """Select edges between tokens of the same channel of the same modality, self-edges included.

    Example:
        >>> from emg_lens import TokenLayout, same_channel
        >>> layout = TokenLayout.patches({"emg": 2}, n_patches=2, cls=False)  # emg.0.p0, emg.0.p1, emg.1.p0, emg.1.p1
        >>> same_channel().mask(layout, n_layers=1, n_heads=1)[0, 0].int()
        tensor([[1, 1, 0, 0],
                [1, 1, 0, 0],
                [0, 0, 1, 1],
                [0, 0, 1, 1]], dtype=torch.int32)
    """
    return SameChannel()


def same_patch() -> EdgeSet:
    """Select edges between tokens of the same time patch, self-edges included; the layout must have patches.

    Example:
        >>> from emg_lens import TokenLayout, same_patch
        >>> layout = TokenLayout.patches({"emg": 2}, n_patches=2, cls=False)  # emg.0.p0, emg.0.p1, emg.1.p0, emg.1.p1
        >>> same_patch().mask(layout, n_layers=1, n_heads=1)[0, 0].int()
        tensor([[1, 0, 1, 0],
                [0, 1, 0, 1],
                [1, 0, 1, 0],
                [0, 1, 0, 1]], dtype=torch.int32)
    """
    return SamePatch()


def lag(low: int, high: int) -> EdgeSet:
    """Select edges by their distance in time: low <= patch(dest) - patch(src) <= high.

    Args:
        low: Smallest distance, in patches; negative = the source is later than the destination.
        high: Largest distance, in patches.

    Example:
        >>> from emg_lens import TokenLayout, lag
        >>> layout = TokenLayout.patches({"emg": 1}, n_patches=4, cls=False)
        >>> lag(1, 2).mask(layout, n_layers=1, n_heads=1)[0, 0].int()  # each patch reads one and two patches back
        tensor([[0, 0, 0, 0],
                [1, 0, 0, 0],
                [1, 1, 0, 0],
                [0, 1, 1, 0]], dtype=torch.int32)
    """
    return Lag(low, high)


def positions(dest: Iterable[int | str] | None = None, src: Iterable[int | str] | None = None) -> EdgeSet:
    """Select edges from some source positions to some destination positions.

    Args:
        dest: Indices or token names; default: all positions.
        src: Likewise.

    Example:
        >>> from emg_lens import TokenLayout, positions
        >>> layout = TokenLayout.channels({"emg": 2, "acc": 1}, cls=True)  # cls, emg.0, emg.1, acc.0
        >>> positions(dest=["cls"], src=[-1]).mask(layout, n_layers=1, n_heads=1)[0, 0].nonzero().tolist()
        [[0, 3]]
    """
    return Positions(*(None if places is None else index_tuple(places, "positions") for places in (dest, src)))


def every() -> EdgeSet:
    """Select all edges.

    Example:
        >>> from emg_lens import TokenLayout, every
        >>> every().at(layers=0).mask(TokenLayout.channels({"emg": 2}), n_layers=2, n_heads=1).sum((1, 2, 3))
        tensor([9, 0])
    """
    return Every()


def none() -> EdgeSet:
    """Select no edge.

    Example:
        >>> from emg_lens import TokenLayout, none
        >>> none().mask(TokenLayout.channels({"emg": 2}), n_layers=2, n_heads=1).any()
        tensor(False)
    """
    return Nothing()
