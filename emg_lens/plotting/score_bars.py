"""Bars of named scores."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from emg_lens.plotting.panels import axes_or_new, in_style, legend_below, plain_text
from emg_lens.plotting.style import COLUMN, DARK, DASHED, UNIMODAL
from emg_lens.plotting.values import table_of
from emg_lens.validation import ArgumentError, checked

POSITIVE, NEGATIVE = "#B35806", "#542788"
"""Orange and violet of the colour map of values with a sign."""


@checked
@in_style
def plot_bars(
    table: Any,
    *,
    name: str = "edge",
    value: str = "score",
    error: str | None = None,
    label: str = "",
    reference: tuple[str, float] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw one horizontal bar per row, the first on top.

    Bars are blue; if there are negative values, positive bars are orange and negative bars violet.

    Args:
        table: Data frame with one row per bar, or a result with such a table.
        name: Column of the names.
        value: Column of the values: finite numbers.
        error: Column of half the length of error lines, for example standard errors; not drawn if one is NaN.
        label: Name of the values.
        reference: Name and value of a dashed line, for example `("unmasked", 0.8)`.
        ax: Where to draw; default: a new figure of the width of a column.

    Returns:
        The axes.

    Raises:
        ArgumentError: Lacking columns, values that are not finite, negative or infinite errors.

    Example:
        >>> import pandas as pd
        >>> from emg_lens.plotting import plot_bars
        >>> table = pd.DataFrame({"edge": ["L1 emg→cls", "L1 acc→cls"], "score": [1.2, -0.3]})
        >>> axes = plot_bars(table, label="Drop of the margin")
        >>> [float(bar.get_width()) for bar in axes.patches]
        [1.2, -0.3]
    """
    rows = table_of("table", table, [name, value, *([error] if error else [])], [value])
    values, at = rows[value].to_numpy(float), np.arange(len(rows))
    errors = rows[error].to_numpy(float) if error else np.array([np.nan])
    wrong = errors[(errors < 0) | np.isinf(errors)]
    if len(wrong):
        raise ArgumentError(f"table: {error} is {wrong[0]:g} in a row; expected lengths of at least 0, or NaN")
    signed = (values < 0).any()
    colours = np.where(values < 0, NEGATIVE, POSITIVE if signed or error else UNIMODAL)
    ax = axes_or_new(ax, COLUMN, 0.9 + 0.2 * len(rows))
    ax.barh(
        at, values, height=0.7, color=list(colours), xerr=None if np.isnan(errors).any() else errors,
        error_kw={"elinewidth": 0.8, "ecolor": "0.25"},
    )  # fmt: skip
    if signed:
        ax.axvline(0, color=DARK, linewidth=0.8)
    ax.set_yticks(at, [plain_text(one) for one in rows[name]])
    ax.set_ylim(len(rows) - 0.4, -0.6)
    ax.tick_params(axis="y", length=0)
    ax.tick_params(axis="x", length=2.5)
    ax.set_xlabel(plain_text(label or value))
    if reference is not None:
        ax.axvline(reference[1], **DASHED)
        legend_below(ax, {f"{reference[0]}, {reference[1]:.3f}": Line2D([], [], **DASHED)})
    return ax
