"""Splits: named protocols that divide trials into training, test and validation sets."""

from collections.abc import Iterable, Sequence
from typing import Annotated, ClassVar, Literal, TypeVar

import numpy as np
from jaxtyping import Int
from pydantic import ConfigDict, Field, NonNegativeInt, PositiveInt, model_validator

from emg_lens.data.arrays import check_apart
from emg_lens.data.files import select_subjects
from emg_lens.data.folds import Fold, Split, TrialMask, listed
from emg_lens.data.recording import DataError
from emg_lens.data.trials import TrialSet
from emg_lens.validation import checked

MOST_BLOCKS = 1000
"""Largest number of blocks of a subject; each block is one more model to fit."""

T = TypeVar("T")


class RepetitionSplit(Split):
    """Split the trials of each subject by repetition number: one fold per subject.

    Attributes:
        train: Repetition numbers of the training set; `None` = all in neither the test nor the validation set.
        test: Repetition numbers of the test set.
        validation: Repetition numbers of the validation set, which chooses the best epoch; `None` = no validation.

    Example:
        >>> from emg_lens.data import RepetitionSplit
        >>> for fold in RepetitionSplit(train=(1, 3, 4, 6), test=(2, 5)).folds(["S1", "S2"]):
        ...     print(fold.name, "is tested on", fold.test_subjects)
        S1 is tested on ('S1',)
        S2 is tested on ('S2',)
    """

    TESTS_EVERY_CLASS: ClassVar[bool] = True

    by: Literal["repetition"] = "repetition"
    train: tuple[NonNegativeInt, ...] | None = None
    test: tuple[NonNegativeInt, ...]
    validation: tuple[NonNegativeInt, ...] | None = None

    @model_validator(mode="after")
    def _apart(self) -> "RepetitionSplit":
        for part, chosen in (("train", self.train), ("test", self.test), ("validation", self.validation)):
            if chosen is not None and (not chosen or len(set(chosen)) < len(chosen)):
                raise ValueError(f"{part} must list different repetitions, got {list(chosen)}")
        check_apart("repetitions", self.train or (), self.test, self.validation or ())
        return self

    @checked
    def folds(self, subjects: Sequence[str]) -> tuple[Fold, ...]:
        """Make one fold per subject, with the subject's name."""
        return tuple(Fold(s, (s,), (s,), self) for s in _different(subjects))

    def check(self, repetitions: Iterable[int]) -> None:
        """Reject repetition numbers that no subject has.

        One subject may lack a repetition that others have, so this check needs the repetitions of all subjects.

        Args:
            repetitions: All repetition numbers of all subjects.
        """
        known = {int(r) for r in repetitions}
        numbers = (*(self.train or ()), *self.test, *(self.validation or ()))
        if unknown := [r for r in numbers if r not in known]:
            have = f"the data have {listed(sorted(known))}"
            raise DataError(f"no subject has repetition {listed(unknown)}; {have}; change the split")

    def masks(self, fold: Fold, trials: TrialSet) -> tuple[TrialMask, TrialMask, tuple[str, ...]]:
        """Masks by repetition number; a note lists numbers that this subject lacks."""
        if len(np.unique(trials.subject)) > 1:
            self.check(np.unique(trials.repetition).tolist())
        of_fold = np.isin(trials.subject, fold.subjects)
        known = np.unique(trials.repetition[of_fold]).tolist()
        others = (*self.test, *(self.validation or ()))
        train = tuple(r for r in known if r not in others) if self.train is None else self.train
        for part, chosen in (("training", train), ("test", self.test)):
            if not set(chosen) & set(known):
                missing = f"{part} repetitions {listed(chosen)}" if chosen else "repetitions outside the test set"
                raise DataError(f"subject {fold.name} has no trial of the {missing}; it has {listed(known)}")
        absent = sorted({*train, *self.test} - {*known})
        notes = (f"subject {fold.name} has no repetition {listed(absent)}; it has {listed(known)}",) if absent else ()
        return of_fold & np.isin(trials.repetition, train), of_fold & np.isin(trials.repetition, self.test), notes

    def validation_mask(self, fold: Fold, trials: TrialSet) -> TrialMask | None:
        """Mask by repetition number."""
        if self.validation is None:
            return None
        return np.isin(trials.subject, fold.subjects) & np.isin(trials.repetition, self.validation)


