"""Filters and a common rate: from a recording as it lies on disk to one that can be cut into trials.

A `Recipe` says what is done to each modality; its digest is recorded with the result. Everything acts on
whole recordings, before trials are cut, so that no filter starts at a trial's edge; channel by channel, so that a long
one takes little more memory than it has on disk.
"""

import hashlib
from abc import ABC, abstractmethod
from dataclasses import replace
from fractions import Fraction
from math import prod
from typing import Annotated, ClassVar, Literal

import numpy as np
import scipy  # it imports its parts when they are first used: most commands never filter
from jaxtyping import Float, Int
from pydantic import Field, PositiveFloat, model_validator

from emg_lens.data.recording import UNLABELLED, DataError, Recording, Signal
from emg_lens.validation import SpecModel

Samples = Float[np.ndarray, "time channel"]

DENOMINATORS = (2000, 20_000, 200_000)
"""Bounds on that of the resampling ratio; the first is taken with which the rate is exact to `RATE_ERROR`."""
RATE_ERROR = 1e-6
"""Of a rate that was changed, relative: 0.06 ms in a minute."""
MOST_ORDER = 20
"""Of a filter; beyond it, sections in double precision are no such filter any more."""
Order = Annotated[int, Field(ge=1, le=MOST_ORDER)]

ROWS_AT_A_TIME = 1 << 16
"""That pass through a filter; its state goes from one part to the next, so that the result has the same bits."""


class Step(SpecModel, ABC):
    """One thing done to a signal.

    Butterworth filters run forwards and backwards, as `scipy.signal.sosfiltfilt`: zero phase, gain squared, so
    -6 dB at the cut-offs. `order` is the order given to `scipy.signal.butter`.
    """

    channels_together: ClassVar[int] = 1
    """Of how many consecutive channels a channel of the result is made."""

    @abstractmethod
    def apply(self, signal: Signal, name: str) -> tuple[Signal, str]:
        """The changed signal, and a note (empty if there is nothing to tell)."""


class Bandpass(Step):
    """Butterworth band-pass from `low_hz` to `high_hz`."""

    step: Literal["bandpass"] = "bandpass"
    low_hz: PositiveFloat
    high_hz: PositiveFloat
    order: Order = 4

    @model_validator(mode="after")
    def _ordered(self) -> "Bandpass":
        if self.low_hz >= self.high_hz:
            raise ValueError(f"a band-pass needs low_hz < high_hz, got {self.low_hz:g} and {self.high_hz:g}")
        return self

    def apply(self, signal: Signal, name: str) -> tuple[Signal, str]:
        """Filter, or raise where the band's upper edge is not below Nyquist."""
        _below_nyquist(self.high_hz, signal, name, "band-pass up to")
        band = (self.low_hz, self.high_hz)
        note = ""
        if self.high_hz >= signal.native_fs / 2:
            note = f"{name}: band-pass reaches above what its {signal.native_fs:.4g} Hz sensor delivers"
        return _butterworth(self.order, band, "bandpass", signal, name), note


class Highpass(Step):
    """Butterworth high-pass at `cutoff_hz`."""

    step: Literal["highpass"] = "highpass"
    cutoff_hz: PositiveFloat
    order: Order = 4

    def apply(self, signal: Signal, name: str) -> tuple[Signal, str]:
        """Filter, or raise where the cut-off is not below Nyquist."""
        _below_nyquist(self.cutoff_hz, signal, name, "high-pass at")
        return _butterworth(self.order, self.cutoff_hz, "highpass", signal, name), ""


class Lowpass(Step):
    """Butterworth low-pass at `cutoff_hz`; a noted no-op above the Nyquist rate of sensor or grid."""

    step: Literal["lowpass"] = "lowpass"
    cutoff_hz: PositiveFloat
    order: Order = 4

    def apply(self, signal: Signal, name: str) -> tuple[Signal, str]:
        """Filter, unless the sensor delivers nothing above the cut-off (docs/trials.md §3.1)."""
        rate = min(signal.fs, signal.native_fs)
        if self.cutoff_hz >= rate / 2:
            return (
                signal,
                f"{name}: low-pass at {self.cutoff_hz:g} Hz is a no-op, its native rate is {rate:.4g} Hz",
            )
        return _butterworth(self.order, self.cutoff_hz, "lowpass", signal, name), ""


