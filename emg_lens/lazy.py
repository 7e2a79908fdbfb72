"""Packages that import their names from where they live on first use, so that nobody waits for what is not used."""

import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from types import ModuleType
from typing import Any


class LazyPackage(ModuleType):
    """A package whose public names live in modules that are not imported yet.

    Such a name wins over a module of the same name: `emg_lens.hooks.cut` is the function, also once the module
    `emg_lens.hooks.cut` has been imported.
    """

    _HOME_OF: dict[str, str]
    _PACKAGES: tuple[str, ...]

    def __getattr__(self, name: str) -> Any:
        if name in self._PACKAGES:
            return import_module(f"{self.__name__}.{name}")
        if name not in self._HOME_OF:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        value = getattr(import_module(self._HOME_OF[name]), name)
        setattr(self, name, value)  # found without this method from now on
        return value

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in self._HOME_OF and isinstance(value, ModuleType)):
            super().__setattr__(name, value)

    def __dir__(self) -> list[str]:
        return sorted({*self.__dict__, *self._HOME_OF, *self._PACKAGES})


def make_lazy(name: str, homes: Mapping[str, Sequence[str]], packages: Sequence[str] = ()) -> None:
    """Turn the package `name` into a `LazyPackage`.

    Args:
        name: Its full name.
        homes: Module -> the public names that live there.
        packages: Packages within it that are found by name.
    """
    package: Any = sys.modules[name]
    package._HOME_OF = {public: home for home, names in homes.items() for public in names}
    package._PACKAGES = tuple(packages)
    package.__class__ = LazyPackage
