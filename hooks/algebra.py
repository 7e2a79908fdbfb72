"""Edge sets and the operators that combine them; the basic sets are in `emg_lens.hooks.edges`.

An edge (dest, src) is the entry `scores[batch, head, dest, src]`: information flows from src to dest.
"""

import functools
import inspect
import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, TypeVar

import numpy as np
from jaxtyping import Bool
from pydantic import Field

from emg_lens.errors import EmgLensError
from emg_lens.layout import TokenLayout
from emg_lens.registry import UnknownNameError
from emg_lens.validation import ArgumentError, checked, short

if TYPE_CHECKING:  # a study can be read without torch
    from torch import Tensor

MOST_INDICES = 100_000
LARGEST = 2**40
MOST_OPERATORS = 200
"""Largest number of nested operators, below the limit of Python's stack."""
Size = Annotated[int, Field(ge=0, le=10_000)]
"""A number of layers or heads; 0 in models without attention."""
EdgeMask = Bool[np.ndarray, "layer head dest src"]
Select = int | slice | range | Iterable[int] | None
Stages = str | Iterable[str] | None
F = TypeVar("F", bound=Callable)


class EdgeError(EmgLensError, ValueError):
    """An edge set does not fit the layout or the model, or its text cannot be read."""


def edge_function(function: F) -> F:
    """Decorator: a missing or unknown argument is an `EdgeError` that names the arguments."""
    known = [
        str(one.replace(annotation=one.empty, default=one.empty))
        for one in inspect.signature(function).parameters.values()
    ]
    usage = f"{function.__name__}({', '.join(name for name in known if name != 'self')})"

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except TypeError as error:
            if error.__traceback__ is None or error.__traceback__.tb_next is not None:
                raise  # an error inside the function
            raise EdgeError(f"{error}; expected {usage}") from None

    return call  # pyright: ignore[reportReturnType]


class EdgeSet(ABC):
    """A symbolic set of edges (layer, head, dest, src); combine sets with `|`, `&`, `-`, `~` and `.at`.

    Example:
        >>> from emg_lens import cross_modal, flow, parse_edges
        >>> edges = cross_modal().at(layers=[0, 1]) | flow("emg", "cls")
        >>> edges
        EdgeSet(cross_modal().at(layers=[0, 1]) | flow('emg', 'cls'))
        >>> parse_edges(str(edges)) == edges
        True
    """

    depth = 0
    """Number of nested operators."""

    def __or__(self, other: "EdgeSet") -> "EdgeSet":
        return _Binary(self, "|", _edge_set(other))

    def __and__(self, other: "EdgeSet") -> "EdgeSet":
        return _Binary(self, "&", _edge_set(other))

    def __sub__(self, other: "EdgeSet") -> "EdgeSet":
        return _Binary(self, "-", _edge_set(other))

    def _refuse(self, other: object) -> NoReturn:
        raise ArgumentError(
            f"got {short(other)} before an operator; expected an edge set (edges_from_mask reads a mask)"
        )

    __ror__ = __rand__ = __rsub__ = _refuse
    __array_ufunc__ = None  # numpy leaves the operators to us

    def __bool__(self) -> bool:
        raise EdgeError(f"{self} has no truth value; combine edge sets with | & ~ instead of `or`, `and`, `not`")

    def __invert__(self) -> "EdgeSet":
        return _Complement(self)

    @edge_function
    def at(self, layers: Select = None, heads: Select = None, stage: Stages = None) -> "EdgeSet":
        """Keep only some layers, heads or stages.

        Args:
            layers: 0-based: an integer, a slice, a range or several integers; default: all. Negative numbers count from
                the end: -1 is the last layer. With `stage`, layers are those of the stage.
            heads: Likewise, in each of these layers.
            stage: Name of a stage of the model, or several names: `cross_modal().at(stage="fusion", layers=0)`.
        """
        return _At(self, _Selection.of("layer", layers), _Selection.of("head", heads), _stage_names(stage))

    @checked
    def mask(self, layout: TokenLayout, n_layers: Size, n_heads: Size) -> "Bool[Tensor, 'layer head dest src']":
        """Return the edges as a boolean tensor, True = in the set (cut).

        Its entries may share memory, so clone it before editing. Edges between positions that are never in the same
        layer (`TokenLayout.stages`) are in no set.

        Raises:
            EdgeError: A group, token, layer or head that the layout or the model does not have.
        """
        import torch

        mask = self._resolve(layout, n_layers, n_heads)
        if layout.stages:
            mask = mask & _within_stages(layout, n_layers, [stage.name for stage in layout.stages])
        return torch.from_numpy(mask).expand(n_layers, n_heads, len(layout), len(layout))

    @abstractmethod
    def _resolve(self, layout: TokenLayout, n_layers: int, n_heads: int) -> EdgeMask:
        """Return the mask, with size 1 along every axis on which the set is constant."""

    @abstractmethod
    def __str__(self) -> str: ...

    def __repr__(self) -> str:
        return f"EdgeSet({self})"


