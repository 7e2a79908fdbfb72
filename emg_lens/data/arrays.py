"""A user's own arrays, taken as parts of a `TrialSet`, or refused in words."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int, Shaped

from emg_lens.data.recording import DataError
from emg_lens.data.segment import CHANNEL_COLUMNS


def samples(x: Any) -> Float[np.ndarray, "..."]:
    """A user's samples as float32; their shape is checked later."""
    try:
        return np.atleast_1d(np.asarray(x, dtype=np.float32))
    except (TypeError, ValueError):
        raise DataError(
            "x must be one array of numbers [trial, channel, time], all trials of one length and at one rate;"
            f" got {type(x).__name__}"
        ) from None


def rate(fs: Any) -> float:
    """A user's sampling rate."""
    try:
        return float(fs)
    except (TypeError, ValueError):
        raise DataError(f"fs must be one number, the samples per second of all channels of x; got {fs!r}") from None


def channel_table(channels: Any, fs: float, x: Float[np.ndarray, "..."]) -> pd.DataFrame:
    """The channel table that a user's counts, or own table, stand for."""
    if isinstance(channels, pd.DataFrame):
        return channels.reset_index(drop=True)
    if not (isinstance(channels, Mapping) and all(isinstance(n, int | np.integer) for n in channels.values())):
        raise DataError(
            f"channels must say how many each modality has, such as {{'emg': 8, 'acc': 3}}; got {channels!r}"
        )
    if x.ndim == 3 and sum(channels.values()) != x.shape[1]:
        raise DataError(
            f"x is [trial, channel, time] and has {x.shape[1]} channels (shape {x.shape}),"
            f" but channels names {sum(channels.values())}: {dict(channels)}"
        )
    rows = [(m, f"{m}.{i}", "", fs) for m, n in channels.items() for i in range(n)]
    return pd.DataFrame(rows, columns=list(CHANNEL_COLUMNS))


def whole(values: Shaped[np.ndarray, " trial"] | Sequence[int], name: str) -> Int[np.ndarray, " trial"]:
    """A user's repetitions or movements as whole numbers."""
    numbers = np.asarray(values)
    if numbers.dtype.kind not in "iuf" or (numbers != np.round(numbers)).any():
        raise DataError(f"{name} must hold whole numbers, got {numbers.dtype}")
    return numbers.astype(np.int64)
