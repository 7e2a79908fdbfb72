"""Read and write the tables of a run as csv, without loss, and so that spreadsheets do not run text as a formula.

A spreadsheet runs text that begins with `=`, `+`, `-`, `@` or a tab. Such text is written with an apostrophe in front,
which spreadsheets do not show, and `read_table` removes it. Text that already begins with apostrophes gets one more,
so every name is read as it was written.
"""

import re
from collections.abc import Callable
from io import StringIO
from pathlib import Path

import pandas as pd
from pandas.api.types import is_numeric_dtype

from emg_lens.io.os_errors import check_regular

FORMULA = re.compile(r"'*[=+\-@\t\r\n＝＋－＠]")
"""Matches the beginning of text that a spreadsheet would run, with or without apostrophes in front."""
TEXT_COLUMNS = ("subject", "condition", "edges", "mode", "by", "kept", "control", "of", "superset", "tokens")
"""Columns that are read as text even if all cells look like numbers: a subject may be called 007."""


def to_csv(table: pd.DataFrame) -> str:
    """Write the table as csv text, without its index, with numbers in full precision."""
    return _changed(table, _with_apostrophe).to_csv(index=False)


def write_csv(table: pd.DataFrame, path: Path) -> None:
    """Write the text of `to_csv` into a file."""
    path.write_text(to_csv(table), encoding="utf-8", newline="")


def read_table(path: Path) -> pd.DataFrame:
    """Read a table that `to_csv` wrote. Only empty cells are missing values; `NA` and `None` are text.

    Raises:
        OSError, ValueError: The file is missing, or it is not a table.
    """
    check_regular(path)
    text = path.read_bytes().decode("utf-8")
    table = pd.read_csv(StringIO(text), dtype=dict.fromkeys(TEXT_COLUMNS, str), keep_default_na=False, na_values=[""])
    return _changed(table, _without_apostrophe)


def _changed(table: pd.DataFrame, change: Callable[[object], object]) -> pd.DataFrame:
    """Apply a function to the names of the columns, and to all cells that are not numbers."""
    result = table.rename(columns=change)
    for at, dtype in enumerate(table.dtypes):
        if not is_numeric_dtype(dtype):
            result.isetitem(at, table.iloc[:, at].map(change))
    return result


def _with_apostrophe(value: object) -> object:
    return f"'{value}" if isinstance(value, str) and FORMULA.match(value) else value


def _without_apostrophe(value: object) -> object:
    return value[1:] if isinstance(value, str) and value.startswith("'") and FORMULA.match(value) else value
