"""Where commands print: results to `out`, progress and notes to `err`."""

import os
import sys
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from emg_lens.errors import printable

PIPE_WIDTH = 120
"""Width of tables that are printed to a file or a pipe, unless COLUMNS is set."""

out = Console(width=None if (sys.stdout and sys.stdout.isatty()) or "COLUMNS" in os.environ else PIPE_WIDTH)
err = Console(stderr=True)


def say(text: str) -> None:
    """Print a text on one line."""
    out.print(printable(text), highlight=False, markup=False)


def print_table(table: Any) -> None:
    """Print a data frame."""
    shown = Table(*table.columns)
    for row in table.itertuples(index=False):
        shown.add_row(*(Text(printable(str(cell))) for cell in row))
    out.print(shown)


def print_result(result: object) -> None:
    """Print the answers and tables of a `StudyResult`."""
    for part in result.terminal():  # pyright: ignore[reportAttributeAccessIssue]
        out.print(part)
