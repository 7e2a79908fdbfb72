"""Find out how a text table is written: separator, decimal comma, header, lines above it, rows of several sensors."""

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from emg_lens.data.discovery.words import sensor_of
from emg_lens.data.recording import DataError
from emg_lens.data.text import SPACES, read_bytes, read_cells

LINES = 2000
"""Lines that are looked at."""
MOST_KINDS = 8
RATE = re.compile(r"sampl\w*[ _-]*(?:rate|freq\w*)\D{0,20}?(\d+(?:\.\d+)?)\s*(k?)", re.IGNORECASE)
"""A line that states the sampling rate."""


@dataclass(frozen=True)
class TextForm:
    """How a table is written; see `FolderDescription` for the first four.

    Attributes:
        separator: Text between columns.
        decimal: Decimal point or comma.
        header: Whether there is a line with names.
        skip_lines: Lines before it.
        kind_column: Number from 1 of the column that says which sensor a row belongs to; 0 = none.
        width: Columns of the longest row.
        rate: Sampling rate (Hz) that the lines above the table state.
    """

    separator: str
    decimal: str
    header: bool
    skip_lines: int
    kind_column: int
    width: int
    rate: float | None = None


def text_form(path: Path) -> TextForm | None:
    """Return the form of a text table; None if the file is not a table of numbers."""
    try:
        content = read_bytes(path).read()
        lines = content.decode("utf-8-sig").splitlines()[:LINES]
    except (DataError, UnicodeDecodeError):
        return None
    lines = [line.replace('"', "") for line in lines]
    separator, decimal = _separator(lines)
    rows = [_cells(line, separator) for line in lines]
    numeric = [sum(_is_number(cell, decimal) for cell in row) >= max(1, 0.5 * len(row)) for row in rows]
    if sum(numeric) < max(2, 0.8 * (len(rows) - numeric.index(True)) if any(numeric) else 2):
        return None
    first = numeric.index(True)
    first += _only_counts_columns(rows[first])
    above = next((i for i in range(first - 1, -1, -1) if any(cell.strip() for cell in rows[i])), -1)
    header = above >= 0 and len(rows[above]) == len(rows[first]) and not _mostly_numbers(rows[above], decimal)
    body = [row for row in rows[first:] if any(row)]
    stated = RATE.search(" ".join(lines[:first]))
    rate = float(stated[1]) * (1000 if stated[2].lower() == "k" else 1) if stated else None
    return TextForm(
        separator,
        decimal,
        header,
        above if header else first,
        0 if header else _kind_column(body),
        max(map(len, body)),
        rate,
    )


def read_form(path: Path, form: TextForm) -> pd.DataFrame:
    """Read the cells of a table as text."""
    single = len(form.separator) == 1 or form.separator == SPACES
    names = {"names": range(form.width)} if form.kind_column else {}
    try:
        return read_cells(
            read_bytes(path),
            form.header,
            form.skip_lines,
            sep=form.separator if single else re.escape(form.separator),
            engine="c" if single else "python",
            encoding="utf-8-sig",
            skipinitialspace=True,
            **names,
        )
    except ValueError as error:
        raise DataError(f"{path}: cannot be read as a table ({error}); is it complete?") from None


def _separator(lines: list[str]) -> tuple[str, str]:
    """The separator that divides most lines into the same number of columns, and the decimal sign."""
    some = [line for line in lines[-max(20, len(lines) // 2) :] if line.strip()]
    best, score = SPACES, (0.0, 0)
    for separator in ("\t", ";", ",", "|", SPACES):
        widths = Counter(len(_cells(line, separator)) for line in some)
        width, times = widths.most_common(1)[0] if widths else (1, 0)
        if width > 1 and (times / len(some) > score[0] + 0.2 or (times / len(some) > 0.3 and score[1] < 2)):
            best, score = separator, (times / len(some), width)
    cells = [cell for line in some[:50] for cell in _cells(line, best)]
    comma = best != "," and any(re.fullmatch(r"-?\d+,\d+([eE][-+]?\d+)?", cell.strip()) for cell in cells)
    return best, "," if comma else "."


def _cells(line: str, separator: str) -> list[str]:
    return line.split() if separator == SPACES else line.split(separator)


def _is_number(cell: str, decimal: str) -> bool:
    try:
        float(cell.replace(decimal, "."))
        return True
    except ValueError:
        return False


def _mostly_numbers(row: list[str], decimal: str) -> bool:
    return sum(_is_number(cell, decimal) for cell in row) > len(row) / 2


def _only_counts_columns(row: list[str]) -> bool:
    """Whether a row numbers the columns of a table without names, as pandas writes it: `0,1,2` or `,0,1,2`."""
    with_index = row[0].strip() == ""
    cells = [cell.strip() for cell in row[with_index:]]
    return len(cells) > 2 - with_index and cells in ([str(i + k) for i in range(len(cells))] for k in (0, 1))


def _kind_column(rows: list[list[str]]) -> int:
    """The column (from 1) with names of sensors that change from row to row; 0 if there is none."""
    for i in range(min(3, min(map(len, rows)))):
        values = np.array([row[i].strip() for row in rows])
        kinds, changes = {*values.tolist()}, np.count_nonzero(values[1:] != values[:-1])
        if 1 < len(kinds) <= MOST_KINDS and changes > len(rows) / 20 and any(map(sensor_of, kinds)):
            return i + 1
    return 0
