"""Declarations: what a class states about its own methods, and whether a subclass still has the statement.

A declaration is a class attribute, property or method. It speaks for the methods of the class that makes it. A subclass
inherits it unless the subclass overrides one of these methods; then the subclass has to declare anew. docs/extending.md
§1 lists the declarations and says what happens without them.
"""

from functools import cache

COVERED = {"runs_blocks_in_order": ("__call__", "forward"), "readout_positions": ("head", "pool")}
"""Declaration -> the methods that it speaks for. A declaration that is not listed speaks for all methods."""
FREE = ("__init__", "reset_parameters", "extra_repr")
"""Methods that a subclass may override without losing a declaration that is not listed."""


def why_undeclared(part: object, declaration: str) -> str | None:
    """Say why an object does not have a declaration; None if it has it.

    A method that was replaced on the object itself counts as overridden.
    """
    kind = type(part)
    replaced = sorted(_methods(kind, declaration) & vars(part).keys())
    if replaced:
        return f"{replaced[0]} was replaced on this {kind.__name__}"
    sizes = tuple(len(vars(base)) for base in kind.__mro__)  # they change if a class gets a method later
    if reason := _why_class_lacks(kind, declaration, sizes):
        return reason
    value = getattr(part, declaration)
    return f"{kind.__name__} does not declare {declaration}" if value is None or value is False else None


@cache
def _why_class_lacks(kind: type, declaration: str, sizes: tuple[int, ...]) -> str | None:  # noqa: ARG001
    bases = kind.__mro__
    first = next((i for i, base in enumerate(bases) if declaration in vars(base)), None)
    if first is None:
        return f"{kind.__name__} does not declare {declaration}"
    known = bases[first].__mro__
    for name in sorted(_methods(bases[first], declaration)):
        own = [i for i, base in enumerate(bases) if base in known and name in vars(base)]
        ours = [i for i in own if not bases[i].__module__.startswith("torch.")]
        # With several bases, another class may stand between the methods of the declaring class and of its own bases.
        for base in bases[: max([first, *(ours or own[:1])])]:
            if base not in known and name in vars(base):
                return f"{base.__name__} overrides {name} and does not declare {declaration} anew"
    return None


@cache
def _methods(kind: type, declaration: str) -> frozenset[str]:
    """Return the names of the methods of a class that a declaration speaks for."""
    if declaration in COVERED:
        return frozenset(COVERED[declaration])
    values = {name: value for base in reversed(kind.__mro__) for name, value in vars(base).items()}
    return frozenset(
        name
        for name, value in values.items()
        if (callable(value) or isinstance(value, property | staticmethod | classmethod))
        and name not in FREE
        and (name == "__call__" or not name.startswith("__"))
    )
