"""The files of one recording in a described folder: their samples, labels, repetition numbers and times."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int, Shaped

from emg_lens.data.recording import REST, UNLABELLED, DataError, Signal
from emg_lens.data.sources.described_tables import (
    Table,
    chosen_columns,
    chosen_entries,
    column_position,
    names_of_subjects,
    numbers_of,
    raw_values,
    read_content,
    trials_of,
    variable_of,
)
from emg_lens.data.sources.description import (
    S_PER_UNIT,
    Column,
    FolderDescription,
    LabelNumbers,
    RowNumbers,
    RowsOfSensor,
    SignalColumns,
    SubjectNumbers,
    value_name,
)
from emg_lens.data.sources.file_values import check_times, whole_numbers

LONGEST_STEP = 10
"""A time step of more than this many rows gives a note."""


@dataclass(frozen=True)
class RecordingFiles:
    """The files of one recording, read when they are needed.

    Attributes:
        paths: The files, by the value of the field `{part}`; "" for a recording of one file.
        fields: Values of the fields in the path, and the subject.
        description: The description of the folder.
        one_subject: Whether the files hold other subjects too, whose rows or trials are left out.
    """

    paths: dict[str, Path]
    fields: Mapping[str, str]
    description: FolderDescription
    one_subject: bool = False
    _whole: dict[Path, Table] = field(default_factory=dict, repr=False)
    _tables: dict[tuple[Path, RowsOfSensor | None], Table] = field(default_factory=dict, repr=False)

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
        chooser = part if isinstance(part, SignalColumns) or part.part is not None else self.reference
        rows = chooser.rows if isinstance(chooser, SignalColumns) else None
        if (path, rows) in self._tables:
            return self._tables[path, rows]
        if (path, None) not in self._tables:
            self._tables[path, None] = self._of_subject(path)
        table = self._tables[path, None]
        if rows is not None:
            if not isinstance(table, pd.DataFrame):
                raise DataError(f"{path} is not a table; leave out rows")
            table = table[table.iloc[:, column_position(table, rows.column, path)].str.strip() == rows.value]
            if table.empty:
                raise DataError(f"{path}: no row has {rows.value!r} in column {rows.column!r}; is the file complete?")
            self._tables[path, rows] = table
        return table

    def _of_subject(self, path: Path) -> Table:
        """The content of a file; only the rows or trials of the subject, where the file has several."""
        part = self.description.subject
        if not self.one_subject or not isinstance(part, SubjectNumbers):
            return read_content(path, self.description)
        where = self.path_of(part)
        for one in {path, where} - {*self._whole}:
            self._whole[one] = read_content(one, self.description)
        mine = names_of_subjects(raw_values(self._whole[where], part, "subject", where)) == self.fields["subject"]
        table, chosen = self._whole[path], np.flatnonzero(mine)
        if isinstance(table, pd.DataFrame):
            return table[mine] if len(table) == len(mine) else table
        return {k: chosen_entries(value, chosen) if len(value) == len(mine) else value for k, value in table.items()}

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
            skip = self.description.skip_lines
            return [np.stack([numbers_of(values, name, decimal, path, skip) for _, values in chosen.items()], axis=1)]
        trials = trials_of(variable_of(table, part.key, name, path), part, f"{path}: {name}")
        if part.columns is None:
            return trials
        return [trial[:, chosen_columns(part.columns, trial.shape[1], name, path)] for trial in trials]

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
        return numbers_of(times, "time", self.description.decimal, path) * S_PER_UNIT[time.unit]

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
        path = self.path_of(part)
        if isinstance(part, LabelNumbers) and part.onset is not None:
            return [_label_of_rows(self, part, rows[0] + first)[first:]]
        values = self.raw_values(part, what)
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
        return raw_values(self.table(part), part, what, self.path_of(part))


def _label_of_rows(files: RecordingFiles, part: LabelNumbers, n_rows: int) -> Shaped[np.ndarray, " row"]:
    """The label of each row from a table of events; "" outside every event."""
    path, table = files.path_of(part), files.table(part)
    if not isinstance(table, pd.DataFrame):
        raise DataError(f"{path} is not a table; events stand in a table")

    def column(which: Column) -> pd.Series:
        return table.iloc[:, column_position(table, which, path)]

    fs, decimal = files.description.fs, files.description.decimal
    assert part.onset is not None and part.column is not None
    start = numbers_of(column(part.onset), "onset", decimal, path)
    last = part.duration if part.duration is not None else part.stop
    assert last is not None
    end = numbers_of(column(last), "duration or stop", decimal, path) + (start if part.duration is not None else 0)
    labels = np.full(n_rows, "", object)
    for first, after, label in zip(np.round(start * fs), np.round(end * fs), column(part.column), strict=True):
        labels[max(0, int(first)) : max(0, int(after))] = label
    return labels.astype(str)


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
    meaning |= {value_name(value): UNLABELLED for value in part.unlabelled} | ({"": REST} if part.onset else {})
    if part.classes is not None:
        meaning |= {value_name(value): i for i, value in enumerate(part.classes, start=1)}
        return meaning, dict(enumerate(part.classes.values(), start=1))
    others = np.array([value for value in different if value_name(value) not in meaning], str)
    numbers = sorted(set(whole_numbers(others, f"{path}: label", "list it in the description").tolist()))
    if REST in numbers:
        raise DataError(f"{path}: label 0 would mean rest; list 0 under rest, or list your values in classes")
    return meaning | {str(value): value for value in numbers}, {value: str(value) for value in numbers if value > REST}
