"""Declarations: what a class states about its own methods, and whether a subclass still has the statement.

A declaration is a class attribute, property or method. It speaks for the methods of the class that makes it. A subclass
inherits it unless the subclass overrides one of these methods; then the subclass has to declare anew. docs/extending.md
§1 lists the declarations and says what happens without them.
"""

from collections.abc import Iterable
from functools import cache
from inspect import getattr_static

COVERED = {"runs_blocks_in_order": ("__call__", "forward"), "readout_positions": ("head", "pool")}
"""Declaration -> the methods that it speaks for; other declarations speak for all methods of their class but these:"""
FREE = ("__init__", "reset_parameters", "extra_repr")


def why_undeclared(part: object, declaration: str) -> str | None:
    """Say why an object does not have a declaration; None if it has it.

    A method that was replaced on the object itself counts as overridden.
    """
    kind = type(part)
    replaced = _methods(kind, vars(part), declaration)
    if replaced:
        return f"{replaced[0]} was replaced on this {kind.__name__}"
    return _why_class_lacks(kind, declaration)


@cache
def _why_class_lacks(kind: type, declaration: str) -> str | None:
    bases = kind.__mro__
    makers = [i for i, base in enumerate(bases) if declaration in vars(base)]
    if not makers or not vars(bases[makers[0]])[declaration]:
        return f"{kind.__name__} does not declare {declaration}"
    maker = bases[makers[0]]
    for base in bases[: makers[0]]:
        if overridden := _methods(maker, vars(base), declaration):
            return f"{base.__name__} overrides {overridden[0]} and does not declare {declaration} anew"
    return None


def _methods(kind: type, names: Iterable[str], declaration: str) -> list[str]:
    """Return those of the names that are methods of a class which a declaration speaks for."""
    covered = COVERED.get(declaration)
    return [name for name in names if (name in covered if covered else _is_method(kind, name))]


def _is_method(kind: type, name: str) -> bool:
    if name in FREE or (name.startswith("__") and name != "__call__"):
        return False
    value = getattr_static(kind, name, None)
    return callable(value) or isinstance(value, property | staticmethod | classmethod)
