"""One recording: signals of several sensors, labels, and notes on what was repaired or assumed.

Loaders read recordings from files, `emg_lens.data.preprocessing` filters them, and `emg_lens.data.trials` cuts them
into trials.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Integer

from emg_lens.errors import EmgLensError
from emg_lens.validation import check_fields, checked, short

REST = 0
UNLABELLED = -1
SLOWEST, FASTEST = 1e-6, 1e9
"""Lowest and highest sampling rate of a recording (Hz)."""


EXACT = 2**24
"""Largest whole number up to which float32 represents all whole numbers exactly."""

LARGEST = 2**53
"""Largest whole number up to which float64 represents all whole numbers exactly."""


class DataError(EmgLensError, ValueError):
    """Data are missing, damaged, or do not have the expected form."""


def as_array(values: Any, name: str) -> np.ndarray:
    """Convert to an array in native byte order, without gradients; refuse masked values, which would become data.

    What is no array becomes an empty array of objects, which callers refuse by its type.
    """
    values = values.detach().cpu() if hasattr(values, "detach") else values
    parts = values if isinstance(values, list | tuple) else [values]
    n_masked = sum(int(np.ma.count_masked(part)) for part in parts if isinstance(part, np.ma.MaskedArray))
    if n_masked:
        raise DataError(f"{name} has {n_masked} masked values; fill them in, or leave these rows or trials out")
    try:
        array = np.asarray(values)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        return np.empty(0, object)
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def rounded_by_float32(samples: np.ndarray) -> bool:
    """Whether samples are whole numbers, some of them so far beyond `EXACT` that float32 loses their last digits."""
    if samples.dtype.itemsize < 4 or samples.dtype == np.float32 or not samples.size:
        return False
    largest = max(float(samples.max()), -float(samples.min()))
    if not EXACT < largest <= LARGEST or (samples != np.rint(samples)).any():
        return False
    return bool((samples.astype(np.float32) != samples).any())


@dataclass(frozen=True)
class Signal:
    """The channels of one sensor kind.

    Attributes:
        data: Samples `[time, channel]` in `units`. Whole numbers are converted to floating-point numbers.
        fs: Sampling rate of `data` (Hz).
        native_fs: Sampling rate of the sensor itself (Hz); lower than `fs` if the publisher upsampled the signal.
        units: Unit of the samples: `"V"`, `"g"`, `"deg/s"`, `"adc"`, ...
        ch_names: One name per channel.
        placement: Position of the sensor on the body, in words.
    """

    data: Float[np.ndarray, "time channel"] = field(repr=False)
    fs: float
    native_fs: float
    units: str
    ch_names: tuple[str, ...]
    placement: str = ""

    def __post_init__(self) -> None:
        check_fields(self)
        object.__setattr__(self, "data", as_array(self.data, "signal data"))
        if self.data.dtype.kind not in "iuf":
            raise DataError(f"signal data must be real numbers, got {self.data.dtype}")
        if self.data.dtype.kind in "iu":  # filters and rectification would overflow integers
            object.__setattr__(self, "data", self.data.astype(np.result_type(self.data.dtype, np.float32)))
        if self.data.dtype.itemsize > 8:  # filters reject longer types
            object.__setattr__(self, "data", self.data.astype(np.float64))
        if self.data.ndim != 2:
            raise DataError(f"signal data must be [time, channel], got shape {self.data.shape}")
        if self.data.shape[1] != len(self.ch_names):
            raise DataError(f"{self.data.shape[1]} channels but {len(self.ch_names)} channel names")
        if not all(SLOWEST <= rate <= FASTEST for rate in (self.fs, self.native_fs)):
            raise DataError(
                f"sampling rates must be {SLOWEST:g} to {FASTEST:g} Hz, got fs={self.fs}, native_fs={self.native_fs}"
            )

    @property
    def duration(self) -> float:
        """Duration (s)."""
        return len(self.data) / self.fs


@dataclass(frozen=True)
class Recording:
    """Signals of one subject with labels.

    Attributes:
        subject: Name of the subject. Loaders take it from the file's path, not from values inside the file.
        signals: Modality name -> signal. Signals may differ in rate; all start at time 0.
        label: Gesture of each row; 0 = rest, -1 = unknown (excluded). Any integer type, stored as int32 or int64.
        repetition: Repetition number of each row; 0 = none.
        fs: Rows per second of `label` and `repetition` (Hz).
        meta: `dataset`, `file`, `class_names` (label -> name, of every gesture that the data set defines), `notes` (one
            sentence for each repair or assumption) and other facts from the loader.

    Example:
        >>> import numpy as np
        >>> from emg_lens.data import Recording, Signal
        >>> emg = Signal(np.zeros((400, 2)), fs=200, native_fs=200, units="mV", ch_names=("left", "right"))
        >>> label = np.repeat([0, 1, 0, 2], 100)  # rest, gesture 1, rest, gesture 2, half a second each
        >>> recording = Recording("S1", {"emg": emg}, label, repetition=(label > 0).astype(int), fs=200)
        >>> print(recording.trials)
           start  stop  label  repetition
        0    0.5   1.0      1           1
        1    1.5   2.0      2           1
    """

    subject: str
    signals: Mapping[str, Signal]
    label: Integer[np.ndarray, " row"] = field(repr=False)
    repetition: Integer[np.ndarray, " row"] = field(repr=False)
    fs: float
    meta: Mapping = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        check_fields(self)
        check_name_of_subject(self.subject)
        if not self.signals:
            raise DataError(f"recording of subject {self.subject} has no signal; give at least one")
        if not SLOWEST <= self.fs <= FASTEST:
            raise DataError(f"fs must be {SLOWEST:g} to {FASTEST:g} Hz, got {self.fs}")
        if self.label.shape != self.repetition.shape or self.label.ndim != 1:
            raise DataError(
                f"label and repetition must be vectors of one length, got {self.label.shape}, {self.repetition.shape}"
            )
        if not len(self.label):
            raise DataError(f"recording of subject {self.subject} has no row; label and repetition are empty")
        for name in ("label", "repetition"):
            values = as_array(getattr(self, name), name)
            if values.dtype.kind not in "iu":
                raise DataError(f"{name} must be whole numbers, got {values.dtype}")
            if values.max() > np.iinfo(np.int64).max:
                raise DataError(f"{name} contains {values.max()}, which is too large; check the file")
            # Unsigned types cannot hold -1; 64 bits would take many megabytes for a long recording.
            wide = values.min() < -(2**31) or values.max() >= 2**31
            object.__setattr__(self, name, values.astype(np.int64 if wide else np.int32, copy=False))

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences on what was repaired or assumed, in order."""
        return tuple(self.meta.get("notes", ()))

    @property
    def source(self) -> str:
        """Subject and file name, for messages."""
        return " ".join([self.subject, *([Path(self.meta["file"]).name] if "file" in self.meta else [])])

    @checked
    def keep(self, modalities: Iterable[str] | None) -> "Recording":
        """Return a recording of some modalities, in the given order; `None` = all."""
        if modalities is None:
            return self
        chosen = list(modalities)
        unknown = [name for name in chosen if not isinstance(name, str) or name not in self.signals]
        if unknown:
            raise DataError(f"{self.source} has no modality {short(unknown[0])}; it has {', '.join(self.signals)}")
        return replace(self, signals={name: self.signals[name] for name in chosen})

    @cached_property
    def trials(self) -> pd.DataFrame:
        """One row for each performed gesture: start and stop (s), label, repetition number.

        It is a maximal run of rows with the same label above 0 and the same repetition number.
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


def check_name_of_subject(name: str) -> None:
    """Refuse a name that no table or file could hold: the name of a folder may have bytes that are not UTF-8."""
    try:
        name.encode()
    except UnicodeEncodeError:
        raise DataError(f"the name of subject {name!r} is not UTF-8; rename its folder or files") from None
