"""What one file of recordings holds: signals, labels, repetition numbers and rates."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from emg_lens.data.discovery.columns import EVENT_ROLES, FoundColumn, find_columns, numbers_or_texts
from emg_lens.data.discovery.table_forms import TextForm, read_form
from emg_lens.data.discovery.words import sensor_of

NOISY = ("emg", "acc", "gyro")
"""Modalities in which two equal rows are rare."""
REPEATED = 0.3
"""Fraction of rows that repeat the row before, above which the sensor is slower than the file's rate."""


@dataclass(frozen=True)
class FoundSignal:
    """The channels of one modality in a file.

    Attributes:
        sensor: The modality.
        sure: Whether a name says so.
        place: What a description says of them: `key`, `columns`, `axes`, `rows`, `part`, `ch_names`, `time`.
        data: Samples `[time, channel]` of the file, or of its first trial.
        fs: Sampling rate (Hz), if the file has it.
        source: Where the rate is from.
    """

    sensor: str
    sure: bool
    place: Mapping[str, Any]
    data: np.ndarray = field(repr=False)
    fs: float | None = None
    source: str = ""

    @property
    def native_fraction(self) -> float:
        """Fraction of the rows that differ from the row before; 1 if few repeat it, or a slow signal may do so."""
        if self.sensor not in NOISY:
            return 1.0
        data = self.data[:200_000]
        changed = (1 + np.count_nonzero((np.diff(data, axis=0) != 0).any(axis=1))) / max(1, len(data))
        return changed if 0 < changed < 1 - REPEATED else 1.0


@dataclass(frozen=True)
class FileContent:
    """What a file holds.

    Attributes:
        signals: Its signals.
        sources: `label`, `repetition`, `subject`, and `onset`, `duration`, `stop` of events: `{"column": ...}` or
            `{"key": ...}`.
        options: Options of a description for tables: `separator`, `decimal`, `header`, `skip_lines`.
        unused: What is not used, in words.
        notes: Assumptions.
        odd: What looks wrong.
    """

    signals: list[FoundSignal] = field(default_factory=list)
    sources: dict[str, dict[str, Any]] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    unused: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    odd: list[str] = field(default_factory=list)


def table_content(path: Path, form: TextForm, default: str | None) -> FileContent:
    """Look at a text table; `default` is the modality of columns whose names say nothing."""
    table = read_form(path, form)
    options: dict[str, Any] = {}
    if form.decimal != "." or form.separator not in (",", ";", "\t"):
        options |= {"separator": form.separator} | ({"decimal": form.decimal} if form.decimal != "." else {})
    options |= {} if form.header else {"header": False}
    options |= {"skip_lines": form.skip_lines} if form.skip_lines else {}
    names = [str(name).strip() for name in table.columns] if form.header else [""] * table.shape[1]
    if not form.kind_column:
        values = [numbers_or_texts(table.iloc[:, i], form.decimal) for i in range(table.shape[1])]
        columns = find_columns(values, names, default)
        signals, unused = _signals_of(columns, names)
        if form.rate is not None:
            signals = [replace(s, fs=form.rate, source="the lines above the table") for s in signals]
        few = [column for column in columns if column.role == "few values"]
        odd = [few_values(column, column.name or f"column {column.number}") for column in few]
        return FileContent(signals, _sources_of(columns, names), options, unused, odd=odd)
    kinds = table.iloc[:, form.kind_column - 1].str.strip()
    signals, unused = [], []
    for kind in dict.fromkeys(kinds):
        rows = table[kinds == kind]
        some, more = _signals_of_rows(rows.to_numpy(str), form, str(kind))
        signals += some
        unused += more
    return FileContent(signals, {}, options, unused, [f"each row belongs to one sensor, by column {form.kind_column}"])


def few_values(column: FoundColumn, name: str) -> str:
    """A sentence on a column that is left out, because it has too few values for a channel."""
    values = ", ".join(f"{value:g}" for value in np.unique(column.values))
    return f"{name} has only the values {values} and is not used: it is no channel of EMG, unless you add it"


def _signals_of_rows(rows: np.ndarray, form: TextForm, kind: str) -> tuple[list[FoundSignal], list[str]]:
    """The signals in the rows of one kind; a column with the name of a sensor names the columns after it."""
    used = [i for i in range(rows.shape[1]) if i != form.kind_column - 1 and (rows[:, i] != "").any()]
    columns: list[FoundColumn] = []
    sensor = sensor_of(kind)
    groups: list[tuple[str | None, list[int]]] = [(sensor, [])]
    for i in used:
        constant = rows[0, i] if (rows[:, i] == rows[0, i]).all() else ""
        if constant and (named := sensor_of(constant)) and not constant.isdigit():
            groups.append((named, []))
        else:
            groups[-1][1].append(i)
    for sensor, members in groups:
        values = [numbers_or_texts(rows[:, i], form.decimal) for i in members]
        found = find_columns(values, [""] * len(members), sensor) if members else []
        columns += [replace(column, number=members[k] + 1) for k, column in enumerate(found)]
    signals, unused = _signals_of(columns, [""] * rows.shape[1], whole_texts=False)
    chooser = {"rows": {"column": form.kind_column, "value": kind}}
    times = [column for column in columns if column.role == "time"]
    rate = (last_rate := times[-1].rate) and last_rate[0] if times else None  # the sensor's own time comes last
    return [replace(s, place={**s.place, **chooser}, fs=rate or s.fs, source="its times") for s in signals], unused


def _signals_of(
    columns: Sequence[FoundColumn], names: Sequence[str], whole_texts: bool = True
) -> tuple[list[FoundSignal], list[str]]:
    """Signals by modality, and what is not used."""
    groups: dict[str, list[FoundColumn]] = {}
    for column in columns:
        if column.role == "signal":
            groups.setdefault(column.sensor, []).append(column)
    time = next((column for column in columns if column.role == "time"), None)
    place: dict[str, Any] = {}
    if time is not None and time.rate is not None and time.rate[1] != "text":
        place = {"time": {"column": _reference(time, names), "unit": time.rate[1]}}
    signals = [
        FoundSignal(
            sensor,
            any(column.sure for column in some),
            {"columns": [_reference(column, names) for column in some], **place},
            np.stack([column.values for column in some], axis=1),
            time.rate[0] if time is not None and time.rate is not None else None,
            "the column of times",
        )
        for sensor, some in groups.items()
    ]
    unused = [c.name or f"column {c.number}" for c in columns if c.role in ("counter", "text") and whole_texts]
    return signals, unused


def _sources_of(columns: Sequence[FoundColumn], names: Sequence[str]) -> dict[str, dict[str, Any]]:
    roles = ("label", "repetition", "subject", *EVENT_ROLES)
    return {c.role: {"column": _reference(c, names)} for c in reversed(columns) if c.role in roles}


def _reference(column: FoundColumn, names: Sequence[str]) -> str | int:
    """The name of a column if it is the only one with it and no range such as `1-2`, otherwise its number."""
    is_range = re.fullmatch(r"\d+-\d+", column.name)
    return column.name if column.name and not is_range and list(names).count(column.name) == 1 else column.number
