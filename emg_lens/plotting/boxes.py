"""Boxes with every subject as a dot."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.transforms import blended_transform_factory

from emg_lens.plotting.panels import axes_or_new, in_style, wrapped_text
from emg_lens.plotting.style import COLUMN, DARK, DASHED, DOTTED, GREY
from emg_lens.plotting.values import check_limits, hex_colour, numbers
from emg_lens.validation import ArgumentError, check_argument, checked, short

NAME_LETTERS = 36
"""Letters of a box's name before it is wrapped."""


@checked
@in_style
def plot_boxes(
    values: Any,
    *,
    colours: str | Sequence[str] = DARK,
    label: str = "",
    limits: tuple[float | None, float | None] = (None, None),
    hollow: Sequence[str] = (),
    letters: int = NAME_LETTERS,
    ax: Axes | None = None,
) -> Axes:
    """Draw one horizontal box per name, with every value as a dot.

    Boxes show median and quartiles, whiskers reach up to 1.5 times the interquartile range.

    Args:
        values: Name -> values, for example of all subjects; or a data frame with one column per box. NaN is left out.
        colours: Colour of all boxes, or of each.
        label: Name of the values.
        limits: Ends of the axis; None: of the values.
        hollow: Names of boxes that are not filled.
        letters: Letters of a name before it is wrapped.
        ax: Where to draw; default: a new figure of the width of a column.

    Returns:
        The axes. The first box is on top, at 0.

    Raises:
        ArgumentError: No values in a box, values that are not finite, a wrong number of colours, an unknown colour or
            name of a box, limits that are exchanged.

    Example:
        >>> from emg_lens.plotting import plot_boxes
        >>> axes = plot_boxes({"EMG and ACC": [0.8, 0.9, 0.7], "EMG": [0.6, 0.7, 0.5]}, label="Accuracy")
        >>> [tick.get_text() for tick in axes.get_yticklabels()]
        ['EMG and ACC', 'EMG']
    """
    if isinstance(values, pd.DataFrame):
        values = {str(name): values[name].dropna().to_numpy() for name in values}
    check_argument("plot_boxes: values", values, Mapping)
    boxes = {str(name): numbers(f"values[{name!r}]", one, ("value",)).filled() for name, one in values.items()}
    each = [colours] * len(boxes) if isinstance(colours, str) else list(colours)
    if not boxes or len(each) != len(boxes):
        raise ArgumentError(f"there are {len(boxes)} boxes and {len(each)} colours; expected one colour for each box")
    each = [hex_colour("colours", one) for one in each]
    unknown = [name for name in hollow if name not in boxes]
    if unknown:
        raise ArgumentError(f"hollow names {short(unknown[0])}; expected names of boxes: {short(list(boxes))}")
    check_limits(limits)
    ax = axes_or_new(ax, COLUMN, 0.8 + 0.27 * len(boxes))
    for at, (name, one) in enumerate(boxes.items()):
        draw_box(ax, at, one, each[at], 0.6, name in hollow, vertical=False)
    ax.set_yticks(range(len(boxes)), [wrapped_text(name, letters) for name in boxes])
    ax.set_ylim(len(boxes) - 0.4, -0.6)
    ax.set_xlim(*limits)
    ax.set_xlabel(label)
    ax.tick_params(axis="y", length=0)
    ax.tick_params(axis="x", length=2.5)
    return ax


def offset_in_group(k: int, n: int) -> float:
    """Offset of the k-th of n items from the middle of their group, which is 0.8 wide."""
    return 0.8 * ((k + 0.5) / n - 0.5)


def draw_box(
    axes: Axes, at: float, values: Any, colour: str, width: float, hollow: bool = False, vertical: bool = True
) -> None:
    """Draw a box with every subject as a dot; hollow for structural nulls."""
    values = np.asarray(values, float)
    line = {"color": colour, "linewidth": 0.8}
    axes.boxplot(
        [values],
        positions=[at],
        widths=width,
        orientation="vertical" if vertical else "horizontal",
        patch_artist=True,
        showfliers=False,
        manage_ticks=False,
        boxprops={"facecolor": "white" if hollow else f"{colour}33", "edgecolor": colour, "linewidth": 0.8},
        medianprops={"color": colour, "linewidth": 1.4},
        whiskerprops=line,
        capprops={**line, "linewidth": 0.0},
        zorder=2,
    )
    spread = np.random.default_rng(0).uniform(-0.32, 0.32, len(values)) * width
    style = {"s": 3.2, "color": colour, "alpha": 0.25 if hollow else 0.55, "linewidths": 0, "zorder": 3}
    axes.scatter(*((at + spread, values) if vertical else (values, at + spread)), **style)


def draw_references(axes: Axes, baseline: float, chance: float | None, vertical: bool = True) -> None:
    """Draw lines at the baseline's mean and at chance."""
    line = axes.axhline if vertical else axes.axvline
    line(baseline, **DASHED, zorder=1)
    if chance is not None:
        line(chance, **DOTTED, zorder=1)


def draw_mark(axes: Axes, at: float, beyond: float, text: str, colour: str, vertical: bool = True) -> None:
    """Write stars or `ns` beyond the end of the metric's axis, where no box can cover them; stars are coloured."""
    starred = text.startswith("*")
    shown = {"color": colour if starred else GREY, "fontsize": 7.5 if starred else 6.5}
    if vertical:
        place = blended_transform_factory(axes.transData, axes.transAxes)
        axes.text(at, beyond, text, transform=place, ha="center", va="bottom", **shown)
    else:
        place = blended_transform_factory(axes.transAxes, axes.transData)
        axes.text(beyond, at, text, transform=place, ha="left", va="center", **shown)


def metric_limits(values: np.ndarray, is_fraction: bool) -> tuple[float | None, float | None]:
    """Axis limits: for fractions 0 to 1 or the largest value, or from just below the smallest if all are above .45."""
    if not is_fraction:
        return None, None
    least = float(np.nanmin(values))
    return (0.0 if least < 0.45 else np.floor(10 * (least - 0.02)) / 10), max(1.02, 1.02 * float(np.nanmax(values)))
