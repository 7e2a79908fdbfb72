"""Registries: models, data sets, objectives, metrics, views and other objects that a user selects by name.

Each is registered in one line where it is defined. Another package registers its own through an entry point, which is
loaded when its name is used.
"""

import hashlib
import re
import sys
import warnings
from collections.abc import Callable, Container, Iterable, Iterator
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path
from traceback import format_exception
from typing import Any, Generic, TypeVar, get_args, get_origin

from emg_lens.errors import EmgLensError, did_you_mean
from emg_lens.validation import ArgumentError, Name, check_argument, short

T = TypeVar("T")
Named = TypeVar("Named")

PACKAGE = "emg-lens"
SIGNALS = range(129, 256)
"""Exit codes of a process that a signal stopped."""


class UnknownNameError(EmgLensError, KeyError):
    """A name that is not registered."""


class PluginError(EmgLensError, ImportError):
    """An entry point that cannot be loaded, or that is not of the expected kind."""


class PluginWarning(UserWarning):
    """A plug-in of another package is not used."""


class Registry(Generic[T]):
    """Objects of one kind, by name.

    Attributes:
        kind: The kind, in a word or two, for messages: `"model"`.
        group: Group of entry points of other packages: `"emg_lens.models"`. An entry point refers to the object
            itself, or to a module that registers the object when it is imported.
        expected: The class of the objects; `type[Base]` if they are classes themselves.
    """

    def __init__(self, kind: str, group: str, expected: Any) -> None:
        self.kind, self.group, self.expected = kind, group, expected
        self._known: dict[str, T] = {}
        self._reported: set[str] = set()

    def add(self, name: str, thing: T) -> T:
        """Register an object under a name, and return the object.

        Raises:
            ArgumentError: This is no name, an object of another kind, or the name of another object.
        """
        check_argument(f"name of a {self.kind}", name, Name)
        self._check(name, thing)
        point = self._points().get(name)
        known = self[name] if point is not None and _package(point) == PACKAGE else self._known.get(name, thing)
        if known is not thing:
            raise ArgumentError(f"a {self.kind} named {name!r} is already registered; choose another name")
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
            PluginError: The package that offers this name is broken.
        """
        if name not in self:
            hint, known = did_you_mean(name, self.names()), ", ".join(self.names())
            raise UnknownNameError(f"unknown {self.kind} {name!r}; {hint}known: {known}")
        if name not in self._known:
            self._load(self._points()[name])
        return self._known[name]

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and (name in self._known or name in self._points())

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def __len__(self) -> int:
        return len(self.names())

    def names(self) -> tuple[str, ...]:
        """Return all names: registered names in order of definition, then sorted names of entry points."""
        return tuple(dict.fromkeys([*self._known, *sorted(self._points())]))

    def items(self) -> Iterator[tuple[str, T]]:
        """Yield all names with their objects, without plug-ins that cannot be loaded; each gets one `PluginWarning`."""
        for name in self.names():
            if name in self._reported:
                continue
            try:
                thing = self[name]
            except PluginError as error:
                self._reported.add(name)
                warnings.warn(str(error), PluginWarning, stacklevel=2)
            else:
                yield name, thing

    def _load(self, point: EntryPoint) -> None:
        """Import the module of an entry point. The module may register the object itself."""
        try:
            thing = point.load()
            if point.name not in self._known:
                self._check(point.name, thing)
                self._known[point.name] = thing
        except (Exception, SystemExit) as error:
            if _package(point) == PACKAGE or (isinstance(error, SystemExit) and error.code in SIGNALS):
                raise
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            raise PluginError(
                f"{self.kind} {point.name!r} of the package {_package(point)} cannot be loaded ({reason}); update or"
                " uninstall this package"
            ) from error

    def _points(self) -> dict[str, EntryPoint]:
        return _entry_points(self.kind, self.group)

    def _check(self, name: str, thing: object) -> None:
        if get_origin(self.expected) is type:
            base = get_args(self.expected)[0]
            fits, what = isinstance(thing, type) and issubclass(thing, base), f"a subclass of {base.__name__}"
        else:
            fits, what = isinstance(thing, self.expected), f"an object of the class {self.expected.__name__}"
        if not fits:
            raise ArgumentError(f"{self.kind} {name!r} is {short(thing)}; expected {what}")


@cache
def _entry_points(kind: str, group: str) -> dict[str, EntryPoint]:
    """Entry points of a group by name, those of this package first. Cached: a search reads every installed package."""
    by_name: dict[str, EntryPoint] = {}
    for point in sorted(entry_points(group=group), key=lambda one: (_package(one) != PACKAGE, _package(one))):
        used = by_name.setdefault(point.name, point)
        if used is not point:
            warnings.warn(
                f"{kind} {point.name!r} of the package {_package(point)} is not used, because {_package(used)} has one"
                " of this name; rename it",
                PluginWarning,
                stacklevel=2,
            )
    return by_name


def plugins_at_fault(error: BaseException) -> str:
    """Name the plug-in, and its package, whose code is in the traceback of an error; empty if there is none.

    The text of the traceback is searched, because a worker process sends only the text.
    """
    files = re.findall(r'^ *File "(.+)", line ', "".join(format_exception(error)), re.MULTILINE)
    for file in map(Path, reversed(files)):
        of_file = [one for one in _plugins() if not {file, *file.parents}.isdisjoint(_roots(one.module))]
        if of_file:
            here = [p for p in of_file if sys.modules.get(p.module) and sys.modules[p.module].__file__ == str(file)]
            names = ", ".join(dict.fromkeys(repr(point.name) for point in here or of_file))
            return f"plug-in {names} of the package {_package(of_file[0])}"
    return ""


def plugin_versions(names: Container[str]) -> dict[str, str]:
    """Return version and source of each other package that offers one of these names.

    Returns:
        By name of the package, for example `{"my-lab": "0.2, source 3f2a91c0"}`. The source is a hash of all Python
        files of the package, also if it is installed as editable; a package may change without a new version.
    """
    versions = {}
    for package in sorted({_package(point) for point in _plugins() if point.name in names}):
        points = [point for point in _plugins() if _package(point) == package]
        dist = points[0].dist
        modules = {point.module for point in points}
        modules |= set(((dist and dist.read_text("top_level.txt")) or "").split())
        roots = {root for module in modules for root in _roots(module)}
        versions[package] = f"{dist.version if dist else 'unknown'}, source {_source_hash(roots)}"
    return versions


def _source_hash(roots: Iterable[Path]) -> str:
    """Hash the Python files of packages and modules."""
    sha = hashlib.sha256()
    for root in sorted(roots):
        for path in sorted(root.rglob("*.py")) if root.is_dir() else [root]:
            content = path.read_bytes()
            sha.update(f"{path.relative_to(root.parent).as_posix()} {len(content)} ".encode() + content)
    return sha.hexdigest()[:8]


@cache
def _plugins() -> tuple[EntryPoint, ...]:
    """The entry points of other packages. Cached: a search reads every installed package."""
    groups = [group for group in entry_points().groups if group.startswith(f"{PACKAGE.replace('-', '_')}.")]
    return tuple(point for group in groups for point in entry_points(group=group) if _package(point) != PACKAGE)


def _roots(module: str) -> list[Path]:
    """The folder of the package of a module (several of a namespace), or its file if the module is in no package."""
    try:
        found = find_spec(module.partition(".")[0])
    except (ImportError, ValueError):
        return []
    if found is None:
        return []
    return [path for path in map(Path, found.submodule_search_locations or [found.origin or ""]) if path.exists()]


def _package(point: EntryPoint) -> str:
    return point.dist.name if point.dist is not None else "?"
