"""What a split cannot keep apart: what training and test trials share, and what is told before a movement begins.

A report counts; it does not judge. Sharing subject and recording is what a split within subjects means; sharing samples
or movements is a mistake in any split. Samples are those of the windows: that a filter of the whole recording carries
something from one window to its neighbours is not counted.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd
from jaxtyping import Bool, Int

from emg_lens.data.pre_onset import ALL, WINDOW_S, Told, told_before
from emg_lens.data.recording import DataError
from emg_lens.data.splits import Fold
from emg_lens.data.trials import TrialSet

SHARED = {
    "samples": "share raw samples with a training trial (their windows overlap)",
    "repetition_id": "are cut from a movement that is also trained on",
    "repetition": "are of the same class, repetition and recording as a training trial",
    "recording": "come from a recording that is also trained on",
    "subject": "come from a subject who is also trained on",
}
"""What a test trial may share with a training trial, and how a sentence says so."""


@dataclass(frozen=True)
class Leakage:
    """The report on one fold, or on several together.

    Attributes:
        n_folds: How many folds it is about.
        n_test: Test trials, in all.
        n_classes: Classes that occur.
        shared: How many of them share with training what the key says (`SHARED`); `None` where it is not known.
        told: What is told before the movement begins; empty where there is no rest before it.
        rest_s: How long the rest that is looked at is (s).
        repeats: Share of movements that are of the same class as the subject's movement just before; `None` where no
            movement follows another.
        repeats_at_random: The same, were their order random.
    """

    n_folds: int
    n_test: int
    n_classes: int
    shared: Mapping[str, int | None]
    told: tuple[Told, ...] = ()
    rest_s: float | None = None
    repeats: float | None = None
    repeats_at_random: float | None = None

    @staticmethod
    def over(reports: Iterable["Leakage"]) -> "Leakage":
        """One report on several folds: counts are added, shares and accuracies averaged over the folds.

        Raises:
            DataError: No report.
        """
        reports = list(reports)
        if not reports:
            raise DataError("no leakage report to bring together")
        told: dict[str, list[Told]] = {}
        for one in (t for r in reports for t in r.told):
            told.setdefault(one.modality, []).append(one)
        return Leakage(
            n_folds=sum(r.n_folds for r in reports),
            n_test=sum(r.n_test for r in reports),
            n_classes=max(r.n_classes for r in reports),
            shared={what: _sum(r.shared[what] for r in reports) for what in SHARED},
            told=tuple(_told_on_average(some) for some in told.values()),
            rest_s=next((r.rest_s for r in reports if r.rest_s is not None), None),
            repeats=_mean(r.repeats for r in reports),
            repeats_at_random=_mean(r.repeats_at_random for r in reports),
        )

    def to_dict(self) -> dict:
        """Plain values, for a JSON file."""
        return asdict(self)

    @staticmethod
    def from_dict(values: Mapping) -> "Leakage":
        """What `to_dict` gave."""
        return Leakage(**{**values, "told": tuple(Told(**t) for t in values["told"])})

    def to_frame(self) -> pd.DataFrame:
        """One row a fact: `fact`, `of` (what is shared, or the modality that tells), `value`, `chance`, `n_test`.

        `value` is a share of test trials, or an accuracy; NaN where it is not known.
        """
        unknown: float = np.nan
        rows: list[tuple[str, str, float, float, int]] = []
        for what, n in self.shared.items():
            rows.append(("shared", what, unknown if n is None else n / self.n_test, unknown, self.n_test))
        for t in self.told:
            rows.append(("told before", t.modality, t.before, t.chance, t.n_test))
            rows.append(("told during", t.modality, t.during, t.chance, t.n_test))
        if self.n_classes > 1 and self.repeats is not None and self.repeats_at_random is not None:
            rows.append(("class repeats", ALL, self.repeats, self.repeats_at_random, self.n_test))
        return pd.DataFrame(rows, columns=["fact", "of", "value", "chance", "n_test"])

    def sentences(self) -> list[str]:
        """The report in words, one fact a sentence."""
        said = []
        for what, n in self.shared.items():
            if n is None:
                said.append(
                    f"Whether test trials {SHARED[what]} is not known: they do not say what they were cut from."
                )
            else:
                count = "None of the" if n == 0 else "All" if n == self.n_test else f"{n} of"
                said.append(f"{count} {self.n_test} test trials {SHARED[what]}.")
        if self.n_classes < 2:
            return said
        said.append(self._on_rest())
        repeats = self.repeats_in_short()
        return said if repeats is None else [*said, f"{repeats}."]

    def repeats_in_short(self) -> str | None:
        """How often a class follows itself, as a clause; `None` where that is not known."""
        if self.repeats is None or self.repeats_at_random is None:
            return None
        return (
            f"{self.repeats:.0%} of consecutive movements, as they are read (files by name), are of the same"
            f" class ({self.repeats_at_random:.0%} if their order were random)"
        )

    @property
    def is_blocked(self) -> bool:
        """Whether a class follows itself more than twice as often as it would at random."""
        if self.repeats is None or self.repeats_at_random is None:
            return False
        return self.repeats > 2 * self.repeats_at_random

    def _on_rest(self) -> str:
        if self.rest_s is None:
            return (
                "Whether the class is told before the movement begins is not known: in the recordings at hand there is"
                f" no rest before it, or less than {WINDOW_S:g} s."
            )
        if not self.told:
            return "Too few movements have rest before them to see whether the class is told before they begin."
        during = ", ".join(f"{t.during:.2f} from {_in_words(t.modality)}" for t in self.told)
        return (
            f"{self.told_in_short()}; from the movement itself, of {during} (linear discriminant analysis of each"
            " EMG channel's log mean square and each other channel's mean)."
        )

    def told_in_short(self) -> str | None:
        """What is told of the class before the movement begins, as a clause; `None` where that is not known."""
        if not self.told or self.rest_s is None:
            return None
        before = ", ".join(f"{t.before:.2f} from {_in_words(t.modality)}" for t in self.told)
        return (
            f"Before the movement begins, from {self.rest_s:g} s of rest, its class is told with an accuracy of"
            f" {before} (chance {self.told[0].chance:.2f})"
        )


def leakage_report(
    train: TrialSet, test: TrialSet, before: TrialSet | None = None, *, fold: Fold | None = None
) -> Leakage:
    """What test trials share with training trials, and what is told of their class before the movement begins.

    Args:
        train: Training trials, not z-scored.
        test: Test trials of the same set.
        before: The rest before their movements: `before_trials` of the recordings they were cut from.
        fold: The fold they are of, for messages.

    Raises:
        DataError: Parts that differ in channels or classes, or a `before` of other recordings.
    """
    whose = "" if fold is None else f"fold {fold.name}: "
    if train.classes != test.classes or train.modalities != test.modalities:
        raise DataError(f"{whose}training and test trials differ in classes or modalities; divide one set")
    repeats, at_random = _class_repeats(train, test)
    return Leakage(
        n_folds=1,
        n_test=len(test),
        n_classes=len(np.unique(np.concatenate([train.y, test.y]))),
        shared=_shared(train, test),
        told=() if before is None else told_before(train, test, before, whose),
        rest_s=None if before is None else before.n_samples / before.fs,
        repeats=repeats,
        repeats_at_random=at_random,
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
    """The recording of each trial; one and the same where that is not known."""
    return np.zeros(len(trials), int) if trials.source is None else trials.source


def _overlaps(train: TrialSet, test: TrialSet) -> Bool[np.ndarray, " trial"]:
    """Which test windows share samples with a training window."""
    assert train.start_s is not None and test.start_s is not None
    found = np.zeros(len(test), bool)
    half_a_sample = 0.5 / test.fs
    places = np.stack([test.subject, _sources(test).astype(str)], axis=1)
    for subject, source in np.unique(places, axis=0):
        mine = (test.subject == subject) & (_sources(test) == int(source))
        theirs = (train.subject == subject) & (_sources(train) == int(source))
        starts = np.sort(train.start_s[theirs])
        # A training window of length l overlaps if it starts after start - l and before start + length of the test's.
        after = np.searchsorted(starts, test.start_s[mine] - train.n_samples / train.fs + half_a_sample)
        until = np.searchsorted(starts, test.start_s[mine] + test.n_samples / test.fs - half_a_sample)
        found[mine] = until > after
    return found


def _class_repeats(train: TrialSet, test: TrialSet) -> tuple[float | None, float | None]:
    """Share of movements that follow one of their own class in the same subject, and its expectation at random."""
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


def _told_on_average(of: Sequence[Told]) -> Told:
    before, during, chance = np.mean([(t.before, t.during, t.chance) for t in of], axis=0).tolist()
    return Told(of[0].modality, before, during, chance, sum(t.n_test for t in of))


def _in_words(modality: str) -> str:
    return "all modalities" if modality == ALL else modality.upper()


def _sum(counts: Iterable[int | None]) -> int | None:
    counts = list(counts)
    return None if None in counts else sum(n for n in counts if n is not None)


def _mean(values: Iterable[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return float(np.mean(known)) if known else None
