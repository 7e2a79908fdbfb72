"""Fits: the units of work of a study, one model on one fold at one level of every factor."""

import re
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256

from emg_lens.data.splits import Fold
from emg_lens.studies.spec.cohort import CHOSEN_LATER
from emg_lens.studies.spec.errors import StudyError
from emg_lens.studies.spec.factors import Levels
from emg_lens.studies.spec.study_spec import AFTERWARDS, WORDS, StudySpec
from emg_lens.training.recipe import TrainingRecipe

LONGEST_NAME = 120
"""Letters of a folder's name; longer ones are cut."""
RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
"""Names that are devices on Windows, whatever stands behind a dot."""


@dataclass(frozen=True)
class Fit:
    """One fit of a study.

    Attributes:
        levels: One level of every factor.
        fold: Whose trials are fitted and tested.
        spec: The study at these levels.
        tells_leakage: Whether its folder holds the leakage report: the first fit of each cohort, split and fold does,
            whatever channels it hears.
    """

    levels: Levels
    fold: Fold
    spec: StudySpec = field(repr=False)
    writes_leakage: bool = True

    @property
    def name(self) -> str:
        """What it is called on the screen."""
        return " · ".join([*self.levels.values(), self.fold.name])

    @property
    def folder_name(self) -> str:
        """A safe name for its folder, one to one: a name that loses something by it carries a digest of what it was."""
        parts = [*self.levels.values(), self.fold.name]
        safe = "-".join(re.sub(r"[^A-Za-z0-9+_.]", "_", part) for part in parts)
        kept = safe == "-".join(parts) and len(safe) <= LONGEST_NAME
        if kept and safe.strip(".") == safe and not RESERVED.fullmatch(safe):
            return safe
        mark = sha256("\0".join(parts).encode()).hexdigest()[:8]
        return f"{safe[:LONGEST_NAME].replace('.', '_') or '_'}-{mark}"

    @property
    def seed(self) -> int:
        """A function of the recipe's seed and the fold alone: levels of other factors start from the same draws."""
        return (self.spec.training.seed * 1_000_003 + zlib.crc32(self.fold.name.encode())) % 2**31

    @property
    def of_every_channel(self) -> "Fit":
        """The same trials, with no channels chosen."""
        return replace(self, spec=self.spec.model_copy(update={"cohort": self.spec.cohort.of_every_channel}))

    @property
    def settings(self) -> str:
        """All that decides its outputs, as text: fits that have it in common are one and the same."""
        heard = self.spec.model_copy(update={"cohort": self.spec.cohort.as_heard})
        return f"{self.fold.name} {heard.model_dump_json(exclude={*WORDS, *AFTERWARDS, 'factors'})}"

    @property
    def recipe(self) -> TrainingRecipe:
        """The study's recipe with this fit's seed."""
        return self.spec.training.model_copy(update={"seed": self.seed})


def fits_of(study: StudySpec, subjects: Sequence[Sequence[str]]) -> list[Fit]:
    """All fits of a study, cell by cell.

    Args:
        study: The study.
        subjects: Subjects of every cell of `study.cells`, in its order.

    Raises:
        DataError: Subjects that a split cannot be made for.
        StudyError: Two fits whose folders would have one name.
    """
    found: list[Fit] = []
    told: set[tuple[str, str]] = set()
    for (levels, spec), names in zip(study.cells, subjects, strict=True):
        data = spec.division
        for fold in spec.split.folds(names):
            found.append(Fit(levels, fold, spec, (data, fold.name) not in told))
            told.add((data, fold.name))
    names = [fit.folder_name.casefold() for fit in found]  # some file systems do not tell a from A
    counts = Counter(names)
    doubled = next((fit.name for fit, name in zip(found, names, strict=True) if counts[name] > 1), None)
    if doubled is not None:
        raise StudyError(f"two fits would share the folder of {doubled!r}; rename a level or a subject")
    return found


def read_together(fits: Sequence[Fit]) -> list[Fit]:
    """The fits, those of the same recordings one after the other: a worker reads them once."""
    recordings = [(one.spec.cohort.model_dump_json(exclude=CHOSEN_LATER), one.fold.subjects) for one in fits]
    place = {read: i for i, read in reversed(list(enumerate(recordings)))}
    return [fits[i] for i in sorted(range(len(fits)), key=lambda i: place[recordings[i]])]