def _edge_set(value: object) -> EdgeSet:
    if not isinstance(value, EdgeSet):
        raise ArgumentError(f"got {short(value)}; expected an edge set (parse_edges reads one from text)")
    return value


def index_tuple(values: Any, what: str, names: bool = True) -> tuple[int | str, ...]:
    """Return one index or name, or several (array, tensor, iterable), as a tuple; messages call them `what`."""
    given: Any = getattr(values, "tolist", lambda: values)()  # of an array or a tensor
    one = is_whole(given) or isinstance(given, str)
    kinds = "integers or token names" if names else "integers"
    if not one and (isinstance(given, bytes | Mapping) or not isinstance(given, Iterable)):
        raise EdgeError(f"{what}={short(values)}; expected {kinds}, or a list of them")
    items: tuple[Any, ...] = (given,) if one else tuple(itertools.islice(given, MOST_INDICES + 1))
    if not items:
        raise EdgeError(f"{what}=[] selects nothing; leave it out to select all")
    if len(items) > MOST_INDICES:
        raise EdgeError(f"{what}={short(values)} has more than {MOST_INDICES} entries; no model has so many")
    for item in items:
        if not (is_whole(item) or (names and isinstance(item, str))):
            raise EdgeError(f"{what}: got {short(item)}; expected {kinds}")
    return tuple(item if isinstance(item, str) else int(item) for item in items)


