"""Check array shapes while tests run, with beartype.

pyright checks the other annotations. The package itself checks what a user may get wrong.
"""

from collections.abc import Callable
from typing import Any, TypeVar, get_args

from beartype import beartype

F = TypeVar("F", bound=Callable)


def check_shapes(function: F) -> F:
    """Check the annotations of a function that contain an array type of jaxtyping."""
    every = dict(function.__annotations__)
    function.__annotations__ = {name: hint for name, hint in every.items() if _holds_array(hint)}
    checked = beartype(function) if function.__annotations__ else function
    function.__annotations__ = checked.__annotations__ = every  # the package itself reads them too
    return checked


def _holds_array(hint: Any) -> bool:
    return hasattr(hint, "dim_str") or any(map(_holds_array, get_args(hint)))
