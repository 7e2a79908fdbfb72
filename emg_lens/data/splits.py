"""Splits by name: which trials a model learns from and which it is tested on, fold by fold.

The folds of a split are known from the subjects' names, before data are read. Whatever the split, all windows of a
movement are on the same side. What a split cannot keep apart (a recording, a session) is told by
`emg_lens.data.leakage`.
"""

import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal, TypeVar

import numpy as np
from jaxtyping import Bool, Int
from pydantic import ConfigDict, Field, NonNegativeInt, PositiveInt, model_validator

from emg_lens.data.files import choose
from emg_lens.data.recording import DataError
from emg_lens.data.trials import TrialSet
from emg_lens.validation import SpecModel

LEAVE_OUT = "leave out its label (cohort: labels) or the subject (cohort: subjects); of finished trials, those trials"
"""What to do about a class that is on one side of a fold alone."""
MOST_BLOCKS = 1000
"""Of a subject: each is a model to fit."""

T = TypeVar("T")
TrialMask = Bool[np.ndarray, " trial"]


class Split(SpecModel, ABC):
    """A way to part trials into training and test, and perhaps validation.

    Attributes:
        share: Of the training movements of each class, how many are fitted, at least one: how many labels are needed.
            Smaller shares are parts of larger ones, and no model changes which they are.
        share_seed: What they are drawn by, with the fold's name.
    """

    ADDED: ClassVar[tuple[str, ...]] = ("share", "share_seed")

    share: float = Field(default=1.0, gt=0, le=1)
    share_seed: int = Field(default=0, ge=0, lt=2**53)

    @model_validator(mode="after")
    def _shares(self) -> "Split":
        if self.share == 1 and self.share_seed:
            raise ValueError(f"share_seed={self.share_seed} does nothing without a share below 1")
        return self

    def validated(self, fold: "Fold", trials: TrialSet) -> TrialMask | None:  # noqa: ARG002
        """Which trials are kept for validation in a fold, those of neither part; `None` = the split keeps none."""
        return None

    @abstractmethod
    def folds(self, subjects: Sequence[str]) -> tuple["Fold", ...]:
        """The folds for these subjects, in their order.

        Raises:
            DataError: No subject, or subjects that this split cannot be made for.
        """

    @abstractmethod
    def parts(self, fold: "Fold", trials: TrialSet) -> tuple[TrialMask, TrialMask, tuple[str, ...]]:
        """Which trials are training and which are test in a fold, and notes on what is not as the split says."""


@dataclass(frozen=True)
class Fold:
    """One pair of training and test trials.

    Attributes:
        name: What it is called: the subject, the subjects tested, or subject and block.
        subjects: Whose recordings are needed.
        test_subjects: Whose trials are tested.
        split: The rule it comes from.
        block: Which block is tested (from 1), where the split has blocks.
    """

    name: str
    subjects: tuple[str, ...]
    test_subjects: tuple[str, ...]
    split: Split
    block: int = 0

    def divide(self, trials: TrialSet) -> tuple[TrialSet, TrialSet]:
        """Training and test trials of this fold, in the order they stand.

        Args:
            trials: Trials of this fold's subjects; those of others are passed over.

        Raises:
            DataError: A subject without trials, repetitions that do not occur, a part without trials, or a class that
                is tested but not trained (for repetitions also: trained but not tested).
        """
        present = list(dict.fromkeys(trials.subject.tolist()))
        lacking = [s for s in self.subjects if s not in present]
        if lacking:
            raise DataError(f"fold {self.name} needs trials of {_list(lacking)}; those given are of {_list(present)}")
        train_mask, test_mask, notes = self.split.parts(self, trials)
        for part, mask in (("training", train_mask), ("test", test_mask)):
            if not mask.any():
                raise DataError(f"fold {self.name} has no {part} trial")
        notes += self._on_classes(trials, train_mask, test_mask)
        train_mask &= self._drawn(trials, train_mask)
        train, test = trials.select(train_mask), trials.select(test_mask)
        notes = tuple(f"fold {self.name}: {note}" for note in notes)
        return replace(train, notes=(*train.notes, *notes)), replace(test, notes=(*test.notes, *notes))

    def validation(self, trials: TrialSet) -> TrialSet | None:
        """Trials kept to choose among epochs, in the order they stand: neither fitted nor tested; `None` = none.

        Raises:
            DataError: The split keeps some, and there is no such trial, or one of a class that is not trained.
        """
        mask = self.split.validated(self, trials)
        if mask is None:
            return None
        if not mask.any():
            raise DataError(f"fold {self.name} has no validation trial")
        trained = set(trials.y[self.split.parts(self, trials)[0]].tolist())
        untrained = _list(trials.classes[i] for i in sorted(set(trials.y[mask].tolist()) - trained))
        if untrained:
            raise DataError(f"fold {self.name} validates on {untrained}, but trains no trial of it; leave it out")
        return trials.select(mask)

    def seen(self, trials: TrialSet) -> TrialSet:
        """All trials that decide a model's weights: those fitted and those of validation, in the order they stand."""
        train, validated = self.split.parts(self, trials)[0], self.split.validated(self, trials)
        train &= self._drawn(trials, train)
        return trials.select(train if validated is None else train | validated)

    def _drawn(self, trials: TrialSet, train: TrialMask) -> TrialMask:
        """The trials of the training movements that are fitted: the split's share of those of each class."""
        if self.split.share == 1:
            return train
        rng = np.random.default_rng([self.split.share_seed, zlib.crc32(self.name.encode())])
        drawn = np.zeros(len(trials), bool)
        for of in np.unique(trials.y[train]):
            mine = train & (trials.y == of)
            places = np.array([f"{s} {m:012d}" for s, m in zip(trials.subject, trials.repetition_id, strict=True)])
            movements = rng.permutation(np.unique(places[mine]))
            n = max(1, round(self.split.share * len(movements)))
            drawn |= mine & np.isin(places, movements[:n])
        return drawn

    def _on_classes(self, trials: TrialSet, train: TrialMask, test: TrialMask) -> tuple[str, ...]:
        """A note on classes that are trained but not tested; those that are tested only are refused."""
        trained, tested = set(trials.y[train].tolist()), set(trials.y[test].tolist())
        untrained = _list(trials.classes[i] for i in sorted(tested - trained))
        untested = _list(trials.classes[i] for i in sorted(trained - tested))
        if untrained:
            raise DataError(f"fold {self.name} tests {untrained}, but trains no trial of it; {LEAVE_OUT}")
        if untested and self.split.share == 1 and isinstance(self.split, RepetitionSplit):
            raise DataError(f"fold {self.name} trains {untested}, but tests no trial of it; {LEAVE_OUT}")
        return (f"trained but not tested: {untested}",) if untested else ()


