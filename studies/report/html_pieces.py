"""HTML of the report's tables, figures and lists. User text is escaped."""

import base64
import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
import pandas as pd

from emg_lens.studies.report.table_formats import divided, to_html

NARROW_POINTS = 432
"""Figures narrower than this (six inches) fill half of the page."""


MOST_ROWS, FIRST_ROWS = 20, 12
"""A longer table shows its first rows; the others are folded."""


def text_table(table: pd.DataFrame) -> str:
    """Render a table of text with its footnotes. On a phone, groups of columns are folded."""
    notes = bullet_list(table.attrs.get("notes", ()), "notes")
    first, others = divided(table, FIRST_ROWS if len(table) > MOST_ROWS else len(table))
    shown = _scroll(to_html(first))
    if table.columns.nlevels == 2:
        groups = dict.fromkeys(table.columns.get_level_values(0))
        folded = "".join(_folded(str(name), to_html(table[name]), open=k == 0) for k, name in enumerate(groups))
        shown = f'<div class="wide">{shown}</div><div class="folded">{folded}</div>'
    if len(others):
        shown += _folded(f"{len(others)} more rows", to_html(others))
    return shown + notes


def _folded(summary: str, table: str, open: bool = False) -> str:  # noqa: A002
    return f"<details{' open' * open}><summary>{escape(summary)}</summary>{_scroll(table)}</details>"


def _scroll(table: str) -> str:
    return f'<div class="scroll" tabindex="0">{table}</div>'


def number_table(table: pd.DataFrame) -> str:
    """Render a table of numbers with four significant digits; columns of text are left-aligned."""
    words = [name for name in table.columns if not pd.api.types.is_numeric_dtype(table[name])]
    return _scroll(to_html(table.map(_short), left=words))


def _short(value: Any) -> str:
    if pd.isna(value):
        return "–"
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def figure_with_caption(caption: str, svg: bytes) -> str:
    """Embed a figure with its caption; it is half as wide where its svg is narrow."""
    caption = escape(caption)
    width = re.search(rb'width="([\d.]+)pt"', svg)
    narrow = ' class="narrow"' if width and float(width[1]) < NARROW_POINTS else ""
    image = f'<img alt="{caption}" src="data:image/svg+xml;base64,{base64.b64encode(svg).decode()}">'
    return f"<figure{narrow}>{image}<figcaption>{caption}</figcaption></figure>"


def bullet_list(items: Iterable[str], style: str) -> str:
    """Render items as `<ul>`; an empty string without items."""
    entries = "".join(f"<li>{escape(str(item))}</li>" for item in items)
    return f'<ul class="{style}">{entries}</ul>' if entries else ""


def folded_list(items: Sequence[str], style: str, most: int) -> str:
    """Render the first items as a list, and fold the others."""
    more = f"<details><summary>{len(items) - most} more</summary>{bullet_list(items[most:], style)}</details>"
    return bullet_list(items[:most], style) + more * (len(items) > most)


def fact_list(facts: Mapping[str, object], style: str = "facts") -> str:
    """Render names and values as `<dl>`; an empty string without values."""
    entries = "".join(f"<dt>{escape(str(k))}</dt><dd>{escape(str(v))}</dd>" for k, v in facts.items())
    return f'<dl class="{style}">{entries}</dl>' if entries else ""
