"""The registry of data sets: `load_dataset` for recordings, `load_trials` for what studies need.

A loader is a function that returns an iterator of recordings, or finished trials; its own options are its keyword
parameters. A `DataSet` names it, and becomes known as an entry point `emg_lens.datasets` (ours are in `pyproject.toml`)
or by `register`.
"""

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from emg_lens.data.files import Index, listing_hash
from emg_lens.data.preprocessing import Recipe, preprocess
from emg_lens.data.recording import DataError, Recording
from emg_lens.data.segment import Segment
from emg_lens.data.trials import TrialSet
from emg_lens.io.hashing import content_hashes
from emg_lens.registry import Registry
from emg_lens.validation import short

Loader = Callable[..., Iterator[Recording] | TrialSet]


@dataclass(frozen=True)
class DataSet:
    """One entry of the registry.

    Attributes:
        name: What users call it.
        loader: `loader(root, *, subjects=None, ...options) -> Iterator[Recording]`, grouped by subject in natural
            order; or `-> TrialSet` where `finished`. Without a parameter `root` the data set needs no folder. It should
            check its arguments when it is called, not when its iterator first moves.
        description: One line: what it is, and the files expected.
        index: `index(root, ...options)` -> files of each subject, without reading them. It may take fewer options than
            the loader; it is given those it declares.
        finished: Whether the loader returns finished trials (a `TrialSet`), which are not filtered or cut any more.
        expected_accuracy: `expected_accuracy(modalities, ...options) -> float`, or None. It returns the accuracy of the
            best classifier that uses only these modalities, where that is known, as in a simulation.
            Studies show it next to the accuracy of conditions that declare `sees:`.
    """

    name: str
    loader: Loader
    description: str
    index: Callable[..., Index] | None = None
    finished: bool = False
    expected_accuracy: Callable[..., float] | None = None

    @property
    def options(self) -> tuple[str, ...]:
        """Names of the loader's own options, without `root` and `subjects`."""
        return tuple(p for p in inspect.signature(self.loader).parameters if p not in ("root", "subjects"))

    @property
    def needs_root(self) -> bool:
        """Whether the loader reads a folder or file."""
        return "root" in inspect.signature(self.loader).parameters

    def check(self, root: str | Path | None, options: Mapping[str, object]) -> dict[str, Any]:
        """The arguments of a call to the loader, or one line about what is wrong with them."""
        unknown = [o for o in options if o not in self.options]
        if unknown:
            known = ", ".join(self.options) or "none"
            raise DataError(f"data set {self.name!r} has no option {unknown[0]!r}; known options: {known}")
        if self.needs_root and root is None:
            what = "file" if self.finished else "folder"
            raise DataError(f"data set {self.name!r} needs a {what} ({self.description}); none was given")
        if not self.needs_root and root is not None:
            raise DataError(f"data set {self.name!r} reads no folder, but {str(root)!r} was given; leave it out")
        return {**({"root": _place(root)} if root is not None else {}), **options}


def _place(root: str | Path) -> Path:
    try:
        place = Path(root).expanduser()
        place.exists()
        return place
    except (TypeError, ValueError, OSError, RuntimeError) as error:  # a number, a zero byte, a name that is too long
        raise DataError(f"{short(root)} is no path of a file or folder ({error})") from None


DATASETS: Registry[DataSet] = Registry("data set", "emg_lens.datasets")


def register(dataset: DataSet) -> DataSet:
    """Make a data set known in this process; a package offers its own as an entry point `emg_lens.datasets`.

    Raises:
        ValueError: The name is taken.
    """
    return DATASETS.add(dataset.name, dataset)


def dataset_names() -> tuple[str, ...]:
    """Names of all known data sets."""
    return DATASETS.names()


def describe_dataset(name: str) -> DataSet:
    """The registry's entry: loader, description, options.

    Raises:
        DataError: Unknown name.
    """
    if name not in DATASETS:
        raise DataError(f"unknown data set {name!r}; known: {', '.join(dataset_names())}")
    return DATASETS[name]


def load_dataset(
    name: str,
    root: str | Path | None = None,
    *,
    subjects: Iterable[str | int] | None = None,
    **options: Any,
) -> Iterator[Recording]:
    """Read a data set's recordings one after the other, grouped by subject in natural order.

    Args:
        name: One of `dataset_names()`, but none of finished trials: see `load_trials`.
        root: Folder of the data set; `None` for one that needs none.
        subjects: Only these, by name or number; default all.
        **options: The loader's own options, checked against its signature.

    Raises:
        DataError: Unknown name, option or subject; a folder that is missing or holds no such files; and,
            while iterating, a damaged file.
    """
    entry = describe_dataset(name)
    loaded = None if entry.finished else entry.loader(**entry.check(root, options), subjects=subjects)
    if loaded is None or isinstance(loaded, TrialSet):
        raise DataError(f"{name!r} is a file of finished trials, not recordings; read it with load_trials")
    return loaded


