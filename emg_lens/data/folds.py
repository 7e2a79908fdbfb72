"""Folds: one division of the trials into training, test and validation sets, and the base class of all splits.

The folds of a split follow from the names of the subjects, before any data are read. In every split, all windows of one
repetition are in the same set. `emg_lens.data.leakage` reports what the sets still share, such as a recording.
"""

import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from jaxtyping import Bool
from pydantic import Field, model_validator

from emg_lens.data.recording import DataError
from emg_lens.data.trials import TrialSet
from emg_lens.validation import SpecModel, checked

LEAVE_OUT = "leave out its label (cohort: labels) or the subject (cohort: subjects); of finished trials, those trials"
"""Advice for a class that occurs only in the training set or only in the test set of a fold."""

TrialMask = Bool[np.ndarray, " trial"]


class Split(SpecModel, ABC):
    """A protocol that divides trials into training, test and perhaps validation sets.

    Attributes:
        train_fraction: Fraction of the training repetitions of each class that is used, at least one repetition. With
            it, a study measures how many labelled repetitions a model needs. A smaller fraction is a subset of a larger
            one, and every model gets the same subset.
        train_fraction_seed: Seed of the random subset, together with the fold's name.
    """

    TESTS_EVERY_CLASS: ClassVar[bool] = False
    """Whether a class of the training set must also be in the test set."""

    train_fraction: float = Field(default=1.0, gt=0, le=1)
    train_fraction_seed: int = Field(default=0, ge=0, lt=2**53)

    @model_validator(mode="after")
    def _check_seed(self) -> "Split":
        if self.train_fraction == 1 and self.train_fraction_seed:
            seed = self.train_fraction_seed
            raise ValueError(f"train_fraction_seed={seed} has no effect; give a train_fraction below 1")
        return self

    def validation_mask(self, fold: "Fold", trials: TrialSet) -> TrialMask | None:  # noqa: ARG002
        """Mask of a fold's validation trials; `None` = the split has no validation set."""
        return None

    @abstractmethod
    def folds(self, subjects: Sequence[str]) -> tuple["Fold", ...]:
        """Make the folds for these subjects, in their order."""

    @abstractmethod
    def masks(self, fold: "Fold", trials: TrialSet) -> tuple[TrialMask, TrialMask, tuple[str, ...]]:
        """Masks of a fold's training and test trials, and notes on deviations from the split."""


@dataclass(frozen=True)
class Fold:
    """One division of the trials into training and test sets.

    Attributes:
        name: The subject, the tested subjects joined by `+`, or subject and block.
        subjects: Subjects that the fold uses.
        test_subjects: Subjects in the test set.
        split: The split that the fold belongs to.
        block: Number of the tested block, from 1; 0 = the split has no blocks.
    """

    name: str
    subjects: tuple[str, ...]
    test_subjects: tuple[str, ...]
    split: Split
    block: int = 0

    @checked
    def divide(self, trials: TrialSet) -> tuple[TrialSet, TrialSet]:
        """Return the training and the test trials of this fold, in their present order.

        Args:
            trials: Trials of this fold's subjects; trials of other subjects are ignored.

        Raises:
            DataError: A subject has no trials, a repetition does not occur, a set is empty, or a class is in the test
                set but not in the training set (for splits by repetition also the reverse).
        """
        present = list(dict.fromkeys(trials.subject.tolist()))
        missing = [s for s in self.subjects if s not in present]
        if missing:
            raise DataError(f"fold {self.name} needs trials of {listed(missing)}; got trials of {listed(present)}")
        train_mask, test_mask, notes = self.split.masks(self, trials)
        for part, mask in (("training", train_mask), ("test", test_mask)):
            if not mask.any():
                raise DataError(f"fold {self.name} has no {part} trial; change the split or the cohort")
        notes += self._check_classes(trials, train_mask, test_mask)
        train_mask &= self._used(trials, train_mask)
        train, test = trials.select(train_mask), trials.select(test_mask)
        notes = tuple(f"fold {self.name}: {note}" for note in notes)
        return replace(train, notes=(*train.notes, *notes)), replace(test, notes=(*test.notes, *notes))

    @checked
    def validation(self, trials: TrialSet) -> TrialSet | None:
        """Return the validation trials, which choose the best epoch; `None` = the split has no validation set."""
        mask = self.split.validation_mask(self, trials)
        if mask is None:
            return None
        if not mask.any():
            raise DataError(f"fold {self.name} has no validation trial; change the split or the cohort")
        trained = set(trials.y[self.split.masks(self, trials)[0]].tolist())
        untrained = listed(trials.classes[i] for i in sorted(set(trials.y[mask].tolist()) - trained))
        if untrained:
            raise DataError(
                f"fold {self.name} has validation trials of {untrained}, but no training trial of it; {LEAVE_OUT}"
            )
        return trials.select(mask)

    def train_and_validation(self, trials: TrialSet) -> TrialSet:
        """Return all trials that affect a model's weights: the training and the validation set together."""
        train, validation = self.split.masks(self, trials)[0], self.split.validation_mask(self, trials)
        train &= self._used(trials, train)
        return trials.select(train if validation is None else train | validation)

    def _used(self, trials: TrialSet, train: TrialMask) -> TrialMask:
        """Mask of the training trials in the split's `train_fraction` of the repetitions of each class."""
        if self.split.train_fraction == 1:
            return train
        rng = np.random.default_rng([self.split.train_fraction_seed, zlib.crc32(self.name.encode())])
        used = np.zeros(len(trials), bool)
        keys = np.array([f"{s} {i:012d}" for s, i in zip(trials.subject, trials.repetition_id, strict=True)])
        for y in np.unique(trials.y[train]):
            of_class = train & (trials.y == y)
            repetitions = rng.permutation(np.unique(keys[of_class]))
            n = max(1, round(self.split.train_fraction * len(repetitions)))
            used |= of_class & np.isin(keys, repetitions[:n])
        return used

    def _other_numbers(self, trials: TrialSet, classes: set[int]) -> str:
        """For a split by repetition: the numbers that the first of these classes has, so that others can be chosen."""
        if not self.split.TESTS_EVERY_CLASS:
            return ""
        first = min(classes)
        rows = np.isin(trials.subject, self.subjects) & (trials.y == first)
        numbers = listed(np.unique(trials.repetition[rows]).tolist())
        return f" {trials.classes[first]} has repetition {numbers}: change test in split, or"

    def _check_classes(self, trials: TrialSet, train: TrialMask, test: TrialMask) -> tuple[str, ...]:
        """Return a note on classes without a test trial; reject classes without a training trial."""
        trained, tested = set(trials.y[train].tolist()), set(trials.y[test].tolist())
        untrained = listed(trials.classes[i] for i in sorted(tested - trained))
        untested = listed(trials.classes[i] for i in sorted(trained - tested))
        if untrained:
            others = self._other_numbers(trials, tested - trained)
            raise DataError(
                f"fold {self.name} has test trials of {untrained}, but no training trial;{others} {LEAVE_OUT}"
            )
        if untested and self.split.train_fraction == 1 and self.split.TESTS_EVERY_CLASS:
            others = self._other_numbers(trials, trained - tested)
            raise DataError(
                f"fold {self.name} has training trials of {untested}, but no test trial;{others} {LEAVE_OUT}"
            )
        return (f"trained but not tested: {untested}",) if untested else ()


def listed(values: Iterable[object]) -> str:
    """Values as text, separated by commas."""
    return ", ".join(str(v) for v in values)
