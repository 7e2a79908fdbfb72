"""The algebra of edge sets: what an `EdgeSet` is, and how two of them combine.

An edge (dest, src) is the entry `scores[batch, head, dest, src]`: dest's query attends to src's key, so
information flows from src to dest. An `EdgeSet` is a symbolic value (immutable, hashable, printable); it
turns into a boolean mask only when it meets a `TokenLayout`. The sets to start from are in
`emg_lens.hooks.edges`.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from jaxtyping import Bool

from emg_lens.errors import EmgLensError
from emg_lens.layout import TokenLayout

if TYPE_CHECKING:  # a study can be read without torch
    from torch import Tensor

MOST_INDICES = 10_000
EdgeMask = Bool[np.ndarray, "layer head dest src"]
Select = int | slice | range | Iterable[int] | None


class EdgeError(EmgLensError, ValueError):
    """An edge set that does not fit the layout or the model it is applied to, or cannot be read."""


class EdgeSet(ABC):
    """A symbolic set of edges (layer, head, dest, src). Combine with `|`, `&`, `-`, `~` and `.at`."""

    def __or__(self, other: "EdgeSet") -> "EdgeSet":
        return Union(self, _edge_set(other))

    def __and__(self, other: "EdgeSet") -> "EdgeSet":
        return Intersection(self, _edge_set(other))

    def __sub__(self, other: "EdgeSet") -> "EdgeSet":
        return Difference(self, _edge_set(other))

    def __bool__(self) -> bool:
        raise EdgeError(f"{self} is neither true nor false: write | & ~ between edge sets, not `or`, `and`, `not`")

    def __invert__(self) -> "EdgeSet":
        return Complement(self)

    def at(self, layers: Select = None, heads: Select = None) -> "EdgeSet":
        """Keep only these layers and heads (0-based; int, slice, range or iterable; default: all).

        Raises:
            EdgeError: A selection that is empty or holds something other than integers.
        """
        return At(self, _Selection.of("layer", layers), _Selection.of("head", heads))

    def mask(self, layout: TokenLayout, n_layers: int, n_heads: int) -> "Bool[Tensor, 'layer head dest src']":
        """The edges as a boolean tensor, True = in the set (cut). It may share memory between entries: clone to edit.

        Raises:
            EdgeError: A group, token, layer or head that the layout or the model does not have.
        """
        import torch

        found = torch.from_numpy(self._resolve(layout, n_layers, n_heads))
        return found.expand(n_layers, n_heads, len(layout), len(layout))

    @abstractmethod
    def _resolve(self, layout: TokenLayout, n_layers: int, n_heads: int) -> EdgeMask:
        """The mask, with size 1 along every axis on which the set is constant."""

    @abstractmethod
    def _text(self) -> str: ...

    def __str__(self) -> str:
        return self._text()

    def __repr__(self) -> str:
        return f"EdgeSet({self._text()})"


def _edge_set(value: object) -> EdgeSet:
    if not isinstance(value, EdgeSet):
        raise TypeError(f"edge sets combine with edge sets, got {type(value).__name__}")
    return value


# --- operators --------------------------------------------------------------------------------------------


@dataclass(frozen=True, repr=False)
class _Binary(EdgeSet):
    left: EdgeSet
    right: EdgeSet
    symbol: ClassVar[str]

    def _text(self) -> str:
        left = _operand(self.left, also=type(self))  # a | b | c reads from the left
        return f"{left} {self.symbol} {_operand(self.right)}"


class Union(_Binary):
    """`left | right`."""

    symbol = "|"

    def _resolve(self, layout: TokenLayout, n_layers: int, n_heads: int) -> EdgeMask:
        return self.left._resolve(layout, n_layers, n_heads) | self.right._resolve(layout, n_layers, n_heads)


class Intersection(_Binary):
    """`left & right`."""

    symbol = "&"

    def _resolve(self, layout: TokenLayout, n_layers: int, n_heads: int) -> EdgeMask:
        return self.left._resolve(layout, n_layers, n_heads) & self.right._resolve(layout, n_layers, n_heads)


class Difference(_Binary):
    """`left - right`."""

    symbol = "-"

    def _resolve(self, layout: TokenLayout, n_layers: int, n_heads: int) -> EdgeMask:
        return self.left._resolve(layout, n_layers, n_heads) & ~self.right._resolve(layout, n_layers, n_heads)


@dataclass(frozen=True, repr=False)
class Complement(EdgeSet):
    """`~inner`: every edge that is not in `inner`, CLS edges included."""

    inner: EdgeSet

    def _resolve(self, layout: TokenLayout, n_layers: int, n_heads: int) -> EdgeMask:
        return ~self.inner._resolve(layout, n_layers, n_heads)

    def _text(self) -> str:
        return f"~{_operand(self.inner)}"


@dataclass(frozen=True)
class _Selection:
    """Some layers or heads: `None` = all, otherwise indices or a (start, stop, step) span."""

    axis: str
    indices: tuple[int, ...] | None = None
    span: tuple[int | None, int | None, int | None] | None = None

    @staticmethod
    def of(axis: str, value: Select) -> "_Selection":
        if value is None:
            return _Selection(axis)
        if isinstance(value, slice):
            try:
                range(1)[value]
            except (TypeError, ValueError) as error:
                raise EdgeError(f"{axis}s={value}: {error}") from None
            return _Selection(axis, span=(value.start, value.stop, value.step))
        if isinstance(value, range) and len(value) > MOST_INDICES:
            raise EdgeError(f"{axis}s={value} names {len(value)} {axis}s; no model has so many")
        try:
            items = [value] if isinstance(value, int | np.integer) else list(value)
            if any(isinstance(i, bool) or int(i) != i for i in items):
                raise TypeError
        except (TypeError, ValueError):
            raise EdgeError(f"{axis}s must be integers, a slice or a list of integers, got {value!r}") from None
        if not items:
            raise EdgeError(f"{axis}s=[] selects nothing; leave it out to mean every {axis}")
        return _Selection(axis, indices=tuple(sorted({int(i) for i in items})))

    def resolve(self, size: int) -> Bool[np.ndarray, " size"]:
        chosen = np.zeros(size, bool)
        if self.indices is None:
            chosen[range(size)[slice(*(self.span or (None,)))] or slice(0, 0)] = True
        else:
            for i in self.indices:
                if not -size <= i < size:
                    raise EdgeError(f"{self.axis} {i} does not exist: the model has {self.axis}s 0 to {size - 1}")
                chosen[i] = True
        if not chosen.any():
            raise EdgeError(f"{self.axis}s={self.text()} selects none of the {size} {self.axis}s")
        return chosen

    def text(self) -> str | None:
        if self.span is not None:
            return f"slice({', '.join(str(v) for v in self.span)})"
        return None if self.indices is None else str(list(self.indices))


@dataclass(frozen=True, repr=False)
class At(EdgeSet):
    """`inner.at(layers, heads)`."""

    inner: EdgeSet
    layers: _Selection
    heads: _Selection

    def _resolve(self, layout: TokenLayout, n_layers: int, n_heads: int) -> EdgeMask:
        layers = self.layers.resolve(n_layers)[:, None, None, None]
        heads = self.heads.resolve(n_heads)[None, :, None, None]
        return self.inner._resolve(layout, n_layers, n_heads) & layers & heads

    def _text(self) -> str:
        parts = [f"{s.axis}s={s.text()}" for s in (self.layers, self.heads) if s.text() is not None]
        return f"{_operand(self.inner, tight=True)}.at({', '.join(parts)})"


def _operand(edges: EdgeSet, also: type | None = None, tight: bool = False) -> str:
    """Text of an operand, in brackets wherever Python would group it otherwise."""
    loose = isinstance(edges, _Binary) or (tight and isinstance(edges, Complement))
    return f"({edges})" if loose and type(edges) is not also else str(edges)
