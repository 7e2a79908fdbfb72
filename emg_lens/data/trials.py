"""Trials: the examples that a model reads, as one array with labels, subjects and a channel table.

`TrialSet.from_recordings` cuts recordings into trials; `TrialSet.from_arrays` takes a user's own arrays. `save` writes
one HDF5 file (`emg_lens.data.storage`).
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
    as_labels,
    as_rate,
    as_samples,
    as_whole_numbers,
    channel_table,
    check_apart,
    check_trials,
    checked_choice,
    constant_notes,
    distinct_labels,
    renumbered,
    windows_of_repetitions,
)
from emg_lens.data.channels import select_channels
from emg_lens.data.recording import DataError, Recording, as_array
from emg_lens.data.segment import Segment, cut_recordings, same_channels
from emg_lens.data.standardization import InputStatistics
from emg_lens.validation import checked

__all__ = ["Segment", "TrialSet"]

VECTORS = ("x", "y", "subject", "repetition", "repetition_id", "targets", "source", "start_s")
"""Fields with one entry per trial; the last three may be `None`."""
NUMBERED = ("repetition_id", "source")
"""Fields that number something from 0 within each set."""


@dataclass(frozen=True, eq=False, repr=False)
class TrialSet:
    """Trials of one or many subjects.

    Attributes:
        x: Samples `[trial, channel, time]`, float32, in the units of the channel table.
        y: Class index of each trial, 0 to `n_classes` - 1.
        subject: Name of each trial's subject.
        repetition: Repetition number of each trial, as recorded: splits by repetition use it.
        repetition_id: Identifies the one repetition (performance of a gesture) that each trial was cut from. Windows of
            one repetition have the same number; no two repetitions of a subject do.
        channels: One row per channel: modality, name, units, native_fs (Hz). Channels of a modality stand together.
        fs: Sampling rate of `x` (Hz).
        classes: Name of each class, in order of class index.
        notes: Sentences on what was repaired, assumed, dropped or computed.
        targets: Target values `[trial, target]`, or one row per output step `[trial, step, target]`, float32; `None`
            for classification.
        target_names: Name of each target, with its unit.
        source: Number of the recording that each trial was cut from; `None` = unknown, as for a user's own arrays.
        start_s: Start of each trial in its recording (s); `None` if `source` is.

    Example:
        >>> import numpy as np
        >>> from emg_lens import TrialSet
        >>> x = np.random.default_rng(0).normal(size=(12, 4, 100))
        >>> trials = TrialSet.from_arrays(
        ...     x, y=["fist", "open"] * 6, subject=["A"] * 12, repetition=np.arange(12) // 4,
        ...     channels={"emg": 3, "acc": 1}, fs=200.0)
        >>> trials
        TrialSet(12 trials of 1 subjects, 3 emg + 1 acc channels, 100 samples at 200 Hz, 2 classes)
        >>> train, test = trials.split(train_repetitions=[0, 1], test_repetitions=[2])
        >>> len(train), len(test)
        (8, 4)
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
    targets: Float[np.ndarray, "trial *step target"] | None = None
    target_names: tuple[str, ...] = ()
    source: Int[np.ndarray, " trial"] | None = None
    start_s: Float[np.ndarray, " trial"] | None = None

    def __post_init__(self) -> None:
        check_trials(self)

    # --- sizes --------------------------------------------------------------------------------------------

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
        """Number of channels of each modality, in channel order: the argument of `TokenLayout.channels`."""
        return {str(m): int(n) for m, n in self.channels["modality"].value_counts(sort=False).items()}

    @property
    def n_samples(self) -> int:
        """Number of samples of one trial."""
        return self.x.shape[2]

    @property
    def n_classes(self) -> int:
        """Number of classes; classes without a trial count too."""
        return len(self.classes)

    # --- making, saving and loading -----------------------------------------------------------------------

    @staticmethod
    @checked
    def from_recordings(
        recordings: Iterable[Recording], segment: Segment | None = None, classes: Iterable[int] | None = None
    ) -> "TrialSet":
        """Cut recordings into trials.

        Args:
            recordings: Recordings with the same channels, all signals at one rate (see `preprocess`).
            segment: The part of each repetition that is used. Default: whole repetitions, which must then have the same
                length.
            classes: Labels that become classes 0, 1, ...; repetitions of other labels are left out, and a note counts
                them. Default: every label in the recordings' `meta["class_names"]` in rising order, performed or not,
                so that all subjects have the same class indices; without `class_names`, every label that occurs.

        Raises:
            DataError: The recordings differ in channels or rate, or no repetition is long enough.
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
        """Make trials from a user's own arrays.

        Args:
            x: Samples `[trial, channel, time]`; converted to float32.
            y: Label of each trial, numbers or names.
            subject: Subject of each trial, numbers or names.
            repetition: Repetition number of each trial.
            channels: Number of channels of each modality, in channel order, or the whole channel table.
            fs: Sampling rate (Hz).
            repetition_id: The same number for all trials that are windows of one repetition. Default: trials of one
                subject, label and repetition number are windows of one repetition, and a note counts them.
            classes: The labels in order of class index. Default: the labels of `y` in rising order.
            notes: Sentences that stay with the data.
            targets: Target values of a regression `[trial, target]`; converted to float32.
            target_names: One name per target.

        Raises:
            DataError: Shapes disagree, a value is NaN, or a label is not in `classes`.
        """
        x, fs = as_samples(x), as_rate(fs)
        channels, label_of = channel_table(channels, fs, x), as_labels(y, "y", len(x))
        names = distinct_labels(label_of, "y") if classes is None else as_labels(classes, "classes")
        index = {str(name): i for i, name in enumerate(names)}
        missing = [str(label) for label in distinct_labels(label_of, "y") if str(label) not in index]
        if missing:
            raise DataError(f"y contains the label {missing[0]}, which is not in classes ({', '.join(index)})")
        number, notes = as_whole_numbers(repetition, "repetition"), tuple(map(str, as_labels(notes, "notes")))
        subjects = np.array([str(name) for name in as_labels(subject, "subject", len(x))], dtype=str)
        if repetition_id is None and number.shape == (len(x),):
            repetition_id, assumed = windows_of_repetitions(subjects, label_of, number)
            notes += assumed
        notes += constant_notes(x, channels)
        return TrialSet(
            x=x,
            y=np.array([index[str(label)] for label in label_of], dtype=np.int64),
            subject=subjects,
            repetition=number,
            repetition_id=as_whole_numbers(number if repetition_id is None else repetition_id, "repetition_id"),
            channels=channels,
            fs=fs,
            classes=tuple(str(name) for name in names),
            notes=notes,
            targets=None if targets is None else as_samples(targets, "targets", "[trial, target]"),
            target_names=tuple(map(str, as_labels(target_names, "target_names"))),
        )

    @staticmethod
    @checked
    def concatenate(sets: Sequence["TrialSet"]) -> "TrialSet":
        """Join several sets; `repetition_id` and `source` are renumbered so that they stay distinct."""
        if not sets:
            raise DataError("nothing to concatenate; give at least one TrialSet")
        for one in sets:
            for name in ("fs", "n_samples", "classes", "modalities", "target_names"):
                a, b = getattr(sets[0], name), getattr(one, name)
                if a != b:
                    raise DataError(f"cannot concatenate sets that differ in {name}: {a} and {b}")
            if not same_channels(sets[0].channels, one.channels):
                raise DataError("cannot concatenate sets whose channels differ in name or units")
        vectors = {}
        for name in VECTORS:
            parts = [getattr(one, name) for one in sets]
            known = all(part is not None for part in parts)
            vectors[name] = np.concatenate(renumbered(parts) if name in NUMBERED else parts) if known else None
        notes = tuple(dict.fromkeys(note for s in sets for note in s.notes))
        native = np.min([s.channels["native_fs"] for s in sets], axis=0)
        return replace(sets[0], **vectors, channels=sets[0].channels.assign(native_fs=native), notes=notes)

    @checked
    def save(self, path: str | Path) -> None:
        """Write one HDF5 file; a reader sees the old file or the complete new one, never a part."""
        if np.isnan(self.x[:1, :1, :1]).any():
            raise DataError("take_samples handed over the samples of this set; save it before take_samples")
        storage.save(self, Path(path))

    @staticmethod
    @checked
    def load(path: str | Path) -> "TrialSet":
        """Read a file that `save` wrote.

        Raises:
            DataError: The file is missing, damaged, not a trial set, or of a later version.
        """
        fields = storage.load(Path(path))
        try:
            return TrialSet(**fields)
        except DataError as error:
            raise DataError(f"{path}: {error}") from None

    def take_samples(self) -> Float[np.ndarray, "trial channel time"]:
        """Hand over the array `x` without a copy, so that the caller may overwrite it.

        Use it to standardise a long recording in place: `statistics.apply(x, out=x)`. The set keeps everything else
        (`y`, `subject`, `len`, `modalities`, `n_samples`), but its `x` then holds only NaN, which needs no memory. Code
        that still uses the samples fails or returns NaN; it never uses overwritten samples by mistake.

        Returns:
            The samples `[trial, channel, time]`, float32. An array that the user gave to `from_arrays` as float32 is
            the user's own array.
        """
        x = self.x
        object.__setattr__(self, "x", np.broadcast_to(np.float32(np.nan), x.shape))
        return x

    # --- selecting ----------------------------------------------------------------------------------------

    def select(
        self,
        mask: Shaped[np.ndarray, " trial"] | None = None,
        *,
        subjects: Iterable[str] | None = None,
        repetitions: Iterable[int] | None = None,
    ) -> "TrialSet":
        """Select the trials that fulfil all given criteria.

        Args:
            mask: One boolean per trial, or indices of trials.
            subjects: Names of subjects.
            repetitions: Repetition numbers.
        """
        chosen = np.ones(len(self), bool)
        if mask is not None:
            mask = as_array(mask, "mask")
            if mask.ndim != 1 or mask.dtype.kind not in "biu" or (mask.dtype == bool and len(mask) != len(self)):
                raise DataError(
                    f"mask must have one boolean per trial, shape ({len(self)},), or list indices of trials; got"
                    f" {mask.dtype} {mask.shape}"
                )
            if mask.dtype != bool and mask.size and not -len(self) <= mask.min() <= mask.max() < len(self):
                raise DataError(f"mask lists the trials {mask.min()} to {mask.max()}; expected 0 to {len(self) - 1}")
            chosen = np.zeros(len(self), bool)
            chosen[mask] = True
        for name, wanted in (("subject", subjects), ("repetition", repetitions)):
            if wanted is not None:
                chosen &= np.isin(getattr(self, name), checked_choice(getattr(self, name), wanted, name))
        if not chosen.any():
            raise DataError("the selection contains no trial; select other subjects, repetitions or indices")
        return replace(self, **{k: v[chosen] for k in VECTORS if (v := getattr(self, k)) is not None})

    def split(self, train_repetitions: Iterable[int], test_repetitions: Iterable[int]) -> tuple["TrialSet", "TrialSet"]:
        """Split by repetition number, so that all windows of one repetition are in one part.

        Raises:
            DataError: A repetition is in both lists or in no trial, or a class occurs in one part only.
        """
        train, test = (
            checked_choice(self.repetition, some, "repetition") for some in (train_repetitions, test_repetitions)
        )
        check_apart("repetitions", train, test)
        parts = {"training": self.select(repetitions=train), "test": self.select(repetitions=test)}
        present = set(self.y[np.isin(self.repetition, train + test)].tolist())
        for name, part in parts.items():
            missing = [self.classes[i] for i in sorted(present - set(part.y.tolist()))]
            if missing:
                raise DataError(f"the {name} repetitions contain no trial of {', '.join(missing)}; choose others")
        return parts["training"], parts["test"]

    def keep(self, modalities: Iterable[str]) -> "TrialSet":
        """Keep the channels of some modalities, in their present order."""
        chosen = np.isin(
            self.channels["modality"], checked_choice(np.array([*self.modalities]), modalities, "modality")
        )
        return replace(self, x=self.x[:, chosen], channels=self.channels[chosen].reset_index(drop=True))

    @checked
    def regroup(self, groups: Mapping[str, Any]) -> "TrialSet":
        """Select channels in groups; each group becomes a modality: `{"first": {"emg": [0, 1]}, "acc": "all"}`."""
        rows, names = select_channels(self.channels, groups)
        table = self.channels.iloc[rows].assign(modality=names).reset_index(drop=True)
        return replace(self, x=self.x[:, rows], channels=table)

    def with_targets(self, modalities: Iterable[str]) -> "TrialSet":
        """Turn some modalities from input into regression targets.

        A target is the mean of one channel over the trial, in the channel's units.
        """
        if self.targets is not None:
            raise DataError(
                f"these trials have targets already ({', '.join(self.target_names)}); list all modalities in one call"
            )
        modalities = checked_choice(np.array([*self.modalities]), modalities, "modality")
        if set(modalities) == set(self.modalities):
            raise DataError(f"{', '.join(modalities)} as targets leaves no modality as input; list fewer")
        chosen = np.isin(self.channels["modality"], modalities)
        rows = self.channels[chosen].itertuples()
        return replace(
            self.keep([m for m in self.modalities if m not in modalities]),
            targets=self.x[:, chosen].mean(axis=2, dtype=np.float64).astype(np.float32),
            target_names=tuple(f"{row.name} ({row.units})" if row.units else str(row.name) for row in rows),
        )

    @checked
    def standardised(self, reference: "TrialSet", rectify: Iterable[str] = ()) -> "TrialSet":
        """Z-score each channel with the reference's mean and standard deviation over trials and samples.

        Pass the training set as reference for the test set too: statistics must not come from test repetitions. A
        channel that is constant in the reference is set to zero.

        Args:
            reference: The trials that the statistics are computed from.
            rectify: Modalities that are rectified (absolute value) after z-scoring, as in the IsoNet paper, §2.2.
        """
        if not same_channels(self.channels, reference.channels):
            raise DataError(f"the reference has other channels, {reference.modalities}; expected {self.modalities}")
        statistics = InputStatistics.of(reference, rectify)
        repetitions = ", ".join(str(r) for r in np.unique(reference.repetition))
        notes = [f"z-scored per channel with the statistics of repetitions {repetitions}"]
        for channel in np.flatnonzero(statistics.std == 0):
            row = self.channels.iloc[channel]
            notes.append(f"channel {channel} ({row.modality} {row['name']}) is constant in the reference: set to 0")
        if statistics.rectify:
            notes.append(f"rectified after z-scoring: {', '.join(statistics.rectify)}")
        return replace(self, x=statistics.apply(self.x), notes=(*self.notes, *notes))
