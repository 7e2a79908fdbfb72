"""Leakage of a split: what test trials have in common with training trials, and pre-onset decodability.

A report counts; it does not judge. A split within subjects shares subjects and recordings by definition. Shared samples
or repetitions are a mistake in any split. Only samples in windows are counted. A filter over the whole recording
may also carry information between neighbouring windows; this is not counted.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd
from jaxtyping import Bool, Int

from emg_lens.data.folds import Fold
from emg_lens.data.pre_onset import ALL, WINDOW_S, Decodability, pre_onset_decodability
from emg_lens.data.recording import DataError
from emg_lens.data.trials import TrialSet
from emg_lens.tables import WholeTable
from emg_lens.validation import checked, short

SHARED = {
    "samples": "contain raw samples of a training trial (overlapping windows)",
    "repetition_id": "come from a repetition that is also in the training set",
    "repetition": "have the same class, repetition number and recording as a training trial",
    "recording": "come from a recording that is also in the training set",
    "subject": "come from a subject who is also in the training set",
}
"""Ends of sentences about test trials: each kind of overlap with the training set."""


@dataclass(frozen=True)
class Leakage:
    """Leakage report on one fold, or on several folds together.

    Attributes:
        n_folds: Number of folds.
        n_test: Number of test trials in all folds.
        n_classes: Number of classes that occur.
        shared: Number of test trials that have something in common with a training trial, by the keys of `SHARED`;
            `None` = unknown.
        decodability: Accuracy of a linear classifier before and during each repetition; empty if no repetition has
            enough rest before it.
        pre_onset_s: Length of the window before movement onset (s); `None` = the recordings have no such rest.
        class_repeats: Fraction of repetitions with the same class as the subject's previous repetition; `None` = no
            repetition follows another.
        class_repeats_at_random: The fraction that a random order would give.
    """

    n_folds: int
    n_test: int
    n_classes: int
    shared: Mapping[str, int | None]
    decodability: tuple[Decodability, ...] = ()
    pre_onset_s: float | None = None
    class_repeats: float | None = None
    class_repeats_at_random: float | None = None

    @staticmethod
    @checked
    def over(reports: Iterable["Leakage"]) -> "Leakage":
        """Combine the reports on several folds: counts are added, fractions and accuracies are averaged over folds."""
        reports = list(reports)
        if not reports or not all(isinstance(one, Leakage) for one in reports):
            raise DataError(f"no leakage report to combine; give at least one, and nothing else: got {short(reports)}")
        by_modality: dict[str, list[Decodability]] = {}
        for one in (d for r in reports for d in r.decodability):
            by_modality.setdefault(one.modality, []).append(one)
        return Leakage(
            n_folds=sum(r.n_folds for r in reports),
            n_test=sum(r.n_test for r in reports),
            n_classes=max(r.n_classes for r in reports),
            shared={what: _sum(r.shared[what] for r in reports) for what in SHARED},
            decodability=tuple(_average(some) for some in by_modality.values()),
            pre_onset_s=next((r.pre_onset_s for r in reports if r.pre_onset_s is not None), None),
            class_repeats=_mean(r.class_repeats for r in reports),
            class_repeats_at_random=_mean(r.class_repeats_at_random for r in reports),
        )

    def to_dict(self) -> dict:
        """Return plain values, for a JSON file."""
        return asdict(self)

    @staticmethod
    @checked
    def from_dict(values: Mapping) -> "Leakage":
        """Make a report from the output of `to_dict`."""
        try:
            return Leakage(**{**values, "decodability": tuple(Decodability(**d) for d in values["decodability"])})
        except (TypeError, KeyError) as error:
            raise DataError(f"expected the output of Leakage.to_dict, got {short(values)} ({error})") from None

    def to_frame(self) -> pd.DataFrame:
        """Return one row per fact.

        Returns:
            Columns `fact`; `of`: what is shared, or the modality that the classifier receives; `value`: a fraction of
            test trials, or an accuracy, NaN if unknown; `chance`; `n_test`.
        """
        unknown: float = np.nan
        rows: list[tuple[str, str, float, float, int]] = []
        for what, n in self._counts():
            rows.append(("shared", what, unknown if n is None else n / self.n_test, unknown, self.n_test))
        for d in self.decodability:
            rows.append(("decodable before onset", d.modality, d.before, d.chance, d.n_test))
            rows.append(("decodable during repetition", d.modality, d.during, d.chance, d.n_test))
        if self.n_classes > 1 and self.class_repeats is not None and self.class_repeats_at_random is not None:
            rows.append(("class repeats", ALL, self.class_repeats, self.class_repeats_at_random, self.n_test))
        return WholeTable(rows, columns=["fact", "of", "value", "chance", "n_test"])

    def sentences(self) -> list[str]:
        """Return the report in words, one fact an entry."""
        facts = []
        for what, n in self._counts():
            if n is None:
                facts.append(
                    f"It is unknown whether test trials {SHARED[what]}: these trials do not name their recordings."
                )
            else:
                count = "None of the" if n == 0 else "All" if n == self.n_test else f"{n} of"
                facts.append(f"{count} {self.n_test} test trials {SHARED[what]}.")
        if self.n_classes < 2:
            return facts
        facts.append(self._pre_onset_sentence())
        repeats = self.class_repeats_clause()
        return facts if repeats is None else [*facts, f"{repeats}."]

    def _counts(self) -> list[tuple[str, int | None]]:
        """Return the counts of `shared`; without those that compare classes, if there is only one class."""
        return [(what, n) for what, n in self.shared.items() if what != "repetition" or self.n_classes > 1]

    def class_repeats_clause(self) -> str | None:
        """Say how often a class follows itself, as a clause without a full stop; `None` if that is unknown."""
        if self.class_repeats is None or self.class_repeats_at_random is None:
            return None
        return (
            f"{self.class_repeats:.0%} of consecutive repetitions, in the order of the data, have the same class"
            f" ({self.class_repeats_at_random:.0%} expected in random order)"
        )

    @property
    def is_blocked(self) -> bool:
        """Whether a class follows itself more than twice as often as in random order."""
        if self.class_repeats is None or self.class_repeats_at_random is None:
            return False
        return self.class_repeats > 2 * self.class_repeats_at_random

    def _pre_onset_sentence(self) -> str:
        if self.pre_onset_s is None:
            return (
                f"Pre-onset decodability is unknown: no repetition has {WINDOW_S:g} s before it that are marked as"
                " rest. Unmarked samples are not used, because they may already contain the movement."
            )
        if not self.decodability:
            return "Pre-onset decodability is unknown: too few repetitions have rest before them."
        during = ", ".join(f"{d.during:.2f} from {_in_words(d.modality)}" for d in self.decodability)
        return (
            f"{self.decodability_clause()}. During the repetition, its accuracy is {during}. The classifier is a linear"
            " discriminant analysis of each EMG channel's log mean square and each other channel's mean."
        )

    def decodability_clause(self) -> str | None:
        """State the pre-onset decodability, as a clause without a full stop; `None` if that is unknown."""
        if not self.decodability or self.pre_onset_s is None:
            return None
        before = ", ".join(f"{d.before:.2f} from {_in_words(d.modality)}" for d in self.decodability)
        return (
            "A linear classifier of all recorded channels decodes the class from the last"
            f" {self.pre_onset_s:g} s before movement onset with accuracy {before}"
            f" (chance {self.decodability[0].chance:.2f})"
        )


@checked
def leakage_report(
    train: TrialSet, test: TrialSet, before: TrialSet | None = None, *, fold: Fold | None = None
) -> Leakage:
    """Count what test trials have in common with training trials, and measure pre-onset decodability.

    Args:
        train: Training trials, not z-scored.
        test: Test trials of the same set.
        before: The rest before their repetitions: `pre_onset_trials` of the recordings that the trials were cut from.
            Default: pre-onset decodability stays unknown.
        fold: The fold of these trials; error messages name it.

    Returns:
        The report; `sentences()` gives it in words, `to_frame()` as a table.

    Raises:
        DataError: The parts differ in channels or classes, or `before` comes from other recordings.

    Example:
        Windows of one repetition must not be in both parts.

        >>> import numpy as np
        >>> from emg_lens.data import TrialSet, leakage_report
        >>> trials = TrialSet.from_arrays(
        ...     x=np.random.default_rng(0).normal(size=(8, 2, 50)), y=[0, 1] * 4, subject=["A"] * 8,
        ...     repetition=[1, 1, 1, 1, 2, 2, 2, 2], channels={"emg": 2}, fs=100.0)
        >>> report = leakage_report(*trials.split([1], [2]))
        >>> print(report.sentences()[1])
        None of the 4 test trials come from a repetition that is also in the training set.
    """
    prefix = "" if fold is None else f"fold {fold.name}: "
    if train.classes != test.classes or train.modalities != test.modalities:
        raise DataError(f"{prefix}training and test trials differ in classes or modalities; split one TrialSet")
    repeats, at_random = _class_repeats(train, test)
    return Leakage(
        n_folds=1,
        n_test=len(test),
        n_classes=len(np.unique(np.concatenate([train.y, test.y]))),
        shared=_shared(train, test),
        decodability=() if before is None else pre_onset_decodability(train, test, before, prefix),
        pre_onset_s=None if before is None else before.n_samples / before.fs,
        class_repeats=repeats,
        class_repeats_at_random=at_random,
    )


def _shared(train: TrialSet, test: TrialSet) -> dict[str, int | None]:
    keys: dict[str, Callable[[TrialSet], Sequence[np.ndarray]]] = {
        "repetition_id": lambda t: (t.subject, t.repetition_id),
        "repetition": lambda t: (t.subject, _sources(t), t.y, t.repetition),
        "recording": lambda t: (t.subject, _sources(t)),
        "subject": lambda t: (t.subject,),
    }
    known = train.source is not None and test.source is not None
    counts: dict[str, int | None] = {"samples": int(_overlaps(train, test).sum()) if known else None}
    for what, key in keys.items():
        trained = set(zip(*key(train), strict=True))
        counts[what] = sum(one in trained for one in zip(*key(test), strict=True))
    if not known:
        counts["recording"] = None
    return counts


def _sources(trials: TrialSet) -> Int[np.ndarray, " trial"]:
    """The recording of each trial; the same number for all if it is unknown."""
    return np.zeros(len(trials), int) if trials.source is None else trials.source


def _overlaps(train: TrialSet, test: TrialSet) -> Bool[np.ndarray, " trial"]:
    """Mark the test windows that share samples with a training window."""
    assert train.start_s is not None and test.start_s is not None
    overlapping = np.zeros(len(test), bool)
    half_a_sample = 0.5 / test.fs
    places = np.stack([test.subject, _sources(test).astype(str)], axis=1)
    for subject, source in np.unique(places, axis=0):
        in_test = (test.subject == subject) & (_sources(test) == int(source))
        in_train = (train.subject == subject) & (_sources(train) == int(source))
        starts = np.sort(train.start_s[in_train])
        # A training window of length l overlaps if it starts after (start - l) and before (start + length) of the test.
        after = np.searchsorted(starts, test.start_s[in_test] - train.n_samples / train.fs + half_a_sample)
        until = np.searchsorted(starts, test.start_s[in_test] + test.n_samples / test.fs - half_a_sample)
        overlapping[in_test] = until > after
    return overlapping


def _class_repeats(train: TrialSet, test: TrialSet) -> tuple[float | None, float | None]:
    """Fraction of repetitions that follow one of their own class in the same subject, and its expectation at random."""
    table = pd.DataFrame(
        {
            "subject": np.concatenate([train.subject, test.subject]),
            "repetition_id": np.concatenate([train.repetition_id, test.repetition_id]),
            "y": np.concatenate([train.y, test.y]),
        }
    ).drop_duplicates(["subject", "repetition_id"])
    same, random = [], []
    for _, one in table.sort_values("repetition_id").groupby("subject"):
        follows = np.diff(one["repetition_id"]) == 1
        same += (np.diff(one["y"])[follows] == 0).tolist()
        counts, n = np.bincount(one["y"]), len(one)
        random += [(counts * (counts - 1)).sum() / (n * (n - 1))] * int(follows.sum()) if n > 1 else []
    return (float(np.mean(same)), float(np.mean(random))) if same else (None, None)


def _average(of: Sequence[Decodability]) -> Decodability:
    before, during, chance = np.mean([(d.before, d.during, d.chance) for d in of], axis=0).tolist()
    return Decodability(of[0].modality, before, during, chance, sum(d.n_test for d in of))


def _in_words(modality: str) -> str:
    return "all modalities" if modality == ALL else modality.upper()


def _sum(counts: Iterable[int | None]) -> int | None:
    counts = list(counts)
    return None if None in counts else sum(n for n in counts if n is not None)


def _mean(values: Iterable[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return float(np.mean(known)) if known else None
