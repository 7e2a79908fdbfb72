"""Trials: what models train on and studies cut. One array, with the meaning of each of its axes.

Recordings are cut into a `TrialSet` by a `Segment`; users bring their own arrays with `TrialSet.from_arrays`;
a set lives on disk as one HDF5 file (`emg_lens.data.storage`).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int, Shaped

from emg_lens.data import storage
from emg_lens.data.arrays import (
    apart,
    channel_table,
    check_names,
    chosen_values,
    distinct,
    labels,
    rate,
    samples,
    whole,
)
from emg_lens.data.channels import chosen_channels
from emg_lens.data.recording import DataError, Recording
from emg_lens.data.segment import CHANNEL_COLUMNS, Segment, cut_recordings, same_channels
from emg_lens.data.standardization import InputStatistics

__all__ = ["Segment", "TrialSet"]

VECTORS = ("x", "y", "subject", "repetition", "repetition_id", "targets", "source", "start_s")
"""Fields with one entry a trial; the last three may be `None`."""
COUNTED = ("repetition_id", "source")
"""Those that number things, each set from anew."""


@dataclass(frozen=True, eq=False, repr=False)
class TrialSet:
    """Trials of one or many subjects.

    Attributes:
        x: Samples, `[trial, channel, time]`, float32.
        y: Class index of each trial, 0 to K - 1.
        subject: Name of each trial's subject.
        repetition: Repetition each trial comes from.
        movement: Which performed movement each trial (window) comes from; windows of one movement share a
            number.
        channels: One row a channel: modality, name, units, native_fs (Hz). Channels of a modality are
            contiguous.
        fs: Samples per second of `x` (Hz).
        classes: Name of each class, in order of index.
        notes: What was repaired, assumed, dropped or computed on the way.
        targets: What a regression predicts of each trial, float32; `None` where there is only the class to predict.
        target_names: Name of each target, with its unit.
        source: Which recording each trial was cut from, and `start_s`: where in it the trial begins (s). Both are
            `None` where that is not known, as for a user's own arrays.
    """

    x: Float[np.ndarray, "trial channel time"]
    y: Int[np.ndarray, " trial"]
    subject: Shaped[np.ndarray, " trial"]
    repetition: Int[np.ndarray, " trial"]
    repetition_id: Int[np.ndarray, " trial"]
    channels: pd.DataFrame
    fs: float
    classes: tuple[str, ...]
    notes: tuple[str, ...] = ()
    targets: Float[np.ndarray, "trial target"] | None = None
    target_names: tuple[str, ...] = ()
    source: Int[np.ndarray, " trial"] | None = None
    start_s: Float[np.ndarray, " trial"] | None = None

    def __post_init__(self) -> None:
        if self.x.ndim != 3 or self.x.dtype != np.float32 or not self.x.size:
            raise DataError(f"x must be float32 [trial, channel, time], got {self.x.dtype} {self.x.shape}")
        for name in ("y", "subject", "repetition", "repetition_id"):
            vector, kind = getattr(self, name), "U" if name == "subject" else "iu"
            if vector.shape != self.x.shape[:1] or vector.dtype.kind not in kind:
                wanted = "strings" if kind == "U" else "whole numbers"
                raise DataError(f"{name} must be {len(self.x)} {wanted}, got {vector.dtype} {vector.shape}")
        if (self.source is None) != (self.start_s is None):
            raise DataError("source and start_s go together; give both or neither")
        if not 0 < self.fs < np.inf:
            raise DataError(f"fs must be positive and finite, got {self.fs}")
        subjects = np.unique(self.subject).tolist()
        check_names(subjects=subjects, classes=self.classes, target_names=self.target_names)
        if len(set(self.classes)) != len(self.classes):
            raise DataError(f"class names must be unique, got {list(self.classes)}")
        if self.y.min() < 0 or self.y.max() >= self.n_classes:
            raise DataError(f"y must be 0 to {self.n_classes - 1}, got {self.y.min()} to {self.y.max()}")
        self._check_channels()
        self._check_targets()
        bad = np.flatnonzero(~np.isfinite(self.x).all(axis=2).ravel())
        if len(bad):
            trial, channel = divmod(int(bad[0]), self.x.shape[1])
            row = self.channels.iloc[channel]
            raise DataError(
                f"x holds NaN or infinity in trial {trial}, channel {channel} ({row.modality} {row['name']})"
            )

    def _check_channels(self) -> None:
        if tuple(self.channels.columns) != CHANNEL_COLUMNS or len(self.channels) != self.x.shape[1]:
            raise DataError(
                f"channels must have {self.x.shape[1]} rows and the columns {', '.join(CHANNEL_COLUMNS)},"
                f" got {len(self.channels)} rows and {', '.join(map(str, self.channels.columns))}"
            )
        order = self.channels["modality"].tolist()
        check_names(modalities=order, channel_names=self.channels["name"].astype(str))
        if order != [m for m in dict.fromkeys(order) for _ in range(order.count(m))]:
            raise DataError(f"channels of a modality must stand together, got the order {order}")

    def _check_targets(self) -> None:
        n = len(self.target_names)
        if self.targets is None:
            if n:
                raise DataError(f"there are {n} target names but no targets")
            return
        if self.targets.shape != (len(self.x), n) or self.targets.dtype != np.float32 or not n:
            raise DataError(
                f"targets must be float32 [trial, target], {len(self.x)} trials and one name a target,"
                f" got {self.targets.dtype} {self.targets.shape} and {n} names"
            )
        if len(set(self.target_names)) != n:
            raise DataError(f"target names must be unique, got {list(self.target_names)}")
        bad = np.argwhere(~np.isfinite(self.targets))
        if len(bad):
            raise DataError(f"target {self.target_names[bad[0, 1]]} is NaN or infinite in trial {bad[0, 0]}")

    # --- what is in it ------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self.x)

    def __repr__(self) -> str:
        channels = " + ".join(f"{n} {m}" for m, n in self.modalities.items())
        return (
            f"TrialSet({len(self)} trials of {len(np.unique(self.subject))} subjects, {channels} channels,"
            f" {self.n_samples} samples at {self.fs:g} Hz, {self.n_classes} classes)"
        )

    @cached_property
    def modalities(self) -> dict[str, int]:
        """Number of channels of each modality, in channel order; what `TokenLayout.channels` takes."""
        return {str(m): int(n) for m, n in self.channels["modality"].value_counts(sort=False).items()}

    @property
    def n_samples(self) -> int:
        """Samples of a trial."""
        return self.x.shape[2]

    @property
    def n_classes(self) -> int:
        """Number of classes, those without a trial included."""
        return len(self.classes)

    # --- where it comes from ------------------------------------------------------------------------------

    @staticmethod
    def from_recordings(
        recordings: Iterable[Recording], segment: Segment | None = None, classes: Iterable[int] | None = None
    ) -> "TrialSet":
        """Cut recordings into trials.

        Args:
            recordings: Signals of one rate and length each (see `preprocess`), the same channels in all.
            segment: Which part of each movement; default whole movements, which must then be of one length.
            classes: Labels that become classes 0, 1, ...; movements with other labels are left out (and
                counted in a note). Default: every label the recordings declare in `meta["class_names"]`, in
                rising order, performed or not, so that subjects share a numbering; failing that, every label
                found.

        Raises:
            DataError: Recordings that do not go together, or nothing that is long enough.
        """
        return TrialSet(**cut_recordings(recordings, segment or Segment(), classes))

    @staticmethod
    def from_arrays(
        x: Float[np.ndarray, "trial channel time"],
        y: Shaped[np.ndarray, " trial"] | Sequence[object],
        subject: Shaped[np.ndarray, " trial"] | Sequence[object],
        repetition: Int[np.ndarray, " trial"] | Sequence[int],
        channels: Mapping[str, int] | pd.DataFrame,
        fs: float,
        *,
        repetition_id: Int[np.ndarray, " trial"] | Sequence[int] | None = None,
        classes: Sequence[object] | None = None,
        notes: Sequence[str] = (),
        targets: Float[np.ndarray, "trial target"] | None = None,
        target_names: Sequence[str] = (),
    ) -> "TrialSet":
        """Trials from a user's own arrays.

        Args:
            x: Samples; converted to float32.
            y: Label of each trial, numbers or names.
            subject: Subject of each trial, numbers or names.
            repetition: Repetition of each trial.
            channels: Number of channels of each modality, in channel order, or the whole channel table.
            fs: Sampling rate (Hz).
            movement: Which trials are windows of one movement; default: none are.
            classes: The labels in order of class index; default: those of `y` in rising order.
            notes: Anything worth keeping.
            targets: What a regression predicts; converted to float32.
            target_names: One a target.

        Raises:
            DataError: Shapes that disagree, NaN, or a label that is not in `classes`.
        """
        x, fs = samples(x), rate(fs)
        channels, of = channel_table(channels, fs, x), labels(y, "y", len(x))
        names = distinct(of, "y") if classes is None else labels(classes, "classes")
        index = {str(name): i for i, name in enumerate(names)}
        missing = [str(label) for label in distinct(of, "y") if str(label) not in index]
        if missing:
            raise DataError(f"y holds the label {missing[0]}, which is not in classes ({', '.join(index)})")
        numbers = {
            "repetition": repetition,
            "repetition_id": np.arange(len(x)) if repetition_id is None else repetition_id,
        }
        return TrialSet(
            x=x,
            y=np.array([index[str(label)] for label in of], dtype=np.int64),
            subject=np.array([str(name) for name in labels(subject, "subject", len(x))], dtype=str),
            channels=channels,
            fs=fs,
            classes=tuple(str(name) for name in names),
            notes=tuple(map(str, labels(notes, "notes"))),
            targets=None if targets is None else samples(targets, "targets", "[trial, target]"),
            target_names=tuple(map(str, labels(target_names, "target_names"))),
            **{name: whole(values, name) for name, values in numbers.items()},
        )

    @staticmethod
    def concatenate(sets: Sequence["TrialSet"]) -> "TrialSet":
        """Trials of several sets, one after the other; movements and recordings are renumbered so that they stay apart.

        Raises:
            DataError: No set, or sets that differ in channels, rate, length, classes or targets.
        """
        if not sets:
            raise DataError("nothing to concatenate: got no trial set")
        for one in sets:
            _check_alike(sets[0], one, "concatenate")
        vectors = {}
        for name in VECTORS:
            parts = [getattr(one, name) for one in sets]
            known = all(part is not None for part in parts)
            vectors[name] = np.concatenate(apart(parts) if name in COUNTED else parts) if known else None
        notes = tuple(dict.fromkeys(note for s in sets for note in s.notes))
        native = np.min([s.channels["native_fs"] for s in sets], axis=0)
        return replace(sets[0], **vectors, channels=sets[0].channels.assign(native_fs=native), notes=notes)

    def save(self, path: str | Path) -> None:
        """Write one HDF5 file, atomically: a reader finds the old file or the whole new one."""
        storage.save(self, Path(path))

    @staticmethod
    def load(path: str | Path) -> "TrialSet":
        """Read what `save` wrote.

        Raises:
            DataError: A file that is missing, damaged, not a trial set, or of a later version.
        """
        fields = storage.load(Path(path))
        try:
            return TrialSet(**fields)
        except DataError as error:
            raise DataError(f"{path}: {error}") from None

    # --- parts of it --------------------------------------------------------------------------------------

    def select(
        self,
        mask: Shaped[np.ndarray, " trial"] | None = None,
        *,
        subjects: Iterable[str] | None = None,
        repetitions: Iterable[int] | None = None,
    ) -> "TrialSet":
        """Some of the trials: those that meet every condition given.

        Args:
            mask: One boolean a trial, or indices of trials.
            subjects: Names of subjects.
            repetitions: Repetitions.

        Raises:
            DataError: A subject or repetition that does not occur, or no trial left.
        """
        chosen = np.ones(len(self), bool)
        if mask is not None:
            mask = np.asarray(mask)
            if mask.dtype == bool and mask.shape != (len(self),):
                raise DataError(f"mask must hold {len(self)} booleans, got {mask.shape}")
            chosen = np.zeros(len(self), bool)
            chosen[mask] = True
        for name, wanted in (("subject", subjects), ("repetition", repetitions)):
            if wanted is not None:
                chosen &= np.isin(getattr(self, name), chosen_values(getattr(self, name), wanted, name))
        if not chosen.any():
            raise DataError("the selection holds no trial")
        return replace(self, **{k: v[chosen] for k in VECTORS if (v := getattr(self, k)) is not None})

    def split(self, train_repetitions: Iterable[int], test_repetitions: Iterable[int]) -> tuple["TrialSet", "TrialSet"]:
        """Training and test set by repetition, so that no movement has windows in both; `splits` knows other ways.

        Raises:
            DataError: A repetition in both lists or in no trial, or a class that is performed in one part
            only.
        """
        train, test = list(train_repetitions), list(test_repetitions)
        both = sorted(set(train) & set(test))
        if both:
            raise DataError(f"repetitions {both} are in the training and in the test split")
        parts = {"training": self.select(repetitions=train), "test": self.select(repetitions=test)}
        present = set(self.y[np.isin(self.repetition, train + test)].tolist())
        for name, part in parts.items():
            missing = [self.classes[i] for i in sorted(present - set(part.y.tolist()))]
            if missing:
                raise DataError(f"the {name} repetitions hold no trial of {', '.join(missing)}")
        return parts["training"], parts["test"]

    def keep(self, modalities: Iterable[str]) -> "TrialSet":
        """The channels of some modalities, in the order they stand.

        Raises:
            DataError: An unknown modality, or none.
        """
        chosen = np.isin(self.channels["modality"], chosen_values(np.array([*self.modalities]), modalities, "modality"))
        return replace(self, x=self.x[:, chosen], channels=self.channels[chosen].reset_index(drop=True))

    def regroup(self, groups: Mapping[str, Any]) -> "TrialSet":
        """Some channels, in groups that are modalities from here on: `{"first": {"emg": [0, 1]}, "acc": "all"}`.

        Raises:
            DataError: As `emg_lens.data.channels.chosen_channels`: what there is not, is in two groups, or in none.
        """
        rows, names = chosen_channels(self.channels, groups)
        table = self.channels.iloc[rows].assign(modality=names).reset_index(drop=True)
        return replace(self, x=self.x[:, rows], channels=table)

    def with_targets(self, modalities: Iterable[str]) -> "TrialSet":
        """What some modalities show becomes what is predicted: they leave the input.

        The targets are the mean of each of their channels over the trial, in the channel's units.

        Raises:
            DataError: An unknown modality, none, all there are, or a set that has targets already.
        """
        if self.targets is not None:
            raise DataError(f"these trials have targets already ({', '.join(self.target_names)}); name all at once")
        modalities = chosen_values(np.array([*self.modalities]), modalities, "modality")
        if set(modalities) == set(self.modalities):
            raise DataError(f"{', '.join(modalities)} as targets leaves no input; there is no other modality")
        chosen = np.isin(self.channels["modality"], modalities)
        rows = self.channels[chosen].itertuples()
        return replace(
            self.keep([m for m in self.modalities if m not in modalities]),
            targets=self.x[:, chosen].mean(axis=2, dtype=np.float64).astype(np.float32),
            target_names=tuple(f"{row.name} ({row.units})" if row.units else str(row.name) for row in rows),
        )

    def standardised(self, reference: "TrialSet", rectify: Iterable[str] = ()) -> "TrialSet":
        """Each channel z-scored with the reference's mean and standard deviation over trials and samples.

        Pass the training set as reference, for the test set too: its statistics must not come from test
        repetitions. A channel that is constant in the reference is set to zero.

        Args:
            reference: Where the statistics come from.
            rectify: Modalities whose absolute value is taken afterwards: the order of the IsoNet paper, §2.2,
                under which zero is a channel's least value, not its mean.

        Raises:
            DataError: A reference with other channels, or an unknown modality.
        """
        if not same_channels(self.channels, reference.channels):
            raise DataError(f"the reference has other channels: {reference.modalities}, expected {self.modalities}")
        statistics = InputStatistics.of(reference, rectify)
        repetitions = ", ".join(str(r) for r in np.unique(reference.repetition))
        notes = [f"z-scored per channel with the statistics of repetitions {repetitions}"]
        for channel in np.flatnonzero(statistics.std == 0):
            row = self.channels.iloc[channel]
            notes.append(f"channel {channel} ({row.modality} {row['name']}) is constant in the reference: set to 0")
        if statistics.rectify:
            notes.append(f"rectified after z-scoring: {', '.join(statistics.rectify)}")
        return replace(self, x=statistics.apply(self.x), notes=(*self.notes, *notes))


def _check_alike(first: TrialSet, other: TrialSet, what: str) -> None:
    for name in ("fs", "n_samples", "classes", "modalities", "target_names"):
        a, b = getattr(first, name), getattr(other, name)
        if a != b:
            raise DataError(f"cannot {what} sets that differ in {name}: {a} and {b}")
    if not same_channels(first.channels, other.channels):
        raise DataError(f"cannot {what} sets whose channels differ in name or units")
