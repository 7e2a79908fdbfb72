"""Preprocessing: filter a recording and bring all signals to one sampling rate.

A `Recipe` lists the steps for each modality; its digest is stored with the result. Steps act on whole recordings,
before trials are cut, so that no filter starts at a trial's edge. They run channel by channel, so that a long
recording needs little more memory than its own size.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction
from math import prod
from typing import Annotated, ClassVar, Literal

import numpy as np
import scipy  # submodules are imported at first use; most commands never filter
from jaxtyping import Float, Int
from pydantic import Field, PositiveFloat, model_validator

from emg_lens.data.recording import UNLABELLED, DataError, Recording, Signal
from emg_lens.validation import SpecModel, checked

Samples = Float[np.ndarray, "time channel"]

DENOMINATORS = (2000, 20_000, 200_000)
"""Largest denominators of the resampling ratio; the first that meets `RATE_ERROR` is used."""
RATE_ERROR = 1e-6
"""Largest relative error of a changed sampling rate: 0.06 ms in a minute."""
MOST_ORDER = 20
"""Highest filter order; double precision is not accurate enough for higher orders."""
Order = Annotated[int, Field(ge=1, le=MOST_ORDER)]

NOTED_S = 0.1
"""A loss of more than this time (s) gets a note."""
ROWS_AT_ONCE = 1 << 16
"""Rows that are filtered at once. The filter's state is carried over, so that the result has the same bits."""


class Step(SpecModel, ABC):
    """One step of preprocessing.

    Butterworth filters run forwards and backwards, as in `scipy.signal.sosfiltfilt`: zero phase, and the gain is
    squared, so -6 dB at the cut-offs.
    """

    channels_together: ClassVar[int] = 1
    """Number of consecutive channels that one output channel is computed from."""

    @abstractmethod
    def apply(self, signal: Signal, name: str) -> tuple[Signal, str]:
        """Return the changed signal and a note, which may be empty."""


class Bandpass(Step):
    """Butterworth band-pass filter.

    Attributes:
        low_hz: Lower cut-off (Hz).
        high_hz: Upper cut-off (Hz).
        order: Order of the filter, as in `scipy.signal.butter`.
    """

    step: Literal["bandpass"] = "bandpass"
    low_hz: PositiveFloat
    high_hz: PositiveFloat
    order: Order = 4

    @model_validator(mode="after")
    def _ordered(self) -> "Bandpass":
        if self.low_hz >= self.high_hz:
            raise ValueError(f"low_hz must be below high_hz, got {self.low_hz:g} and {self.high_hz:g}")
        return self

    def apply(self, signal: Signal, name: str) -> tuple[Signal, str]:
        """Filter; raise `DataError` if `high_hz` is not below half the sampling rate."""
        _below_nyquist(self.high_hz, signal, name, "band-pass up to")
        band = (self.low_hz, self.high_hz)
        note = ""
        if self.high_hz >= signal.native_fs / 2:
            note = f"{name}: the band-pass exceeds half the sensor's native rate of {signal.native_fs:.4g} Hz"
        return _butterworth(self.order, band, "bandpass", signal, name), note


class Highpass(Step):
    """Butterworth high-pass filter.

    Attributes:
        cutoff_hz: Cut-off (Hz).
        order: Order of the filter, as in `scipy.signal.butter`.
    """

    step: Literal["highpass"] = "highpass"
    cutoff_hz: PositiveFloat
    order: Order = 4

    def apply(self, signal: Signal, name: str) -> tuple[Signal, str]:
        """Filter; raise `DataError` if `cutoff_hz` is not below half the sampling rate."""
        _below_nyquist(self.cutoff_hz, signal, name, "high-pass at")
        return _butterworth(self.order, self.cutoff_hz, "highpass", signal, name), ""


class Lowpass(Step):
    """Butterworth low-pass filter; left out, with a note, if the signal has no content above its cut-off.

    Attributes:
        cutoff_hz: Cut-off (Hz).
        order: Order of the filter, as in `scipy.signal.butter`.
    """

    step: Literal["lowpass"] = "lowpass"
    cutoff_hz: PositiveFloat
    order: Order = 4

    def apply(self, signal: Signal, name: str) -> tuple[Signal, str]:
        """Filter, unless the signal has no content above the cut-off (docs/trials.md §3.1)."""
        rate = min(signal.fs, signal.native_fs)
        if self.cutoff_hz >= rate / 2:
            note = f"{name}: no low-pass at {self.cutoff_hz:g} Hz was needed, its native rate is {rate:.4g} Hz"
            return signal, note
        return _butterworth(self.order, self.cutoff_hz, "lowpass", signal, name), ""