class SubjectSplit(Split):
    """Split by subject: no subject is in both the training and the test set.

    Give either `leave_out` or `test`.

    Attributes:
        leave_out: Number of subjects in each test set; all others are trained on. Each subject is tested once. The last
            fold may test fewer subjects.
        train: With `test`: subjects (names or numbers) of the training set; `None` = all in neither other set.
        test: Subjects of the test set, in one fold.
        validation: Subjects of the validation set, which chooses the best epoch. With `test`: their names or numbers.
            With `leave_out`: how many; they follow the tested subjects in order, and the first follows the last.
            `None` = no validation.

    Example:
        >>> from emg_lens.data import SubjectSplit
        >>> [fold.name for fold in SubjectSplit(leave_out=1).folds(["S1", "S2", "S3"])]
        ['S1', 'S2', 'S3']
        >>> (fold,) = SubjectSplit(test=("S3",)).folds(["S1", "S2", "S3"])
        >>> fold.name, fold.test_subjects
        ('held-out', ('S3',))
    """

    by: Literal["subject"] = "subject"
    leave_out: PositiveInt | None = None
    train: tuple[int | str, ...] | None = None
    test: tuple[int | str, ...] | None = None
    validation: PositiveInt | tuple[int | str, ...] | None = None

    @model_validator(mode="after")
    def _one_way(self) -> "SubjectSplit":
        if (self.leave_out is None) == (self.test is None):
            raise ValueError("a split by subject needs either leave_out or test; give one of them")
        if self.validation == () or isinstance(self.validation, tuple) and self.test is None:
            raise ValueError("validation must list at least one subject with test, or be a number with leave_out")
        if isinstance(self.validation, int) and self.leave_out is None:
            raise ValueError(
                f"validation: {self.validation} is a number, which needs leave_out; with test, list the subjects"
            )
        if self.train is not None and self.test is None:
            raise ValueError("train cannot be given with leave_out, which trains on all other subjects; remove it")
        return self

    @checked
    def folds(self, subjects: Sequence[str]) -> tuple[Fold, ...]:
        """Make folds named after the tested subjects, joined by `+`; with `test`, the one fold `held-out`."""
        everyone = _different(subjects)
        if self.test is not None:
            return (self._held_out(everyone),)
        k = self.leave_out or 1
        n_validation = self.validation if isinstance(self.validation, int) else 0
        if k + n_validation >= len(everyone):
            also = f" and validation: {n_validation}" * bool(n_validation)
            raise DataError(f"leave_out: {k}{also} leaves no subject to train on, of {len(everyone)}; give less")
        tested = [everyone[i : i + k] for i in range(0, len(everyone), k)]
        return tuple(Fold("+".join(some), everyone, some, self) for some in tested)

    def masks(self, fold: Fold, trials: TrialSet) -> tuple[TrialMask, TrialMask, tuple[str, ...]]:
        """Masks by subject."""
        test, validation = np.isin(trials.subject, fold.test_subjects), self.validation_mask(fold, trials)
        train = np.isin(trials.subject, fold.subjects) & ~test
        return train if validation is None else train & ~validation, test, ()

    def validation_mask(self, fold: Fold, trials: TrialSet) -> TrialMask | None:
        """Mask by subject."""
        if self.validation is None:
            return None
        if isinstance(self.validation, int):
            return np.isin(trials.subject, _following(fold.subjects, fold.test_subjects[-1], self.validation))
        return np.isin(trials.subject, tuple(select_subjects(dict.fromkeys(fold.subjects, ()), self.validation)))

    def _held_out(self, everyone: tuple[str, ...]) -> Fold:
        index = dict.fromkeys(everyone, ())
        test = tuple(select_subjects(index, self.test))
        validation = tuple(select_subjects(index, self.validation)) if isinstance(self.validation, tuple) else ()
        others = (*test, *validation)
        train = tuple(s for s in everyone if s not in others)
        if self.train is not None:
            train = tuple(select_subjects(index, self.train))
        check_apart("subjects", train, test, validation)
        if not train:
            raise DataError("no subject is left to train on; list fewer subjects in test and validation")
        return Fold("held-out", tuple(s for s in everyone if s in {*train, *test, *validation}), test, self)


