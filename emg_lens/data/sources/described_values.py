"""The files of one recording in a described folder: their samples, labels, repetition numbers and times."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int, Shaped

from emg_lens.data.files import read_parts
from emg_lens.data.recording import REST, UNLABELLED, DataError, Signal
from emg_lens.data.sources.description import (
    S_PER_UNIT,
    Column,
    FolderDescription,
    LabelNumbers,
    RowNumbers,
    SignalColumns,
    value_name,
)
from emg_lens.data.sources.file_values import check_times, whole_numbers
from emg_lens.data.text import SPACES, check_columns, first_line, read_bytes, read_cells
from emg_lens.io.array_files import READERS

TABLES = (".csv", ".tsv", ".txt", ".gz")
SEPARATORS = ",;\t|"
LONGEST_STEP = 10
"""A time step of more than this many rows gives a note."""

Table = Mapping[str, Any] | pd.DataFrame
"""The variables of a file of arrays; or the cells of a text table, as text."""


@dataclass(frozen=True)
class RecordingFiles:
    """The files of one recording, read when they are needed.

    Attributes:
        paths: The files, by the value of the field `{part}`; "" for a recording of one file.
        fields: Values of the fields in the path.
        description: The description of the folder.
    """

    paths: dict[str, Path]
    fields: Mapping[str, str]
    description: FolderDescription
    _tables: dict[str, Table] = field(default_factory=dict, repr=False)

    @property
    def reference(self) -> SignalColumns:
        """The signal whose rows the labels belong to: the first at the folder's rate."""
        every = [*self.description.signals.values()]
        return next((part for part in every if part.fs in (None, self.description.fs)), every[0])

    @property
    def path(self) -> Path:
        """The file of the reference signal."""
        return self.path_of(self.reference)

    def path_of(self, part: SignalColumns | RowNumbers) -> Path:
        """The file of a signal, or of labels: that of the reference signal unless they name another."""
        name = part.part or self.reference.part or ""
        if name not in self.paths:
            some = next(iter(self.paths.values()))
            raise DataError(
                f"{some}: its recording has no file for part {name!r}, only for {', '.join(self.paths)}; add the"
                " file, or move the others of this recording away"
            )
        return self.paths[name]

    def is_table(self, part: SignalColumns | RowNumbers) -> bool:
        """Whether the file is a text table."""
        return isinstance(self.table(part), pd.DataFrame)

    def table(self, part: SignalColumns | RowNumbers) -> Table:
        """The content of the file of a signal or of labels, without the rows of other sensors."""
        path = self.path_of(part)
        if path.name not in self._tables:
            self._tables[path.name] = _read_table(path, self.description)
        table = self._tables[path.name]
        chooser = part if isinstance(part, SignalColumns) or part.part is not None else self.reference
        rows = chooser.rows if isinstance(chooser, SignalColumns) else None
        if rows is None:
            return table
        if not isinstance(table, pd.DataFrame):
            raise DataError(f"{path} is not a table; leave out rows")
        chosen = table[table.iloc[:, column_position(table, rows.column, path)].str.strip() == rows.value]
        if chosen.empty:
            raise DataError(f"{path}: no row has {rows.value!r} in column {rows.column!r}; is the file complete?")
        return chosen

    def forget(self) -> None:
        """Free the memory of the tables."""
        self._tables.clear()

    # --- samples ------------------------------------------------------------------------------------------

    def trials(self, name: str, part: SignalColumns) -> list[Shaped[np.ndarray, "time channel"]]:
        """The samples of a signal: one array for each trial, or one in all."""
        table, path = self.table(part), self.path_of(part)
        if isinstance(table, pd.DataFrame):
            if part.columns is None:
                raise DataError(f"{path} is a table; list the columns of {name}, not a key")
            own_rows = part.part is not None or part.rows is not None
            if part.fs not in (None, self.description.fs) and not own_rows:
                raise DataError(
                    f"{path} is a table, and all its columns have one rate; leave out the fs of {name}, and state the"
                    " rate of its sensor as native_fs"
                )
            chosen = table.iloc[:, [column_position(table, column, path) for column in part.columns]]
            decimal = self.description.decimal
            return [np.stack([_numbers(values, name, decimal, path) for _, values in chosen.items()], axis=1)]
        trials = _trials(_variable(table, part.key, name, path), part, f"{path}: {name}")
        if part.columns is None:
            return trials
        return [trial[:, _chosen_columns(part.columns, trial.shape[1], name, path)] for trial in trials]

    def check_each_column_has_one_use(self) -> None:
        """Reject a column with two uses: a label that is also a channel would give a model the answer."""
        signals = self.description.signals.items()
        times = [(part, part.time or self.description.time) for _, part in signals if self.is_table(part)]
        uses: list[tuple[str, Any, Any]] = [("time", part, time.column) for part, time in times if time is not None]
        named = {"label": self.description.label, "repetition": self.description.repetition}
        uses += [
            (use, part, part.column) for use, part in named.items() if part is not None and part.column is not None
        ]
        uses += [(name, part, column) for name, part in signals for column in part.columns or ()]
        use_of: dict[tuple, str] = {}
        for use, part, column in uses:
            table, path = self.table(part), self.path_of(part)
            if not isinstance(table, pd.DataFrame):
                continue
            rows = part.rows if isinstance(part, SignalColumns) else self.reference.rows
            i = column_position(table, column, path)
            other = use_of.get((path, rows, i))
            if other is not None and (use, other) != ("time", "time"):
                name = table.columns[i] if self.description.header else i + 1
                raise DataError(f"{path}: column {name!r} is used for {use} and for {other}; use it once")
            use_of[path, rows, i] = use

    # --- times --------------------------------------------------------------------------------------------

    def seconds(self, part: SignalColumns) -> Float[np.ndarray, " row"] | None:
        """The time of each row of a signal (s), if its table has a column of times."""
        time, path = part.time or self.description.time, self.path_of(part)
        if time is None:
            return None
        table = self.table(part)
        if not isinstance(table, pd.DataFrame):
            raise DataError(f"{path} is not a table; leave out time")
        times = table.iloc[:, column_position(table, time.column, path)]
        return _numbers(times, "time", self.description.decimal, path) * S_PER_UNIT[time.unit]

    def check_times(self) -> list[str]:
        """Check that times rise at the stated rates; return notes on gaps."""
        notes: dict[tuple, list[str]] = {}
        for part in self.description.signals.values():
            seconds, key = self.seconds(part), (self.path_of(part), part.rows, part.time)
            if seconds is not None and key not in notes:
                rate = part.fs or self.description.fs
                notes[key] = check_times(seconds, rate, LONGEST_STEP, f"{self.path_of(part)}")
        return [note for some in notes.values() for note in some]

    def from_common_start(self, signals: Mapping[str, Signal]) -> tuple[dict[str, Signal], int, list[str]]:
        """Leave out rows before the last sensor starts, if sensors have their own rows and a common clock.

        Returns:
            The signals, the number of rows that the reference signal loses, and notes.
        """
        times = {name: self.seconds(part) for name, part in self.description.signals.items()}
        known = {name: (time[0], time[-1]) for name, time in times.items() if time is not None}
        start = max((first for first, _ in known.values()), default=0.0)
        if len(known) < len(signals) or start >= min(last for _, last in known.values()):
            late = len(known) == len(signals) and bool(known)
            text = "the sensors' times do not overlap, so that each is taken to start at 0: is it one clock?"
            return {**signals}, 0, [text] if late else []
        lost = {name: round((start - known[name][0]) * signal.fs) for name, signal in signals.items()}
        notes = [
            f"{name} starts {n / signals[name].fs:.2g} s before the last sensor: these rows are left out"
            for name, n in lost.items()
            if n
        ]
        reference = next(name for name, part in self.description.signals.items() if part is self.reference)
        return {name: replace(s, data=s.data[lost[name] :]) for name, s in signals.items()}, lost[reference], notes

    # --- labels and repetition numbers --------------------------------------------------------------------

    def values(
        self, part: RowNumbers | None, what: str, rows: Sequence[int], first: int
    ) -> list[Shaped[np.ndarray, " time"]]:
        """One value per row of each trial; empty if `part` is None. The first `first` rows are left out."""
        if part is None:
            return []
        if part.field is not None:
            return [np.full(n, self.fields[part.field]) for n in rows]
        values, path = self.raw_values(part, what), self.path_of(part)
        if len(values) == 1:
            return [np.repeat(values, n) for n in rows]
        if len(rows) > 1 and len(values) == len(rows):
            return [np.full(n, value) for n, value in zip(rows, values, strict=True)]
        if len(rows) > 1 or len(values) != rows[0] + first:
            trials = f"{len(rows)} trials" if len(rows) > 1 else f"{rows[0] + first} rows"
            raise DataError(f"{path}: {what} has {len(values)} values, but the signals have {trials}")
        return [values[first:]]


    def raw_values(self, part: RowNumbers, what: str) -> Shaped[np.ndarray, " value"]:
        """The values of a column or variable."""
        table, path = self.table(part), self.path_of(part)
        if isinstance(table, pd.DataFrame):
            if part.key is not None:
                raise DataError(f"{path} is a table; list the columns of {what}, not a key")
            return np.asarray(table.iloc[:, column_position(table, part.column or 1, path)])
        array = np.asarray(_variable(table, part.key, what, path))
        if part.column is not None:
            array = np.atleast_2d(array.T).T
            array = array[:, _chosen_columns([part.column], array.shape[1], what, path)]
        return array.ravel()