class Notch(Step):
    """Second-order notch filter, without a phase shift.

    Attributes:
        frequency_hz: Frequency that is removed (Hz).
        quality: The width at -3 dB is `frequency_hz / quality` per pass.
    """

    step: Literal["notch"] = "notch"
    frequency_hz: PositiveFloat
    quality: PositiveFloat = 30.0

    def apply(self, signal: Signal, name: str) -> tuple[Signal, str]:
        """Filter; raise `DataError` if `frequency_hz` is not below half the sampling rate."""
        _below_nyquist(self.frequency_hz, signal, name, "notch at")
        if self.frequency_hz / self.quality >= signal.fs / 2:
            width = self.frequency_hz / self.quality
            raise DataError(
                f"{name}: a notch {width:g} Hz wide removes the whole band at {signal.fs:.4g} Hz; raise quality"
            )
        made = scipy.signal.iirnotch(self.frequency_hz, self.quality, fs=signal.fs)
        return _zero_phase(scipy.signal.tf2sos(*made), signal, name), ""


class Rectify(Step):
    """Absolute value. To rectify after z-scoring, as in the IsoNet paper, use `TrialSet.standardised`."""

    step: Literal["rectify"] = "rectify"

    def apply(self, signal: Signal, name: str) -> tuple[Signal, str]:  # noqa: ARG002
        """Return the absolute value."""
        return replace(signal, data=np.abs(signal.data)), ""


