"""The type checker of the tests: array shapes alone, by beartype.

Other annotations are pyright's; what a user may get wrong is refused by the package itself, in its own words.
"""

from collections.abc import Callable
from typing import Any, TypeVar, get_args

from beartype import beartype

F = TypeVar("F", bound=Callable)


def check_shapes(function: F) -> F:
    """The function, with those annotations checked that hold an array type of jaxtyping."""
    kept = {name: hint for name, hint in function.__annotations__.items() if _holds_array(hint)}
    function.__annotations__ = kept
    return beartype(function) if kept else function


def _holds_array(hint: Any) -> bool:
    return hasattr(hint, "dim_str") or any(map(_holds_array, get_args(hint)))