class RepetitionSplit(Split):
    """Within each subject, by repetition: one fold a subject.

    Attributes:
        train: Repetitions to train on; `None` = all that are neither tested nor validated on.
        test: Repetitions to test on.
        validation: Repetitions to choose among epochs by; `None` = none.
    """

    ADDED: ClassVar[tuple[str, ...]] = (*Split.ADDED, "validation")

    by: Literal["repetition"] = "repetition"
    train: tuple[NonNegativeInt, ...] | None = None
    test: tuple[NonNegativeInt, ...]
    validation: tuple[NonNegativeInt, ...] | None = None

    @model_validator(mode="after")
    def _apart(self) -> "RepetitionSplit":
        for part, chosen in (("train", self.train), ("test", self.test), ("validation", self.validation)):
            if chosen is not None and (not chosen or len(set(chosen)) < len(chosen)):
                raise ValueError(f"{part} must list different repetitions, got {list(chosen)}")
        both = sorted({*(self.train or ())} & {*self.test})
        if both:
            raise ValueError(f"repetitions {both} are in the training and in the test split")
        both = sorted({*(self.validation or ())} & {*(self.train or ()), *self.test})
        if both:
            raise ValueError(f"repetitions {both} are to validate on, and in the training or the test split")
        return self

    def folds(self, subjects: Sequence[str]) -> tuple[Fold, ...]:
        """One fold a subject, named like it."""
        return tuple(Fold(s, (s,), (s,), self) for s in _different(subjects))

    def check(self, repetitions: Iterable[int]) -> None:
        """Refuse what occurs nowhere.

        A fold sees its own subject only, and one subject may lack what others have; who knows all subjects asks here.

        Args:
            repetitions: All repetitions of all subjects.

        Raises:
            DataError: A repetition of this split that is not among them.
        """
        known = {int(r) for r in repetitions}
        asked = (*(self.train or ()), *self.test, *(self.validation or ()))
        if unknown := [r for r in asked if r not in known]:
            there = _list(r for r in asked if r in known) or "none"
            raise DataError(f"no subject has repetition {_list(unknown)}; of those asked for, there are {there}")

    def parts(self, fold: Fold, trials: TrialSet) -> tuple[TrialMask, TrialMask, tuple[str, ...]]:
        """Masks by repetition; repetitions that this subject lacks are noted, unless a part would be empty."""
        if len(np.unique(trials.subject)) > 1:
            self.check(np.unique(trials.repetition).tolist())
        mine = np.isin(trials.subject, fold.subjects)
        known = np.unique(trials.repetition[mine]).tolist()
        others = (*self.test, *(self.validation or ()))
        train = tuple(r for r in known if r not in others) if self.train is None else self.train
        for part, chosen in (("training", train), ("test", self.test)):
            if not set(chosen) & set(known):
                asked = f"{part} repetitions {_list(chosen)}" if chosen else "repetitions besides those tested"
                raise DataError(f"subject {fold.name} has no trial of the {asked}; it has {_list(known)}")
        absent = sorted({*train, *self.test} - {*known})
        notes = (f"no repetition {_list(absent)}; there are {_list(known)}",) if absent else ()
        return mine & np.isin(trials.repetition, train), mine & np.isin(trials.repetition, self.test), notes

    def validated(self, fold: Fold, trials: TrialSet) -> TrialMask | None:
        """A mask by repetition."""
        if self.validation is None:
            return None
        return np.isin(trials.subject, fold.subjects) & np.isin(trials.repetition, self.validation)