class Magnitude(Step):
    """Euclidean norm of every three consecutive channels (x, y, z of one sensor): 3 n channels become n."""

    step: Literal["magnitude"] = "magnitude"
    channels_together: ClassVar[int] = 3

    def apply(self, signal: Signal, name: str) -> tuple[Signal, str]:
        """Return the norms; raise `DataError` if the number of channels is not a multiple of 3."""
        n = signal.data.shape[1]
        if n % 3:
            raise DataError(f"{name}: magnitude needs a multiple of 3 channels (x, y, z of each sensor), got {n}")
        norms = np.linalg.norm(signal.data.reshape(len(signal.data), n // 3, 3), axis=2)
        names = tuple(f"|{','.join(signal.ch_names[i : i + 3])}|" for i in range(0, n, 3))
        return replace(signal, data=norms, ch_names=names), ""


AnyStep = Annotated[Bandpass | Highpass | Lowpass | Notch | Rectify | Magnitude, Field(discriminator="step")]


class Recipe(SpecModel):
    """The preprocessing of a recording: filters for each modality and a common sampling rate.

    Attributes:
        signals: Steps of each modality, in order, at the modality's own rate. Empty: no modality is filtered. Otherwise
            list every modality of the recording, with an empty list for one without steps. The result has this order of
            modalities. Use `TrialSet.keep` to leave modalities out.
        fs: Sampling rate of the result (Hz), one for all modalities, reached after the steps. Downsampling uses
            `scipy.signal.resample_poly` with its default zero-phase anti-aliasing filter; upsampling uses linear
            interpolation, which does not overshoot. `None`: rates stay, and must all be equal.

    Example:
        >>> from emg_lens.data import Recipe
        >>> recipe = Recipe.model_validate({
        ...     "signals": {"emg": [{"step": "bandpass", "low_hz": 20, "high_hz": 90}, {"step": "rectify"}], "acc": []},
        ...     "fs": 200})
        >>> [step.step for step in recipe.signals["emg"]]
        ['bandpass', 'rectify']
    """

    signals: dict[str, tuple[AnyStep, ...]] = {}
    fs: PositiveFloat | None = None

    def digest(self) -> str:
        """Return a short hash of the recipe; it depends on the order of modalities and steps."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:12]


@checked
def preprocess(recording: Recording, recipe: Recipe) -> Recording:
    """Apply a recipe to a whole recording.

    Labels and repetitions are taken from the nearest row. All signals are cut to the shortest one. Notes list changed
    sampling rates and filters that were not needed.

    Args:
        recording: The recording, as it was loaded.
        recipe: Filters for each modality, and the common sampling rate.

    Returns:
        A new recording; `meta["recipe"]` is the recipe's digest.

    Raises:
        DataError: Recipe and recording do not have the same modalities; a cut-off is too high for the sampling rate;
            rates differ with `fs=None`; a sample is NaN; or the recording is too short for a filter.

    Example:
        >>> from emg_lens import load_dataset, preprocess
        >>> from emg_lens.data import Recipe
        >>> (raw,) = load_dataset("simulated", simulation={"n_subjects": 1, "n_repetitions": 2})
        >>> recording = preprocess(raw, Recipe(fs=100))
        >>> {name: (raw.signals[name].fs, signal.fs) for name, signal in recording.signals.items()}
        {'emg': (200.0, 100.0), 'acc': (50.0, 100.0)}
    """
    unknown = [name for name in recipe.signals if name not in recording.signals]
    if unknown:
        known = ", ".join(recording.signals)
        raise DataError(f"{recording.source} has no modality {unknown[0]!r}, which the recipe lists; it has {known}")
    unnamed = [name for name in recording.signals if recipe.signals and name not in recipe.signals]
    if unnamed:
        raise DataError(
            f"{recording.source} has {', '.join(unnamed)}, which the recipe does not list; give {unnamed[0]} its steps,"
            " or [] for none (to hide it from a model, leave it out of the cohort's modalities)"
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
    notes += _left_out(
        {name: s.duration for name, s in signals.items()}, n_rows / fs, len(recording.label) / recording.fs
    )
    signals = {name: replace(s, data=s.data[:n_rows]) for name, s in signals.items()}
    label = _nearest(recording.label, recording.fs, n_rows, fs, UNLABELLED)
    repetition = _nearest(recording.repetition, recording.fs, n_rows, fs, 0)
    meta = {**recording.meta, "recipe": recipe.digest(), "notes": tuple(notes)}
    return Recording(recording.subject, signals, label, repetition, fs, meta)


def _left_out(durations: Mapping[str, float], kept_s: float, labels_s: float) -> list[str]:
    """Notes on signals that are cut by more than `NOTED_S` to the shortest one, and on labels that end before them."""
    notes = [
        f"{name}: its last {duration - kept_s:.2g} s are left out, because another signal ends earlier"
        for name, duration in durations.items()
        if duration - kept_s > NOTED_S
    ]
    if kept_s - labels_s > NOTED_S:
        notes.append(f"the labels end {kept_s - labels_s:.2g} s before the signals: the rest is unlabelled")
    return notes


def _prepare(signal: Signal, recipe: Recipe, name: str) -> tuple[Signal, list[str]]:
    """Apply the steps and the change of rate to one modality, a few channels at a time; also return notes."""
    n, size = signal.data.shape[1], prod(step.channels_together for step in recipe.signals.get(name, ()))
    if n % size or n <= size:
        return _prepared(signal, recipe, name)
    data, names, notes, part = None, [], [], signal
    for first in range(0, n, size):
        columns, of = np.ascontiguousarray(signal.data[:, first : first + size]), signal.ch_names[first : first + size]
        part, new = _prepared(replace(signal, data=columns, ch_names=of), recipe, name)
        if data is None:  # stored channel by channel, as trials are
            data = np.empty((n // size * part.data.shape[1], len(part.data)), part.data.dtype)
        data[len(names) : len(names) + part.data.shape[1]] = part.data.T
        names += part.ch_names
        notes += new
    assert data is not None
    return replace(part, data=data.T, ch_names=tuple(names)), list(dict.fromkeys(notes))


def _prepared(signal: Signal, recipe: Recipe, name: str) -> tuple[Signal, list[str]]:
    """Apply the steps and the change of rate to all channels at once."""
    bad = np.flatnonzero(~np.isfinite(signal.data).all(axis=0))
    if len(bad):
        raise DataError(f"{name}: NaN or infinity in channel {signal.ch_names[bad[0]]}; repair it before filtering")
    notes = []
    for step in recipe.signals.get(name, ()):
        signal, note = step.apply(signal, name)
        notes.append(note)
    if recipe.fs is not None and recipe.fs != signal.fs:
        signal, note = _resample(signal, recipe.fs, name)
        notes.append(note)
    return signal, [note for note in notes if note]


def _resample(signal: Signal, fs: float, name: str) -> tuple[Signal, str]:
    """Resample a signal to `fs`; row k of the result is at k / fs seconds."""
    if len(signal.data) < 2:
        raise DataError(f"{name}: {len(signal.data)} rows are too few to change the rate; leave the recording out")
    if fs > signal.fs:
        rows = int(np.floor(signal.duration * fs + 1e-6))
        old, new = np.arange(len(signal.data)) / signal.fs, np.arange(rows) / fs
        data = np.stack([np.interp(new, old, channel) for channel in signal.data.T], axis=1)
        how = "linear interpolation"
    else:
        ratio = _ratio(signal.fs, fs, name)
        data = scipy.signal.resample_poly(signal.data, ratio.numerator, ratio.denominator, axis=0, padtype="line")
        how = f"anti-aliased, ratio {ratio}, no content above {fs / 2:g} Hz"
    note = f"{name}: resampled from {signal.fs:.5g} Hz to {fs:g} Hz ({how})"
    return replace(signal, data=data.astype(signal.data.dtype, copy=False), fs=fs), note


def _ratio(old_fs: float, fs: float, name: str) -> Fraction:
    exact = Fraction(fs / old_fs)
    for most in DENOMINATORS:
        ratio = exact.limit_denominator(most)
        if abs(ratio - exact) <= RATE_ERROR * exact:
            return ratio
    raise DataError(
        f"{name}: {old_fs:g} Hz cannot be resampled to {fs:g} Hz, because no ratio of whole numbers up to"
        f" {DENOMINATORS[-1]} is exact to {RATE_ERROR:g}; choose another fs"
    )


def _nearest(values: Int[np.ndarray, " row"], old_fs: float, n: int, fs: float, beyond: int) -> np.ndarray:
    """Take the value of the nearest old row for each of `n` rows at `fs`; `beyond` after the old end."""
    rows = np.floor(np.arange(n) * (old_fs / fs) + 0.5).astype(int)
    inside = rows < len(values)
    return np.where(inside, values[np.minimum(rows, len(values) - 1)], beyond)


def _butterworth(order: int, cutoff: float | tuple[float, float], kind: str, signal: Signal, name: str) -> Signal:
    return _zero_phase(np.asarray(scipy.signal.butter(order, cutoff, kind, fs=signal.fs, output="sos")), signal, name)


def _zero_phase(sos: Float[np.ndarray, "section 6"], signal: Signal, name: str) -> Signal:
    """Filter forwards and backwards: the bits of `scipy.signal.sosfiltfilt`, in less than half of its memory."""
    x = signal.data
    inside = (np.abs(sos[:, 5]) < 1) & (np.abs(sos[:, 4]) < 1 + sos[:, 5])  # all poles inside the unit circle
    if not inside.all():
        raise DataError(
            f"{name}: its filter is not stable at {signal.fs:.4g} Hz; give a frequency farther from 0 and from half"
            " that rate, a narrower notch, or a lower order"
        )
    edge = 3 * (2 * len(sos) + 1 - min((sos[:, 2] == 0).sum(), (sos[:, 5] == 0).sum()))
    if len(x) <= edge:
        raise DataError(f"{name}: {len(x)} rows are too few to filter; leave the recording out")
    with np.errstate(over="ignore", invalid="ignore"):  # too large values are reported below
        filtered = np.empty((len(x) + 2 * edge, x.shape[1]))
        filtered[:edge], filtered[-edge:] = 2 * x[0] - x[edge:0:-1], 2 * x[-1] - x[-2 : -edge - 2 : -1]
        filtered[edge:-edge] = x
        settled = scipy.signal.sosfilt_zi(sos)[:, :, None]
        for one_way in (filtered, filtered[::-1]):
            state = settled * one_way[0]
            for first in range(0, len(filtered), ROWS_AT_ONCE):
                some = slice(first, first + ROWS_AT_ONCE)
                one_way[some], state = scipy.signal.sosfilt(sos, one_way[some], axis=0, zi=state)
    if not (np.isfinite(filtered.min()) and np.isfinite(filtered.max())):
        raise DataError(f"{name}: samples up to {np.abs(x).max():.3g} are too large to filter; check their unit")
    return replace(signal, data=filtered[edge:-edge].astype(x.dtype))


def _below_nyquist(cutoff: float, signal: Signal, name: str, what: str) -> None:
    if cutoff >= signal.fs / 2:
        raise DataError(
            f"{name}: {what} {cutoff:g} Hz needs a sampling rate above {2 * cutoff:g} Hz, got {signal.fs:.4g} Hz"
        )
