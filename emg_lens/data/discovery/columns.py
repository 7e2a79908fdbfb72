"""What the columns of a table or array hold: time, labels, repetitions, or the channels of a sensor."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from emg_lens.data.discovery.words import axes_of, is_ignored, role_of, sensor_of

MOST_CLASSES = 120
SHORTEST_RUN = 10
"""Mean number of rows with one value, above which a column of few values is a column of labels."""
EVENT_ROLES = ("onset", "duration", "stop")
SAME_STEPS = 0.2
FEW_VALUES, MANY_VALUES = 3, 20
"""A column of at most so many different values is no EMG if another has more than so many."""


@dataclass(frozen=True)
class FoundColumn:
    """One column.

    Attributes:
        number: Its number, from 1.
        name: Its name, "" if it has none.
        role: `signal`, `time`, `label`, `repetition`, `subject`, `session`, `counter`, `text`, `few values`; of a
            table of events also `onset`, `duration` or `stop`.
        sensor: Modality of a signal.
        sure: Whether a name says so; otherwise it is an assumption.
        values: Its values: numbers, or texts.
        rate: Of a column of times: rows per second, and the unit of its values.
    """

    number: int
    name: str
    role: str
    sensor: str
    sure: bool
    values: np.ndarray
    rate: tuple[float, str] | None = None


def find_columns(values: Sequence[np.ndarray], names: Sequence[str], default: str | None) -> list[FoundColumn]:
    """Say what each column holds.

    Args:
        values: The columns, each numbers or texts.
        names: Their names; "" = none.
        default: Modality of channels whose names say nothing; None = EMG, as an assumption.
    """
    axes = axes_of(name for name in names if name)
    found = [
        _found(i, column, name, axes.get(name), default)
        for i, (column, name) in enumerate(zip(values, names, strict=True), 1)
    ]
    times = [column for column in found if column.role == "time"]
    for other in times[1:]:
        found[other.number - 1] = replace(other, role="counter")
    labels = [column for column in found if column.role == "label"]
    best = next((column for column in labels if column.sure), labels[-1] if labels else None)
    if any(column.sensor == "emg" and column.sure for column in found):  # others are no EMG
        found = [replace(c, role="text") if c.role == "signal" and not c.sure else c for c in found]
    found = [replace(c, role="text") if c.role == "label" and c is not best else c for c in found]
    emg = [c.role == "signal" and c.sensor == "emg" for c in found]
    if not any(len(np.unique(c.values)) > MANY_VALUES for c, is_emg in zip(found, emg, strict=True) if is_emg):
        return found  # recorded with few bits
    return [
        replace(c, role="few values") if is_emg and _is_no_channel(c) else c
        for c, is_emg in zip(found, emg, strict=True)
    ]


def _is_no_channel(column: FoundColumn) -> bool:
    """Whether a column without a sensor's name has too few values for EMG, such as the number of a series."""
    values = np.unique(column.values)
    dead = len(values) == 1 and (values[0] == 0 or not column.name)  # a channel that is not connected
    return len(values) <= FEW_VALUES and not dead and not sensor_of(column.name)


def _found(number: int, values: np.ndarray, name: str, axis: str | None, default: str | None) -> FoundColumn:
    role, sensor = role_of(name) if name else None, sensor_of(name) if name else None
    if values.dtype.kind not in "biuf":
        if (rate := _rate_of_dates(values)) is not None:
            return FoundColumn(number, name, "time", "", True, values, (rate, "text"))
        runs = len(values) / (1 + np.count_nonzero(values[1:] != values[:-1]))
        known = role if role in ("label", "repetition", "subject", "session") else None
        guessed = "label" if runs > SHORTEST_RUN and len(set(values.tolist())) <= MOST_CLASSES else "text"
        return FoundColumn(number, name, known or guessed, "", known is not None, values)
    if axis is not None:
        return FoundColumn(number, name, "signal", axis, True, values)
    if name and is_ignored(name) and not sensor:
        return FoundColumn(number, name, "counter", "", True, values)
    if role in EVENT_ROLES and not sensor:
        return FoundColumn(number, name, role or "", "", True, values)
    if (rate := rate_of_times(values, name)) is not None and (role == "time" or not sensor):
        steps = np.diff(values[:1000])
        is_time = role == "time" or not (steps == 1).all()
        return FoundColumn(number, name, "time" if is_time else "counter", "", role == "time", values, rate)
    if role == "time" and not sensor:
        return FoundColumn(number, name, "counter", "", True, values)
    if role in ("label", "repetition", "subject", "session") and not sensor and _few_runs(values, 1):
        return FoundColumn(number, name, role, "", True, values)
    if sensor is None and not name and _few_runs(values, 20) and len(np.unique(values)) > 1:
        return FoundColumn(number, name, "label", "", False, values)
    return FoundColumn(
        number, name, "signal", sensor or default or "emg", sensor is not None or default is not None, values
    )


