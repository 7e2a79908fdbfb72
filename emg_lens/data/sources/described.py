"""Read any folder of recordings that a `dataset.yaml` describes: text tables, `.mat`, HDF5 and `.npy` files.

Source: docs/data-sets.md §2.8.
"""

import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int, Shaped

from emg_lens.data.files import existing_folder, files_below, natural_key, read_parts, select_subjects
from emg_lens.data.matlab import as_float32, read_mat
from emg_lens.data.recording import REST, UNLABELLED, DataError, Recording, Signal
from emg_lens.data.registry import DataSet
from emg_lens.data.sources.description import (
    MS_PER_UNIT,
    FolderDescription,
    LabelNumbers,
    RowNumbers,
    SignalColumns,
    value_name,
)
from emg_lens.data.sources.repetition_numbers import number_runs
from emg_lens.data.sources.value_checks import check_finite
from emg_lens.data.text import SPACES, check_columns, first_line, read_bytes
from emg_lens.io.binary import numpy_array

DESCRIPTION = "dataset.yaml"
ARRAYS = (".mat", ".h5", ".hdf5")
TABLES = (".csv", ".tsv", ".txt", ".gz")
SEPARATORS = ",;\t|"
RATE_TOLERANCE = 0.02
"""Largest relative deviation of the measured rate from the stated one."""
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
    return _recordings(select_subjects(index, subjects), content, place)


def find(root: str | Path, *, description: str | None = None) -> dict[str, list[Path]]:
    """Find the files of each subject in natural order, and the description."""
    path = _description_path(root, description)
    content = FolderDescription.read(path)
    return {subject: [*files, path] for subject, files in _files(Path(root).expanduser(), content).items()}


def read(path: Path, description: FolderDescription, fields: Mapping[str, str], done: dict[int, int]) -> Recording:
    """Read one file.

    Args:
        path: The file.
        description: The description of the folder.
        fields: Values of the fields of the file's path.
        done: Number of runs of each label in earlier files of the subject; updated in place.
    """
    table, notes = _table(path, description), [*description.notes]
    signals = {name: _signal(table, name, columns, description, path) for name, columns in description.signals.items()}
    n_rows = _n_rows(signals, description, path)
    if description.time is not None:
        notes += _check_time(table, description, path)
    label, names = _labels(table, description.label, fields, n_rows, path)
    if description.repetition is None:
        repetition = number_runs(label, done)
    else:
        repetition, active = np.zeros(n_rows, np.int64), label > REST
        repetition[active] = _whole_numbers(
            _rows(table, description.repetition, fields, n_rows, path)[active], "repetition", path
        )
    if isinstance(table, pd.DataFrame):
        _check_each_column_has_one_use(table, description, path)
    meta = {"dataset": DESCRIBED.name, "file": str(path), "class_names": names, "notes": tuple(notes)}
    return Recording(fields["subject"], signals, label, np.where(label > REST, repetition, 0), description.fs, meta)


# --- files ------------------------------------------------------------------------------------------------


def _description_path(root: str | Path, description: str | None) -> Path:
    folder = existing_folder(root, f"recordings and a {DESCRIPTION} that describes them")
    path = folder / DESCRIPTION if description is None else Path(description).expanduser()
    if not path.is_file():
        raise DataError(f"{path}: no such file; expected a description of the folder (docs/data-sets.md §2.8)")
    return path


def _files(root: Path, description: FolderDescription) -> dict[str, list[Path]]:
    index: dict[str, list[Path]] = {}
    every = sorted(files_below(root), key=lambda p: natural_key(p.relative_to(root).as_posix()))
    for path in every:
        fields = description.places(path, root)
        if fields is not None:
            index.setdefault(fields["subject"], []).append(path)
    if not index:
        some = ", ".join(p.relative_to(root).as_posix() for p in every[:3]) or "no file"
        raise DataError(f"{root}: no file matches {description.files!r}; found {some}")
    return {subject: index[subject] for subject in sorted(index, key=natural_key)}


def _unmatched(root: Path, description: FolderDescription, index: Mapping[str, Iterable[Path]]) -> list[str]:
    """A note on files with the same suffixes that do not match the pattern."""
    matched = {path for paths in index.values() for path in paths}
    kinds = {path.suffix.lower() for path in matched}
    others = [p for p in files_below(root) if p.suffix.lower() in kinds and p not in matched]
    some = ", ".join(sorted(p.relative_to(root).as_posix() for p in others)[:3])
    return (
        [f"{len(others)} files of the same kind do not match {description.files!r} and are not read: {some}"]
        if others
        else []
    )


def _recordings(index: Mapping[str, Iterable[Path]], description: FolderDescription, root: Path) -> Iterator[Recording]:
    for paths in index.values():
        done: dict[int, int] = {}
        for path in paths:
            fields = description.places(path, root)
            assert fields is not None
            yield read(path, description, fields, done)


# --- content of a file ------------------------------------------------------------------------------------

