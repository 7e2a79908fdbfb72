"""The registry of data sets: `load_dataset` reads recordings, `load_trials` reads trials for a study.

A loader is a function that returns an iterator of recordings, or finished trials. Its keyword parameters are the
options of the data set. A `DataSet` describes the loader; a package adds its own as an entry point `emg_lens.datasets`,
a script with `register`.
"""

import inspect
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from emg_lens.data.files import Index, hashes_of_data, listing_hash
from emg_lens.data.preprocessing import Recipe, preprocess
from emg_lens.data.recording import DataError, Recording, check_name_of_subject
from emg_lens.data.segment import Segment
from emg_lens.data.trials import TrialSet
from emg_lens.data.zero_runs import with_zero_notes
from emg_lens.errors import did_you_mean
from emg_lens.registry import Registry, UnknownNameError
from emg_lens.validation import Name, check_argument, check_fields, checked, short

Loader = Callable[..., Iterator[Recording] | TrialSet]


@dataclass(frozen=True)
class DataSet:
    """One entry of the registry.

    Attributes:
        name: Name of the data set, as users write it.
        loader: `loader(root, *, subjects=None, ...options) -> Iterator[Recording]`, grouped by subject in natural
            order; or `-> TrialSet` if `finished`. Without a parameter `root`, the data set needs no folder. The loader
            should check its arguments when it is called, not when the first recording is read.
        description: One line: the data set and its files.
        index: `index(root, ...options)` -> files of each subject, without reading them. It may have fewer options than
            the loader.
        finished: Whether the loader returns finished trials (a `TrialSet`), which are not filtered or cut any more.
        expected_accuracy: `expected_accuracy(modalities, ...options) -> float`, or None. It returns the accuracy of the
            best classifier that uses only these modalities, where that is known, as in a simulation.
            Studies show it next to the accuracy of conditions that declare `sees:`.
    """

    name: Name
    loader: Loader
    description: str
    index: Callable[..., Index] | None = None
    finished: bool = False
    expected_accuracy: Callable[..., float] | None = None

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def options(self) -> tuple[str, ...]:
        """Names of the loader's options, without `root` and `subjects`."""
        return tuple(p for p in inspect.signature(self.loader).parameters if p not in ("root", "subjects"))

    @property
    def needs_root(self) -> bool:
        """Whether the loader needs a folder or file."""
        return "root" in inspect.signature(self.loader).parameters

    def check(self, root: str | Path | None, options: Mapping[str, object]) -> dict[str, Any]:
        """Return the arguments of a call to the loader; raise `DataError` if one is invalid."""
        self.check_options(options)
        if self.needs_root and root is None:
            what = "file" if self.finished else "folder"
            raise DataError(f"data set {self.name!r} needs a {what} ({self.description}); none was given")
        if not self.needs_root and root is not None:
            raise DataError(f"data set {self.name!r} needs no folder, but {str(root)!r} was given; leave it out")
        return {**({"root": _place(root)} if root is not None else {}), **options}

    def check_options(self, options: Mapping[str, object]) -> None:
        """Raise `DataError` if the loader has no such option."""
        unknown = [o for o in options if o not in self.options]
        if unknown:
            hint, known = did_you_mean(unknown[0], self.options), ", ".join(self.options) or "none"
            raise DataError(f"data set {self.name!r} has no option {unknown[0]!r}; {hint}known options: {known}")


def _place(root: str | Path) -> Path:
    try:
        place = Path(root).expanduser()
        place.exists()
        return place
    except (TypeError, ValueError, OSError, RuntimeError) as error:  # not text, a zero byte, too long
        raise DataError(f"{short(root)} is not a path of a file or folder ({error})") from None


DATASETS: Registry[DataSet] = Registry("data set", "emg_lens.datasets", DataSet)


@checked
def register(dataset: DataSet) -> DataSet:
    """Add a data set to the registry of this process; a package adds its own as an entry point `emg_lens.datasets`.

    Raises:
        ValueError: Another data set has this name.

    Example:
        >>> import numpy as np
        >>> from emg_lens.data import DataSet, Recording, Signal, load_trials, register
        >>> def load(*, subjects=None, seconds=1.0):
        ...     n = int(200 * seconds)
        ...     emg = Signal(np.random.default_rng(0).normal(size=(2 * n, 4)), 200, 200, "mV", tuple("abcd"))
        ...     yield Recording("S1", {"emg": emg}, np.repeat([1, 2], n), np.ones(2 * n, int), 200)
        >>> dataset = register(DataSet("my-lab", load, "made-up recordings; needs no files"))
        >>> load_trials("my-lab", seconds=0.5)
        TrialSet(2 trials of 1 subjects, 4 emg channels, 100 samples at 200 Hz, 2 classes)
    """
    return DATASETS.add(dataset.name, dataset)


def dataset_names() -> tuple[str, ...]:
    """Return the names of all known data sets."""
    return DATASETS.names()


@checked
def describe_dataset(name: str) -> DataSet:
    """Return a data set's entry in the registry: loader, description, options."""
    try:
        return DATASETS[name]
    except UnknownNameError as error:
        raise DataError(str(error)) from None