class SubjectSplit(Split):
    """Across subjects: those tested are not trained on.

    Attributes:
        leave_out: Test this many subjects at a time, in their order, and train on all others, until each was tested
            once; the last fold tests fewer where the number does not divide.
        train: Instead, the subjects (names or numbers) to train on; `None` = all that are neither tested nor validated
            on.
        test: Instead, the subjects to test on: one fold.
        validation: The subjects to choose among epochs by: with `test`, which; with `leave_out`, how many, those that
            follow the tested ones in their order (behind the last comes the first); `None` = none.
    """

    ADDED: ClassVar[tuple[str, ...]] = (*Split.ADDED, "validation")

    by: Literal["subject"] = "subject"
    leave_out: PositiveInt | None = None
    train: tuple[int | str, ...] | None = None
    test: tuple[int | str, ...] | None = None
    validation: PositiveInt | tuple[int | str, ...] | None = None

    @model_validator(mode="after")
    def _one_way(self) -> "SubjectSplit":
        if (self.leave_out is None) == (self.test is None):
            raise ValueError("a split by subject needs either leave_out or test")
        if self.validation == () or isinstance(self.validation, tuple) and self.test is None:
            raise ValueError("validation names one subject or more, beside those to test; with leave_out, how many")
        if isinstance(self.validation, int) and self.leave_out is None:
            raise ValueError(f"validation: {self.validation} is for leave_out; with test, list the subjects")
        if self.train is not None and self.test is None:
            raise ValueError("a split by subject with leave_out takes no train: it trains on all others")
        return self

    def folds(self, subjects: Sequence[str]) -> tuple[Fold, ...]:
        """Folds named after the subjects tested, joined by `+`; or the one fold `held-out`."""
        everyone = _different(subjects)
        if self.test is not None:
            return (self._held_out(everyone),)
        k = self.leave_out or 1
        n_validated = self.validation if isinstance(self.validation, int) else 0
        if k + n_validated >= len(everyone):
            also = f" and validation: {n_validated}" * bool(n_validated)
            raise DataError(f"leave_out: {k}{also} leaves no subject to train on; there are {len(everyone)}")
        tested = [everyone[i : i + k] for i in range(0, len(everyone), k)]
        return tuple(Fold("+".join(some), everyone, some, self) for some in tested)

    def parts(self, fold: Fold, trials: TrialSet) -> tuple[TrialMask, TrialMask, tuple[str, ...]]:
        """Masks by subject."""
        test, validated = np.isin(trials.subject, fold.test_subjects), self.validated(fold, trials)
        train = np.isin(trials.subject, fold.subjects) & ~test
        return train if validated is None else train & ~validated, test, ()

    def validated(self, fold: Fold, trials: TrialSet) -> TrialMask | None:
        """A mask by subject."""
        if self.validation is None:
            return None
        if isinstance(self.validation, int):
            return np.isin(trials.subject, _following(fold.subjects, fold.test_subjects[-1], self.validation))
        return np.isin(trials.subject, tuple(choose(dict.fromkeys(fold.subjects, ()), self.validation)))

    def _held_out(self, everyone: tuple[str, ...]) -> Fold:
        index = dict.fromkeys(everyone, ())
        test = tuple(choose(index, self.test))
        validate = tuple(choose(index, self.validation)) if isinstance(self.validation, tuple) else ()
        others = (*test, *validate)
        train = (
            tuple(s for s in everyone if s not in others) if self.train is None else tuple(choose(index, self.train))
        )
        both = [s for s in train if s in test]
        if both:
            raise DataError(f"subjects {_list(both)} are in the training and in the test split")
        both = [s for s in validate if s in (*train, *test)]
        if both:
            raise DataError(f"subjects {_list(both)} are to validate on, and in the training or the test split")
        if not train:
            raise DataError(f"the test split holds every subject{' left' * bool(validate)}; leave some to train on")
        return Fold("held-out", tuple(s for s in everyone if s in {*train, *test, *validate}), test, self)


