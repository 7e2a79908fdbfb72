"""One recording as it lies on disk: signals of several sensors, labels, and what was repaired on the way.

Loaders make recordings, `emg_lens.data.preprocessing` filters them, `emg_lens.data.trials` cuts them into
trials.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float, Integer

from emg_lens.errors import EmgLensError
from emg_lens.validation import check_fields

REST = 0
UNLABELLED = -1
SLOWEST, FASTEST = 1e-6, 1e9
"""Rates (Hz) that a recording can have; beyond them times are no numbers any more."""


class DataError(EmgLensError, ValueError):
    """A recording that is missing, damaged, or not what its format promises."""


@dataclass(frozen=True)
class Signal:
    """The channels of one sensor kind.

    Attributes:
        data: Samples, `[time, channel]`, in `units`. Any type of number; whole ones are kept as floating-point ones.
        fs: Rows per second of `data` (Hz).
        native_fs: Rate at which the sensor itself delivered (Hz); lower than `fs` where the publisher
            upsampled.
        units: Unit of the samples: `"V"`, `"g"`, `"deg/s"`, `"adc"`, ...
        ch_names: One name a channel.
        placement: Where the sensor sat, in words.
    """

    data: Float[np.ndarray, "time channel"] = field(repr=False)
    fs: float
    native_fs: float
    units: str
    ch_names: tuple[str, ...]
    placement: str = ""

    def __post_init__(self) -> None:
        check_fields(self)
        if self.data.dtype.kind not in "iuf":
            raise DataError(f"signal data must hold real numbers, got {self.data.dtype}")
        if self.data.dtype.kind in "iu":  # filtered and rectified in their own type, they would wrap around
            object.__setattr__(self, "data", self.data.astype(np.result_type(self.data.dtype, np.float32)))
        if self.data.dtype.itemsize > 8:  # which filters do not take
            object.__setattr__(self, "data", self.data.astype(np.float64))
        if self.data.ndim != 2:
            raise DataError(f"signal data must be [time, channel], got shape {self.data.shape}")
        if self.data.shape[1] != len(self.ch_names):
            raise DataError(f"{self.data.shape[1]} channels but {len(self.ch_names)} channel names")
        if not all(SLOWEST <= rate <= FASTEST for rate in (self.fs, self.native_fs)):
            told = f"got fs={self.fs}, native_fs={self.native_fs}"
            raise DataError(f"sampling rates must be positive, {SLOWEST:g} to {FASTEST:g} Hz, {told}")

    @property
    def duration(self) -> float:
        """Length in seconds."""
        return len(self.data) / self.fs


@dataclass(frozen=True)
class Recording:
    """Signals with their labels.

    Attributes:
        subject: Who was recorded; taken from the file's place, never from scalars inside it.
        signals: Modality name -> signal. Signals may differ in rate; all start at time 0.
        label: Movement of each grid row; 0 = rest, -1 = unknown (excluded). Any integer type; kept as
            int32, or as int64 where a number needs it.
        repetition: Repetition of each grid row; 0 = none.
        fs: Rows per second of `label` and `repetition` (Hz).
        meta: `dataset`, `file`, `class_names` (label -> name of every movement the data set defines), `notes`
            (one sentence for each repair or assumption made) and what else a loader knows.
    """

    subject: str
    signals: Mapping[str, Signal]
    label: Integer[np.ndarray, " row"] = field(repr=False)
    repetition: Integer[np.ndarray, " row"] = field(repr=False)
    fs: float
    meta: Mapping = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        check_fields(self)
        if not self.signals:
            raise DataError(f"recording of subject {self.subject} has no signal")
        if not SLOWEST <= self.fs <= FASTEST:
            raise DataError(f"fs must be positive, {SLOWEST:g} to {FASTEST:g} Hz, got {self.fs}")
        if self.label.shape != self.repetition.shape or self.label.ndim != 1:
            raise DataError(
                f"label and repetition must be vectors of one length, got {self.label.shape}, {self.repetition.shape}"
            )
        if not len(self.label):
            raise DataError(f"recording of subject {self.subject} has no row")
        for name in ("label", "repetition"):
            values = getattr(self, name)
            if values.dtype.kind not in "iu":
                raise DataError(f"{name} must hold whole numbers, got {values.dtype}")
            if values.max() > np.iinfo(np.int64).max:
                raise DataError(f"{name} holds {values.max()}, which is no label or repetition; check the file")
            # In an unsigned type, -1 would become a class; in 64 bits, those of a long recording are many megabytes.
            wide = values.min() < -(2**31) or values.max() >= 2**31
            object.__setattr__(self, name, values.astype(np.int64 if wide else np.int32, copy=False))

    @property
    def notes(self) -> tuple[str, ...]:
        """What was repaired or assumed, in order."""
        return tuple(self.meta.get("notes", ()))

    @property
    def source(self) -> str:
        """Subject and file, for messages."""
        return " ".join([self.subject, *([Path(self.meta["file"]).name] if "file" in self.meta else [])])

    @cached_property
    def trials(self) -> pd.DataFrame:
        """One row a trial: start and stop (s), label, repetition.

        A trial is a maximal run of rows of constant (label, repetition) with label > 0.
        """
        label, repetition = self.label, self.repetition
        changes = np.flatnonzero((np.diff(label) != 0) | (np.diff(repetition) != 0)) + 1
        first = np.concatenate([[0], changes])
        last = np.concatenate([changes, [len(label)]])
        table = pd.DataFrame(
            {
                "start": first / self.fs,
                "stop": last / self.fs,
                "label": label[first],
                "repetition": repetition[first],
            }
        )
        return table.loc[table["label"] > REST].reset_index(drop=True)