def label_numbers(
    files: RecordingFiles, rows: Sequence[int], first: int
) -> tuple[list[Int[np.ndarray, " time"]], dict[int, str]]:
    """The label of each row of each trial, and the name of each label."""
    part, path = files.description.label, files.path
    if part is None:
        return [np.ones(n, np.int64) for n in rows], {1: "recording"}
    every = files.values(part, "label", rows, first)
    values = np.concatenate(every)
    if values.dtype.kind == "f" and (values == np.round(values)).all():  # MATLAB stores numbers as floats
        values = values.astype(np.int64)
    different, index = np.unique(values.astype(str), return_inverse=True)
    meaning, names = _meanings(part, different.tolist(), path)
    unknown = [value for value in different.tolist() if value_name(value) not in meaning]
    if unknown:
        known = ", ".join(map(repr, meaning))
        raise DataError(f"{path}: unknown label {unknown[0]!r}; the description lists {known}; list every value")
    numbers = np.array([meaning[value_name(value)] for value in different.tolist()], np.int64)[index]
    return np.split(numbers, np.cumsum(rows)[:-1]), names


def _meanings(part: LabelNumbers, different: list[str], path: Path) -> tuple[dict[str, int], dict[int, str]]:
    """The label of each value, and the name of each label."""
    meaning = {value_name(value): REST for value in part.rest}
    meaning |= {value_name(value): UNLABELLED for value in part.unlabelled}
    if part.classes is not None:
        meaning |= {value_name(value): i for i, value in enumerate(part.classes, start=1)}
        return meaning, dict(enumerate(part.classes.values(), start=1))
    others = np.array([value for value in different if value_name(value) not in meaning], str)
    numbers = sorted(set(whole_numbers(others, f"{path}: label", "list it in the description").tolist()))
    if REST in numbers:
        raise DataError(f"{path}: label 0 would mean rest; list 0 under rest, or list your values in classes")
    return meaning | {str(value): value for value in numbers}, {value: str(value) for value in numbers if value > REST}


