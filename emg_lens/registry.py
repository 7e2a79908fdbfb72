"""Named things that a user chooses by a word: models, data sets, objectives, metrics, interventions, views.

Each is added where it is defined, with one line; a stranger's package adds its own through an entry point, which is
loaded when its name is asked for.
"""

import difflib
from collections.abc import Callable
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Generic, TypeVar

from emg_lens.errors import EmgLensError

T = TypeVar("T")
Named = TypeVar("Named")


class UnknownNameError(EmgLensError, KeyError):
    """A name that nothing is registered under."""


class Registry(Generic[T]):
    """Things of one kind by name.

    Attributes:
        kind: What they are, in a word or two, for messages: `"model"`.
        group: Entry-point group under which other packages offer theirs: `"emg_lens.models"`. An entry point refers to
            the thing itself, or to a module that adds it when imported.
    """

    def __init__(self, kind: str, group: str) -> None:
        self.kind, self.group = kind, group
        self._known: dict[str, T] = {}

    def add(self, name: str, thing: T) -> T:
        """Make a thing known under a name, and return it.

        Raises:
            ValueError: The name stands for something else already.
        """
        if name in self._known and self._known[name] is not thing:
            raise ValueError(f"a {self.kind} named {name!r} is already registered")
        self._known[name] = thing
        return thing

    def named(self, name: str) -> Callable[[Named], Named]:
        """Decorator: `add` under this name; what is decorated stays what it is, also to a type checker."""

        def add(thing: Named) -> Named:
            self.add(name, thing)  # pyright: ignore[reportArgumentType]
            return thing

        return add

    def __getitem__(self, name: str) -> T:
        """The thing of this name.

        Raises:
            UnknownNameError: There is none; the message lists what there is.
        """
        if name not in self:
            close = difflib.get_close_matches(str(name), self.names(), n=1)
            hint = f"did you mean {close[0]!r}? " if close else ""
            raise UnknownNameError(f"unknown {self.kind} {name!r}; {hint}known: {', '.join(self.names())}")
        if name not in self._known:
            for point in _offered(self.group)[name]:
                thing = point.load()  # a module may add it itself
                self._known.setdefault(name, thing)
        return self._known[name]

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and (name in self._known or name in _offered(self.group))

    def names(self) -> tuple[str, ...]:
        """All names, those that are not loaded yet included; in order of definition, then of the alphabet."""
        return tuple(dict.fromkeys([*self._known, *sorted(_offered(self.group))]))


@cache
def _offered(group: str) -> dict[str, list[EntryPoint]]:
    """Entry points of a group by name; finding them reads a file of every installed package, so it is done once."""
    found: dict[str, list[EntryPoint]] = {}
    for point in entry_points(group=group):
        found.setdefault(point.name, []).append(point)
    return found
