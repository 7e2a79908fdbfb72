"""Check and convert a user's own arrays, as fields of a `TrialSet`."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int, Shaped
from pydantic import PositiveFloat, PositiveInt

from emg_lens.data.recording import EXACT, LARGEST, DataError, as_array
from emg_lens.data.segment import CHANNEL_COLUMNS
from emg_lens.errors import did_you_mean
from emg_lens.validation import ArgumentError, check_argument, check_fields, short

ROUTE = (
    " of different lengths; cut windows of one length, or save one file for each trial (np.save) and let emg-lens new"
    " --data FOLDER describe the folder"
)
"""What to do with trials of different lengths."""


def _is_ragged(x: Any) -> bool:
    return isinstance(x, list | tuple | np.ndarray) and len({np.shape(one) for one in x if hasattr(one, "shape")}) > 1


def as_samples(x: Any, name: str = "x", axes: str = "[trial, channel, time]") -> Float[np.ndarray, "..."]:
    """Convert samples (or targets) to float32; `TrialSet` checks their shape."""
    array = as_array(x, name)
    if array.dtype.kind not in "iuf":
        raise DataError(
            f"{name} must be one array of real numbers {axes}, all trials of one length and at one rate; got"
            f" {type(x).__name__}{'' if array.dtype == object else f' of {array.dtype}'}"
            f"{ROUTE if _is_ragged(x) else ''}"
        )
    if array.dtype.kind in "iu" and array.size and max(int(array.max()), -int(array.min())) > EXACT:
        raise DataError(
            f"{name} has whole numbers beyond {EXACT}, which float32 rounds; subtract each channel's offset or change"
            f" the unit first, or accept it with {name}.astype('float32')"
        )
    with np.errstate(over="ignore"):  # `TrialSet` rejects infinity and names the channel
        return np.atleast_1d(array.astype(np.float32, copy=False))


def constant_notes(x: Float[np.ndarray, "..."], channels: pd.DataFrame) -> tuple[str, ...]:
    """A note on channels that have one value in all trials: such a sensor may not have been connected."""
    known = {"modality", "name"} <= {*channels.columns}
    if x.ndim != 3 or not x.size or x.shape[1] != len(channels) or not known:
        return ()
    first = x[:1, :, :1]
    names = [
        f"{channels['modality'].iloc[i]} {channels['name'].iloc[i]} ({float(first[0, i, 0]):g})"
        for i in range(x.shape[1])
        if (x[:, i] == first[:, i]).all()
    ]
    return (f"constant in all trials: {', '.join(names)}; is it connected?",) if names else ()


def as_rate(fs: Any) -> float:
    """Check a sampling rate (Hz)."""
    try:
        check_argument("fs", fs, PositiveFloat)
    except ArgumentError:
        raise DataError(
            f"fs must be one positive number, the sampling rate of all channels of x in Hz; got {short(fs)}"
        ) from None
    return float(fs)


def channel_table(channels: Any, fs: float, x: Float[np.ndarray, "..."]) -> pd.DataFrame:
    """Make the channel table from the number of channels of each modality; a table stays as it is."""
    if isinstance(channels, pd.DataFrame):
        return channels.reset_index(drop=True)
    try:
        check_argument("channels", channels, Mapping[str, PositiveInt])
    except ArgumentError:
        raise DataError(
            "channels must give the number of channels of each modality, such as {'emg': 8, 'acc': 3};"
            f" got {short(channels)}"
        ) from None
    if x.ndim == 3 and sum(channels.values()) != x.shape[1]:
        raise DataError(
            f"x is [trial, channel, time] and has {x.shape[1]} channels (shape {x.shape}),"
            f" but channels lists {sum(channels.values())}: {dict(channels)}"
        )
    rows = [(m, f"{m}.{i}", "", fs) for m, n in channels.items() for i in range(n)]
    return pd.DataFrame(rows, columns=list(CHANNEL_COLUMNS))


def as_whole_numbers(values: Shaped[np.ndarray, " trial"] | Sequence[int], name: str) -> Int[np.ndarray, " trial"]:
    """Convert repetition numbers to whole numbers."""
    numbers = as_array(values, name)
    if numbers.dtype.kind not in "iuf" or (numbers != np.round(numbers)).any() or (np.abs(numbers) > LARGEST).any():
        raise DataError(f"{name} must contain whole numbers, got {numbers.dtype}")
    return numbers.astype(np.int64)


def as_labels(values: Any, name: str, n: int | None = None) -> list[str | int | float]:
    """Convert a list, array, tensor or column of `n` labels, subjects or names to a list of text or numbers."""
    given = values.tolist() if hasattr(values, "tolist") else values
    if isinstance(given, str | bytes | Mapping) or not isinstance(given, Iterable):
        raise DataError(f"{name} must be one label per trial, got {short(values)}")
    items = [one.item() if getattr(one, "ndim", None) == 0 else one for one in given]  # numbers of numpy and torch
    shape = getattr(values, "shape", (len(items),))
    if n is not None and tuple(shape) != (n,):
        raise DataError(f"{name} must be one label per trial, {n} labels, got shape {tuple(shape)}")
    for at, item in enumerate(items):
        if isinstance(item, bytes):
            raise DataError(
                f"{name} of trial {at} is {short(item)}, bytes; give text: .astype(str), or .decode() for each"
            )
        if not isinstance(item, str | int | float) or (isinstance(item, float) and not math.isfinite(item)):
            raise DataError(f"{name} of trial {at} is {short(item)}; expected text or a number")
    if all(isinstance(item, float) and item.is_integer() and abs(item) <= LARGEST for item in items):
        return [int(item) for item in items]  # tables and MATLAB files write 1 as 1.0
    return items


def distinct_labels(items: Sequence[str | int | float], name: str) -> list[str | int | float]:
    """Return the different labels in rising order, numbers before text."""
    different = sorted(set(items), key=lambda item: (isinstance(item, str), item))
    texts = [str(item) for item in different]
    doubled = [text for i, text in enumerate(texts) if text in texts[:i]]
    if doubled:
        raise DataError(f"{name} contains {doubled[0]} as a number and as text; use one type for all labels")
    return different


def windows_of_repetitions(
    subject: Shaped[np.ndarray, " trial"], label: Sequence[str | int | float], repetition: Int[np.ndarray, " trial"]
) -> tuple[Int[np.ndarray, " trial"], tuple[str, ...]]:
    """Number the repetitions by subject, label and repetition number; a note says if one has several trials."""
    keys = pd.DataFrame({"subject": subject, "label": list(map(str, label)), "repetition": repetition})
    number = keys.groupby(list(keys), sort=False).ngroup().to_numpy(np.int64)
    n = len(np.unique(number))
    note = (
        f"{len(keys)} trials count as windows of {n} repetitions: trials of one subject, class and repetition"
        " number are windows of one repetition (repetition_id was not given)"
    )
    return number, (note,) * (n < len(keys))


def check_names(**names: Iterable[object]) -> None:
    """Reject names that tables, files and terminals cannot show: `subjects=[...]`, `classes=[...]`."""
    for what, group in names.items():
        for name in group:
            if not isinstance(name, str) or not name.strip() or not name.isprintable():
                raise DataError(f"{what.replace('_', ' ')} must be printable text and not empty, got {short(name)}")


def check_trials(trials: Any) -> None:
    """Check that the fields of a `TrialSet` agree in shape, type and names."""
    try:
        check_fields(trials)
    except ArgumentError as error:
        raise DataError(str(error)) from None
    x = trials.x
    if x.ndim != 3 or x.dtype != np.float32 or not x.size:
        raise DataError(f"x must be float32 [trial, channel, time] and not empty, got {x.dtype} {x.shape}")
    n = len(x)
    for name in ("y", "subject", "repetition", "repetition_id"):
        vector, kind = getattr(trials, name), "U" if name == "subject" else "iu"
        if vector.shape != (n,) or vector.dtype.kind not in kind:
            wanted = "strings" if kind == "U" else "whole numbers"
            raise DataError(f"{name} must be {n} {wanted}, got {vector.dtype} {vector.shape}")
    if (trials.source is None) != (trials.start_s is None):
        raise DataError("source and start_s belong together; give both or neither")
    if not 0 < trials.fs < np.inf:
        raise DataError(f"fs must be positive and finite, got {trials.fs}")
    check_names(subjects=np.unique(trials.subject).tolist(), classes=trials.classes, target_names=trials.target_names)
    if len(set(trials.classes)) != len(trials.classes):
        raise DataError(f"class names must be unique, got {list(trials.classes)}")
    if trials.y.min() < 0 or trials.y.max() >= len(trials.classes):
        raise DataError(f"y must be 0 to {len(trials.classes) - 1}, got {trials.y.min()} to {trials.y.max()}")
    check_channels(trials.channels, x.shape[1])
    _check_targets(trials.targets, trials.target_names, n)
    bad = np.flatnonzero(~np.isfinite(x).all(axis=2).ravel())
    if len(bad):
        trial, channel = divmod(int(bad[0]), x.shape[1])
        row = trials.channels.iloc[channel]
        raise DataError(f"x holds NaN or infinity in trial {trial}, channel {channel} ({row.modality} {row['name']})")


def check_channels(channels: pd.DataFrame, n: int) -> None:
    """Check a channel table of `n` channels."""
    if tuple(channels.columns) != CHANNEL_COLUMNS or len(channels) != n:
        raise DataError(
            f"channels must have {n} rows and the columns {', '.join(CHANNEL_COLUMNS)},"
            f" got {len(channels)} rows and {', '.join(map(str, channels.columns))}"
        )
    order = channels["modality"].tolist()
    check_names(modalities=order, channel_names=channels["name"].astype(str))
    if order != [m for m in dict.fromkeys(order) for _ in range(order.count(m))]:
        raise DataError(f"channels of a modality must stand together, got the order {order}")


def _check_targets(targets: Any, names: Sequence[str], n_trials: int) -> None:
    n = len(names)
    if targets is None:
        if n:
            raise DataError(f"there are {n} target_names but no targets; give targets too")
        return
    if targets.ndim < 2 or len(targets) != n_trials or targets.shape[-1] != n or targets.dtype != np.float32 or not n:
        raise DataError(
            f"targets must be float32 [trial, target] (or [trial, step, target]) of {n_trials} trials, with one name"
            f" per target; got {targets.dtype} {targets.shape} and {n} names"
        )
    if len(set(names)) != n:
        raise DataError(f"target names must be unique, got {list(names)}")
    bad = np.argwhere(~np.isfinite(targets))
    if len(bad):
        raise DataError(f"target {names[bad[0, -1]]} is NaN or infinite in trial {bad[0, 0]}")


def checked_choice(values: Shaped[np.ndarray, " value"], wanted: Iterable, what: str) -> list:
    """Return `wanted` as a list; raise `DataError` for the first item that does not occur in `values`."""
    if isinstance(wanted, str | bytes) or not isinstance(wanted, Iterable):
        raise DataError(f"expected a list of {what} values such as [{short(wanted)}], got {short(wanted)}")
    known = list(dict.fromkeys(values.tolist()))
    wanted = [item.item() if isinstance(item, np.generic) else item for item in wanted]
    for item in wanted:
        if not isinstance(item, str | int | float) or item not in known:
            hint = did_you_mean(item, map(str, known)) if isinstance(item, str) else ""
            raise DataError(f"unknown {what} {short(item)}; {hint}known: {', '.join(map(str, sorted(known)))}")
    if not wanted:
        raise DataError(f"an empty list selects no {what}")
    return wanted


def check_apart(what: str, train: Iterable, test: Iterable, validation: Iterable = ()) -> None:
    """Reject subjects or repetitions that are in two sets."""
    for one, other, sets in (
        (train, {*test}, "the training and in the test split"),
        (validation, {*train, *test}, "validation and in the training or the test split"),
    ):
        both = [item for item in one if item in other]
        if both:
            raise DataError(f"{what} {both} are in {sets}; keep each in one")


def renumbered(numbers: Sequence[Int[np.ndarray, " trial"]]) -> list[Int[np.ndarray, " trial"]]:
    """Renumber several sets so that no two sets have a number in common."""
    shifted, following = [], 0
    for some in numbers:
        shifted.append(some - some.min() + following)
        following = int(shifted[-1].max()) + 1
    return shifted