# --- content of a file ------------------------------------------------------------------------------------


def _read_table(path: Path, description: FolderDescription) -> Table:
    kind = path.suffix.lower()
    if kind in READERS:
        parts = [description.label, description.repetition, *description.signals.values()]
        return read_parts(READERS[kind], path, f"a {kind} file", keys=[(p.key or "") for p in parts if p is not None])
    if kind not in TABLES:
        raise DataError(f"{path}: unknown kind of file; known: {', '.join((*TABLES, *READERS))}")
    text = read_bytes(path)
    _, first = first_line(text, description.skip_lines)
    separator = "\t" if description.separator == r"\t" else description.separator or max(SEPARATORS, key=first.count)
    check_columns(first, separator, path)
    fast = len(separator) == 1 or separator == SPACES
    mixed = not description.header and any(part.rows is not None for part in description.signals.values())
    width = max(line.count(separator) + 1 for line in text.read().decode("latin-1").splitlines()) if mixed else 0
    text.seek(0)
    try:
        table = read_cells(
            text,
            description.header,
            description.skip_lines,
            sep=separator if fast else re.escape(separator),
            engine="c" if fast else "python",
            encoding="utf-8-sig",
            skipinitialspace=True,
            **({"names": range(width)} if mixed else {}),
        )
    except ValueError as error:
        raise DataError(f"{path}: cannot be read ({error}); is it complete, and is `separator` right?") from None
    if description.header and pd.to_numeric(table.columns, errors="coerce").notna().all():
        raise DataError(f"{path}: its first line contains numbers; write header: false")
    return table


