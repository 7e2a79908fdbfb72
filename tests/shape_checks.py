"""The type checker of the tests: array shapes alone, by beartype.

Other annotations are pyright's; what a user may get wrong is refused by the package itself, in its own words.
"""

from collections.abc import Callable
from typing import Any, TypeVar, get_args

from beartype import beartype

F = TypeVar("F", bound=Callable)


def check_shapes(function: F) -> F:
    """The function, with those annotations checked that hold an array type of jaxtyping."""
    every = dict(function.__annotations__)
    function.__annotations__ = {name: hint for name, hint in every.items() if _holds_array(hint)}
    checked = beartype(function) if function.__annotations__ else function
    function.__annotations__ = checked.__annotations__ = every  # which the package itself reads too
    return checked


def _holds_array(hint: Any) -> bool:
    return hasattr(hint, "dim_str") or any(map(_holds_array, get_args(hint)))
