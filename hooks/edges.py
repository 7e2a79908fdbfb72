"""Edge sets to start from: which attention edges to cut, in the field's words.

Combine them with `|`, `&`, `-`, `~` and `.at(layers=..., heads=...)` (`emg_lens.hooks.algebra`). The text
form of an edge set is its Python form, so a YAML study and a notebook say the same thing;
`emg_lens.hooks.parse` reads it back.
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

# --- leaves -----------------------------------------------------------------------------------------------


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
            raise EdgeError(f"cross_modal needs two or more modalities or none, got only {self.modalities[0]!r}")

    def _resolve(self, layout: TokenLayout, n_layers: int, n_heads: int) -> EdgeMask:  # noqa: ARG002
        if len(layout.modalities) < 2:
            raise EdgeError(f"{self} needs two modalities; this layout has {list(layout.modalities)}")
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
            raise EdgeError(f"{self} needs a CLS token, and this layout has the groups {list(layout.modalities)}")
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
            raise EdgeError(f"lag(low, high) counts patches in integers, got {given}")
        object.__setattr__(self, "low", int(self.low))
        object.__setattr__(self, "high", int(self.high))
        if self.low > self.high:
            raise EdgeError(f"lag(low, high) needs low <= high, got lag({self.low}, {self.high})")

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
    """Edges within one modality, self-edges included; all modalities, or the named ones. CLS is in none of them.

    The "unimodal" category of the IsoNet paper, §2.3; that CLS is exempt is forced by its Table 3
    (docs/isonet-protocol.md §4.4).
    """
    return Unimodal(modalities)


def cross_modal(*modalities: str) -> EdgeSet:
    """Edges between different modalities, both directions; among all modalities, or the named ones (two or more).

    The "cross-modal" category of the IsoNet paper, §2.3. CLS edges are not in it.
    """
    return CrossModal(modalities)


def flow(src: str, dest: str) -> EdgeSet:
    """Edges along which information flows from `src` to `dest`: dest's tokens read src's tokens.

    Both are group names, `"cls"`, or names of single tokens such as `"emg.3"`.
    """
    return Flow(src, dest)


def cls_edges() -> EdgeSet:
    """Edges of CLS with other tokens, both directions: what it reads, and what reads it.

    They are in neither `unimodal` nor `cross_modal`. `unimodal() | cls_edges()` counts them as unimodal, which is
    another study than the paper's (docs/isonet-protocol.md §4.4).
    """
    return ClsEdges()


def self_edges() -> EdgeSet:
    """Edges of every token with itself, CLS included."""
    return SelfEdges()


def same_channel() -> EdgeSet:
    """Edges between tokens of the same channel of the same modality, self-edges included."""
    return SameChannel()


def same_patch() -> EdgeSet:
    """Edges between tokens of the same time patch, self-edges included. Needs a layout with patches."""
    return SamePatch()


def lag(low: int, high: int) -> EdgeSet:
    """Edges with low <= patch(dest) - patch(src) <= high: `lag(1, 3)` = dest reads one to three patches back."""
    return Lag(low, high)


def positions(dest: Iterable[int | str] | None = None, src: Iterable[int | str] | None = None) -> EdgeSet:
    """Edges from the `src` positions to the `dest` positions, given as indices or token names; default: all."""
    return Positions(_places(dest), _places(src))


def every() -> EdgeSet:
    """All edges."""
    return Every()


def none() -> EdgeSet:
    """No edge."""
    return Nothing()


# --- how leaves meet a layout -----------------------------------------------------------------------------


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
    found = []
    for place in places:
        if isinstance(place, str):
            found += _named(layout, place)
        elif -len(layout) <= place < len(layout):
            found.append(place % len(layout))
        else:
            raise EdgeError(f"position {place} does not exist: this layout has positions 0 to {len(layout) - 1}")
    return found


def _modality_index(layout: TokenLayout, wanted: tuple[str, ...]) -> Int[np.ndarray, " token"]:
    """Index of each token's modality; -1 for CLS, for tokens of no group and for modalities not wanted."""
    for name in wanted:
        if name not in layout.modalities:
            extra = "; CLS edges are cut with flow(...)" if name == CLS else ""
            raise EdgeError(f"unknown modality {short(name)}; this layout has {list(layout.modalities)}{extra}")
    known = {name: i for i, name in enumerate(layout.modalities) if not wanted or name in wanted}
    return np.array([known.get(g, NO_INDEX) if g is not None else NO_INDEX for g in layout.group])


def _indices(layout: TokenLayout, kind: str, edges: EdgeSet) -> Int[np.ndarray, " token"]:
    index = np.array(getattr(layout, kind))
    if (index == NO_INDEX).all():
        raise EdgeError(f"{edges} needs tokens with a {kind}, and this layout has none")
    return index


def _places(values: Iterable[int | str] | None) -> tuple[int | str, ...] | None:
    if values is None:
        return None
    return listed(values, "positions")


def _check_names(what: str, names: tuple[str, ...]) -> None:
    for name in names:
        if not isinstance(name, str):
            raise EdgeError(f"{what} takes names in quotes, got {short(name)}")
    if len(set(names)) != len(names):
        raise EdgeError(f"{what}({_names(names)}): a modality is named twice")


def _names(names: Iterable[str]) -> str:
    return ", ".join(repr(n) for n in names)
