"""Read tables of recordings from text files, also gzip-compressed, with limits on size and columns."""

import gzip
import io
import warnings
import zlib
from pathlib import Path
from typing import Any

import pandas as pd

from emg_lens.data.recording import DataError
from emg_lens.memory import free_memory

MOST_BYTES = 2_000_000_000
MEMORY_A_BYTE = 10
"""Bytes of memory that a table needs for each byte of text, at most."""
SPACES = r"\s+"
MOST_COLUMNS = 5000
"""Largest number of columns of a table."""


def read_bytes(path: Path) -> io.BytesIO:
    """Read a text file as bytes; a file named `.gz` is decompressed."""
    most = min(MOST_BYTES, free_memory() // MEMORY_A_BYTE)
    try:
        with gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb") as file:
            content = file.read(most + 1)
    except (OSError, EOFError, zlib.error) as error:
        reason = str(getattr(error, "strerror", None) or error).strip()
        raise DataError(f"{path}: cannot be read ({reason}); is it complete?") from None
    if len(content) > most:
        limit = "" if most == MOST_BYTES else ", the most that fits into memory as a table"
        raise DataError(
            f"{path}: contains more than {most / 1e6:.0f} MB of text{limit}; divide the recording into files, or save"
            " it as arrays (.npy, HDF5)"
        )
    content = content.replace(b"\r\r\n", b"\n")  # Python's csv module on Windows, without newline=""
    return io.BytesIO(content.rstrip(b" \r\n"))


def first_line(text: io.BytesIO, skip_lines: int = 0) -> tuple[int, str]:
    """Return the first line after `skip_lines` lines that is not empty, and its number from 0; then rewind the text."""
    lines = io.TextIOWrapper(text, encoding="latin-1")
    first = next(((i, line) for i, line in enumerate(lines) if i >= skip_lines and line.strip()), (skip_lines, ""))
    lines.detach()
    text.seek(0)
    return first


def check_columns(line: str, separator: str, path: Path) -> None:
    r"""Reject a table with more columns than any recording has; the separator `"\s+"` means white space."""
    n_columns = len(line.split()) if separator == SPACES else line.count(separator) + 1
    if n_columns > MOST_COLUMNS:
        raise DataError(f"{path}: its first line has {n_columns} columns; expected {MOST_COLUMNS} at most")


def read_rows(text: io.BytesIO, **options: Any) -> pd.DataFrame:
    """Read the rows of a table; rows longer than the header are rejected, which pandas would read as an index.

    The options are those of `pandas.read_csv`. An empty line is a row of empty cells: without it, all later rows would
    be too early. A text that is not a table is a `ValueError`.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("error", pd.errors.ParserWarning)
        try:
            return pd.read_csv(text, index_col=False, skip_blank_lines=False, **options)
        except pd.errors.ParserWarning:
            raise ValueError("rows are longer than the header") from None
        except pd.errors.ParserError as error:
            raise ValueError(str(error).rpartition("C error: ")[2].strip()) from None


def read_cells(text: io.BytesIO, header: bool, skip_lines: int, **options: Any) -> pd.DataFrame:
    """Read the cells of a table as text, under the names in the header; pandas would rename the second of two."""
    skip_lines, _ = first_line(text, skip_lines)
    table = read_rows(text, header=None, skiprows=skip_lines, dtype=str, keep_default_na=False, **options).fillna("")
    if not header:
        return table
    first = next((i for i in range(1, len(table)) if table.iloc[i].any()), 1)  # lines below the header may be empty
    return table.iloc[first:].set_axis(table.iloc[0].tolist(), axis=1)