def _few_runs(values: np.ndarray, shortest: float) -> bool:
    """Whether the values are few whole numbers, in runs of at least `shortest` rows on average."""
    whole = np.isfinite(values).all() and (values == np.round(values)).all() and (values >= -1).all()
    if not whole or len(np.unique(values)) > MOST_CLASSES:
        return False
    return bool(len(values) >= shortest * (1 + np.count_nonzero(np.diff(values))))


def rate_of_times(values: Float[np.ndarray, " row"], name: str) -> tuple[float, str] | None:
    """Rows per second and the unit, if the values are times: they rise in about equal steps."""
    if len(values) < 3 or not np.isfinite(values).all():
        return None
    steps = np.diff(values.astype(float))
    if not (steps > 0).all() or np.median(steps) < SAME_STEPS * np.mean(steps):
        return None
    typical = float(np.mean(steps[steps <= 10 * np.median(steps)]))
    return 1 / (typical * 10.0 ** -_digits(typical, name)), {0: "s", 3: "ms", 6: "us", 9: "ns"}[_digits(typical, name)]


def _digits(step: float, name: str) -> int:
    """0, 3, 6 or 9: the unit of times is 10^-n seconds. The name may say it; else the rate should be plausible."""
    unit = re.search(r"(?:\b|_|\(|\[)(s|sec|seconds|ms|msec|us|ns)(?:\b|_|\)|\])", name.lower())
    if unit:
        return {"m": 3, "u": 6, "n": 9}.get(unit[1][0], 0)
    return next((digits for digits in (0, 3, 6, 9) if 20 <= 10**digits / step <= 20_000), 0)


def _rate_of_dates(values: np.ndarray) -> float | None:
    """Rows per second, if the texts are dates with times."""
    if not all(re.search(r"\d:\d\d", str(one)) for one in values[:5]):
        return None
    try:
        times = pd.to_datetime(pd.Series(values), format="mixed")
    except (ValueError, TypeError):
        return None
    seconds = (times.iloc[-1] - times.iloc[0]).total_seconds()
    return (len(values) - 1) / seconds if seconds > 0 else None


def numbers_or_texts(values: Any, decimal: str = ".") -> np.ndarray:
    """The values of a column: numbers if all are, otherwise texts."""
    if isinstance(values, np.ndarray) and values.dtype.kind in "biuf":
        return values
    texts = pd.Series(values, dtype=str).str.strip()
    numbers = pd.to_numeric(texts.str.replace(decimal, "."), errors="coerce")
    return texts.to_numpy(str) if numbers.isna().mean() > 0.5 else numbers.to_numpy(float)


NICE = (
    10, 20, 25, 30, 40, 50, 60, 64, 74, 75, 100, 120, 125, 128, 148.148, 150, 200, 240, 250, 256, 300, 400, 500, 512,
    600, 800, 1000, 1024, 1111.11, 1200, 1259.26, 1500, 1600, 1925.93, 2000, 2048, 2148.15, 2222.22, 2400, 2500, 3000,
    4000, 4096, 5000, 5120, 8000, 10000, 10240, 20000,
)  # fmt: skip
"""Usual sampling rates (Hz)."""


def nice_rate(measured: float) -> float:
    """The usual sampling rate that is within 0.6 % of a measured one, otherwise its first four digits."""
    near = min(NICE, key=lambda rate: abs(rate / measured - 1))
    return float(near) if abs(near / measured - 1) < 0.006 else float(f"{measured:.4g}")
