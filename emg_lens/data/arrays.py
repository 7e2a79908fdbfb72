"""A user's own arrays, taken as parts of a `TrialSet`, or refused in words."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int, Shaped
from pydantic import PositiveFloat, PositiveInt

from emg_lens.data.recording import DataError
from emg_lens.data.segment import CHANNEL_COLUMNS
from emg_lens.validation import ArgumentError, check_argument, short

LARGEST = 2**53
"""Of whole numbers: floating-point ones hold no larger one exactly."""


def samples(x: Any, name: str = "x", axes: str = "[trial, channel, time]") -> Float[np.ndarray, "..."]:
    """A user's samples (or targets) as float32; their shape is checked later."""
    try:
        array = np.asarray(x)
    except (TypeError, ValueError):
        array = np.empty(0, object)
    if array.dtype.kind not in "iuf":
        raise DataError(
            f"{name} must be one array of real numbers {axes}, all trials of one length and at one rate; got"
            f" {type(x).__name__}{'' if array.dtype == object else f' of {array.dtype}'}"
        )
    with np.errstate(over="ignore"):  # infinity is refused by name later
        return np.atleast_1d(array.astype(np.float32, copy=False))


def rate(fs: Any) -> float:
    """A user's sampling rate."""
    try:
        check_argument("fs", fs, PositiveFloat)
    except ArgumentError:
        raise DataError(
            f"fs must be positive, one number, the samples per second of all channels of x; got {short(fs)}"
        ) from None
    return float(fs)


def channel_table(channels: Any, fs: float, x: Float[np.ndarray, "..."]) -> pd.DataFrame:
    """The channel table that a user's counts, or own table, stand for."""
    if isinstance(channels, pd.DataFrame):
        return channels.reset_index(drop=True)
    try:
        check_argument("channels", channels, Mapping[str, PositiveInt])
    except ArgumentError:
        raise DataError(
            f"channels must say how many each modality has, such as {{'emg': 8, 'acc': 3}}; got {short(channels)}"
        ) from None
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
    if numbers.dtype.kind not in "iuf" or (numbers != np.round(numbers)).any() or (np.abs(numbers) > LARGEST).any():
        raise DataError(f"{name} must hold whole numbers, got {numbers.dtype}")
    return numbers.astype(np.int64)


def labels(values: Any, name: str, n: int | None = None) -> list[str | int | float]:
    """A user's labels, subjects or names, one by one: text or numbers.

    Args:
        values: A list, array, tensor or column.
        name: What they are called, for messages.
        n: How many there should be, if that is known.

    Raises:
        DataError: Another number of them, or one that is missing (`None`, NaN), bytes, or no label at all.
    """
    given = values.tolist() if hasattr(values, "tolist") else values
    if isinstance(given, str | bytes | Mapping) or not isinstance(given, Iterable):
        raise DataError(f"{name} must be one label a trial, got {short(values)}")
    items = list(given)
    shape = getattr(values, "shape", (len(items),))
    if n is not None and tuple(shape) != (n,):
        raise DataError(f"{name} must be one label a trial: {n} of them, got shape {tuple(shape)}")
    for at, item in enumerate(items):
        if isinstance(item, bytes):
            raise DataError(f"{name} of trial {at} is {short(item)}, bytes; give text: .astype(str), or .decode() each")
        if not isinstance(item, str | int | float) or (isinstance(item, float) and not math.isfinite(item)):
            raise DataError(f"{name} of trial {at} is {short(item)}; expected text or a number, none missing")
    if all(isinstance(item, float) and item.is_integer() and abs(item) <= LARGEST for item in items):
        return [int(item) for item in items]  # a table or MATLAB wrote 1 as 1.0
    return items


def distinct(items: Sequence[str | int | float], name: str) -> list[str | int | float]:
    """The different labels in rising order, numbers before text.

    Raises:
        DataError: Two that are written alike, such as 1 and "1".
    """
    found = sorted(set(items), key=lambda item: (isinstance(item, str), item))
    texts = [str(item) for item in found]
    doubled = [text for i, text in enumerate(texts) if text in texts[:i]]
    if doubled:
        raise DataError(f"{name} holds {doubled[0]} as a number and as text; make all of them one of the two")
    return found


def check_names(**names: Iterable[object]) -> None:
    """Refuse names that tables, files and terminals cannot show.

    Args:
        **names: Of subjects, classes, ...: what they are -> them.

    Raises:
        DataError: One that is empty, no text, or holds what is not printable.
    """
    for what, some in names.items():
        for name in some:
            if not isinstance(name, str) or not name.strip() or not name.isprintable():
                raise DataError(f"{what.replace('_', ' ')} must be printable text and not empty, got {short(name)}")


def chosen_values(values: Shaped[np.ndarray, " value"], wanted: Iterable, what: str) -> list:
    """`wanted` as a list, or one line about the first that does not occur in `values`."""
    if isinstance(wanted, str):
        raise DataError(f"expected a list of {what} values such as [{wanted!r}], got {wanted!r}")
    known = list(dict.fromkeys(values.tolist()))
    wanted = [item.item() if isinstance(item, np.generic) else item for item in wanted]
    for item in wanted:
        if item not in known:
            raise DataError(f"unknown {what} {item!r}; known: {', '.join(map(str, sorted(known)))}")
    if not wanted:
        raise DataError(f"an empty list selects no {what}")
    return wanted


def apart(numbers: Sequence[Int[np.ndarray, " trial"]]) -> list[Int[np.ndarray, " trial"]]:
    """The numbers of several sets, renumbered so that no two sets share one."""
    renumbered, following = [], 0
    for some in numbers:
        renumbered.append(some - some.min() + following)
        following = int(renumbered[-1].max()) + 1
    return renumbered
