"""The classes of the basic edge sets; `emg_lens.hooks.edges` has the functions that make them."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int

from emg_lens.hooks.algebra import EdgeError, EdgeMask, EdgeSet, is_whole
from emg_lens.layout import CLS, NO_INDEX, TokenLayout
from emg_lens.validation import short


@dataclass(frozen=True, repr=False)
class Unimodal(EdgeSet):
    """The edge set of `unimodal`."""

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
    """The edge set of `cross_modal`."""

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
    """The edge set of `flow`."""

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
    """The edge set of `cls_edges`."""

    def _resolve(self, layout: TokenLayout, n_layers: int, n_heads: int) -> EdgeMask:  # noqa: ARG002
        if not layout.has_cls:
            raise EdgeError(f"{self} needs a CLS token; the layout has only the groups {list(layout.modalities)}")
        is_cls = np.array([group == CLS for group in layout.group])
        return _over_tokens((is_cls[:, None] | is_cls[None, :]) & ~np.eye(len(layout), dtype=bool))

    def _text(self) -> str:
        return "cls_edges()"


@dataclass(frozen=True, repr=False)
class SelfEdges(EdgeSet):
    """The edge set of `self_edges`."""

    def _resolve(self, layout: TokenLayout, n_layers: int, n_heads: int) -> EdgeMask:  # noqa: ARG002
        return _over_tokens(np.eye(len(layout), dtype=bool))

    def _text(self) -> str:
        return "self_edges()"


@dataclass(frozen=True, repr=False)
class SameChannel(EdgeSet):
    """The edge set of `same_channel`."""

    def _resolve(self, layout: TokenLayout, n_layers: int, n_heads: int) -> EdgeMask:  # noqa: ARG002
        channel = _indices(layout, "channel", self)
        return _over_tokens(_equal(channel) & _equal(_modality_index(layout, ())))

    def _text(self) -> str:
        return "same_channel()"


@dataclass(frozen=True, repr=False)
class SamePatch(EdgeSet):
    """The edge set of `same_patch`."""

    def _resolve(self, layout: TokenLayout, n_layers: int, n_heads: int) -> EdgeMask:  # noqa: ARG002
        return _over_tokens(_equal(_indices(layout, "patch", self)))

    def _text(self) -> str:
        return "same_patch()"


@dataclass(frozen=True, repr=False)
class Lag(EdgeSet):
    """The edge set of `lag`."""

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
    """The edge set of `positions`."""

    dest: tuple[int | str, ...] | None = None
    src: tuple[int | str, ...] | None = None

    def _resolve(self, layout: TokenLayout, n_layers: int, n_heads: int) -> EdgeMask:  # noqa: ARG002
        return _over_tokens(_rectangle(layout, dest=_located(layout, self.dest), src=_located(layout, self.src)))

    def _text(self) -> str:
        parts = [f"{k}={list(v)!r}" for k, v in (("dest", self.dest), ("src", self.src)) if v is not None]
        return f"positions({', '.join(parts)})"


@dataclass(frozen=True, repr=False)
class Every(EdgeSet):
    """The edge set of `every`."""

    def _resolve(self, layout: TokenLayout, n_layers: int, n_heads: int) -> EdgeMask:  # noqa: ARG002
        return np.ones((1, 1, 1, 1), bool)

    def _text(self) -> str:
        return "every()"


@dataclass(frozen=True, repr=False)
class Nothing(EdgeSet):
    """The edge set of `none`."""

    def _resolve(self, layout: TokenLayout, n_layers: int, n_heads: int) -> EdgeMask:  # noqa: ARG002
        return np.zeros((1, 1, 1, 1), bool)

    def _text(self) -> str:
        return "none()"


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


def _check_names(what: str, names: tuple[str, ...]) -> None:
    for name in names:
        if not isinstance(name, str):
            raise EdgeError(f"{what}: got {short(name)}; expected a name in quotes")
    if len(set(names)) != len(names):
        raise EdgeError(f"{what}({_names(names)}) names a modality twice; name each once")


def _names(names: Iterable[str]) -> str:
    return ", ".join(repr(n) for n in names)