class BlockSplit(Split):
    """Within each subject, by time: each of `folds` blocks is tested once, and the others are trained on.

    The movements of each class are cut, in order of time, into as many contiguous blocks of about one size, and a fold
    tests one block of every class, so that a class is in both parts wherever it has enough movements. Windows of one
    movement stay together. A recording that is one long movement has to be cut into pieces first (`Segment.piece_s`).
    Neighbouring blocks touch, and a filter of the whole recording reaches across their border.

    Attributes:
        n_folds: How many blocks, 1000 at most; given and written as `folds`.
        validation: How many blocks to choose among epochs by, those that follow the tested one (behind the last comes
            the first); `None` = none.
    """

    ADDED: ClassVar[tuple[str, ...]] = (*Split.ADDED, "validation")

    model_config = ConfigDict(serialize_by_alias=True)

    by: Literal["block"] = "block"
    n_folds: int = Field(alias="folds", ge=2, le=MOST_BLOCKS)
    validation: PositiveInt | None = None

    @model_validator(mode="after")
    def _leaves_some(self) -> "BlockSplit":
        if self.validation is not None and self.validation + 1 >= self.n_folds:
            raise ValueError(f"folds: {self.n_folds} and validation: {self.validation} leave no block to train on")
        return self

    def folds(self, subjects: Sequence[str]) -> tuple[Fold, ...]:
        """One fold a subject and block, named `<subject>.block<k>` with k from 1."""
        blocks = range(1, self.n_folds + 1)
        return tuple(Fold(f"{s}.block{k}", (s,), (s,), self, k) for s in _different(subjects) for k in blocks)

    def parts(self, fold: Fold, trials: TrialSet) -> tuple[TrialMask, TrialMask, tuple[str, ...]]:
        """Masks by block; movements follow each other in time as their numbers do."""
        block = self._block_of(fold, trials)
        test, validated = block == fold.block, np.isin(block, self._validation_blocks(fold))
        if not test.any():
            of_each = [
                len(np.unique(trials.repetition_id[(block > 0) & (trials.y == of)])) for of in np.unique(trials.y)
            ]
            raise DataError(
                f"fold {fold.name} has nothing to test: of {sum(of_each)} movements at most {max(of_each)} are of a"
                f" class, fewer than {self.n_folds} folds; ask for fewer, or cut movements into pieces (piece_s)"
            )
        return (block > 0) & ~test & ~validated, test, ()

    def validated(self, fold: Fold, trials: TrialSet) -> TrialMask | None:
        """A mask by block."""
        if self.validation is None:
            return None
        return np.isin(self._block_of(fold, trials), self._validation_blocks(fold))

    def _validation_blocks(self, fold: Fold) -> tuple[int, ...]:
        return _following(range(1, self.n_folds + 1), fold.block, self.validation or 0)

    def _block_of(self, fold: Fold, trials: TrialSet) -> Int[np.ndarray, " trial"]:
        """Block of each trial, from 1; 0 for those of other subjects."""
        mine = np.isin(trials.subject, fold.subjects)
        _, first, repetition_id_of = np.unique(trials.repetition_id[mine], return_index=True, return_inverse=True)
        found = np.zeros(len(trials), int)
        found[mine] = _blocks(trials.y[mine][first], self.n_folds)[repetition_id_of]
        return found


SplitSpec = Annotated[RepetitionSplit | SubjectSplit | BlockSplit, Field(discriminator="by")]
"""Any split, as a study's file writes it: `by` says which."""


def _blocks(classes: Int[np.ndarray, " movement"], n: int) -> Int[np.ndarray, " movement"]:
    """Block (from 1) of each movement, given their classes in order of time."""
    blocks = np.zeros(len(classes), int)
    for of in np.unique(classes):
        members = np.flatnonzero(classes == of)
        blocks[members] = np.arange(len(members)) * n // len(members) + 1
    return blocks


def _following(every: Sequence[T], last: T, n: int) -> tuple[T, ...]:
    """The `n` that follow `last`; behind the end comes the beginning."""
    return tuple(every[(every.index(last) + k) % len(every)] for k in range(1, n + 1))


def _different(subjects: Sequence[str]) -> tuple[str, ...]:
    if isinstance(subjects, str) or not subjects or None in subjects or len(set(subjects)) < len(subjects):
        raise DataError(f"folds need a list of different subjects, got {subjects!r}")
    return tuple(str(s) for s in subjects)


def _list(values: Iterable[object]) -> str:
    return ", ".join(str(v) for v in values)
