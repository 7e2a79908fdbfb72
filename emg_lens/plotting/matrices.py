"""Maps of heads, of classes and of patched activations."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.image import AxesImage

from emg_lens.layout import TokenLayout
from emg_lens.plotting.cells import draw_cells, name_cells, name_tokens, token_owners
from emg_lens.plotting.panels import axes_or_new, colour_bar, in_style, plain_text
from emg_lens.plotting.style import COLUMN, PAGE
from emg_lens.plotting.values import (
    CellGrid,
    check_limits,
    check_single,
    grid_of,
    numbers,
    table_of,
    whole_columns,
)
from emg_lens.plotting.words import layer_name
from emg_lens.validation import ArgumentError, checked, short

MOST_CLASSES = 12
"""Up to this many classes, a confusion matrix shows its numbers."""
LEAST_SHOWN = 0.005
"""Smaller fractions of a class have no number."""
MOST_HEAD_NAMES = 10
"""With more heads than this, only every second, third, ... has a name."""


@checked
@in_style
def plot_heads(
    values: Any,
    *,
    value: str = "difference",
    label: str = "",
    low_is_good: bool = True,
    limits: tuple[float, float] | None = None,
    marks: Mapping[tuple[int, int], str] | None = None,
    bar: bool = True,
    ax: Axes | None = None,
) -> Axes:
    """Draw one value per head: layers in rows, heads in columns.

    Values with a sign have orange and violet colours, centred at 0.

    Args:
        values: Numbers `[layer, head]` (array, tensor or lists), or a data frame with the columns `layer`, `head`
            (0-based) and `value`, or a result with such a table. It has one row per head. Heads without a row are grey,
            up to the last layer and the last head of the table.
        value: Column of the values; only for a table.
        label: Name of the values, at the colour bar.
        low_is_good: Whether positive values are orange and negative ones violet; False exchanges the colours, so that
            drops of accuracy are orange.
        limits: Values of the first and last colour; default: the range of the values, from 0 or symmetric about 0.
        marks: (layer, head) -> a mark in the middle of the cell.
        bar: Whether to draw a colour bar.
        ax: Where to draw; default: a new figure.

    Returns:
        The axes.

    Raises:
        ArgumentError: An array of another shape, lacking columns, values that are not finite, an unknown layer or head,
            several rows of one head, limits that are exchanged.

    Example:
        >>> import numpy as np
        >>> from emg_lens.plotting import plot_heads
        >>> axes = plot_heads(np.array([[0.0, -2.0], [1.0, 3.0]]), label="Change in accuracy (pp)", marks={(0, 0): "†"})
        >>> [tick.get_text() for tick in axes.get_yticklabels()], axes.texts[0].get_text()
        (['L1', 'L2'], '†')
    """
    low, high = check_limits(limits)
    if isinstance(values, pd.DataFrame) or not (hasattr(values, "shape") or isinstance(values, list | tuple)):
        table = table_of("values", values, ["layer", "head", value], ["layer", "head", value])
        table = whole_columns("values", table, ["layer", "head"])
        check_single("values", table, ["layer", "head"], value)
        layers, heads = (list(range(int(table[name].max()) + 1)) for name in ("layer", "head"))
        grid = grid_of("values", table, value, layers, heads, ("layer", "head"))
    else:
        grid = numbers("values", values, ("layer", "head"))
        layers, heads = list(range(grid.shape[0])), list(range(grid.shape[1]))
    ax = axes_or_new(ax, min(COLUMN, 1.6 + 0.28 * len(heads)), 0.9 + 0.28 * len(layers))
    image = draw_heads(ax, grid, layers, heads, (low, high), low_is_good, marks or {})
    if bar:
        colour_bar(image, [ax], label)
    return ax


def draw_heads(
    ax: Axes,
    grid: CellGrid,
    layers: Sequence[int],
    heads: Sequence[int],
    limits: tuple[float | None, float | None],
    low_is_good: bool,
    marks: Mapping[tuple[int, int], str],
) -> AxesImage:
    """Draw the values of `plot_heads`, without a colour bar."""
    unknown = [one for one in marks if one[0] not in layers or one[1] not in heads]
    if unknown:
        raise ArgumentError(
            f"marks names layer {unknown[0][0]}, head {unknown[0][1]}; expected layers {short(list(layers))} and heads"
            f" {short(list(heads))}"
        )
    image = draw_cells(ax, grid, low=limits[0], high=limits[1], low_is_good=low_is_good, aspect="auto")
    name_cells(ax, list(map(layer_name, layers)), [])
    named = range(0, len(heads), -(-len(heads) // MOST_HEAD_NAMES))
    ax.set_xticks(named, [f"H{int(heads[at])}" for at in named])
    for (layer, head), mark in marks.items():
        ax.text(list(heads).index(head), list(layers).index(layer), plain_text(mark), ha="center", va="center")
    return image


@checked
@in_style
def plot_confusion(matrix: Any, names: Sequence[str] | None = None, *, ax: Axes | None = None) -> Axes:
    """Draw the fraction of each performed class (rows) that is predicted as each class (columns).

    Up to 12 classes have numbers, in per cent.

    Args:
        matrix: Counts or weights `[performed, predicted]`: an array, or a data frame whose index and columns name the
            classes, such as `pandas.crosstab(performed, predicted)`. A class that is only in one of them has a row or
            column of zeros. Rows are divided by their sums.
        names: Names of the classes, in order. If they contain the names in the data frame, its rows and columns are
            arranged accordingly. Default: names in the data frame, or the indices.
        ax: Where to draw; default: a new figure.

    Returns:
        The axes.

    Raises:
        ArgumentError: A matrix that is not square, negative or not finite; a wrong number of names; a data frame whose
            index and columns have no class in common, or a class twice.

    Example:
        >>> from emg_lens.plotting import plot_confusion
        >>> axes = plot_confusion([[9, 1], [3, 7]], ["fist", "open"])
        >>> [text.get_text() for text in axes.texts]
        ['90', '10', '30', '70']
    """
    if isinstance(matrix, pd.DataFrame):
        matrix = _by_class(matrix, names)
        names = list(map(str, matrix)) if names is None else names
    counts = numbers("matrix", matrix, ("performed", "predicted")).filled(0)
    n = len(counts)
    if counts.shape != (n, n) or (counts < 0).any():
        raise ArgumentError(
            f"matrix has shape {list(counts.shape)} and the smallest value {counts.min():g}; expected counts"
            " [class, class] of at least 0"
        )
    names = list(map(str, range(n))) if names is None else names
    if len(names) != n:
        raise ArgumentError(f"names has {len(names)} entries; expected {n}, one for each class")
    performed = counts.sum(axis=1, keepdims=True)
    fractions = np.divide(counts, performed, out=np.zeros_like(counts), where=performed > 0)
    side = min(PAGE * 0.72, max(1.6 + 0.3 * n, COLUMN * 0.75))
    ax = axes_or_new(ax, side + 0.5, side)
    text = (lambda x: f"{100 * x:.0f}" if x >= LEAST_SHOWN else "") if n <= MOST_CLASSES else None
    image = draw_cells(ax, np.ma.asarray(fractions), low=0, high=1, text=text)
    name_cells(ax, names, names, rotation=90)
    ax.set_xlabel("Predicted")
    ax.set_ylabel("Performed")
    colour_bar(image, [ax], "Fraction of repetitions", shrink=0.8)
    return ax


def _by_class(matrix: pd.DataFrame, names: Sequence[str] | None) -> pd.DataFrame:
    """Return the matrix with the same classes, in the same order, in rows and columns."""
    performed, predicted = matrix.index.tolist(), matrix.columns.tolist()
    for axis, own in (("index", performed), ("columns", predicted)):
        twice = [name for name in own if own.count(name) > 1]
        if twice:
            raise ArgumentError(f"matrix names the class {twice[0]!r} twice in its {axis}; expected each class once")
    if not {*performed} & {*predicted}:
        numbered = list(range(matrix.shape[0]))
        if len(performed) != len(predicted) or numbered not in (performed, predicted):
            raise ArgumentError(
                f"matrix has the index {short(performed)} and the columns {short(predicted)}; expected names of the"
                " same classes in both"
            )
        performed = predicted = predicted if performed == numbered else performed  # one of both has no names
        matrix = matrix.set_axis(performed, axis=0).set_axis(performed, axis=1)
    classes = list(dict.fromkeys([*predicted, *performed]))
    if names is not None and {*classes} <= {*names}:
        classes = list(names)
    elif {*performed} != {*predicted} and all(axis.is_monotonic_increasing for axis in matrix.axes):
        classes = sorted(classes)
    return matrix.reindex(index=classes, columns=classes, fill_value=0)


@checked
@in_style
def plot_patching(
    values: Any,
    layout: TokenLayout | Sequence[str],
    *,
    label: str = "Change of the metric",
    low_is_good: bool = True,
    limits: tuple[float, float] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw the effect of patching an activation: layers in rows, positions or components in columns.

    Values with a sign have orange and violet colours, centred at 0.

    Args:
        values: Numbers `[layer, position]`, for example the change of the logit difference when `hook_resid_pre` of one
            layer and position is replaced. Masked cells are grey.
        layout: Layout of the tokens, or the names of the columns, such as `["H0", "H1", "mlp"]`.
        label: Name of the values, at the colour bar.
        low_is_good: Whether positive values are orange and negative ones violet; False exchanges the colours, so that
            drops of accuracy are orange.
        limits: Values of the first and last colour; default: the range of the values, from 0 or symmetric about 0.
        ax: Where to draw; default: a new figure of the width of a column.

    Returns:
        The axes.

    Raises:
        ArgumentError: Values that do not fit the layout or are not finite.

    Example:
        >>> import numpy as np
        >>> from emg_lens import TokenLayout
        >>> from emg_lens.plotting import plot_patching
        >>> layout = TokenLayout.channels({"emg": 3, "acc": 2})
        >>> axes = plot_patching(np.arange(12.0).reshape(2, 6), layout, label="Change of the margin")
        >>> [tick.get_text() for tick in axes.get_yticklabels()]
        ['L1', 'L2']
    """
    grid: CellGrid = numbers("values", values, ("layer", len(layout)))
    low, high = check_limits(limits)
    ax = axes_or_new(ax, COLUMN, 1.0 + 0.26 * len(grid))
    image = draw_cells(ax, grid, low=low, high=high, low_is_good=low_is_good, aspect="auto")
    layers = list(map(layer_name, range(len(grid))))
    if isinstance(layout, TokenLayout):
        name_cells(ax, layers, [])
        name_tokens(ax, layout.names, token_owners(layout), axis="x")
        ax.set_xlabel("position")
    else:
        name_cells(ax, layers, layout)
    colour_bar(image, [ax], label)
    return ax


def draw_fractions(ax: Axes, grid: CellGrid, rows: Sequence[str], columns: Sequence[str], label: str) -> None:
    """Draw fractions between 0 and 1 with their numbers in per cent and a colour bar."""
    image = draw_cells(ax, grid, low=0, high=1, text=lambda x: f"{100 * x:.0f}", aspect="auto")
    name_cells(ax, rows, columns, rotation=30)
    colour_bar(image, [ax], label)
