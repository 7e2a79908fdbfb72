"""Values that loaders read from files: checks of samples, labels and times, and repetition numbers."""

from collections import Counter

import numpy as np
import pandas as pd
from jaxtyping import Float, Int, Shaped

from emg_lens.data.matlab import as_float32
from emg_lens.data.recording import DataError, Signal

FileArray = Shaped[np.ndarray, "time channel"]
RATE_TOLERANCE = 0.02
"""Largest relative deviation of the measured rate from the stated one."""


def checked_signal(
    where: str, data: FileArray, fs: float, native_fs: float, units: str, ch_names: tuple[str, ...], placement: str
) -> Signal:
    """Make a signal of float32; `DataError` if its shape is wrong, or a sample is NaN or infinite.

    `where` is the file and the name of the signal.
    """
    if data.ndim != 2 or data.shape[1] != len(ch_names) or not len(data):
        expected = f"numbers [time, {len(ch_names)}], at least one row"
        raise DataError(f"{where} is {data.dtype} {list(data.shape)}, expected {expected}")
    data = as_float32(data)
    bad = np.flatnonzero(~np.isfinite(data).all(axis=0))
    if len(bad):
        row = int(np.argmin(np.isfinite(data[:, bad[0]]))) + 1
        raise DataError(f"{where} is NaN or infinite in channel {ch_names[bad[0]]}, row {row}; is the file complete?")
    return Signal(data, fs, native_fs, units, ch_names, placement)


def whole_numbers(
    values: Shaped[np.ndarray, " row"], where: str, hint: str = "is the file complete?"
) -> Int[np.ndarray, " row"]:
    """Convert labels or repetition numbers to integers; `DataError` if one is not a whole number from 0."""
    numbers = np.asarray(pd.to_numeric(values, errors="coerce"))
    wrong = ~((numbers >= 0) & (numbers <= np.iinfo(np.int32).max) & (numbers == np.round(numbers)))  # true for NaN
    if wrong.any():
        raise DataError(f"{where} must contain whole numbers from 0, got {str(values[np.argmax(wrong)])!r}; {hint}")
    return numbers.astype(np.int64)


def rising_steps(times: Float[np.ndarray, " row"], where: str) -> Float[np.ndarray, " step"]:
    """Differences of successive times; `DataError` if a time is not later than the time before."""
    steps = np.diff(times)
    if not len(steps) or not (steps > 0).all():
        row = int(np.argmin(np.append(steps > 0, False))) + 2
        raise DataError(f"{where} does not rise in row {row}; is the file complete, and is this the column of times?")
    return steps


def check_times(seconds: Float[np.ndarray, " row"], fs: float, longest_step: float, where: str) -> list[str]:
    """Check that times rise at the rate `fs`; return a note on steps of more than `longest_step` rows."""
    steps = rising_steps(seconds, f"{where}: time")
    gaps = steps > longest_step / fs
    measured = 1 / float(np.mean(steps if gaps.all() else steps[~gaps]))
    if abs(measured / fs - 1) > RATE_TOLERANCE:
        raise DataError(f"{where}: {measured:.6g} rows per second by the column of times, but fs is {fs:g}")
    if not gaps.any():
        return []
    longest = int(np.argmax(steps))
    jump = f"the longest of {steps[longest]:.2f} s after row {longest + 1}"
    return [f"time has {gaps.sum()} gaps, {jump}: rows are missing"]


def number_runs(label: Int[np.ndarray, " row"], done: Counter[int]) -> Int[np.ndarray, " row"]:
    """Number the runs of each label: the first run of consecutive rows with one label is repetition 1, and so on.

    `done` has the number of earlier runs of each label, and is updated in place.
    """
    starts = np.flatnonzero(np.diff(label, prepend=label[0] - 1))
    numbers = []
    for one in label[starts].tolist():
        done[one] += 1
        numbers.append(done[one])
    return np.repeat(np.array(numbers, np.int64), np.diff(np.append(starts, len(label))))