class BlockSplit(Split):
    """Split the trials of each subject by time into blocks: each block is tested once.

    The repetitions of each class are divided, in order of time, into contiguous blocks of about equal size. A fold
    tests one block of every class, so that each class with enough repetitions is in both sets. Windows of one
    repetition stay together. Cut a recording of one long repetition into pieces first (`Segment.piece_s`).
    Neighbouring blocks touch, and a filter over the whole recording reaches across their border.

    Attributes:
        n_folds: Number of blocks, at most 1000; study files call it `folds`.
        validation: Number of blocks in the validation set, which chooses the best epoch. They follow the tested block,
            and the first follows the last. `None` = no validation.
    """

    model_config = ConfigDict(serialize_by_alias=True)

    by: Literal["block"] = "block"
    n_folds: int = Field(alias="folds", ge=2, le=MOST_BLOCKS)
    validation: PositiveInt | None = None

    @model_validator(mode="after")
    def _leaves_some(self) -> "BlockSplit":
        if self.validation is not None and self.validation + 1 >= self.n_folds:
            raise ValueError(
                f"folds: {self.n_folds} and validation: {self.validation} leave no block to train on; give less"
            )
        return self

    @checked
    def folds(self, subjects: Sequence[str]) -> tuple[Fold, ...]:
        """Make one fold for each subject and block, named `<subject>.block<k>` with k from 1."""
        blocks = range(1, self.n_folds + 1)
        return tuple(Fold(f"{s}.block{k}", (s,), (s,), self, k) for s in _different(subjects) for k in blocks)

    def masks(self, fold: Fold, trials: TrialSet) -> tuple[TrialMask, TrialMask, tuple[str, ...]]:
        """Masks by block; `repetition_id` gives the order in time."""
        block = self._block_of(fold, trials)
        test, validation = block == fold.block, np.isin(block, self._validation_blocks(fold))
        if not test.any():
            most = max(len(np.unique(trials.repetition_id[(block > 0) & (trials.y == y)])) for y in np.unique(trials.y))
            raise DataError(
                f"fold {fold.name} has no test trial: no class has more than {most} repetitions, fewer than folds:"
                f" {self.n_folds}; give fewer folds, or cut repetitions into pieces (piece_s)"
            )
        return (block > 0) & ~test & ~validation, test, ()

    def validation_mask(self, fold: Fold, trials: TrialSet) -> TrialMask | None:
        """Mask by block."""
        if self.validation is None:
            return None
        return np.isin(self._block_of(fold, trials), self._validation_blocks(fold))

    def _validation_blocks(self, fold: Fold) -> tuple[int, ...]:
        return _following(range(1, self.n_folds + 1), fold.block, self.validation or 0)

    def _block_of(self, fold: Fold, trials: TrialSet) -> Int[np.ndarray, " trial"]:
        """Block of each trial, from 1; 0 for trials of other subjects."""
        of_fold = np.isin(trials.subject, fold.subjects)
        _, first, index = np.unique(trials.repetition_id[of_fold], return_index=True, return_inverse=True)
        block = np.zeros(len(trials), int)
        block[of_fold] = _blocks(trials.y[of_fold][first], self.n_folds)[index]
        return block


SplitSpec = Annotated[RepetitionSplit | SubjectSplit | BlockSplit, Field(discriminator="by")]
"""Any split of a study file; its key `by` selects the kind."""


def _blocks(classes: Int[np.ndarray, " repetition"], n: int) -> Int[np.ndarray, " repetition"]:
    """Block of each repetition, from 1, given their classes in order of time."""
    blocks = np.zeros(len(classes), int)
    for y in np.unique(classes):
        members = np.flatnonzero(classes == y)
        blocks[members] = np.arange(len(members)) * n // len(members) + 1
    return blocks


def _following(every: Sequence[T], last: T, n: int) -> tuple[T, ...]:
    """The `n` items after `last`; the first item follows the last one."""
    return tuple(every[(every.index(last) + k) % len(every)] for k in range(1, n + 1))


def _different(subjects: Sequence[str]) -> tuple[str, ...]:
    if isinstance(subjects, str) or not subjects or None in subjects or len(set(subjects)) < len(subjects):
        raise DataError(f"folds need a list of different subjects, got {subjects!r}")
    return tuple(str(s) for s in subjects)
