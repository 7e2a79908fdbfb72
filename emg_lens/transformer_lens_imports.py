"""The classes of TransformerLens that this package uses.

`import transformer_lens` loads `datasets` and `transformers`, which takes longer than `import torch`. Its modules for
text need them; our encoders do not. While this module imports TransformerLens, what those modules take from the two
libraries becomes a `DeferredName`, which imports the library when it is first used. No other importer is affected, and
nothing is deferred if TransformerLens or the library is loaded already. `docs/benchmarks.md` has the times.
"""

import builtins
import sys
from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType
from typing import Any, Union

__all__ = [
    "ActivationCache",
    "DeferredName",
    "FactoredMatrix",
    "HookPoint",
    "HookedRootModule",
    "Slice",
    "SliceInput",
    "composition_scores",
    "deferring",
]


class DeferredName:
    """A class or function of another library that is imported when it is first used.

    It can be called, tested with `isinstance`, inherited from and named in annotations, as the real one can.

    Args:
        module: the module that defines it.
        name: its name there.

    Example:
        >>> fractions = DeferredName("fractions", "Fraction")
        >>> fractions(1, 3) + 1
        Fraction(4, 3)
    """

    def __init__(self, module: str, name: str) -> None:
        self._place = module, name

    def __call__(self, *args: Any, **options: Any) -> Any:
        """Call the real one."""
        return self._real()(*args, **options)

    def __getattr__(self, name: str) -> Any:
        if name == "_place":  # a copy that is not filled yet
            raise AttributeError(name)
        return getattr(self._real(), name)

    def __instancecheck__(self, value: object) -> bool:
        return self._place[0].partition(".")[0] in sys.modules and isinstance(value, self._real())

    def __subclasscheck__(self, kind: type) -> bool:
        return issubclass(kind, self._real())

    def __mro_entries__(self, bases: tuple) -> tuple:
        return (self._real(),)

    def __or__(self, other: Any) -> Any:
        return Union[self, other]  # noqa: UP007

    def __ror__(self, other: Any) -> Any:
        return Union[other, self]  # noqa: UP007

    def _real(self) -> Any:
        module, name = self._place
        return getattr(import_module(module), name)


@contextmanager
def deferring(importers: Container[str], libraries: Container[str]) -> Iterator[None]:
    """Defer what some modules import from some libraries at their top level with `from library import name`.

    A library that is loaded already is imported as always.

    Args:
        importers: the full names of the modules.
        libraries: the top-level names of the libraries.
    """
    plain = builtins.__import__

    def load(
        name: str,
        globals: Mapping[str, Any] | None = None,
        locals: Mapping[str, Any] | None = None,
        fromlist: Sequence[str] = (),
        level: int = 0,
    ) -> ModuleType:
        """Import a module as Python does, or give a module of deferred names."""
        asks = globals.get("__name__", "") if globals and globals is locals else ""
        library = name.partition(".")[0]
        deferred = asks in importers and not level and library in libraries and library not in sys.modules
        if not deferred or not fromlist or "*" in fromlist:
            return plain(name, globals, locals, fromlist, level)
        module = ModuleType(name)
        vars(module).update({one: DeferredName(name, one) for one in fromlist})
        return module

    builtins.__import__ = load
    try:
        yield
    finally:
        builtins.__import__ = plain


_TEXT_MODULES = ("transformer_lens.evals", *(f"transformer_lens.utilities.{n}_utils" for n in ("hf", "tokenize")))

with deferring(_TEXT_MODULES, ("datasets", "transformers")):
    from transformer_lens import ActivationCache, FactoredMatrix
    from transformer_lens.hook_points import HookPoint
    from transformer_lens.HookedRootModule import HookedRootModule
    from transformer_lens.utilities.matrix import composition_scores
    from transformer_lens.utilities.slice import Slice, SliceInput
