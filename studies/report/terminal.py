"""What the command line prints of a study: quality of the models, answers, and one table that fits into the width."""

from collections.abc import Iterator, Sequence
from itertools import islice

import pandas as pd
from rich.console import Console, ConsoleOptions, RenderableType
from rich.table import Table
from rich.text import Text

from emg_lens.errors import printable
from emg_lens.studies.report.answers import answers_to_questions
from emg_lens.studies.report.limits import warnings_of_split
from emg_lens.studies.report.quality_sentences import quality_line, quality_warning
from emg_lens.studies.report.table_formats import divided, fitted, to_rich
from emg_lens.studies.report.view import views_of
from emg_lens.studies.results.findings import Findings

MOST_LINES, MOST_WARNINGS = 4, 2
"""Lines of each kind; the report has the others."""
MOST_ROWS = 12


class FittedTable:
    """A table with the columns that fit, and its main rows. `whole` says where all of it is."""

    def __init__(self, table: pd.DataFrame, title: str, whole: str = "table.md") -> None:
        self.table, self.title, self.whole = table, title, whole

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        """Render the table for the width of the terminal."""
        table = fitted(divided(self.table, MOST_ROWS)[0], options.max_width)
        missing = [(len(self.table) - len(table), "row"), (self.table.shape[1] - table.shape[1], "column")]
        left_out = [f"{n} more {what}{'s' * (n > 1)}" for n, what in missing if n]
        table.attrs["notes"] = [
            *table.attrs.get("notes", ()),
            *([f"In {self.whole}: {', '.join(left_out)}."] * bool(left_out)),
        ]
        yield to_rich(table, self.title)


def terminal_parts(findings: Findings) -> list[RenderableType]:
    """Title and question of the study, warnings, quality of the models, answers, and the first table of the report."""
    lines: list[RenderableType] = [Text(printable(findings.study.title), style="bold")]
    lines += [Text(printable(findings.study.question))] * bool(findings.study.question)
    lines += _first([text for cell in findings.cells if (text := quality_warning(cell))], MOST_WARNINGS, "yellow")
    lines += _first([text for cell in findings.cells if (text := quality_line(cell))])
    lines += _first(list(dict.fromkeys(text for cell in findings.cells for text in warnings_of_split(cell))))
    for question, texts in answers_to_questions(findings).items():
        answers = Table.grid(padding=(0, 1))
        for text in _first(texts):
            answers.add_row(" •", text)
        lines += [Text(f"\n{question}", style="bold"), answers]
    tables = (named for view in views_of(findings) for named in view.tables(findings).items())
    return [*lines, Text(), *(FittedTable(table, title) for title, table in islice(tables, 1))]


def _first(texts: Sequence[str], most: int = MOST_LINES, style: str = "") -> list[Text]:
    more = [f"{len(texts) - most} more in the report."] if len(texts) > most else []
    return [Text(printable(text), style=style) for text in [*texts[:most], *more]]
