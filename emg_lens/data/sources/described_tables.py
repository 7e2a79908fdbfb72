"""The content of one file in a described folder: the cells of a text table, or the variables of a file of arrays."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int, Shaped

from emg_lens.data.files import read_parts
from emg_lens.data.recording import DataError
from emg_lens.data.sources.description import (
    Column,
    FolderDescription,
    RowNumbers,
    SignalColumns,
    SubjectNumbers,
)
from emg_lens.data.text import SPACES, check_columns, first_line, read_bytes, read_cells
from emg_lens.io.array_files import READERS

TABLES = (".csv", ".tsv", ".txt", ".gz")
SEPARATORS = ",;\t|"
MISSING = "lacks a value"
"""What the error of an empty cell says: the recording is to be corrected, not its description."""

Table = Any
"""The variables of a file of arrays, by name; or the cells of a text table, as a data frame of text."""


def read_content(path: Path, description: FolderDescription) -> Table:
    """Read a file: a table as cells of text, a file of arrays as the variables that the description names."""
    kind = path.suffix.lower()
    if kind in READERS:
        inside = description.subject if isinstance(description.subject, SubjectNumbers) else None
        parts = [description.label, description.repetition, inside, *description.signals.values()]
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


def variable_of(table: Mapping[str, Any], key: str | None, what: str, path: Path) -> Any:
    """A variable of a file of arrays."""
    if (key or "") not in table:
        raise DataError(f"{path}: no variable {key or ''!r} for {what}; give the key of one of {', '.join(table)}")
    value = table[key or ""]
    if value is None:
        raise DataError(f"{path}: {what} ({key}) holds cells or structures of different kinds, expected numbers")
    return value


def trials_of(value: Any, part: SignalColumns, where: str) -> list[Shaped[np.ndarray, "time channel"]]:
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


def chosen_columns(columns: Sequence[Column], n: int, what: str, path: Path) -> list[int]:
    """Numbers from 0 of some columns of an array of `n` columns."""
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


def numbers_of(
    values: pd.Series, name: str, decimal: str, path: Path, skip_lines: int | None = None
) -> Float[np.ndarray, " time"]:
    """The cells of a column as numbers; with the number of lines before the table, an error also says the line."""
    numbers = np.asarray(pd.to_numeric(values.str.replace(decimal, "."), errors="coerce"), float)
    if np.isnan(numbers).any():
        row = int(np.argmax(np.isnan(numbers)))
        cell = str(values.iloc[row])
        is_missing = cell.strip().lower() in ("", "nan", "na", "n/a", "null", "none")
        hint = (
            "is the file incomplete, or a line empty? Fill in the value or cut the recording there. If this sensor is"
            " slower, repeat its last value and state its native_fs"
            if is_missing
            else "is it a decimal comma (decimal), a line of units (skip_lines), or an incomplete file?"
        )
        line = "" if skip_lines is None else f" (line {int(values.index[row]) + 1 + skip_lines} of the file)"
        what = MISSING if is_missing else "is not a number"
        raise DataError(f"{path}: {name} {what}{line} in column {values.name!r}, row {row + 1}: {cell[:40]!r}; {hint}")
    return numbers


def raw_values(table: Table, part: RowNumbers, what: str, path: Path) -> Shaped[np.ndarray, " value"]:
    """The values of a column or variable of a file's content."""
    if isinstance(table, pd.DataFrame):
        if part.key is not None:
            raise DataError(f"{path} is a table; list the columns of {what}, not a key")
        return np.asarray(table.iloc[:, column_position(table, part.column or 1, path)])
    array = np.asarray(variable_of(table, part.key, what, path))
    if part.column is not None:
        array = np.atleast_2d(array.T).T
        array = array[:, chosen_columns([part.column], array.shape[1], what, path)]
    return array.ravel()


def names_of_subjects(values: Shaped[np.ndarray, " value"]) -> Shaped[np.ndarray, " value"]:
    """Names of subjects: 1.0, as MATLAB writes it, is 1."""
    if values.dtype.kind == "f" and (values == np.round(values)).all():
        values = values.astype(np.int64)
    return np.array([str(value).strip() for value in values.tolist()])


def chosen_entries(value: Any, chosen: Int[np.ndarray, " entry"]) -> Any:
    """Some entries of an array or of a list of arrays."""
    return [value[i] for i in chosen] if isinstance(value, list) else value[chosen]
