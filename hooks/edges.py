"""The basic edge sets: attention edges selected by modality, channel, time patch or position.

Combine them with `|`, `&`, `-`, `~` and `.at(layers=..., heads=...)` (`emg_lens.hooks.algebra`). An edge set prints as
the Python expression that makes it. Study files use the same expressions; `emg_lens.hooks.parse` reads them.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int

from emg_lens.hooks.algebra import EdgeError, EdgeMask, EdgeSet, is_whole, listed
from emg_lens.layout import CLS, NO_INDEX, TokenLayout
from emg_lens.validation import short

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

# --- values -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, repr=False)
class Unimodal(EdgeSet):
    """See `unimodal`."""

    modalities: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _check_names("unimodal", self.modalities)

    def _resolve(self, layout: TokenLayout, n_layers: int, n_heads: int) -> EdgeMask:  # noqa: ARG002
        group = _modality_index(layout, self.modalities)
        return _over_tokens((group[:, None] == group[None, :]) & (group[:, None] != NO_INDEX))

    def _text(self) -> str:
        return f"unimodal({_names(self.modalities)})"


@dataclass(frozen=True, repr=False)
class CrossModal(EdgeSet):
    """See `cross_modal`."""

    modalities: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _check_names("cross_modal", self.modalities)
        if len(self.modalities) == 1:
            raise EdgeError(
                f"cross_modal({self.modalities[0]!r}) names one modality; name two or more, or none for all"
            )

    def _resolve(self, layout: TokenLayout, n_layers: int, n_heads: int) -> EdgeMask:  # noqa: ARG002
        if len(layout.modalities) < 2:
            raise EdgeError(f"{self} needs at least two modalities; the layout has {list(layout.modalities)}")
        group = _modality_index(layout, self.modalities)
        named = group != NO_INDEX
        return _over_tokens((group[:, None] != group[None, :]) & named[:, None] & named[None, :])

    def _text(self) -> str:
        return f"cross_modal({_names(self.modalities)})"


@dataclass(frozen=True, repr=False)
class Flow(EdgeSet):
    """See `flow`."""

    src: str
    dest: str

    def __post_init__(self) -> None:
        for name in (self.src, self.dest):
            _check_names("flow", (name,))

    def _resolve(self, layout: TokenLayout, n_layers: int, n_heads: int) -> EdgeMask:  # noqa: ARG002
        return _over_tokens(_rectangle(layout, dest=_named(layout, self.dest), src=_named(layout, self.src)))

    def _text(self) -> str:
        return f"flow({_names((self.src, self.dest))})"


@dataclass(frozen=True, repr=False)
class ClsEdges(EdgeSet):
    """See `cls_edges`."""

    def _resolve(self, layout: TokenLayout, n_layers: int, n_heads: int) -> EdgeMask:  # noqa: ARG002
        if not layout.has_cls:
            raise EdgeError(f"{self} needs a CLS token; the layout has only the groups {list(layout.modalities)}")
        is_cls = np.array([group == CLS for group in layout.group])
        return _over_tokens((is_cls[:, None] | is_cls[None, :]) & ~np.eye(len(layout), dtype=bool))

    def _text(self) -> str:
        return "cls_edges()"


@dataclass(frozen=True, repr=False)
class SelfEdges(EdgeSet):
    """See `self_edges`."""

    def _resolve(self, layout: TokenLayout, n_layers: int, n_heads: int) -> EdgeMask:  # noqa: ARG002
        return _over_tokens(np.eye(len(layout), dtype=bool))

    def _text(self) -> str:
        return "self_edges()"


@dataclass(frozen=True, repr=False)
class SameChannel(EdgeSet):
    """See `same_channel`."""

    def _resolve(self, layout: TokenLayout, n_layers: int, n_heads: int) -> EdgeMask:  # noqa: ARG002
        channel = _indices(layout, "channel", self)
        return _over_tokens(_equal(channel) & _equal(_modality_index(layout, ())))

    def _text(self) -> str:
        return "same_channel()"


@dataclass(frozen=True, repr=False)
class SamePatch(EdgeSet):
    """See `same_patch`."""

    def _resolve(self, layout: TokenLayout, n_layers: int, n_heads: int) -> EdgeMask:  # noqa: ARG002
        return _over_tokens(_equal(_indices(layout, "patch", self)))

    def _text(self) -> str:
        return "same_patch()"


@dataclass(frozen=True, repr=False)
class Lag(EdgeSet):
    """See `lag`."""

    low: int
    high: int

    def __post_init__(self) -> None:
        if not is_whole(self.low) or not is_whole(self.high):
            given = f"lag({short(self.low)}, {short(self.high)})"
            raise EdgeError(f"{given}: expected two integers, a number of patches, for example lag(1, 3)")
        object.__setattr__(self, "low", int(self.low))
        object.__setattr__(self, "high", int(self.high))
        if self.low > self.high:
            raise EdgeError(f"lag({self.low}, {self.high}): expected lag(low, high) with low <= high")

    def _resolve(self, layout: TokenLayout, n_layers: int, n_heads: int) -> EdgeMask:  # noqa: ARG002
        patch = _indices(layout, "patch", self)
        distance = patch[:, None] - patch[None, :]
        has_patch = patch != NO_INDEX
        within = (distance >= self.low) & (distance <= self.high)
        return _over_tokens(within & has_patch[:, None] & has_patch[None, :])

    def _text(self) -> str:
        return f"lag({self.low}, {self.high})"


@dataclass(frozen=True, repr=False)
class Positions(EdgeSet):
    """See `positions`."""

    dest: tuple[int | str, ...] | None = None
    src: tuple[int | str, ...] | None = None

    def _resolve(self, layout: TokenLayout, n_layers: int, n_heads: int) -> EdgeMask:  # noqa: ARG002
        return _over_tokens(_rectangle(layout, dest=_located(layout, self.dest), src=_located(layout, self.src)))

    def _text(self) -> str:
        parts = [f"{k}={list(v)!r}" for k, v in (("dest", self.dest), ("src", self.src)) if v is not None]
        return f"positions({', '.join(parts)})"


@dataclass(frozen=True, repr=False)
class Every(EdgeSet):
    """See `every`."""

    def _resolve(self, layout: TokenLayout, n_layers: int, n_heads: int) -> EdgeMask:  # noqa: ARG002
        return np.ones((1, 1, 1, 1), bool)

    def _text(self) -> str:
        return "every()"


@dataclass(frozen=True, repr=False)
class Nothing(EdgeSet):
    """See `none`."""

    def _resolve(self, layout: TokenLayout, n_layers: int, n_heads: int) -> EdgeMask:  # noqa: ARG002
        return np.zeros((1, 1, 1, 1), bool)

    def _text(self) -> str:
        return "none()"


# --- constructors -----------------------------------------------------------------------------------------


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
    return Positions(_places(dest), _places(src))


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


# --- masks of a layout -----------------------------------------------------------------------------


def _over_tokens(matrix: Bool[np.ndarray, "dest src"]) -> Bool[np.ndarray, "1 1 dest src"]:
    return matrix[None, None]


def _equal(index: Int[np.ndarray, " token"]) -> Bool[np.ndarray, "dest src"]:
    return (index[:, None] == index[None, :]) & (index != NO_INDEX)[:, None]


def _rectangle(layout: TokenLayout, dest: list[int], src: list[int]) -> Bool[np.ndarray, "dest src"]:
    matrix = np.zeros((len(layout), len(layout)), bool)
    matrix[np.ix_(dest, src)] = True
    return matrix


def _named(layout: TokenLayout, name: str) -> list[int]:
    try:
        return layout.find(name)
    except KeyError as error:
        raise EdgeError(error.args[0]) from None


def _located(layout: TokenLayout, places: tuple[int | str, ...] | None) -> list[int]:
    if places is None:
        return list(range(len(layout)))
    indices = []
    for place in places:
        if isinstance(place, str):
            indices += _named(layout, place)
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


def _places(values: Iterable[int | str] | None) -> tuple[int | str, ...] | None:
    if values is None:
        return None
    return listed(values, "positions")


def _check_names(what: str, names: tuple[str, ...]) -> None:
    for name in names:
        if not isinstance(name, str):
            raise EdgeError(f"{what}: got {short(name)}; expected a name in quotes")
    if len(set(names)) != len(names):
        raise EdgeError(f"{what}({_names(names)}) names a modality twice; name each once")


def _names(names: Iterable[str]) -> str:
    return ", ".join(repr(n) for n in names)
