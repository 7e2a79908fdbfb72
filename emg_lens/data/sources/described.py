"""Read any folder of recordings that a `dataset.yaml` describes: text tables, `.mat`, HDF5 and `.npy` files.

Source: docs/data-sets.md §2.8.
"""

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int, Shaped

from emg_lens.data.files import (
    existing_folder,
    files_below,
    natural_key,
    read_parts,
    regular_file,
    select_subjects,
)
from emg_lens.data.matlab import read_mat
from emg_lens.data.recording import REST, UNLABELLED, DataError, Recording, Signal
from emg_lens.data.registry import DataSet
from emg_lens.data.sources.description import (
    S_PER_UNIT,
    FolderDescription,
    LabelNumbers,
    RowNumbers,
    SignalColumns,
    value_name,
)
from emg_lens.data.sources.file_values import check_times, checked_signal, number_runs, whole_numbers
from emg_lens.data.text import SPACES, check_columns, first_line, read_bytes, read_cells
from emg_lens.io.binary import numpy_array

DESCRIPTION = "dataset.yaml"
ARRAYS = (".mat", ".h5", ".hdf5")
TABLES = (".csv", ".tsv", ".txt", ".gz")
SEPARATORS = ",;\t|"
LONGEST_STEP = 10
"""A time step of more than this many rows gives a note."""


def load(
    root: str | Path, *, subjects: Iterable[str | int] | None = None, description: str | None = None
) -> Iterator[Recording]:
    """Read the files that match the description, one recording each.

    Args:
        root: The folder.
        subjects: Names or numbers; default all.
        description: Path of the description; default `dataset.yaml` in the folder.
    """
    content, place = FolderDescription.read(_description_path(root, description)), Path(root).expanduser()
    index = _files(place, content)
    content = content.model_copy(update={"notes": (*content.notes, *_unmatched(place, content, index))})
    selected = select_subjects(index, subjects)
    return (read(path, content, place, done) for paths in selected.values() for done in [Counter()] for path in paths)


def find(root: str | Path, *, description: str | None = None) -> dict[str, list[Path]]:
    """Find the files of each subject in natural order, and the description."""
    path = _description_path(root, description)
    content = FolderDescription.read(path)
    return {subject: [*files, path] for subject, files in _files(Path(root).expanduser(), content).items()}


def read(path: Path, description: FolderDescription, root: Path, done: Counter[int]) -> Recording:
    """Read one file of the folder `root`; `done` has the number of earlier runs of each label of the subject."""
    fields = description.places(path, root)
    assert fields is not None
    table = _table(path, description)
    signals = {name: _signal(table, name, columns, description, path) for name, columns in description.signals.items()}
    n_rows = _n_rows(signals, description, path)
    if isinstance(table, pd.DataFrame):
        _check_each_column_has_one_use(table, description, path)
    label, names = _labels(table, description.label, fields, n_rows, path)
    if description.repetition is None:
        repetition = number_runs(label, done)
    else:
        repetition, active = np.zeros(n_rows, np.int64), label > REST
        values = _rows(table, description.repetition, "repetition", fields, n_rows, path)
        repetition[active] = whole_numbers(values[active], f"{path}: repetition", "check the description")
    notes = (*description.notes, *_check_time(table, description, path))
    meta = {"dataset": DESCRIBED.name, "file": str(path), "class_names": names, "notes": notes}
    return Recording(fields["subject"], signals, label, np.where(label > REST, repetition, 0), description.fs, meta)


# --- files ------------------------------------------------------------------------------------------------


def _description_path(root: str | Path, description: str | None) -> Path:
    folder = existing_folder(root, f"recordings and a {DESCRIPTION} that describes them")
    path = folder / DESCRIPTION if description is None else Path(description).expanduser()
    if not os.path.isfile(path):  # False if its folder cannot be read
        raise DataError(f"{path}: no such file; expected a description of the folder (docs/data-sets.md §2.8)")
    return path


def _files(root: Path, description: FolderDescription) -> dict[str, list[Path]]:
    index: dict[str, list[Path]] = {}
    every = sorted(files_below(root), key=lambda p: natural_key(p.relative_to(root).as_posix()))
    for path in every:
        fields = description.places(path, root)
        if fields is not None:
            index.setdefault(fields["subject"], []).append(regular_file(path))
    if not index:
        some = ", ".join(p.relative_to(root).as_posix() for p in every[:3]) or "no file"
        raise DataError(f"{root}: no file matches {description.files!r}; found {some}")
    for subject, paths in index.items():
        first: dict[Path, Path] = {}
        for path in paths:
            if (other := first.setdefault(path.resolve(), path)) != path:
                raise DataError(f"{other} and {path} are one file of subject {subject}; remove the link")
    return {subject: index[subject] for subject in sorted(index, key=natural_key)}


