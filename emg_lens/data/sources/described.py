"""Any folder of recordings that a `dataset.yaml` in it describes: tables of text, `.mat`, HDF5 and `.npy` files.

Facts: docs/data-sets.md §2.8.
"""

import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int, Shaped

from emg_lens.data.files import check_folder, files_below, natural_key, read_parts, select_subjects
from emg_lens.data.matlab import as_float32, read_mat
from emg_lens.data.recording import REST, UNLABELLED, DataError, Recording, Signal
from emg_lens.data.registry import DataSet
from emg_lens.data.sources.description import (
    MS_A_UNIT,
    FolderDescription,
    LabelNumbers,
    RowNumbers,
    SignalColumns,
    value_name,
)
from emg_lens.data.sources.repetition_numbers import number_runs
from emg_lens.data.text import SPACES, check_columns, first_line, read_bytes
from emg_lens.io.binary import numpy_array

DESCRIPTION = "dataset.yaml"
ARRAYS = (".mat", ".h5", ".hdf5")
TABLES = (".csv", ".tsv", ".txt", ".gz")
SEPARATORS = ",;\t|"
RATE_TOLERANCE = 0.02
"""Relative deviation of the measured rate from the declared one that is refused."""
LONGEST_STEP = 10
"""Rows: a step of time as long as so many earns a note."""


def load(
    root: str | Path, *, subjects: Iterable[str | int] | None = None, description: str | None = None
) -> Iterator[Recording]:
    """Read the files that the description names, one recording each.

    Args:
        root: The folder.
        subjects: Names or numbers; default all.
        description: Path of the description; default `dataset.yaml` in the folder.

    Raises:
        DataError: A description that does not fit, no such files, an unknown subject; while iterating, a damaged file.
    """
    told, place = FolderDescription.read(_description_path(root, description)), Path(root).expanduser()
    index = _files(place, told)
    told = told.model_copy(update={"notes": (*told.notes, *_strays(place, told, index))})
    return _recordings(select_subjects(index, subjects), told, place)


def find(root: str | Path, *, description: str | None = None) -> dict[str, list[Path]]:
    """Files of each subject in natural order, and the description, which makes them what they are.

    Raises:
        DataError: A description that does not fit, or no such files.
    """
    path = _description_path(root, description)
    told = FolderDescription.read(path)
    return {subject: [*files, path] for subject, files in _files(Path(root).expanduser(), told).items()}


def read(path: Path, told: FolderDescription, fields: Mapping[str, str], done: dict[int, int]) -> Recording:
    """Read one file.

    Args:
        path: The file.
        told: The description.
        fields: What its path says.
        done: How many runs of each label earlier files of the subject held; brought up to date.

    Raises:
        DataError: A file that cannot be read, lacks a column or key, or holds something else than promised.
    """
    table, notes = _table(path, told), [*told.notes]
    signals = {name: _signal(table, name, columns, told, path) for name, columns in told.signals.items()}
    n_rows = _n_rows(signals, told, path)
    if told.time is not None:
        notes += _check_time(table, told, path)
    label, names = _labels(table, told.label, fields, n_rows, path)
    if told.repetition is None:
        repetition = number_runs(label, done)
    else:
        repetition, active = np.zeros(n_rows, np.int64), label > REST
        repetition[active] = _whole(_rows(table, told.repetition, fields, n_rows, path)[active], "repetition", path)
    if isinstance(table, pd.DataFrame):
        _check_each_has_one_use(table, told, path)
    meta = {"dataset": DESCRIBED.name, "file": str(path), "class_names": names, "notes": tuple(notes)}
    return Recording(fields["subject"], signals, label, np.where(label > REST, repetition, 0), told.fs, meta)


# --- files ------------------------------------------------------------------------------------------------


def _description_path(root: str | Path, description: str | None) -> Path:
    folder = check_folder(root, f"recordings and a {DESCRIPTION} that describes them")
    path = folder / DESCRIPTION if description is None else Path(description).expanduser()
    if not path.is_file():
        raise DataError(f"{path}: no such file; expected a description of the folder (docs/data-sets.md §2.8)")
    return path


