r"""Write a table of text as Markdown, LaTeX, HTML, or for the terminal.

A table is any `DataFrame` of text with one or two header rows. A named index is printed as the first columns.
Footnotes are read from `table.attrs["notes"]`.
"""

from collections.abc import Collection, Sequence
from html import escape
from textwrap import wrap

import pandas as pd
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from emg_lens.errors import printable
from emg_lens.studies.report.wording import EMPTY

HEADING_WIDTH = 18
"""Longer column headings are wrapped in the terminal."""
NAME_WIDTH = 28
"""So many letters of a row's name stay on one line in the terminal."""
FEW_COLUMNS = 5
"""With more columns of numbers, names of rows are not wrapped."""


def to_markdown(table: pd.DataFrame, title: str = "") -> str:
    """Write a Markdown table with its footnotes; two header rows become one."""
    headers, rows = _flat(table)
    n_left = _n_left(table)
    lines = ["| " + " | ".join(_markdown(c) for c in row) + " |" for row in [headers, *rows]]
    lines.insert(1, "|" + "|".join([":--"] * n_left + ["--:"] * (len(headers) - n_left)) + "|")
    heading = [f"**{_markdown(title)}**", ""] if title else []
    return "\n".join([*heading, *lines, *(f"\n{_markdown(note)}" for note in _notes(table))]) + "\n"


def to_latex(table: pd.DataFrame, caption: str = "", label: str = "") -> str:
    r"""Write a LaTeX `table` with its footnotes; it needs only `\usepackage{booktabs}`."""
    headers, rows = _flat(table, repeat=False)
    n_left = _n_left(table)
    lines = [r"\begin{table}", r"\centering", r"\small"]
    lines += [rf"\caption{{{_tex(caption)}}}"] if caption else []
    lines += [rf"\label{{{label}}}"] if label else []
    lines += [rf"\begin{{tabular}}{{{'l' * n_left}{'r' * (len(headers) - n_left)}}}", r"\toprule"]
    if table.columns.nlevels == 2:
        lines += _tex_groups(table, n_left)
        headers = headers[:n_left] + [str(c[-1]) for c in table.columns]
    lines += [_tex_row(headers), r"\midrule"]
    for i, row in enumerate(rows):
        if i and row[0] == "Baseline":
            lines.append(r"\midrule")
        lines.append(_tex_row(row))
    lines += [r"\bottomrule", r"\end{tabular}"]
    if _notes(table):
        lines += [r"\par\smallskip", r"\begin{minipage}{\linewidth}\footnotesize"]
        lines += [rf"{_tex(note)}\par" for note in _notes(table)]
        lines += [r"\end{minipage}"]
    return "\n".join([*lines, r"\end{table}"]) + "\n"


def to_html(table: pd.DataFrame, left: Collection[str] = ()) -> str:
    """Write a `<table>` without its footnotes. CSS classes: `text` (aligned left), `stars`, `soft`, `group`.

    Args:
        table: A table of text.
        left: Further columns to align left, because they hold text.
    """
    headers, rows = _flat(table, repeat=False)
    n_left = _n_left(table)
    words = [i < n_left or header in left for i, header in enumerate(headers)]
    head = []
    if table.columns.nlevels == 2:
        spans = "".join(f'<th colspan="{n}">{escape(name)}</th>' for name, _, n in _groups(table))
        head.append(f"<tr>{'<th></th>' * n_left}{spans}</tr>")
        headers = headers[:n_left] + [str(c[-1]) for c in table.columns]
    cells = "".join(f"<th{_class(['text'] * word)}>{escape(h)}</th>" for h, word in zip(headers, words, strict=True))
    head.append(f"<tr>{cells}</tr>")
    body = []
    for row in rows:
        cells = "".join(_html_cell(cell, word) for cell, word in zip(row, words, strict=True))
        body.append(f"<tr{_class(['group'] * (table.index.nlevels > 1 and row[0] != ''))}>{cells}</tr>")
    return f"<table><thead>{''.join(head)}</thead><tbody>{''.join(body)}</tbody></table>"


def to_rich(table: pd.DataFrame, title: str = "") -> Table:
    """Make a table for the terminal with its footnotes; stars are bold, non-significant cells dim.

    Number columns are never truncated. The upper of two header rows prints each group once, so that the paper's Table 3
    fits into 80 columns.
    """
    headers, rows = _flat(table, repeat=False, joint="\n")
    n_left = _n_left(table)
    if table.columns.nlevels == 2:
        first = {n_left + at for _, at, _ in _groups(table)}
        headers = [h if i in first or i < n_left else "\n" + h.partition("\n")[2] for i, h in enumerate(headers)]
        headers[:n_left] = [f"\n{header}" for header in headers[:n_left]]
    notes = Text("\n".join(map(printable, _notes(table))), style="dim", justify="left")
    heading = Text(printable(title), style="bold", justify="left") if title else None
    grid = Table(title=heading, caption=notes if notes else None, box=SIMPLE_HEAD, padding=(0, 0), pad_edge=False)
    for i, header in enumerate(headers):
        left = i < n_left
        grid.add_column(
            Text(
                "\n".join(line for part in header.split("\n") for line in wrap(printable(part), HEADING_WIDTH) or [""])
            ),
            justify="left" if left else "right",
            no_wrap=not left or len(headers) > n_left + FEW_COLUMNS,
        )
    for i, row in enumerate(rows):
        last_of_group = i + 1 < len(rows) and rows[i + 1][0] != ""
        grid.add_row(*[_styled(c) for c in row], end_section=last_of_group and table.index.nlevels > 1)
    return grid


