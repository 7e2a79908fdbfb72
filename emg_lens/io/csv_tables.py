"""Tables of a run as csv: read back they are what was written, and a spreadsheet runs nothing that stands in them.

A spreadsheet takes text that begins with `=`, `+`, `-`, `@` or a tab for a formula. Such text (a name, never a number)
is written with an apostrophe in front, which spreadsheets do not show, and `read_table` takes it away again; text that
has apostrophes there already gets one more, so that every name comes back as it was.
"""

import re
from io import StringIO
from pathlib import Path

import pandas as pd
from pandas.api.types import is_numeric_dtype

RUNS = re.compile(r"'*[=+\-@\t\r\n＝＋－＠]")
"""The beginning of text that would be run, and of such text when it is written."""
NAMES = ("subject", "condition", "edges", "mode", "control", "of", "superset", "tokens")
"""Columns that are text whatever stands in them: a subject may be called 007."""


def to_csv(table: pd.DataFrame) -> str:
    """The table without its index, numbers in full precision."""
    safe = table.rename(columns=_safe)
    for at, kind in enumerate(table.dtypes):
        if not is_numeric_dtype(kind):
            safe.isetitem(at, table.iloc[:, at].map(_safe))
    return safe.to_csv(index=False)


def write_csv(table: pd.DataFrame, path: Path) -> None:
    """Write the table into a file, as `to_csv` says."""
    path.write_text(to_csv(table), encoding="utf-8", newline="")


def read_table(path: Path) -> pd.DataFrame:
    """What `to_csv` wrote; empty cells are missing values, every other text (`NA`, `None`) is itself.

    Raises:
        OSError, ValueError: The file is missing, or no table.
    """
    text = path.read_bytes().decode("utf-8")
    table = pd.read_csv(StringIO(text), dtype=dict.fromkeys(NAMES, str), keep_default_na=False, na_values=[""])
    table = table.rename(columns=_as_meant)
    for at, kind in enumerate(table.dtypes):
        if not is_numeric_dtype(kind):
            table.isetitem(at, table.iloc[:, at].map(_as_meant))
    return table


def _safe(value: object) -> object:
    return f"'{value}" if isinstance(value, str) and RUNS.match(value) else value


def _as_meant(value: object) -> object:
    return value[1:] if isinstance(value, str) and value.startswith("'") and RUNS.match(value) else value
