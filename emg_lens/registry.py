"""Registries: models, data sets, objectives, metrics, interventions and views that a user selects by name.

Each is registered in one line where it is defined. Another package registers its own through an entry point, which is
loaded when its name is used.
"""

from collections.abc import Callable
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Generic, TypeVar

from emg_lens.errors import EmgLensError, did_you_mean

T = TypeVar("T")
Named = TypeVar("Named")


class UnknownNameError(EmgLensError, KeyError):
    """A name that is not registered."""


class Registry(Generic[T]):
    """Objects of one kind, by name.

    Attributes:
        kind: The kind, in a word or two, for messages: `"model"`.
        group: Group of entry points of other packages: `"emg_lens.models"`. An entry point refers to the object
            itself, or to a module that registers the object when it is imported.
    """

    def __init__(self, kind: str, group: str) -> None:
        self.kind, self.group = kind, group
        self._known: dict[str, T] = {}

    def add(self, name: str, thing: T) -> T:
        """Register an object under a name, and return the object."""
        if name in self._known and self._known[name] is not thing:
            raise ValueError(f"a {self.kind} named {name!r} is already registered")
        self._known[name] = thing
        return thing

    def named(self, name: str) -> Callable[[Named], Named]:
        """Decorator: register the decorated object under this name."""

        def add(thing: Named) -> Named:
            self.add(name, thing)  # pyright: ignore[reportArgumentType]
            return thing

        return add

    def __getitem__(self, name: str) -> T:
        """Return the object with this name.

        Raises:
            UnknownNameError: No object has this name; the message lists the known names.
        """
        if name not in self:
            hint, known = did_you_mean(name, self.names()), ", ".join(self.names())
            raise UnknownNameError(f"unknown {self.kind} {name!r}; {hint}known: {known}")
        if name not in self._known:
            for point in _entry_points(self.group)[name]:
                thing = point.load()  # a module may register it itself
                self._known.setdefault(name, thing)
        return self._known[name]

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and (name in self._known or name in _entry_points(self.group))

    def names(self) -> tuple[str, ...]:
        """Return all names: registered names in order of definition, then sorted names of entry points."""
        return tuple(dict.fromkeys([*self._known, *sorted(_entry_points(self.group))]))


@cache
def _entry_points(group: str) -> dict[str, list[EntryPoint]]:
    """Entry points of a group by name. Cached, because a search reads a file of every installed package."""
    by_name: dict[str, list[EntryPoint]] = {}
    for point in entry_points(group=group):
        by_name.setdefault(point.name, []).append(point)
    return by_name