def _files(root: Path, told: FolderDescription) -> dict[str, list[Path]]:
    found: dict[str, list[Path]] = {}
    every = sorted(files_below(root), key=lambda p: natural_key(p.relative_to(root).as_posix()))
    for path in every:
        fields = told.places(path, root)
        if fields is not None:
            found.setdefault(fields["subject"], []).append(path)
    if not found:
        some = ", ".join(p.relative_to(root).as_posix() for p in every[:3]) or "no file at all"
        raise DataError(f"{root}: no file like {told.files!r}; found {some}")
    return {subject: found[subject] for subject in sorted(found, key=natural_key)}


def _strays(root: Path, told: FolderDescription, index: Mapping[str, Iterable[Path]]) -> list[str]:
    """A note on files of the kinds that are read, which do not fit the pattern."""
    meant = {path for paths in index.values() for path in paths}
    kinds = {path.suffix.lower() for path in meant}
    others = [p for p in files_below(root) if p.suffix.lower() in kinds and p not in meant]
    some = ", ".join(sorted(p.relative_to(root).as_posix() for p in others)[:3])
    return (
        [f"{len(others)} files of the same kind do not fit {told.files!r} and are not read: {some}"] if others else []
    )


def _recordings(index: Mapping[str, Iterable[Path]], told: FolderDescription, root: Path) -> Iterator[Recording]:
    for paths in index.values():
        done: dict[int, int] = {}
        for path in paths:
            fields = told.places(path, root)
            assert fields is not None
            yield read(path, told, fields, done)


# --- what is in one ---------------------------------------------------------------------------------------

Table = Mapping[str, Shaped[np.ndarray, "time *column"]] | pd.DataFrame


def _table(path: Path, told: FolderDescription) -> Table:
    kind = path.suffix.lower()
    if kind in ARRAYS:
        wanted = [told.label, told.repetition, *told.signals.values()]
        found = read_mat(path, [part.key for part in wanted if part is not None and part.key is not None])
        return found if kind == ".mat" else {key: array.T for key, array in found.items()}  # as it stands in the file
    if kind == ".npy":
        return read_parts(numpy_array, path, "a NumPy array")
    try:
        if kind not in TABLES:
            raise DataError(f"{path}: its kind is none of {', '.join((*TABLES, *ARRAYS, '.npy'))}")
        return _text_table(path, told)
    except DataError:
        raise
    except (OSError, EOFError, ValueError, pd.errors.ParserWarning) as error:
        raise DataError(f"{path}: cannot be read ({error}); is it complete, and separator right?") from None


def _text_table(path: Path, told: FolderDescription) -> pd.DataFrame:
    """Cells as they are written."""
    text = read_bytes(path)
    first = first_line(text, told.skip_lines)
    separator = "\t" if told.separator == r"\t" else told.separator or max(SEPARATORS, key=first.count)
    check_columns(first, separator, path)
    in_c = len(separator) == 1 or separator == SPACES
    with warnings.catch_warnings():
        warnings.simplefilter("error", pd.errors.ParserWarning)  # rows that are longer than the header
        table = pd.read_csv(
            text,
            sep=separator if in_c else re.escape(separator),
            engine="c" if in_c else "python",
            header=0 if told.header else None,
            skiprows=told.skip_lines,
            index_col=False,
            dtype=str,
            keep_default_na=False,
            encoding="utf-8-sig",
            skipinitialspace=True,
        )
    if told.header and all(_is_number(str(name)) for name in table.columns):
        raise ValueError("its first line holds numbers; say header: false")
    return table


def _is_number(text: str) -> bool:
    try:
        float(text)
        return True
    except ValueError:
        return False


def _n_rows(signals: Mapping[str, Signal], told: FolderDescription, path: Path) -> int:
    """Rows at the folder's rate; signals at another rate last as long, to a row."""
    lengths = {name: len(signal.data) for name, signal in signals.items()}
    n_rows = next((lengths[name] for name, signal in signals.items() if signal.fs == told.fs), 0)
    seconds = n_rows / told.fs
    if not n_rows or any(abs(signal.duration - seconds) > 1 / min(signal.fs, told.fs) for signal in signals.values()):
        rates = {name: f"{signal.fs:g} Hz" for name, signal in signals.items()}
        others = " of each" if len(set(rates.values())) == 1 else f", at {rates}, for the same time"
        raise DataError(
            f"{path}: its signals have {lengths} rows; expected as many{others}, and some (of a signal at another rate"
            " than the folder's, say its fs)"
        )
    return n_rows