Table = Mapping[str, Shaped[np.ndarray, "time *column"]] | pd.DataFrame


def _table(path: Path, description: FolderDescription) -> Table:
    kind = path.suffix.lower()
    if kind in ARRAYS:
        wanted = [description.label, description.repetition, *description.signals.values()]
        arrays = read_mat(path, (), [part.key for part in wanted if part is not None and part.key is not None])
        return arrays if kind == ".mat" else {key: array.T for key, array in arrays.items()}  # the file's order of axes
    if kind == ".npy":
        return read_parts(numpy_array, path, "a NumPy array")
    try:
        if kind not in TABLES:
            raise DataError(f"{path}: unknown kind of file; known: {', '.join((*TABLES, *ARRAYS, '.npy'))}")
        return _text_table(path, description)
    except DataError:
        raise
    except (OSError, EOFError, ValueError, pd.errors.ParserWarning) as error:
        raise DataError(f"{path}: cannot be read ({error}); is it complete, and is `separator` right?") from None


def _text_table(path: Path, description: FolderDescription) -> pd.DataFrame:
    """The cells of a text table, as text."""
    text = read_bytes(path)
    first = first_line(text, description.skip_lines)
    separator = "\t" if description.separator == r"\t" else description.separator or max(SEPARATORS, key=first.count)
    check_columns(first, separator, path)
    fast = len(separator) == 1 or separator == SPACES
    with warnings.catch_warnings():
        warnings.simplefilter("error", pd.errors.ParserWarning)  # rows longer than the header
        table = pd.read_csv(
            text,
            sep=separator if fast else re.escape(separator),
            engine="c" if fast else "python",
            header=0 if description.header else None,
            skiprows=description.skip_lines,
            index_col=False,
            dtype=str,
            keep_default_na=False,
            encoding="utf-8-sig",
            skipinitialspace=True,
        )
    if description.header and all(_is_number(str(name)) for name in table.columns):
        raise ValueError("its first line contains numbers; write header: false")
    return table


def _is_number(text: str) -> bool:
    try:
        float(text)
        return True
    except ValueError:
        return False


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
    use_of = {_name(table, part.column): use for use, part in parts.items() if part is not None and part.column}
    for use, signal in description.signals.items():
        for name in (_name(table, column) for column in signal.columns or ()):
            if name in use_of:
                raise DataError(f"{path}: column {name!r} is used for {use} and for {use_of[name]}; use it once")
            use_of[name] = use


def _name(table: pd.DataFrame, column: str | int) -> str | int:
    """The name of a column; if it has none, its number from 1."""
    name = table.columns[column - 1] if isinstance(column, int) else column
    return name if isinstance(name, str) else column


def _signal(table: Table, name: str, columns: SignalColumns, description: FolderDescription, path: Path) -> Signal:
    data, names = _channels(table, name, columns, description, path)
    names = names if columns.ch_names is None else columns.ch_names
    if len(names) != data.shape[1]:
        raise DataError(f"{path}: {name} has {data.shape[1]} channels, but ch_names has {len(names)} names")
    check_finite(data, names, f"{path}: {name}")
    fs = columns.fs or description.fs
    return Signal(data, fs, columns.native_fs or fs, columns.units, names, columns.placement)


def _channels(
    table: Table, name: str, columns: SignalColumns, description: FolderDescription, path: Path
) -> tuple[Float[np.ndarray, "time channel"], tuple[str, ...]]:
    if isinstance(table, pd.DataFrame):
        if columns.columns is None:
            raise DataError(f"{path} is a table; list the columns of {name}")
        if columns.fs not in (None, description.fs):
            raise DataError(
                f"{path} is a table, and all its columns have one rate; leave out the fs of {name}, and state the rate"
                " of its sensor as native_fs"
            )
        cells = [_column(table, column, path) for column in columns.columns]
        numbers = [_numbers(values, name, description.decimal, path) for values in cells]
        names = tuple(c if isinstance(c, str) else f"{name}.{i}" for i, c in enumerate(columns.columns))
        return as_float32(np.stack(numbers, axis=1)), names
    array = _array(table, columns.key or "", path)
    array = array[:, None] if array.ndim == 1 else array
    if array.ndim != 2 or array.dtype.kind not in "biuf":
        raise DataError(f"{path}: {name} is {array.dtype} {list(array.shape)}, expected numbers [time, channel]")
    if columns.columns is not None:
        chosen = [c - 1 for c in columns.columns if isinstance(c, int)]
        if len(chosen) < len(columns.columns) or max(chosen, default=0) >= array.shape[1]:
            raise DataError(
                f"{path}: {name} has {array.shape[1]} columns, but the description lists {list(columns.columns)}"
            )
        array = array[:, chosen]
    return as_float32(array), tuple(f"{name}.{i}" for i in range(array.shape[1]))


