"""Text files of recordings, packed by gzip or not: no more of one is read than a recording can have."""

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
"""Bytes of memory that a byte of text may take as a table of cells."""
SPACES = r"\s+"
MOST_COLUMNS = 5000
"""Beyond that, telling columns of one name apart takes longer than reading them."""


def unpacked(path: Path, most_bytes: int = MOST_BYTES, usual: str = "") -> io.BytesIO:
    """The text, as bytes; of a file named `.gz` what it unpacks to.

    Args:
        path: The file.
        most_bytes: Of text that are read.
        usual: What such a file usually has, for the message.

    Raises:
        DataError: It cannot be read, is damaged, or holds more.
    """
    most = min(most_bytes, free_memory() // MEMORY_A_BYTE)
    try:
        with gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb") as file:
            content = file.read(most + 1)
    except (OSError, EOFError, zlib.error) as error:
        reason = str(getattr(error, "strerror", None) or error).strip()
        raise DataError(f"{path}: cannot be read ({reason}); is it complete?") from None
    if len(content) > most:
        why = "" if most == most_bytes else ", as much as fits into memory as a table"
        told = f"; {usual}" if usual else "; cut the recording into files, or save it as arrays (.npy, HDF5)"
        raise DataError(f"{path}: holds more than {most / 1e6:.0f} MB of text{why}{told}")
    return io.BytesIO(content)


def first_line(text: io.BytesIO, skip_lines: int = 0) -> str:
    """The first line below some others, whatever ends lines there; the text is left at its beginning."""
    lines = io.TextIOWrapper(text, encoding="latin-1")
    found = next((line for i, line in enumerate(lines) if i >= skip_lines), "")
    lines.detach()
    text.seek(0)
    return found


def check_columns(line: str, separator: str, path: Path) -> None:
    r"""Refuse a table that has more columns than any recording.

    Args:
        line: Its first.
        separator: Between columns; `"\s+"` are any blanks.
        path: The file, for the message.

    Raises:
        DataError: It has more.
    """
    n_columns = len(line.split()) if separator == SPACES else line.count(separator) + 1
    if n_columns > MOST_COLUMNS:
        raise DataError(f"{path}: its first line has {n_columns} columns; {MOST_COLUMNS} at most are read")


def rows_below(text: io.BytesIO, **options: Any) -> pd.DataFrame:
    """The rows of a table, none of which is longer than its header: pandas would take what is too much for an index.

    Args:
        text: The file's.
        **options: Of `pandas.read_csv`.

    Raises:
        ValueError: One is, or it is no table.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("error", pd.errors.ParserWarning)
        try:
            return pd.read_csv(text, index_col=False, **options)
        except pd.errors.ParserWarning:
            raise ValueError("rows are longer than the header") from None