def is_whole(value: Any) -> bool:
    """Return whether a value is an integer of Python or numpy; booleans are not."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool) and abs(int(value)) < LARGEST


# --- operators --------------------------------------------------------------------------------------------


OPERATORS: dict[str, Callable[[EdgeMask, EdgeMask], EdgeMask]] = {
    "|": lambda left, right: left | right,
    "&": lambda left, right: left & right,
    "-": lambda left, right: left & ~right,
}


class _Nested(EdgeSet):
    """An edge set made from others; the number of nested operators is limited."""

    def __post_init__(self) -> None:
        depth = 1 + max(part.depth for part in vars(self).values() if isinstance(part, EdgeSet))
        if depth > MOST_OPERATORS:
            raise EdgeError(f"{depth} nested operators; at most {MOST_OPERATORS} are allowed: use edges_from_mask")
        object.__setattr__(self, "depth", depth)


@dataclass(frozen=True, repr=False)
class _Binary(_Nested):
    left: EdgeSet
    symbol: str
    right: EdgeSet

    def _resolve(self, layout: TokenLayout, n_layers: int, n_heads: int) -> EdgeMask:
        parts = [part._resolve(layout, n_layers, n_heads) for part in (self.left, self.right)]
        return OPERATORS[self.symbol](*parts)

    def __str__(self) -> str:
        same = isinstance(self.left, _Binary) and self.left.symbol == self.symbol  # a | b | c needs no brackets
        return f"{self.left if same else _operand(self.left)} {self.symbol} {_operand(self.right)}"


@dataclass(frozen=True, repr=False)
class _Complement(_Nested):
    inner: EdgeSet

    def _resolve(self, layout: TokenLayout, n_layers: int, n_heads: int) -> EdgeMask:
        return ~self.inner._resolve(layout, n_layers, n_heads)

    def __str__(self) -> str:
        return f"~{_operand(self.inner)}"


@dataclass(frozen=True)
class _Selection:
    """A selection of layers or heads: indices, a span (start, stop, step), or all if both are None."""

    axis: str
    indices: tuple[int, ...] | None = None
    span: tuple[int | None, int | None, int | None] | None = None

    @staticmethod
    def of(axis: str, value: Select) -> "_Selection":
        if value is None:
            return _Selection(axis)
        if isinstance(value, slice):
            span = (value.start, value.stop, value.step)
            if value.step == 0 or not all(i is None or is_whole(i) for i in span):
                raise EdgeError(f"{axis}s={value}; expected a slice of integers with a step other than 0")
            start, stop, step = (None if i is None else int(i) for i in span)
            return _Selection(axis, span=(start, stop, step))
        items = index_tuple(value, f"{axis}s", names=False)
        return _Selection(axis, indices=tuple(sorted({int(i) for i in items})))

    def resolve(self, size: int, of: str = "the model") -> Bool[np.ndarray, " one_or_size"]:
        """Return which of `size` layers or heads are selected; one entry if all are."""
        if self.indices is None and self.span is None:
            return np.ones(1, bool)
        chosen = np.zeros(size, bool)
        if self.indices is None:
            chosen[slice(*self.span)] = True  # pyright: ignore
        else:
            for i in self.indices:
                if not -size <= i < size:
                    raise EdgeError(f"unknown {self.axis} {i}; {of} has {self.axis}s 0 to {size - 1}")
                chosen[i] = True
        if not chosen.any():
            raise EdgeError(f"{self.axis}s={self.text()} selects none of the {size} {self.axis}s")
        return chosen

    def text(self) -> str | None:
        if self.span is not None:
            return f"slice({', '.join(str(v) for v in self.span)})"
        return None if self.indices is None else str(list(self.indices))


@dataclass(frozen=True, repr=False)
class _At(_Nested):
    inner: EdgeSet
    layers: _Selection
    heads: _Selection
    stages: tuple[str, ...]

    def _resolve(self, layout: TokenLayout, n_layers: int, n_heads: int) -> EdgeMask:
        heads = self.heads.resolve(n_heads)[None, :, None, None]
        inner = self.inner._resolve(layout, n_layers, n_heads) & heads
        if self.stages:
            return inner & _within_stages(layout, n_layers, self.stages, self.layers)
        return inner & self.layers.resolve(n_layers)[:, None, None, None]

    def __str__(self) -> str:
        parts = [f"{s.axis}s={s.text()}" for s in (self.layers, self.heads) if s.text() is not None]
        if self.stages:
            parts.append(f"stage={(self.stages[0] if len(self.stages) == 1 else list(self.stages))!r}")
        return f"{_operand(self.inner, (_Binary, _Complement))}.at({', '.join(parts)})"


def _operand(edges: EdgeSet, in_brackets: tuple[type[EdgeSet], ...] = (_Binary,)) -> str:
    return f"({edges})" if isinstance(edges, in_brackets) else str(edges)


def _stage_names(stage: Stages) -> tuple[str, ...]:
    names = () if stage is None else index_tuple(stage, "stage")
    if not all(isinstance(name, str) and name for name in names) or len(set(names)) < len(names):
        raise EdgeError(f"stage={short(stage)}; expected the name of a stage, or a list of different names")
    return tuple(str(name) for name in names)


def _within_stages(
    layout: TokenLayout, n_layers: int, names: Iterable[str], layers: _Selection | None = None
) -> Bool[np.ndarray, "layer 1 dest src"]:
    """Return the edges within some stages, in all layers of the stages or in the selected ones."""
    mask = np.zeros((n_layers, 1, len(layout), len(layout)), bool)
    for name in names:
        try:
            stage = layout.stage(name)
        except UnknownNameError as error:
            raise EdgeError(error.args[0]) from None
        if stage.layers.stop > n_layers:
            raise EdgeError(f"stage {name!r} ends with layer {stage.layers.stop - 1}; the model has {n_layers} layers")
        own = mask[stage.edges]
        own[:] = True
        if layers is not None:
            own &= layers.resolve(len(stage.layers), f"stage {name!r}")[:, None, None, None]
    return mask