class Notch(Step):
    """Second-order notch at `frequency_hz`, -3 dB width `frequency_hz / quality` per pass; zero phase."""

    step: Literal["notch"] = "notch"
    frequency_hz: PositiveFloat
    quality: PositiveFloat = 30.0

    def apply(self, signal: Signal, name: str) -> tuple[Signal, str]:
        """Filter, or raise where the frequency is not below Nyquist."""
        _below_nyquist(self.frequency_hz, signal, name, "notch at")
        if self.frequency_hz / self.quality >= signal.fs / 2:
            width = self.frequency_hz / self.quality
            raise DataError(f"{name}: a notch {width:g} Hz wide takes all that {signal.fs:.4g} Hz hold; raise quality")
        made = scipy.signal.iirnotch(self.frequency_hz, self.quality, fs=signal.fs)
        return _zero_phase(scipy.signal.tf2sos(*made), signal, name), ""


class Rectify(Step):
    """Absolute value. To rectify after z-scoring, as the IsoNet paper does, use `TrialSet.standardised`."""

    step: Literal["rectify"] = "rectify"

    def apply(self, signal: Signal, name: str) -> tuple[Signal, str]:  # noqa: ARG002
        """The signal's absolute value."""
        return _with_data(signal, np.abs(signal.data)), ""