def subjects(name: str, root: str | Path | None = None, **options: Any) -> tuple[str, ...]:
    """Names of the subjects in natural order, without reading signals where the data set has an index.

    Raises:
        DataError: As `load_dataset`.
    """
    index = _index(name, root, options)
    if index is not None:
        return tuple(index)
    return tuple(dict.fromkeys(r.subject for r in load_dataset(name, root, **options)))


def load_trials(
    name: str,
    root: str | Path | None = None,
    recipe: Recipe | None = None,
    segment: Segment | None = None,
    *,
    subjects: Iterable[str | int] | None = None,
    classes: Iterable[int] | None = None,
    **options: Any,
) -> TrialSet:
    """Read, filter and cut: the one way from any data set to trials.

    Args:
        name: One of `dataset_names()`. `"trials"` is the file `root` that `TrialSet.save` wrote, taken as it is.
        root: Folder (or file) of the data set.
        recipe: Filters and common rate; default `Recipe()`.
        segment: The part of each movement that is used; default `Segment()`, whole movements.
        subjects: Only these; default all.
        classes: Labels that become classes 0, 1, ...; see `TrialSet.from_recordings`.
        **options: The loader's own options.

    Raises:
        DataError: As `load_dataset`, `preprocess` and `TrialSet.from_recordings`; a recipe, segment or classes for
            trials that are finished.
    """
    entry = describe_dataset(name)
    recipe, segment = recipe or Recipe(), segment or Segment()
    given = {
        "recipe": recipe != Recipe(),
        "segment": segment != Segment(),
        "classes (a study's labels)": classes is not None,
    }
    if entry.finished and any(given.values()):
        extra = ", ".join(what for what, is_given in given.items() if is_given)
        raise DataError(f"{name!r} is a file of finished trials; leave out {extra}")
    loaded = entry.loader(**entry.check(root, options), subjects=subjects)
    if isinstance(loaded, TrialSet):
        return loaded
    prepared = map(partial(preprocess, recipe=recipe), loaded)  # unlike a generator, it does not keep what it prepared
    return TrialSet.from_recordings(prepared, segment, classes=classes)


def data_fingerprint(name: str, root: str | Path | None = None, **options: Any) -> str:
    """Short hash of the data set's name and of its files' relative names and contents.

    A study that continues a run compares it, so that a run never mixes two versions of the data. Files that do not
    belong to the data set do not count. A file is read when it is new, or its size, time or inode changed.

    Raises:
        DataError: As `load_dataset`.
    """
    index = _index(name, root, options) or {}
    place = None if root is None else Path(root).expanduser()
    return listing_hash(name, place.parent if place is not None and place.is_file() else place, index)


def duplicate_files(name: str, root: str | Path | None = None, **options: Any) -> tuple[tuple[Path, Path], ...]:
    """Pairs of files of two subjects that hold the same bytes: one person would count as two.

    Raises:
        DataError: As `load_dataset`.
    """
    owners: dict[Path, set[str]] = {}
    for subject, paths in (_index(name, root, options) or {}).items():
        for path in paths:
            owners.setdefault(path, set()).add(subject)
    own = sorted(path for path, subjects in owners.items() if len(subjects) == 1)  # others are about all subjects
    first: dict[str, Path] = {}
    found = []
    for path, content in content_hashes(own).items():
        other = first.setdefault(content, path)
        if owners[other] != owners[path]:
            found.append((other, path))
    return tuple(found)


def file_states(name: str, root: str | Path | None = None, **options: Any) -> tuple[tuple[str, int, int], ...]:
    """Name, size and time of each file of a data set: what was read from them holds as long as this stays the same.

    Raises:
        DataError: As `load_dataset`.
    """
    paths = {path for some in (_index(name, root, options) or {}).values() for path in some}
    facts = [(path, path.stat()) for path in sorted(paths)]
    return tuple((str(path), fact.st_size, fact.st_mtime_ns) for path, fact in facts)


def _index(name: str, root: str | Path | None, options: Mapping[str, object]) -> Index | None:
    entry = describe_dataset(name)
    arguments = entry.check(root, options)
    if entry.index is None:
        return None
    declared = inspect.signature(entry.index).parameters
    return entry.index(**{k: v for k, v in arguments.items() if k in declared})