def load_dataset(
    name: str,
    root: str | Path | None = None,
    *,
    subjects: Iterable[str | int] | None = None,
    **options: Any,
) -> Iterator[Recording]:
    """Read a data set's recordings one after the other, grouped by subject in natural order.

    Args:
        name: One of `dataset_names()`; use `load_trials` for a file of finished trials.
        root: Folder of the data set; `None` if it needs none.
        subjects: Read only these subjects, by name or number; default all.
        **options: Options of the data set, checked against the loader's signature.

    Raises:
        DataError: The name, an option or a subject is unknown; the folder is missing or has no such files; or, while
            iterating, a file is damaged.

    Example:
        >>> from emg_lens import load_dataset
        >>> simulation = {"n_subjects": 2, "n_repetitions": 2, "emg_channels": 4}
        >>> for recording in load_dataset("simulated", simulation=simulation):
        ...     print(recording.subject, len(recording.trials), recording.signals["emg"].data.shape[1])
        01 48 4
        02 48 4
    """
    entry = describe_dataset(name)
    loaded = () if entry.finished else entry.loader(**entry.check(root, options), subjects=subjects)
    if entry.finished or isinstance(loaded, TrialSet):
        raise DataError(f"{name!r} is a file of finished trials, not of recordings; read it with load_trials")
    return map(with_zero_notes, _recordings(name, loaded))


def _recordings(name: str, loaded: object) -> Iterator[Recording]:
    if not isinstance(loaded, Iterable):
        raise DataError(f"the loader of data set {name!r} returned {short(loaded)}; expected recordings")
    return iter(loaded)


@checked
def subjects(name: str, root: str | Path | None = None, **options: Any) -> tuple[str, ...]:
    """Return the names of the subjects in natural order, without reading signals if the data set has an index."""
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
    """Read a data set, filter its recordings and cut them into trials.

    Args:
        name: One of `dataset_names()`. `"trials"` reads the file `root` that `TrialSet.save` wrote, unchanged.
        root: Folder (or file) of the data set.
        recipe: Filters and common sampling rate; default `Recipe()`: no filter.
        segment: The part of each repetition that is used; default `Segment()`: whole repetitions.
        subjects: Use only these subjects; default all.
        classes: Labels that become classes 0, 1, ...; see `TrialSet.from_recordings`.
        **options: Options of the data set.

    Returns:
        Trials of all subjects, not z-scored.

    Raises:
        DataError: See `load_dataset`, `preprocess` and `TrialSet.from_recordings`; or a recipe, segment or classes are
            given for finished trials.

    Example:
        >>> from emg_lens import load_trials
        >>> from emg_lens.data import Recipe, Segment
        >>> load_trials("simulated", recipe=Recipe(fs=100), segment=Segment(stop_s=1.0),
        ...             simulation={"n_subjects": 2, "n_repetitions": 2})
        TrialSet(96 trials of 2 subjects, 8 emg + 6 acc channels, 100 samples at 100 Hz, 12 classes)
    """
    entry = describe_dataset(name)
    check_argument("load_trials: recipe", recipe, Recipe | None)
    check_argument("load_trials: segment", segment, Segment | None)
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
    raw = map(with_zero_notes, _recordings(name, loaded))
    prepared = map(partial(preprocess, recipe=recipe), raw)  # a generator would keep the last recording in memory
    return TrialSet.from_recordings(prepared, segment, classes=classes)


@checked
def data_fingerprint(name: str, root: str | Path | None = None, **options: Any) -> str:
    """Return a short hash of the data set's name and of its files' relative names and contents.

    A resumed run compares it, so that a run never mixes two versions of the data. Other files in the folder do not
    count. A file is read again only if its size, time or inode changed.
    """
    index = _index(name, root, options) or {}
    place = None if root is None else Path(root).expanduser()
    return listing_hash(name, place.parent if place is not None and place.is_file() else place, index)


def duplicate_files(
    name: str, root: str | Path | None = None, among: Collection[str] | None = None, **options: Any
) -> tuple[tuple[Path, Path], ...]:
    """Find pairs of identical files of different subjects (`among`: of these): one person would count as two."""
    owners: dict[Path, set[str]] = {}
    for subject, paths in (_index(name, root, options) or {}).items():
        for path in paths if among is None or subject in among else ():
            owners.setdefault(path, set()).add(subject)
    own = sorted(path for path, subjects in owners.items() if len(subjects) == 1)  # others may describe many subjects
    first: dict[str, Path] = {}
    pairs = []
    for path, content in hashes_of_data(own).items():
        other = first.setdefault(content, path)
        if owners[other] != owners[path]:
            pairs.append((other, path))
    return tuple(pairs)


def file_states(name: str, root: str | Path | None = None, **options: Any) -> tuple[tuple[str, int, int], ...]:
    """Return path, size and modification time of each file: after a change, the data must be read again."""
    paths = {path for some in (_index(name, root, options) or {}).values() for path in some}
    facts = [(path, path.stat()) for path in sorted(paths)]
    return tuple((str(path), fact.st_size, fact.st_mtime_ns) for path, fact in facts)


def _index(name: str, root: str | Path | None, options: Mapping[str, object]) -> Index | None:
    entry = describe_dataset(name)
    arguments = entry.check(root, options)
    if entry.index is None:
        return None
    declared = inspect.signature(entry.index).parameters
    files = entry.index(**{k: v for k, v in arguments.items() if k in declared})
    for subject in files:
        check_name_of_subject(subject)
    return files