def without_empty_columns(table: pd.DataFrame) -> pd.DataFrame:
    """Leave out columns in which no row has a value."""
    return table.loc[:, ~(table == EMPTY).all()]


def divided(table: pd.DataFrame, most: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Divide a table into at most `most` rows to show and the others, both in the order of the table.

    Rows whose positions are in `attrs["kept"]` are shown first.
    """
    positions = range(len(table))
    shown = list(dict.fromkeys([*(at for at in table.attrs.get("kept", ()) if at in positions), *positions]))[:most]
    return table.iloc[sorted(shown)], table.iloc[[at for at in positions if at not in shown]]


def fitted(table: pd.DataFrame, width: int) -> pd.DataFrame:
    """Leave out columns until the table fits into so many letters with its row names.

    Columns that `attrs["optional"]` names are left out first, then the last ones.
    """
    while table.shape[1] > 2 and _letters(table) > width:  # noqa: PLR2004  (row names and one number)
        optional = [name for name in table.attrs.get("optional", ()) if name in table]
        table = table.drop(columns=optional[0] if optional else table.columns[-1])
    return table


def _letters(table: pd.DataFrame) -> int:
    """Width of the table in the terminal."""
    headers, rows = _flat(table, joint="\n")
    n_left, total = _n_left(table), 0
    for i, (header, *cells) in enumerate(zip(headers, *rows, strict=True)):
        lines = [line for part in header.split("\n") for line in wrap(part, HEADING_WIDTH)]
        longest = max(map(len, cells), default=0)
        is_wrapped = i < n_left and len(headers) <= n_left + FEW_COLUMNS
        total += 1 + max([min(longest, NAME_WIDTH) if is_wrapped else longest, *map(len, lines)])
    return total


def _notes(table: pd.DataFrame) -> Sequence[str]:
    return table.attrs.get("notes", ())


def _n_left(table: pd.DataFrame) -> int:
    """Number of left-aligned columns: the index levels, or the first column without a named index."""
    return table.index.nlevels if table.index.names[0] is not None else 1


def _flat(table: pd.DataFrame, repeat: bool = True, joint: str = " ") -> tuple[list[str], list[list[str]]]:
    """Headers and cells as text, index levels first; `repeat=False` blanks repeated values of the first level."""
    columns = [joint.join(c) if isinstance(c, tuple) else str(c) for c in table.columns]
    names = [str(name) for name in table.index.names if name is not None]
    rows: list[list[str]] = []
    before = None
    for key, values in zip(table.index, table.to_numpy(), strict=True):
        labels = [str(k) for k in (key if isinstance(key, tuple) else (key,))] if names else []
        first = labels[0] if len(labels) > 1 else None
        if first is not None and first == before and not repeat:
            labels[0] = ""
        before = first
        rows.append([*labels, *(str(v) for v in values)])
    return [*names, *columns], rows


def _groups(table: pd.DataFrame) -> list[tuple[str, int, int]]:
    """Name, first column and number of columns of each group in the upper header row."""
    names = [str(c[0]) for c in table.columns]
    return [(name, names.index(name), names.count(name)) for name in dict.fromkeys(names)]


def _html_cell(cell: str, word: bool) -> str:
    stars, soft = cell.startswith("*") or cell == "shown", cell.startswith(("ns", "–")) and len(cell) <= len("ns†")
    return f"<td{_class(['text'] * word + ['stars'] * stars + ['soft'] * soft)}>{escape(cell)}</td>"


def _class(names: Sequence[str]) -> str:
    return f' class="{" ".join(names)}"' if names else ""


def _markdown(text: str) -> str:
    return (
        "".join(f"\\{c}" if c in "|*_`<&$~\\" else c for c in printable(text))
        .replace("](", "]\\(")
        .replace("][", "]\\[")
    )


_TEX = {
    "\\": r"\textbackslash{}",
    **{c: f"\\{c}" for c in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": "$<$",
    ">": "$>$",
    "|": r"\textbar{}",
    "†": r"$\dagger$",
    "‡": r"$\ddagger$",
    "–": "--",
    "—": "---",
    "−": "$-$",
    "±": r"$\pm$",
    "×": r"$\times$",
    "·": r"$\cdot$",
    "²": "$^2$",
    "→": r"$\to$",
    "“": "``",
    "”": "''",
}


def _tex(text: str) -> str:
    return "".join(_TEX.get(c, c) for c in printable(text))


def _tex_row(cells: Sequence[str]) -> str:
    # A row must not begin with [ or *: after the \\ of the row before, LaTeX would read it as an option.
    row = " & ".join(_tex(c) for c in cells)
    return ("{}" if row.startswith(("[", "*")) else "") + row + r" \\"


def _tex_groups(table: pd.DataFrame, n_left: int) -> list[str]:
    """The upper header row: one heading over the columns of each group, with a rule below."""
    heads = [rf"\multicolumn{{{n}}}{{c}}{{{_tex(name)}}}" for name, _, n in _groups(table)]
    rules = [rf"\cmidrule(lr){{{n_left + at + 1}-{n_left + at + n}}}" for _, at, n in _groups(table)]
    return [" & " * n_left + " & ".join(heads) + r" \\", " ".join(rules)]


def _styled(cell: str) -> Text:
    style = "bold green" if cell.startswith("*") else "dim" if cell.startswith(("–", "ns")) else ""
    return Text(printable(cell), style=style)