def _unmatched(root: Path, description: FolderDescription, index: Mapping[str, Iterable[Path]]) -> list[str]:
    """A note on files with the same suffixes that do not match the pattern."""
    matched = {path for paths in index.values() for path in paths}
    kinds = {path.suffix.lower() for path in matched}
    others = [p for p in files_below(root) if p.suffix.lower() in kinds and p not in matched]
    some = ", ".join(sorted(p.relative_to(root).as_posix() for p in others)[:3])
    note = f"{len(others)} files of the same kind do not match {description.files!r} and are not read: {some}"
    return [note] if others else []


# --- content of a file ------------------------------------------------------------------------------------

Table = Mapping[str, Shaped[np.ndarray, "time *column"]] | pd.DataFrame


def _table(path: Path, description: FolderDescription) -> Table:
    """The variables of a file of arrays; or the cells of a text table, as text."""
    kind = path.suffix.lower()
    if kind in ARRAYS:
        wanted = [description.label, description.repetition, *description.signals.values()]
        arrays = read_mat(path, (), [part.key for part in wanted if part is not None and part.key is not None])
        return arrays if kind == ".mat" else {key: array.T for key, array in arrays.items()}  # the file's order of axes
    if kind == ".npy":
        return read_parts(numpy_array, path, "a NumPy array")
    if kind not in TABLES:
        raise DataError(f"{path}: unknown kind of file; known: {', '.join((*TABLES, *ARRAYS, '.npy'))}")
    text = read_bytes(path)
    _, first = first_line(text, description.skip_lines)
    separator = "\t" if description.separator == r"\t" else description.separator or max(SEPARATORS, key=first.count)
    check_columns(first, separator, path)
    fast = len(separator) == 1 or separator == SPACES
    try:
        table = read_cells(
            text,
            description.header,
            description.skip_lines,
            sep=separator if fast else re.escape(separator),
            engine="c" if fast else "python",
            encoding="utf-8-sig",
            skipinitialspace=True,
        )
    except ValueError as error:
        raise DataError(f"{path}: cannot be read ({error}); is it complete, and is `separator` right?") from None
    if description.header and pd.to_numeric(table.columns, errors="coerce").notna().all():
        raise DataError(f"{path}: its first line contains numbers; write header: false")
    return table


def _n_rows(signals: Mapping[str, Signal], description: FolderDescription, path: Path) -> int:
    """Number of rows at the folder's rate; signals at other rates must have the same duration, to a row."""
    lengths = {name: len(signal.data) for name, signal in signals.items()}
    n_rows = next((lengths[name] for name, signal in signals.items() if signal.fs == description.fs), 0)
    seconds = n_rows / description.fs
    if not n_rows or any(
        abs(signal.duration - seconds) > 1 / min(signal.fs, description.fs) for signal in signals.values()
    ):
        rates = {name: f"{signal.fs:g} Hz" for name, signal in signals.items()}
        what = "number of rows" if len(set(rates.values())) == 1 else f"duration at {rates}"
        raise DataError(
            f"{path}: its signals have {lengths} rows; expected the same {what}, at least one row (state"
            " the fs of a signal with another rate than the folder's)"
        )
    return n_rows


def _check_each_column_has_one_use(table: pd.DataFrame, description: FolderDescription, path: Path) -> None:
    """Reject a column with two uses: a label that is also a channel would give a model the answer."""
    parts = {"time": description.time, "label": description.label, "repetition": description.repetition}
    uses = [(use, part.column) for use, part in parts.items() if part is not None and part.column is not None]
    uses += [(use, column) for use, signal in description.signals.items() for column in signal.columns or ()]
    use_of: dict[int, str] = {}
    for use, column in uses:
        i = _position(table, column, path)
        if i in use_of:
            name = table.columns[i] if description.header else i + 1
            raise DataError(f"{path}: column {name!r} is used for {use} and for {use_of[i]}; use it once")
        use_of[i] = use


def _signal(table: Table, name: str, columns: SignalColumns, description: FolderDescription, path: Path) -> Signal:
    data = _columns(table, columns.key, columns.columns, name, path)
    names = tuple(f"{name}.{i}" for i in range(data.shape[1]))
    fs = columns.fs or description.fs
    if isinstance(data, pd.DataFrame):
        if fs != description.fs:
            raise DataError(
                f"{path} is a table, and all its columns have one rate; leave out the fs of {name}, and state the rate"
                " of its sensor as native_fs"
            )
        names = tuple(c if isinstance(c, str) else i for c, i in zip(columns.columns or (), names, strict=True))
        data = np.stack([_numbers(values, name, description.decimal, path) for _, values in data.items()], axis=1)
    names = names if columns.ch_names is None else columns.ch_names
    if len(names) != data.shape[1]:
        raise DataError(f"{path}: {name} has {data.shape[1]} channels, but ch_names has {len(names)} names")
    native_fs = columns.native_fs or fs
    return checked_signal(f"{path}: {name}", data, fs, native_fs, columns.units, names, columns.placement)


