"""HTML of the report's tables, figures and lists. User text is escaped."""

import base64
import re
from collections.abc import Iterable, Mapping
from html import escape
from typing import Any

import numpy as np
import pandas as pd

from emg_lens.studies.report.table_formats import to_html

NARROW_POINTS = 432
"""Figures narrower than this (six inches) fill half of the page."""


def text_table(table: pd.DataFrame) -> str:
    """Render a table of text with its footnotes."""
    notes = bullet_list(table.attrs.get("notes", ()), "notes")
    return f'<div class="scroll">{to_html(table)}</div>{notes}'


def number_table(table: pd.DataFrame) -> str:
    """Render a table of numbers with four significant digits; columns of text are left-aligned."""
    words = [name for name in table.columns if not pd.api.types.is_numeric_dtype(table[name])]
    return f'<div class="scroll">{to_html(table.map(_short), left=words)}</div>'


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


def fact_list(facts: Mapping[str, object], style: str = "facts") -> str:
    """Render names and values as `<dl>`; an empty string without values."""
    entries = "".join(f"<dt>{escape(str(k))}</dt><dd>{escape(str(v))}</dd>" for k, v in facts.items())
    return f'<dl class="{style}">{entries}</dl>' if entries else ""
