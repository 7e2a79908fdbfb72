"""The basic edge sets: attention edges selected by modality, channel, time patch or position.

An edge set prints as the Python expression that makes it. Study files use the same expressions (`hooks.parse`).
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from emg_lens.hooks.algebra import EdgeError, EdgeMask, EdgeSet, edge_function, index_tuple, is_whole
from emg_lens.layout import CLS, NO_INDEX, TokenLayout
from emg_lens.validation import short


@dataclass(frozen=True, repr=False)
class BasicEdges(EdgeSet):
    """An edge set that is the same in all layers and heads: the function that makes it, and its arguments."""

    function: str
    arguments: tuple[Any, ...] = ()

    def _resolve(self, layout: TokenLayout, n_layers: int, n_heads: int) -> EdgeMask:  # noqa: ARG002
        return MATRICES[self.function](self, layout, *self.arguments)[None, None]

    def __str__(self) -> str:
        given = [repr(value) for value in self.arguments]
        if self.function == "positions":
            pairs = zip(("dest", "src"), self.arguments, strict=True)
            given = [f"{name}={list(value)!r}" for name, value in pairs if value is not None]
        return f"{self.function}({', '.join(given)})"


# --- functions ------------------------------------------------------------------------------------------


@edge_function
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
    return BasicEdges("unimodal", _checked_names("unimodal", modalities))


@edge_function
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
    names = _checked_names("cross_modal", modalities)
    if len(names) == 1:
        raise EdgeError(f"cross_modal({short(names[0])}) names one modality; name two or more, or none for all")
    return BasicEdges("cross_modal", names)


@edge_function
def flow(src: str, dest: str) -> EdgeSet:
    """Select edges on which the `dest` tokens attend to the `src` tokens; information flows from `src` to `dest`.

    Args:
        src: Name of a modality or group, `"cls"`, a channel such as `"emg.3"`, or the name of one token.
        dest: Likewise.

    Example:
        >>> from emg_lens import TokenLayout, flow
        >>> layout = TokenLayout.channels({"emg": 2, "acc": 1}, cls=True)  # cls, emg.0, emg.1, acc.0
        >>> flow("emg", "cls").mask(layout, n_layers=1, n_heads=1)[0, 0].nonzero().tolist()  # pairs (dest, src)
        [[0, 1], [0, 2]]
    """
    return BasicEdges("flow", (*_checked_names("flow", (src,)), *_checked_names("flow", (dest,))))


@edge_function
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
    return BasicEdges("cls_edges")


@edge_function
def self_edges() -> EdgeSet:
    """Select the edge of every token with itself, CLS included.

    Example:
        >>> from emg_lens import self_edges, unimodal
        >>> unimodal() - self_edges()  # edges between different tokens of a modality
        EdgeSet(unimodal() - self_edges())
    """
    return BasicEdges("self_edges")


@edge_function
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
    return BasicEdges("same_channel")


@edge_function
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
    return BasicEdges("same_patch")


@edge_function
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
    if not is_whole(low) or not is_whole(high):
        raise EdgeError(
            f"lag({short(low)}, {short(high)}): expected two integers, a number of patches, for example lag(1, 3)"
        )
    if low > high:
        raise EdgeError(f"lag({low}, {high}): expected lag(low, high) with low <= high")
    return BasicEdges("lag", (int(low), int(high)))


@edge_function
def positions(dest: Iterable[int | str] | None = None, src: Iterable[int | str] | None = None) -> EdgeSet:
    """Select edges from some source positions to some destination positions.

    Args:
        dest: Indices, or names as in `flow`; default: all positions.
        src: Likewise.

    Example:
        >>> from emg_lens import TokenLayout, positions
        >>> layout = TokenLayout.channels({"emg": 2, "acc": 1}, cls=True)  # cls, emg.0, emg.1, acc.0
        >>> positions(dest=["cls"], src=[-1]).mask(layout, n_layers=1, n_heads=1)[0, 0].nonzero().tolist()
        [[0, 3]]
    """
    return BasicEdges("positions", tuple(None if p is None else index_tuple(p, "positions") for p in (dest, src)))


@edge_function
def every() -> EdgeSet:
    """Select all edges.

    Example:
        >>> from emg_lens import TokenLayout, every
        >>> every().at(layers=0).mask(TokenLayout.channels({"emg": 2}), n_layers=2, n_heads=1).sum((1, 2, 3))
        tensor([9, 0])
    """
    return BasicEdges("every")


@edge_function
def none() -> EdgeSet:
    """Select no edge.

    Example:
        >>> from emg_lens import TokenLayout, none
        >>> none().mask(TokenLayout.channels({"emg": 2}), n_layers=2, n_heads=1).any()
        tensor(False)
    """
    return BasicEdges("none")


def _checked_names(function: str, names: tuple[str, ...]) -> tuple[str, ...]:
    for name in names:
        if not isinstance(name, str):
            raise EdgeError(f"{function}: got {short(name)}; expected names in quotes: {function}('emg', 'acc')")
    if len(set(names)) != len(names):
        raise EdgeError(f"{function}({', '.join(map(repr, names))}) names a modality twice; name each once")
    return names


# --- masks ----------------------------------------------------------------------------------------------

Matrix = Bool[np.ndarray, "dest src"]


def _cross_modal(edges: EdgeSet, layout: TokenLayout, *modalities: str) -> Matrix:
    if len(layout.modalities) < 2:
        raise EdgeError(f"{edges} needs at least two modalities; the layout has {list(layout.modalities)}")
    group = _modality_index(layout, modalities)
    named = group != NO_INDEX
    return (group[:, None] != group) & named[:, None] & named


def _cls_edges(edges: EdgeSet, layout: TokenLayout) -> Matrix:
    if not layout.has_cls:
        raise EdgeError(f"{edges} needs a CLS token; the layout has only the groups {list(layout.modalities)}")
    is_cls = np.array([group == CLS for group in layout.group])
    return (is_cls[:, None] | is_cls) & ~np.eye(len(layout), dtype=bool)


def _lag(edges: EdgeSet, layout: TokenLayout, low: int, high: int) -> Matrix:
    patch = _indices(layout, "patch", edges)
    distance = patch[:, None] - patch
    has_patch = patch != NO_INDEX
    return (distance >= low) & (distance <= high) & has_patch[:, None] & has_patch


def _positions(
    edges: EdgeSet,  # noqa: ARG001
    layout: TokenLayout,
    dest: tuple[int | str, ...] | None,
    src: tuple[int | str, ...] | None,
) -> Matrix:
    matrix = np.zeros((len(layout), len(layout)), bool)
    matrix[np.ix_(located(layout, dest), located(layout, src))] = True
    return matrix


MATRICES: dict[str, Callable[..., Matrix]] = {
    "unimodal": lambda edges, layout, *names: _equal(_modality_index(layout, names)),  # noqa: ARG005
    "cross_modal": _cross_modal,
    "flow": lambda edges, layout, src, dest: _positions(edges, layout, (dest,), (src,)),
    "cls_edges": _cls_edges,
    "self_edges": lambda edges, layout: np.eye(len(layout), dtype=bool),  # noqa: ARG005
    "same_channel": lambda edges, layout: (
        _equal(_indices(layout, "channel", edges)) & _equal(_modality_index(layout, ()))
    ),
    "same_patch": lambda edges, layout: _equal(_indices(layout, "patch", edges)),
    "lag": _lag,
    "positions": _positions,
    "every": lambda edges, layout: np.ones((1, 1), bool),  # noqa: ARG005
    "none": lambda edges, layout: np.zeros((1, 1), bool),  # noqa: ARG005
}
"""For each kind of edge set: the function that computes the mask from the set and the layout."""


def _equal(index: Int[np.ndarray, " token"]) -> Matrix:
    return (index[:, None] == index) & (index != NO_INDEX)[:, None]


def located(layout: TokenLayout, places: tuple[int | str, ...] | None) -> list[int]:
    """Return the positions of tokens that are given by name, group or index; None: all positions."""
    if places is None:
        return list(range(len(layout)))
    indices = []
    for place in places:
        if isinstance(place, str):
            try:
                indices += layout.find(place)
            except KeyError as error:
                raise EdgeError(error.args[0]) from None
        elif -len(layout) <= place < len(layout):
            indices.append(place % len(layout))
        else:
            raise EdgeError(f"unknown position {place}; the layout has positions 0 to {len(layout) - 1}")
    return indices


def _modality_index(layout: TokenLayout, wanted: tuple[str, ...]) -> Int[np.ndarray, " token"]:
    """Return the index of each token's modality; -1 for CLS, for ungrouped tokens and for other modalities."""
    for name in wanted:
        if name not in layout.modalities:
            extra = "; use flow(...) or cls_edges() for edges of CLS" if name == CLS else ""
            raise EdgeError(f"unknown modality {short(name)}; the layout has {list(layout.modalities)}{extra}")
    known = {name: i for i, name in enumerate(layout.modalities) if not wanted or name in wanted}
    return np.array([known.get(g, NO_INDEX) if g is not None else NO_INDEX for g in layout.group])


def _indices(layout: TokenLayout, kind: str, edges: EdgeSet) -> Int[np.ndarray, " token"]:
    index = np.array(getattr(layout, kind))
    if (index == NO_INDEX).all():
        raise EdgeError(f"{edges} needs tokens with a {kind}; the layout has none")
    return index