def _numbers(values: pd.Series, name: str, decimal: str, path: Path) -> Float[np.ndarray, " time"]:
    """The cells of a column as numbers."""
    numbers = np.asarray(pd.to_numeric(values.str.replace(decimal, "."), errors="coerce"), float)
    if np.isnan(numbers).any():
        row = int(np.argmax(np.isnan(numbers)))
        cell = str(values.iloc[row])
        hint = (
            "is it a decimal comma (decimal), a line of units (skip_lines), or an incomplete file?"
            if cell.strip()
            else "is the file incomplete? If this sensor is slower, repeat its last value and state its native_fs"
        )
        raise DataError(f"{path}: {name} is not a number in column {values.name!r}, row {row + 1}: {cell!r}; {hint}")
    return numbers


def _labels(
    table: Table, part: LabelNumbers | None, fields: Mapping[str, str], n_rows: int, path: Path
) -> tuple[Int[np.ndarray, " time"], dict[int, str]]:
    """The label of each row, and the name of each label."""
    if part is None:
        return np.ones(n_rows, np.int64), {1: "recording"}
    values = _rows(table, part, fields, n_rows, path)
    if values.dtype.kind == "f" and (values == np.round(values)).all():  # MATLAB stores numbers as floats
        values = values.astype(np.int64)
    different, index = np.unique(values.astype(str), return_inverse=True)
    meaning = {value_name(value): REST for value in part.rest}
    meaning |= {value_name(value): UNLABELLED for value in part.unlabelled}
    if part.classes is None:
        others = np.array([value for value in different.tolist() if value_name(value) not in meaning], str)
        numbers = sorted(set(_whole_numbers(others, "label", path).tolist()))
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
    table: Table, part: RowNumbers, fields: Mapping[str, str], n_rows: int, path: Path
) -> Shaped[np.ndarray, " time"]:
    """One value per row."""
    if part.field is not None:
        return np.full(n_rows, fields[part.field])
    if isinstance(table, pd.DataFrame):
        if part.column is None:
            raise DataError(f"{path} is a table and has no key {part.key!r}; give a column instead")
        return _column(table, part.column, path).to_numpy()
    if part.column is not None:
        array = _array(table, "", path) if "" in table else None
        if array is None or not isinstance(part.column, int) or array.ndim != 2 or part.column > array.shape[1]:
            raise DataError(f"{path}: no column {part.column!r}; columns of arrays are numbers from 1")
        return array[:, part.column - 1]
    values = _array(table, part.key or "", path).ravel()
    if len(values) != n_rows:
        raise DataError(f"{path}: {part.key} has {len(values)} values, but the signals have {n_rows} rows")
    return values


def _column(table: pd.DataFrame, column: str | int, path: Path) -> pd.Series:
    if isinstance(column, int) and column <= table.shape[1]:
        return table.iloc[:, column - 1]
    if column in table.columns:
        return table[column]
    known = ", ".join(map(str, table.columns[:12]))
    raise DataError(f"{path}: no column {column!r}; it has {table.shape[1]}: {known}; is `separator` right?")


def _array(table: Any, key: str, path: Path) -> Shaped[np.ndarray, "..."]:
    if key not in table:
        present = ", ".join(table) or "none"
        raise DataError(f"{path}: no variable {key!r} (it has {present}); check the key in the description")
    return table[key]


def _whole_numbers(values: Shaped[np.ndarray, " time"], what: str, path: Path) -> Int[np.ndarray, " time"]:
    numbers = np.asarray(pd.to_numeric(pd.Series(values, dtype=object), errors="coerce"), float)
    wrong = ~((numbers >= 0) & (numbers < 2**31) & (numbers == np.round(numbers)))  # true for NaN
    if wrong.any():
        value = str(values[np.argmax(wrong)])
        raise DataError(f"{path}: {what} {value!r} is not a whole number from 0; list it in the description")
    return numbers.astype(np.int64)


def _check_time(table: Table, description: FolderDescription, path: Path) -> list[str]:
    assert description.time is not None
    if not isinstance(table, pd.DataFrame):
        raise DataError(f"{path} is not a table; leave out time")
    ms = _numbers(_column(table, description.time.column, path), "time", description.decimal, path)
    steps = np.diff(ms * MS_PER_UNIT[description.time.unit])
    if not (steps > 0).all():
        raise DataError(f"{path}: time does not rise in row {int(np.argmin(steps > 0)) + 2}; check the column of times")
    measured = 1000 * len(steps) / steps.sum() if len(steps) else description.fs
    if abs(measured / description.fs - 1) > RATE_TOLERANCE:
        raise DataError(f"{path}: {measured:.6g} rows per second by the column of times, but fs is {description.fs:g}")
    longest = float(steps.max(initial=0))
    if longest > LONGEST_STEP * 1000 / description.fs:
        return [f"time jumps by {longest:.0f} ms after row {int(np.argmax(steps)) + 1}: rows are missing"]
    return []


DESCRIBED = DataSet("folder", load, f"any folder with a {DESCRIPTION} that describes it (docs/data-sets.md §2.8)", find)