def _columns(table: Any, key: str | None, columns: Sequence[str | int] | None, what: str, path: Path) -> Any:
    """Some columns of a table of text (as a data frame), or of an array `[time, column]` (default: all)."""
    if isinstance(table, pd.DataFrame):
        if columns is None:
            raise DataError(f"{path} is a table; list the columns of {what}, not a key")
        return table.iloc[:, [_position(table, column, path) for column in columns]]
    if (key or "") not in table:
        raise DataError(f"{path}: no variable {key or ''!r} for {what}; give the key of one of {', '.join(table)}")
    array = table[key or ""]
    array = array[:, None] if array.ndim == 1 else array
    if array.ndim != 2:
        raise DataError(f"{path}: {what} is {array.dtype} {list(array.shape)}, expected numbers [time, channel]")
    if columns is None:
        return array
    chosen = [column - 1 for column in columns if isinstance(column, int)]
    if len(chosen) < len(columns) or max(chosen) >= array.shape[1]:
        listed = f"the description lists {list(columns)} for {what}; columns of arrays are numbers from 1"
        raise DataError(f"{path}: the array has {array.shape[1]} columns, but {listed}")
    return array[:, chosen]


def _position(table: pd.DataFrame, column: str | int, path: Path) -> int:
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


def _labels(
    table: Table, part: LabelNumbers | None, fields: Mapping[str, str], n_rows: int, path: Path
) -> tuple[Int[np.ndarray, " time"], dict[int, str]]:
    """The label of each row, and the name of each label."""
    if part is None:
        return np.ones(n_rows, np.int64), {1: "recording"}
    values = _rows(table, part, "label", fields, n_rows, path)
    if values.dtype.kind == "f" and (values == np.round(values)).all():  # MATLAB stores numbers as floats
        values = values.astype(np.int64)
    different, index = np.unique(values.astype(str), return_inverse=True)
    meaning = {value_name(value): REST for value in part.rest}
    meaning |= {value_name(value): UNLABELLED for value in part.unlabelled}
    if part.classes is None:
        others = np.array([value for value in different.tolist() if value_name(value) not in meaning], str)
        numbers = sorted(set(whole_numbers(others, f"{path}: label", "list it in the description").tolist()))
        if REST in numbers:
            raise DataError(f"{path}: label 0 would mean rest; list 0 under rest, or list your values in classes")
        meaning |= {str(value): value for value in numbers}
        names = {value: str(value) for value in numbers if value > REST}
    else:
        meaning |= {value_name(value): i for i, value in enumerate(part.classes, start=1)}
        names = dict(enumerate(part.classes.values(), start=1))
    unknown = [value for value in different.tolist() if value_name(value) not in meaning]
    if unknown:
        known = ", ".join(map(repr, meaning))
        raise DataError(f"{path}: unknown label {unknown[0]!r}; the description lists {known}; list every value")
    return np.array([meaning[value_name(value)] for value in different.tolist()], np.int64)[index], names


def _rows(
    table: Table, part: RowNumbers, what: str, fields: Mapping[str, str], n_rows: int, path: Path
) -> Shaped[np.ndarray, " time"]:
    """One value per row."""
    if part.field is not None:
        return np.full(n_rows, fields[part.field])
    columns = None if part.column is None else [part.column]
    values = np.asarray(_columns(table, part.key, columns, what, path)).ravel()
    if len(values) != n_rows:
        raise DataError(f"{path}: {what} has {len(values)} values, but the signals have {n_rows} rows")
    return values


def _check_time(table: Table, description: FolderDescription, path: Path) -> list[str]:
    if description.time is None:
        return []
    times = _columns(table, None, [description.time.column], "time", path)
    if not isinstance(times, pd.DataFrame):
        raise DataError(f"{path} is not a table; leave out time")
    seconds = _numbers(times.iloc[:, 0], "time", description.decimal, path) * S_PER_UNIT[description.time.unit]
    return check_times(seconds, description.fs, LONGEST_STEP, f"{path}")


DESCRIBED = DataSet("folder", load, f"any folder with a {DESCRIPTION} that describes it (docs/data-sets.md §2.8)", find)
