"""Read edge sets from text in Python syntax, as in study files.

Only known functions and operators are accepted in Python's syntax tree. Nothing is evaluated.
"""

import ast
from collections.abc import Callable
from typing import Annotated

from pydantic import BeforeValidator, InstanceOf, PlainSerializer, WithJsonSchema

from emg_lens.hooks import edges
from emg_lens.hooks.algebra import EdgeError, EdgeSet, edge_function
from emg_lens.hooks.masks import edges_from_mask
from emg_lens.validation import short

CONSTRUCTORS: dict[str, Callable[..., EdgeSet]] = {
    **{name: getattr(edges, name) for name in edges.MATRICES},
    "edges_from_mask": edges_from_mask,
}


@edge_function
def parse_edges(text: str) -> EdgeSet:
    """Read an edge set from its text; `parse_edges(str(edges)) == edges` for every edge set.

    Args:
        text: An expression in Python's syntax, with the functions and operators of edge sets.

    Raises:
        EdgeError: The text is no edge expression; the message shows the part that is wrong.

    Example:
        >>> from emg_lens import parse_edges
        >>> parse_edges("cross_modal('emg', 'acc').at(layers=[1, 2]) - flow('acc', 'emg')")
        EdgeSet(cross_modal('emg', 'acc').at(layers=[1, 2]) - flow('acc', 'emg'))
    """
    if not isinstance(text, str):
        raise EdgeError(f"got {short(text)}; expected an edge expression as text")
    try:
        tree = ast.parse(text.strip(), mode="eval")
        return _edges(tree.body)
    except EdgeError as error:
        raise EdgeError(f"edge expression {short(text)}: {error}") from None
    except RecursionError:
        raise EdgeError(f"edge expression {short(text)} is nested too deeply") from None
    except (SyntaxError, ValueError, MemoryError) as error:
        raise EdgeError(f"edge expression {short(text)} is not valid syntax: {error}") from None


EdgeExpression = Annotated[
    InstanceOf[EdgeSet],
    BeforeValidator(lambda given: parse_edges(given) if isinstance(given, str) else given),
    PlainSerializer(str, return_type=str),
    WithJsonSchema({"type": "string", "title": "edge expression"}),
]
"""A pydantic field with an edge set: it accepts text or a set, stores a set, and is written as text."""


def _edges(node: ast.expr) -> EdgeSet:
    match node:
        case ast.BinOp(left, ast.BitOr(), right):
            return _edges(left) | _edges(right)
        case ast.BinOp(left, ast.BitAnd(), right):
            return _edges(left) & _edges(right)
        case ast.BinOp(left, ast.Sub(), right):
            return _edges(left) - _edges(right)
        case ast.UnaryOp(ast.Invert(), operand):
            return ~_edges(operand)
        case ast.Call(ast.Attribute(inner, "at"), args, keywords):
            return _call(_edges(inner).at, "at", args, keywords)
        case ast.Call(ast.Name(name), args, keywords) if name in CONSTRUCTORS:
            return _call(CONSTRUCTORS[name], name, args, keywords)
        case ast.Call(ast.Name(name)):
            raise EdgeError(f"unknown edge set {short(name)}; known: {', '.join(CONSTRUCTORS)}")
    raise EdgeError(f"{ast.unparse(node)!r} is not an edge set; combine {', '.join(CONSTRUCTORS)} with | & - ~ .at")


def _call(function: Callable[..., EdgeSet], name: str, args: list[ast.expr], keywords: list[ast.keyword]) -> EdgeSet:
    named = {}
    for keyword in keywords:
        if keyword.arg is None:
            raise EdgeError(f"** is not allowed in {name}(...)")
        if keyword.arg in named:
            raise EdgeError(f"{name}(...) has the argument {keyword.arg} twice")
        named[keyword.arg] = _value(keyword.value)
    return function(*[_value(a) for a in args], **named)


def _value(node: ast.expr) -> object:
    match node:
        case ast.Call(ast.Name("slice" | "range" as kind), args, []):
            numbers = [_value(a) for a in args]
            if not 1 <= len(numbers) <= 3 or not all(n is None or isinstance(n, int) for n in numbers):
                raise EdgeError(f"{ast.unparse(node)!r}: expected one to three integers")
            try:
                return slice(*numbers) if kind == "slice" else range(*numbers)  # pyright: ignore
            except (TypeError, ValueError) as error:
                raise EdgeError(f"{ast.unparse(node)!r}: {error}") from None
    try:
        value = ast.literal_eval(node)
    except ValueError:
        value = ...
    flat = value if isinstance(value, list | tuple | set) else [value]
    if not all(v is None or (isinstance(v, int | str) and not isinstance(v, bool)) for v in flat):
        raise EdgeError(
            f"{ast.unparse(node)!r} is not a valid argument; expected a name in quotes, a number or a list of them"
        )
    return value
