"""Curves with intervals."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cbook import normalize_kwargs
from matplotlib.lines import Line2D

from emg_lens.plotting.panels import axes_or_new, in_style, legend_below, plain_text
from emg_lens.plotting.style import CATEGORIES, COLUMN, DARK, PALE, category_colour
from emg_lens.plotting.values import table_of
from emg_lens.validation import ArgumentError, checked

WIDE = 8
"""The axis is logarithmic if the largest step between ticks is so many times the smallest."""


@checked
@in_style
def plot_curves(
    table: Any,
    x: str,
    y: str,
    *,
    by: str | None = None,
    interval: tuple[str, str] | None = None,
    colours: Mapping[str, str] | None = None,
    labels: tuple[str, str] = ("", ""),
    ticks: bool = False,
    log: bool | None = None,
    legend_title: str = "",
    ax: Axes | None = None,
) -> Axes:
    """Draw one curve per group with its interval as a band.

    Args:
        table: Data frame with one row per point and curve, or a result with such a table.
        x: Column of the horizontal values: finite numbers. Each has one row, or one per curve.
        y: Column of the vertical values: finite numbers.
        by: Column that names the curve of each row; default: one curve.
        interval: Columns of the lower and upper end of the interval. NaN in both: a point without an interval.
        colours: Name of a curve -> colour; default: a colour-blind safe palette. From the seventh curve on, curves are
            dashed.
        labels: Names of the horizontal and vertical axis; default: names of the columns.
        ticks: Whether to put a tick at every horizontal value. The axis is then logarithmic if these are spaced like
            powers.
        log: Whether the horizontal axis is logarithmic; default: only with `ticks`, as described there.
        legend_title: Title of the legend of several curves.
        ax: Where to draw; default: a new figure of the width of a column.

    Returns:
        The axes.

    Raises:
        ArgumentError: Lacking columns, values that are not finite, an interval with one end or with exchanged ends,
            several rows of one horizontal value without `by`, a logarithmic axis with values of 0 or less.

    Example:
        >>> import pandas as pd
        >>> from emg_lens.plotting import plot_curves
        >>> table = pd.DataFrame({"channels": [4, 8, 16], "mean": [0.5, 0.7, 0.8], "low": [0.4, 0.6, 0.75],
        ...                       "high": [0.6, 0.8, 0.85]})
        >>> axes = plot_curves(table, "channels", "mean", interval=("low", "high"), ticks=True)
        >>> [tick.get_text() for tick in axes.get_xticklabels()], axes.get_xlabel()
        (['4', '8', '16'], 'channels')
    """
    rows = table_of("table", table, [x, y, *([by] if by else []), *(interval or ())], [x, y])
    if log and rows[x].min() <= 0:
        raise ArgumentError(f"log=True: {x} is {rows[x].min():g} in a row; expected values above 0; or give log=False")
    for low, high in [interval] if interval else []:
        ends = rows[[low, high]].to_numpy(float)
        if (np.isnan(ends).sum(axis=1) == 1).any() or (ends[:, 0] > ends[:, 1]).any():
            raise ArgumentError(
                f"interval: {low} and {high} are exchanged, or one of them is NaN; expected {low} ≤ {high}"
            )
    if not by and rows[x].duplicated().any():
        at = rows[x][rows[x].duplicated()].iloc[0]
        raise ArgumentError(
            f"table has {(rows[x] == at).sum()} rows for {x} {at:g}; expected one; name the curve of each row with by=,"
            " or average the rows"
        )
    groups = rows.groupby(by, sort=False) if by else [("", rows)]
    ax = axes_or_new(ax, COLUMN, 2.4)
    lines = {}
    for k, (name, line) in enumerate(groups):
        line = line.sort_values(x, kind="stable")  # noqa: PLW2901
        colour = (colours or {}).get(str(name), category_colour(k))
        dash = "-" if k < len(CATEGORIES) or colours else "--"
        ends = line[list(interval)].to_numpy(float).T if interval else None
        lines[plain_text(name)] = draw_curve(
            ax, line[x], line[y], colour, ends, ls=dash, marker="o", **({"label": plain_text(name)} if by else {})
        )
    values = sorted(rows[x].unique())
    if ticks:
        steps = np.diff(values)
        log = bool(len(steps) and values[0] > 0 and steps.max() >= WIDE * steps.min()) if log is None else log
    if log:
        ax.set_xscale("log")
    if ticks:
        ax.minorticks_off()
        ax.set_xticks(values, [f"{value:g}" for value in values])
    ax.set_xlabel(plain_text(labels[0] or x))
    ax.set_ylabel(plain_text(labels[1] or y))
    value_lines(ax)
    if by:
        legend_below(ax, lines, title=legend_title)
    return ax


def draw_curve(
    ax: Axes, x: Any, y: Any, colour: str, ends: Sequence[Any] | np.ndarray | None = None, **style: Any
) -> Any:
    """Draw a curve, with a band between lower and upper ends if they are given, and return the line."""
    if ends is not None:
        ax.fill_between(np.asarray(x, float), *np.asarray(ends, float), color=colour, alpha=0.18, lw=0)  # pyright: ignore
    (line,) = ax.plot(
        x, y, **({"color": colour, "linewidth": 1.2, "markersize": 3.5} | normalize_kwargs(style, Line2D))
    )
    return line


def draw_many(ax: Axes, table: pd.DataFrame, colour: str, mean: Any = None, **style: Any) -> Any:
    """Draw one thin line per column and a thick line of their mean; return the thick line.

    Args:
        ax: Where to draw.
        table: Values, indexed by the horizontal axis.
        colour: Colour of all lines.
        mean: Values of the thick line; default: mean over the columns.
        style: Style of the thick line.
    """
    ax.plot(table.index, table, color=colour, linewidth=0.5, alpha=0.4)
    line = table.mean(axis=1) if mean is None else mean
    return draw_curve(ax, line.index, line, colour, None, **({"linewidth": 1.5} | normalize_kwargs(style, Line2D)))


def value_lines(ax: Axes) -> None:
    """Draw pale horizontal lines at the ticks of the vertical axis."""
    ax.grid(axis="y", color=PALE, linewidth=0.6)
    ax.set_axisbelow(True)


def draw_dots(ax: Axes, x: Any, y: Any, colour: str = DARK, **style: Any) -> Any:
    """Draw diamonds without borders, and return them."""
    return ax.scatter(x, y, **({"s": 9, "color": colour, "marker": "D", "linewidths": 0, "zorder": 3} | style))
