"""Fits, the units of work of a study: one model on one fold at one level of every factor."""

import re
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256

from emg_lens.data.folds import Fold
from emg_lens.studies.spec.cohort import CHOSEN_LATER
from emg_lens.studies.spec.errors import StudyError
from emg_lens.studies.spec.factors import Levels
from emg_lens.studies.spec.study_spec import StudySpec
from emg_lens.training.recipe import TrainingRecipe

LONGEST_NAME = 120
"""Characters of a folder's name; a longer name is cut."""
RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
"""Names of devices on Windows, with any extension."""


@dataclass(frozen=True)
class Fit:
    """One fit of a study.

    Attributes:
        levels: One level of every factor.
        fold: Division into training and test trials.
        spec: The study at these levels.
        writes_leakage: Whether its folder holds the leakage report. The first fit of each cohort, split and fold does,
            whichever channels its model receives.
    """

    levels: Levels
    fold: Fold
    spec: StudySpec = field(repr=False)
    writes_leakage: bool = True

    @property
    def name(self) -> str:
        """Name in the terminal."""
        return " · ".join([*self.levels.values(), self.fold.name])

    @property
    def folder_name(self) -> str:
        """Name of the folder, safe on every system. A name that had to be changed ends with a hash of the original."""
        parts = [*self.levels.values(), self.fold.name]
        safe = "-".join(re.sub(r"[^A-Za-z0-9+_.]", "_", part) for part in parts)
        kept = safe == "-".join(parts) and len(safe) <= LONGEST_NAME
        if kept and safe.strip(".") == safe and not RESERVED.fullmatch(safe):
            return safe
        mark = sha256("\0".join(parts).encode()).hexdigest()[:8]
        return f"{safe[:LONGEST_NAME].replace('.', '_') or '_'}-{mark}"

    @property
    def seed(self) -> int:
        """Seed of the fit, computed from the recipe's seed and the fold; levels of other factors have the same seed."""
        return (self.spec.training.seed * 1_000_003 + zlib.crc32(self.fold.name.encode())) % 2**31

    @property
    def of_every_channel(self) -> "Fit":
        """Return a copy of this fit in which the model receives all channels."""
        return replace(self, spec=self.spec.model_copy(update={"cohort": self.spec.cohort.of_every_channel}))

    @property
    def settings(self) -> str:
        """All settings that decide the outputs, as text. Fits with equal texts are the same fit."""
        spec = self.spec.model_copy(update={"cohort": self.spec.cohort.with_numbered_channels})
        return f"{self.fold.name} {spec.model_dump_json(exclude={*spec.NO_NUMBER, 'factors'})}"

    @property
    def recipe(self) -> TrainingRecipe:
        """The study's recipe with this fit's seed."""
        return self.spec.training.model_copy(update={"seed": self.seed})


def fits_of(study: StudySpec, subjects: Sequence[Sequence[str]]) -> list[Fit]:
    """List all fits of a study, cell by cell.

    Args:
        study: The study.
        subjects: Subjects of each cell, in the order of `study.cells`.

    Raises:
        DataError: The split does not fit the subjects.
        StudyError: Two fits would have folders of the same name.
    """
    fits: list[Fit] = []
    with_leakage: set[tuple[str, str]] = set()
    for (levels, spec), names in zip(study.cells, subjects, strict=True):
        division = spec.division
        for fold in spec.split.folds(names):
            fits.append(Fit(levels, fold, spec, (division, fold.name) not in with_leakage))
            with_leakage.add((division, fold.name))
    names = [fit.folder_name.casefold() for fit in fits]  # some file systems ignore upper and lower case
    counts = Counter(names)
    shared = next((fit.name for fit, name in zip(fits, names, strict=True) if counts[name] > 1), None)
    if shared is not None:
        raise StudyError(f"two fits would share the folder of {shared!r}; rename a level or a subject")
    return fits


def read_together(fits: Sequence[Fit]) -> list[Fit]:
    """Put fits of the same recordings next to each other, so that a worker reads these recordings only once."""
    recordings = [(one.spec.cohort.model_dump_json(exclude=CHOSEN_LATER), one.fold.subjects) for one in fits]
    place = {key: i for i, key in reversed(list(enumerate(recordings)))}
    return [fits[i] for i in sorted(range(len(fits)), key=lambda i: place[recordings[i]])]