def _check_each_has_one_use(table: pd.DataFrame, told: FolderDescription, path: Path) -> None:
    """Refuse a column that is two things: the label as a channel would tell a model what it is to find."""
    parts = {"time": told.time, "label": told.label, "repetition": told.repetition}
    taken = {_name(table, part.column): use for use, part in parts.items() if part is not None and part.column}
    for use, signal in told.signals.items():
        for name in (_name(table, column) for column in signal.columns or ()):
            if name in taken:
                raise DataError(f"{path}: column {name!r} is of {use} and of {taken[name]}; count again, or name them")
            taken[name] = use


def _name(table: pd.DataFrame, column: str | int) -> str | int:
    """The name of a column that is there; of one that has none, its number from 1."""
    name = table.columns[column - 1] if isinstance(column, int) else column
    return name if isinstance(name, str) else column


def _signal(table: Table, name: str, columns: SignalColumns, told: FolderDescription, path: Path) -> Signal:
    data, names = _channels(table, name, columns, told, path)
    names = names if columns.ch_names is None else columns.ch_names
    if len(names) != data.shape[1]:
        raise DataError(f"{path}: {name} has {data.shape[1]} channels, and ch_names {len(names)} names")
    bad = np.flatnonzero(~np.isfinite(data).all(axis=0))
    if len(bad):
        row = int(np.argmin(np.isfinite(data[:, bad[0]]))) + 1
        raise DataError(f"{path}: {name} holds no number in channel {names[bad[0]]}, row {row}; is the file complete?")
    fs = columns.fs or told.fs
    return Signal(data, fs, columns.native_fs or fs, columns.units, names, columns.placement)


def _channels(
    table: Table, name: str, columns: SignalColumns, told: FolderDescription, path: Path
) -> tuple[Float[np.ndarray, "time channel"], tuple[str, ...]]:
    if isinstance(table, pd.DataFrame):
        if columns.columns is None:
            raise DataError(f"{path} is a table; say which columns are {name}")
        if columns.fs not in (None, told.fs):
            raise DataError(f"{path} is a table, whose columns have one rate; leave out the fs of {name}")
        found = [_column(table, column, path) for column in columns.columns]
        numbers = [_numbers(values, name, told.decimal, path) for values in found]
        names = tuple(c if isinstance(c, str) else f"{name}.{i}" for i, c in enumerate(columns.columns))
        return as_float32(np.stack(numbers, axis=1)), names
    array = _array(table, columns.key or "", path)
    array = array[:, None] if array.ndim == 1 else array
    if array.ndim != 2 or array.dtype.kind not in "biuf":
        raise DataError(f"{path}: {name} is {array.dtype} {list(array.shape)}, expected numbers [time, channel]")
    if columns.columns is not None:
        chosen = [c - 1 for c in columns.columns if isinstance(c, int)]
        if len(chosen) < len(columns.columns) or max(chosen, default=0) >= array.shape[1]:
            raise DataError(f"{path}: {name} has {array.shape[1]} columns, asked for {list(columns.columns)}")
        array = array[:, chosen]
    return as_float32(array), tuple(f"{name}.{i}" for i in range(array.shape[1]))


def _numbers(values: pd.Series, name: str, decimal: str, path: Path) -> Float[np.ndarray, " time"]:
    """The cells of a column as numbers."""
    numbers = np.asarray(pd.to_numeric(values.str.replace(decimal, "."), errors="coerce"), float)
    if np.isnan(numbers).any():
        row = int(np.argmax(np.isnan(numbers)))
        raise DataError(
            f"{path}: {name} is no number in column {values.name!r}, row {row + 1}: {str(values.iloc[row])!r}; is it a"
            " decimal comma (decimal), a line of units (skip_lines), or a file that ends early?"
        )
    return numbers