class Magnitude(Step):
    """Euclidean norm of each three consecutive channels (x, y, z of one sensor): 3 n channels become n."""

    step: Literal["magnitude"] = "magnitude"
    channels_together: ClassVar[int] = 3

    def apply(self, signal: Signal, name: str) -> tuple[Signal, str]:
        """The norms, or raise where the channels are no triads."""
        n = signal.data.shape[1]
        if n % 3:
            raise DataError(f"{name}: magnitude needs channels in threes (x, y, z), got {n}")
        norms = np.linalg.norm(signal.data.reshape(len(signal.data), n // 3, 3), axis=2)
        names = tuple(f"|{','.join(signal.ch_names[i : i + 3])}|" for i in range(0, n, 3))
        return Signal(norms, signal.fs, signal.native_fs, signal.units, names, signal.placement), ""


AnyStep = Annotated[Bandpass | Highpass | Lowpass | Notch | Rectify | Magnitude, Field(discriminator="step")]


class Recipe(SpecModel):
    """What is done to a recording before it is cut.

    Attributes:
        signals: Steps of each modality, in order, at the modality's own rate. Empty: every modality is kept
            as it is. Otherwise every modality of the recording must be listed; one that is kept untouched has an
            empty list. They come out in this order. `TrialSet.keep` leaves modalities out.
        fs: Rate of the output, one for all modalities (Hz), reached after the steps: downwards by
            `scipy.signal.resample_poly` (its default anti-aliasing FIR filter, zero phase), upwards by linear
            interpolation, which neither rings nor overshoots.
            `None`: rates stay, and must all be the same.
    """

    signals: dict[str, tuple[AnyStep, ...]] = {}
    fs: PositiveFloat | None = None

    def digest(self) -> str:
        """Short hash of the recipe, the same on every machine; the order of modalities and steps counts."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:12]


def preprocess(recording: Recording, recipe: Recipe) -> Recording:
    """Apply a recipe to a whole recording.

    Labels and repetitions move to the output's grid by nearest row; all signals are cut to the shortest. What
    was done beyond the recipe's letter (rates changed, no-ops) is told in the notes, and `meta["recipe"]` is
    the digest.

    Raises:
        DataError: A modality the recording lacks, or has and the recipe does not name; a cut-off that its rate does not
            allow, rates that differ with `fs=None`, NaN, or a recording too short for a filter.
    """
    unknown = [name for name in recipe.signals if name not in recording.signals]
    if unknown:
        known = ", ".join(recording.signals)
        raise DataError(
            f"{recording.source} has no modality {unknown[0]!r}, which the recipe's signals name; it has {known}"
        )
    unnamed = [name for name in recording.signals if recipe.signals and name not in recipe.signals]
    if unnamed:
        raise DataError(
            f"{recording.source} has {', '.join(unnamed)}, which the recipe does not name; give {unnamed[0]} its steps,"
            " or [] to keep it as it is (what a model does not see is left out of the trials, not of the recipe)"
        )
    notes = list(recording.notes)
    signals: dict[str, Signal] = {}
    for name in recipe.signals or recording.signals:
        try:
            signals[name], new = _prepare(recording.signals[name], recipe, name)
        except DataError as error:
            raise DataError(f"{recording.source}: {error}") from None
        notes += new
    rates = {name: s.fs for name, s in signals.items()}
    if len(set(rates.values())) > 1:
        listed = ", ".join(f"{name} {fs:g} Hz" for name, fs in rates.items())
        raise DataError(f"signals of {recording.source} differ in rate ({listed}); give the recipe an fs")
    fs = next(iter(rates.values()))
    n_rows = min(len(s.data) for s in signals.values())
    signals = {name: _with_data(s, s.data[:n_rows]) for name, s in signals.items()}
    label = _nearest(recording.label, recording.fs, n_rows, fs, UNLABELLED)
    repetition = _nearest(recording.repetition, recording.fs, n_rows, fs, 0)
    meta = {**recording.meta, "recipe": recipe.digest(), "notes": tuple(notes)}
    return Recording(recording.subject, signals, label, repetition, fs, meta)


def _prepare(signal: Signal, recipe: Recipe, name: str) -> tuple[Signal, list[str]]:
    """One modality's steps and change of rate, and the notes on them."""
    n, size = signal.data.shape[1], prod(step.channels_together for step in recipe.signals.get(name, ()))
    if n % size or n <= size:
        return _prepared(signal, recipe, name)
    data, names, notes, part = None, [], [], signal
    for first in range(0, n, size):
        columns, of = np.ascontiguousarray(signal.data[:, first : first + size]), signal.ch_names[first : first + size]
        part, new = _prepared(replace(signal, data=columns, ch_names=of), recipe, name)
        if data is None:  # channels one after the other, as trials will want them
            data = np.empty((n // size * part.data.shape[1], len(part.data)), part.data.dtype)
        data[len(names) : len(names) + part.data.shape[1]] = part.data.T
        names += part.ch_names
        notes += new
    assert data is not None
    return replace(part, data=data.T, ch_names=tuple(names)), list(dict.fromkeys(notes))


def _prepared(signal: Signal, recipe: Recipe, name: str) -> tuple[Signal, list[str]]:
    """The same of all its channels at once."""
    _check_finite(signal, name)
    notes = []
    for step in recipe.signals.get(name, ()):
        signal, note = step.apply(signal, name)
        notes.append(note)
    if recipe.fs is not None and recipe.fs != signal.fs:
        signal, note = _resample(signal, recipe.fs, name)
        notes.append(note)
    return signal, [note for note in notes if note]


def _resample(signal: Signal, fs: float, name: str) -> tuple[Signal, str]:
    """Bring a signal to `fs`; row k of the result lies at k / fs seconds."""
    if len(signal.data) < 2:
        raise DataError(f"{name}: {len(signal.data)} rows are too few for another rate; leave the recording out")
    if fs > signal.fs:
        rows = int(np.floor(signal.duration * fs + 1e-6))
        old, new = np.arange(len(signal.data)) / signal.fs, np.arange(rows) / fs
        data = np.stack([np.interp(new, old, channel) for channel in signal.data.T], axis=1)
        how = "linear interpolation"
    else:
        ratio = _ratio(signal.fs, fs, name)
        data = scipy.signal.resample_poly(signal.data, ratio.numerator, ratio.denominator, axis=0, padtype="line")
        how = f"anti-aliased, ratio {ratio}; nothing above {fs / 2:g} Hz is left"
    note = f"{name}: {signal.fs:.5g} Hz brought to {fs:g} Hz ({how})"
    data = data.astype(signal.data.dtype, copy=False)
    return Signal(data, fs, signal.native_fs, signal.units, signal.ch_names, signal.placement), note


def _ratio(old_fs: float, fs: float, name: str) -> Fraction:
    exact = Fraction(fs / old_fs)
    for most in DENOMINATORS:
        ratio = exact.limit_denominator(most)
        if abs(ratio - exact) <= RATE_ERROR * exact:
            return ratio
    raise DataError(
        f"{name}: {old_fs:g} Hz cannot be brought to {fs:g} Hz: no ratio of whole numbers up to {DENOMINATORS[-1]} is"
        f" exact to {RATE_ERROR:g}; choose another fs"
    )


def _nearest(values: Int[np.ndarray, " row"], old_fs: float, n: int, fs: float, beyond: int) -> np.ndarray:
    """Values of the nearest old row for `n` rows at `fs`; `beyond` past the old end."""
    rows = np.floor(np.arange(n) * (old_fs / fs) + 0.5).astype(int)
    inside = rows < len(values)
    return np.where(inside, values[np.minimum(rows, len(values) - 1)], beyond)


def _butterworth(order: int, cutoff: float | tuple[float, float], kind: str, signal: Signal, name: str) -> Signal:
    return _zero_phase(np.asarray(scipy.signal.butter(order, cutoff, kind, fs=signal.fs, output="sos")), signal, name)


def _zero_phase(sos: Float[np.ndarray, "section 6"], signal: Signal, name: str) -> Signal:
    """The bits of `scipy.signal.sosfiltfilt`, in less than half of its memory: forwards and backwards in one array."""
    x = signal.data
    inside = (np.abs(sos[:, 5]) < 1) & (np.abs(sos[:, 4]) < 1 + sos[:, 5])  # the unit circle, its poles
    if not inside.all():
        raise DataError(
            f"{name}: its filter is not stable at {signal.fs:.4g} Hz; give a frequency farther from 0 and half of that"
            " rate, a narrower notch, or a lower order"
        )
    edge = 3 * (2 * len(sos) + 1 - min((sos[:, 2] == 0).sum(), (sos[:, 5] == 0).sum()))
    if len(x) <= edge:
        raise DataError(f"{name}: {len(x)} rows are too few to filter; leave the recording out")
    with np.errstate(over="ignore", invalid="ignore"):  # what is too large is told below
        filtered = np.empty((len(x) + 2 * edge, x.shape[1]))
        filtered[:edge], filtered[-edge:] = 2 * x[0] - x[edge:0:-1], 2 * x[-1] - x[-2 : -edge - 2 : -1]
        filtered[edge:-edge] = x
        settled = scipy.signal.sosfilt_zi(sos)[:, :, None]
        for one_way in (filtered, filtered[::-1]):
            state = settled * one_way[0]
            for first in range(0, len(filtered), ROWS_AT_A_TIME):
                some = slice(first, first + ROWS_AT_A_TIME)
                one_way[some], state = scipy.signal.sosfilt(sos, one_way[some], axis=0, zi=state)
    if not (np.isfinite(filtered.min()) and np.isfinite(filtered.max())):
        raise DataError(f"{name}: its samples, up to {np.abs(x).max():.3g}, are too large to filter; check their unit")
    return _with_data(signal, filtered[edge:-edge].astype(x.dtype))


def _with_data(signal: Signal, data: Samples) -> Signal:
    return Signal(data, signal.fs, signal.native_fs, signal.units, signal.ch_names, signal.placement)


def _below_nyquist(cutoff: float, signal: Signal, name: str, what: str) -> None:
    if cutoff >= signal.fs / 2:
        raise DataError(
            f"{name}: {what} {cutoff:g} Hz needs rows at more than {2 * cutoff:g} Hz, not {signal.fs:.4g} Hz"
        )


def _check_finite(signal: Signal, name: str) -> None:
    bad = np.flatnonzero(~np.isfinite(signal.data).all(axis=0))
    if len(bad):
        raise DataError(f"{name}: NaN or infinity in channel {signal.ch_names[bad[0]]}; repair it before filtering")
