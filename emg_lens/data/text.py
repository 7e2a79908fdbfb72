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
    return io.BytesIO(content)


def first_line(text: io.BytesIO, skip_lines: int = 0) -> str:
    """Return the first line after `skip_lines` lines, with any line ending; then rewind the text."""
    lines = io.TextIOWrapper(text, encoding="latin-1")
    first = next((line for i, line in enumerate(lines) if i >= skip_lines), "")
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

    The options are those of `pandas.read_csv`. A text that is not a table is a `ValueError`.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("error", pd.errors.ParserWarning)
        try:
            return pd.read_csv(text, index_col=False, **options)
        except pd.errors.ParserWarning:
            raise ValueError("rows are longer than the header") from None