def _labels(
    table: Table, part: LabelNumbers | None, fields: Mapping[str, str], n_rows: int, path: Path
) -> tuple[Int[np.ndarray, " time"], dict[int, str]]:
    """The label of each row, and the name of each label."""
    if part is None:
        return np.ones(n_rows, np.int64), {1: "recording"}
    values = _rows(table, part, fields, n_rows, path)
    if values.dtype.kind == "f" and (values == np.round(values)).all():  # MATLAB's numbers
        values = values.astype(np.int64)
    known, places = np.unique(values.astype(str), return_inverse=True)
    meaning = {value_name(value): REST for value in part.rest}
    meaning |= {value_name(value): UNLABELLED for value in part.unlabelled}
    if part.classes is None:
        others = np.array([value for value in known.tolist() if value_name(value) not in meaning], str)
        whole = sorted(set(_whole(others, "label", path).tolist()))
        if REST in whole:
            raise DataError(f"{path}: label 0 would be rest: list 0 under rest, or name your values in classes")
        meaning |= {str(value): value for value in whole}
        names = {value: str(value) for value in whole if value > REST}
    else:
        meaning |= {value_name(value): i for i, value in enumerate(part.classes, start=1)}
        names = dict(enumerate(part.classes.values(), start=1))
    unknown = [value for value in known.tolist() if value_name(value) not in meaning]
    if unknown:
        told = ", ".join(map(repr, meaning))
        raise DataError(f"{path}: unknown label {unknown[0]!r}; the description's label knows {told}; list every value")
    return np.array([meaning[value_name(value)] for value in known.tolist()], np.int64)[places], names


def _rows(
    table: Table, part: RowNumbers, fields: Mapping[str, str], n_rows: int, path: Path
) -> Shaped[np.ndarray, " time"]:
    """One value a row."""
    if part.field is not None:
        return np.full(n_rows, fields[part.field])
    if isinstance(table, pd.DataFrame):
        if part.column is None:
            raise DataError(f"{path} is a table, which has no key {part.key!r}; say in which column it stands")
        return _column(table, part.column, path).to_numpy()
    if part.column is not None:
        array = _array(table, "", path) if "" in table else None
        if array is None or not isinstance(part.column, int) or array.ndim != 2 or part.column > array.shape[1]:
            raise DataError(f"{path}: no column {part.column!r}; of arrays, columns are numbers from 1")
        return array[:, part.column - 1]
    values = _array(table, part.key or "", path).ravel()
    if len(values) != n_rows:
        raise DataError(f"{path}: {part.key} has {len(values)} values, and the signals {n_rows} rows")
    return values


def _column(table: pd.DataFrame, column: str | int, path: Path) -> pd.Series:
    if isinstance(column, int) and column <= table.shape[1]:
        return table.iloc[:, column - 1]
    if column in table.columns:
        return table[column]
    known = ", ".join(map(str, table.columns[:12]))
    raise DataError(f"{path}: no column {column!r}; it has {table.shape[1]}: {known}; is separator right?")


def _array(table: Any, key: str, path: Path) -> Shaped[np.ndarray, "..."]:
    if key not in table:
        found = ", ".join(table) or "none"
        raise DataError(f"{path}: no key {key!r} (found of those wanted: {found})")
    return table[key]


def _whole(values: Shaped[np.ndarray, " time"], what: str, path: Path) -> Int[np.ndarray, " time"]:
    numbers = np.asarray(pd.to_numeric(pd.Series(values, dtype=object), errors="coerce"), float)
    wrong = ~((numbers >= 0) & (numbers < 2**31) & (numbers == np.round(numbers)))  # NaN is none of it
    if wrong.any():
        found = str(values[np.argmax(wrong)])
        raise DataError(
            f"{path}: {what} {found!r} is no whole number from 0 upwards; say what it means in the description"
        )
    return numbers.astype(np.int64)


def _check_time(table: Table, told: FolderDescription, path: Path) -> list[str]:
    assert told.time is not None
    if not isinstance(table, pd.DataFrame):
        raise DataError(f"{path} is no table; leave out time")
    ms = _numbers(_column(table, told.time.column, path), "time", told.decimal, path)
    steps = np.diff(ms * MS_A_UNIT[told.time.unit])
    if not (steps > 0).all():
        raise DataError(f"{path}: time must rise from row to row, and does not in row {int(np.argmin(steps > 0)) + 2}")
    measured = 1000 * len(steps) / steps.sum() if len(steps) else told.fs
    if abs(measured / told.fs - 1) > RATE_TOLERANCE:
        raise DataError(f"{path}: rows stand {measured:.6g} a second by their times, and fs says {told.fs:g}")
    longest = float(steps.max(initial=0))
    if longest > LONGEST_STEP * 1000 / told.fs:
        return [f"time jumps by {longest:.0f} ms behind row {int(np.argmax(steps)) + 1}: rows are missing"]
    return []


DESCRIBED = DataSet("folder", load, f"any folder with a {DESCRIPTION} that describes it (docs/data-sets.md §2.8)", find)