def _variable(table: Mapping[str, Any], key: str | None, what: str, path: Path) -> Any:
    if (key or "") not in table:
        raise DataError(f"{path}: no variable {key or ''!r} for {what}; give the key of one of {', '.join(table)}")
    value = table[key or ""]
    if value is None:
        raise DataError(f"{path}: {what} ({key}) holds cells or structures of different kinds, expected numbers")
    return value


def _trials(value: Any, part: SignalColumns, where: str) -> list[Shaped[np.ndarray, "time channel"]]:
    """The trials of a variable, each `[time, channel]`."""
    if isinstance(value, list) and not all(isinstance(one, np.ndarray) for one in value):
        raise DataError(f"{where} is a list of texts, expected numbers [time, channel]")
    shape = "" if isinstance(value, list) else f"{value.dtype} {[*value.shape]}"
    axes = part.axes
    if axes is None:
        if isinstance(value, list) or value.ndim > 2:
            raise DataError(f"{where} is {shape or 'a list of arrays'}; state its axes: [trial, time, channel]")
        value = value.ravel()[:, None] if value.ndim < 2 else value
        if 0 < value.shape[0] < value.shape[1]:
            raise DataError(
                f"{where} is {shape}, which would be {value.shape[0]} samples of {value.shape[1]} channels; if rows are"
                " channels write axes: [channel, time], otherwise axes: [time, channel]"
            )
        return [value]
    if isinstance(value, np.ndarray):
        squeezed = value.squeeze() if value.ndim > len(axes) else value
        if squeezed.ndim != len(axes):
            raise DataError(f"{where} is {shape}, but axes lists {list(axes)}")
        value = np.moveaxis(squeezed, axes.index("trial"), 0) if "trial" in axes else squeezed[None]
    elif "trial" not in axes:
        raise DataError(f"{where} is a list of {len(value)} arrays; state axes: [trial, time, channel]")
    inner = [axis for axis in axes if axis != "trial"]
    trials = []
    for trial in value:
        trial = trial.squeeze() if trial.ndim > len(inner) else trial
        if trial.ndim != len(inner):
            raise DataError(f"{where} has a trial of {[*trial.shape]}, but axes lists {list(axes)}")
        trials.append(trial[:, None] if len(inner) == 1 else trial if inner[0] == "time" else trial.T)
    return trials


def _chosen_columns(columns: Sequence[Column], n: int, what: str, path: Path) -> list[int]:
    chosen = [column - 1 for column in columns if isinstance(column, int)]
    if len(chosen) < len(columns) or max(chosen) >= n:
        listed = f"the description lists {list(columns)} for {what}; columns of arrays are numbers from 1"
        raise DataError(f"{path}: the array has {n} columns, but {listed}")
    return chosen


def column_position(table: pd.DataFrame, column: Column, path: Path) -> int:
    """Number of a column from 0."""
    if isinstance(column, int) and column <= table.shape[1]:
        return column - 1
    if column not in table.columns:
        known = ", ".join(map(str, table.columns[:12]))
        raise DataError(f"{path}: no column {column!r}; it has {table.shape[1]}: {known}; is `separator` right?")
    places = np.flatnonzero(table.columns == column) + 1
    if len(places) > 1:
        listed = ", ".join(map(str, places))
        raise DataError(f"{path}: {len(places)} columns have the name {column!r}; give the number of one: {listed}")
    return int(places[0]) - 1


def _numbers(values: pd.Series, name: str, decimal: str, path: Path) -> Float[np.ndarray, " time"]:
    """The cells of a column as numbers."""
    numbers = np.asarray(pd.to_numeric(values.str.replace(decimal, "."), errors="coerce"), float)
    if np.isnan(numbers).any():
        row = int(np.argmax(np.isnan(numbers)))
        cell = str(values.iloc[row])
        hint = (
            "is it a decimal comma (decimal), a line of units (skip_lines), or an incomplete file?"
            if cell.strip()
            else "is the file incomplete, or a line empty? If this sensor is slower, repeat its last value and state"
            " its native_fs"
        )
        raise DataError(
            f"{path}: {name} is not a number in column {values.name!r}, row {row + 1}: {cell[:40]!r}; {hint}"
        )
    return numbers
