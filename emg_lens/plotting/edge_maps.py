"""Maps of edges: destinations in rows, sources in columns."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter
from pydantic import NonNegativeInt, PositiveInt

from emg_lens.hooks.algebra import EdgeSet
from emg_lens.layout import CLS, TokenLayout
from emg_lens.plotting.cells import MOST_NAMES, RASTER_FROM, draw_cells, name_tokens, owner_of, token_owners
from emg_lens.plotting.panels import (
    axes_or_new,
    bar_label,
    colour_bar,
    figure_of,
    in_style,
    legend_below,
    panels_or_new,
    plain_frame,
)
from emg_lens.plotting.style import COLUMN, PAGE, UNIMODAL
from emg_lens.plotting.values import check_limits, chosen, grid_of, numbers, table_of, whole_columns
from emg_lens.plotting.words import layer_name
from emg_lens.validation import ArgumentError, checked, short

FROM, TO = "source (is read)", "destination (reads)"
KEPT, SOME, CUT, DEAD = "not cut", "cut in some layers or heads", "cut", "cut, without a path to the readout"
_COLOURS = {KEPT: "#f4f5f7", SOME: "#9cc7e3", CUT: UNIMODAL, DEAD: "#b9bdc4"}
MOST_NUMBERS = 6
"""Up to this many rows, a map of scores shows its numbers."""
LEAST_POWER, MOST_POWER = -2, 4
"""Numbers of a map of scores are divided by a power of ten if the largest is below 10^-2, or from 10^4 on."""
RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
PER_ROW = 3


@checked
@in_style
def plot_edges(
    edges: Any,
    layout: TokenLayout,
    *,
    n_layers: PositiveInt = 1,
    n_heads: PositiveInt = 1,
    layer: int | None = None,
    head: int | None = None,
    live: Any = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw which attention edges are cut: one cell per edge, with lines between modalities.

    Args:
        edges: An edge set, or booleans `[dest, src]` or `[layer, head, dest, src]` (array or tensor), True = cut.
        layout: Layout of the tokens.
        n_layers: Number of layers of the model; only for an edge set.
        n_heads: Number of heads of a layer; only for an edge set.
        layer: Layer to show, 0-based. Default: all layers; an edge that is cut in some of them is paler.
        head: Head to show, 0-based; default: all heads.
        live: Booleans of the same shape as the mask, True = the edge has a path to the readout (see `reach`). Edges
            that are cut but never live are grey.
        ax: Where to draw; default: a new figure of the width of a column.

    Returns:
        The axes.

    Raises:
        ArgumentError: A mask that does not fit the layout, an unknown layer or head.

    Example:
        >>> from emg_lens import TokenLayout, cross_modal
        >>> from emg_lens.plotting import plot_edges
        >>> layout = TokenLayout.channels({"emg": 8, "acc": 3})
        >>> axes = plot_edges(cross_modal(), layout)
        >>> axes.get_xlabel(), [text.get_text() for text in axes.figure.legends[0].get_texts()]
        ('source (is read)', ['not cut', 'cut'])
    """
    cut = _mask("edges", edges, layout, n_layers, n_heads)
    layers, heads = chosen("layer", layer, range(cut.shape[0])), chosen("head", head, range(cut.shape[1]))
    lives = np.ones_like(cut) if live is None else _mask("live", live, layout, *cut.shape[:2])
    if lives.shape != cut.shape:
        raise ArgumentError(f"live has shape {list(lives.shape)}; expected {list(cut.shape)}, the shape of the mask")
    cut, lives = cut[np.ix_(layers, heads)], lives[np.ix_(layers, heads)]
    ever, always, dead = cut.any((0, 1)), cut.all((0, 1)), ~(cut & lives).any((0, 1))
    names = list(_COLOURS)
    kinds = np.select([~ever, dead, always], [names.index(one) for one in (KEPT, DEAD, CUT)], names.index(SOME))
    ax = axes_or_new(ax, COLUMN, COLUMN * 1.05)
    colours = ListedColormap(list(_COLOURS.values()))
    ax.imshow(kinds, cmap=colours, vmin=-0.5, vmax=3.5, interpolation="nearest", rasterized=len(layout) > RASTER_FROM)
    plain_frame(ax)
    _label(ax, layout)
    shown = [name for k, name in enumerate(names) if (kinds == k).any()]
    legend_below(ax, {name: Patch(fc=_COLOURS[name], ec="#8a8f98", lw=0.4) for name in shown}, 2)
    return ax


def _mask(what: str, edges: Any, layout: TokenLayout, n_layers: int, n_heads: int) -> np.ndarray:
    """Return booleans `[layer, head, dest, src]`."""
    if isinstance(edges, EdgeSet):
        return edges.mask(layout, n_layers, n_heads).numpy()
    n = len(layout)
    try:
        mask = np.asarray(edges.detach().cpu() if hasattr(edges, "detach") else edges)
    except ValueError:  # rows of unequal length
        mask = np.empty(0)
    if mask.dtype != bool or mask.ndim not in (2, 4) or mask.shape[-2:] != (n, n) or not mask.size:
        raise ArgumentError(
            f"{what}={short(edges)}; expected an edge set, or booleans [{n}, {n}] (dest, src) or"
            f" [layer, head, {n}, {n}]"
        )
    return mask if mask.ndim == 4 else mask[None, None]  # noqa: PLR2004


@checked
@in_style
def plot_token_map(
    values: Any,
    layout: TokenLayout,
    *,
    label: str = "attention",
    limits: tuple[float, float] | None = None,
    bar: bool = True,
    names: Sequence[str] | None = None,
    most_names: PositiveInt = MOST_NAMES,
    ax: Axes | None = None,
) -> Axes:
    """Draw one value per pair of tokens, for example the attention of a head, with lines between modalities.

    Values with a sign have orange (positive) and violet (negative) colours, centred at 0.

    Args:
        values: Numbers `[dest, src]` (array or tensor); masked cells are grey.
        layout: Layout of the tokens.
        label: Name of the values, at the colour bar.
        limits: Values of the first and last colour; default: the range of the values, from 0 or symmetric about 0.
        bar: Whether to draw a colour bar.
        names: Names of the tokens; default: those of the layout.
        most_names: With more tokens than this, only modalities are named.
        ax: Where to draw; default: a new figure of the width of a column.

    Returns:
        The axes.

    Raises:
        ArgumentError: Values or names that do not fit the layout, values that are not finite.

    Example:
        >>> import torch
        >>> from emg_lens import TokenLayout
        >>> from emg_lens.plotting import plot_token_map
        >>> layout = TokenLayout.channels({"emg": 4, "acc": 3})
        >>> axes = plot_token_map(torch.eye(8), layout)
        >>> [tick.get_text() for tick in axes.get_yticklabels()][:3]
        ['cls', 'emg.0', 'emg.1']
    """
    grid = numbers("values", values, (len(layout), len(layout)))
    low, high = check_limits(limits)
    ax = axes_or_new(ax, COLUMN, COLUMN * 0.86)
    image = draw_cells(ax, grid, low=low, high=high)
    if names is not None and len(names) != len(layout):
        raise ArgumentError(f"names has {len(names)} entries; expected {len(layout)}, one for each token")
    _label(ax, layout, names, most_names)
    if bar:
        colour_bar(image, [ax], label)
    return ax


def _label(ax: Axes, layout: TokenLayout, names: Sequence[str] | None = None, most: int = MOST_NAMES) -> None:
    name_tokens(ax, names or layout.names, token_owners(layout), most=most)
    ax.set_xlabel(FROM)
    ax.set_ylabel(TO)


@checked
@in_style
def plot_flow(
    table: Any,
    *,
    value: str = "score",
    label: str = "",
    layout: TokenLayout | None = None,
    layer: int | None = None,
    limits: tuple[float, float] | None = None,
    decimals: NonNegativeInt | None = None,
    axes: Any = None,
) -> list[Axes]:
    """Draw the flow between modalities, or between channels: one map per layer.

    Up to six rows have numbers. Grey cells have no value, for example because no edge has a path to the readout.
    Several rows of one cell, such as the heads of a layer, are summed. Numbers below 0.01 or from 10000 on are divided
    by a power of ten, which the name of the colour bar contains; without a colour bar, the titles.

    Args:
        table: Data frame with the columns `layer` (0-based), `dest`, `src` (names of modalities, channels or tokens)
            and `value`; or a result with such a table, for example of `attribute(model, x, y, by="modality")`.
        value: Column of the values.
        label: Name of the values, at the colour bar.
        layout: Layout of the tokens, for the order of the names; default: CLS first, then the order of the table.
        layer: The only layer to show, 0-based; default: all of the table.
        limits: Values of the first and last colour; default: the range of the values, from 0 or symmetric about 0.
        decimals: Decimals of the numbers, which then have no power of ten; default: two significant digits of the
            largest value.
        axes: The axes of each layer; default: a new figure.

    Returns:
        The axes of each layer.

    Raises:
        ArgumentError: Lacking columns, values that are not finite, an unknown layer or name, limits that are exchanged.

    Example:
        >>> import pandas as pd
        >>> from emg_lens.plotting import plot_flow
        >>> flow = pd.DataFrame({"layer": [0, 0, 1], "dest": ["emg", "cls", "cls"], "src": ["acc", "emg", "emg"],
        ...                      "score": [0.4, 1.5, -0.2]})
        >>> panels = plot_flow(flow, label="drop of the margin")
        >>> [panel.get_title("left") for panel in panels], [text.get_text() for text in panels[0].texts]
        (['L1', 'L2'], ['1.5', '0.4'])
    """
    rows = table_of("table", table, ["layer", "dest", "src", value], ["layer", value])
    rows = whole_columns("table", rows, ["layer"])
    layers = chosen("layer", layer, sorted(map(int, rows["layer"].unique())))
    names = token_order(rows, layout)
    owners = [owner_of(name, layout) for name in names]
    grids = {one: grid_of("table", rows[rows["layer"] == one], value, names, names, ("dest", "src")) for one in layers}
    every = np.concatenate([grid.compressed() for grid in grids.values()])
    most = float(np.abs(every).max()) or 1.0
    check_limits(limits)
    low, high = limits or (-most if every.min() < 0 else 0.0, most)
    few = len(names) <= MOST_NUMBERS
    side = PAGE / PER_ROW - 0.15 if few else PAGE / (PER_ROW if len(layers) > 2 else 2)
    panels = panels_or_new(axes, len(layers), "layer", PER_ROW, side + 0.1, side if few else side * 1.04)
    whole = pd.api.types.is_integer_dtype(rows[value])
    power = int(np.floor(np.log10(most)))
    power = power if few and decimals is None and not LEAST_POWER <= power < MOST_POWER else 0
    times = f" (×10{str(power).translate(RAISED)})" if power else ""
    if decimals is None:
        decimals = 1 if power else 0 if whole else max(0, 1 - int(np.floor(np.log10(most))))
    has_bar = axes is None or len(panels) == len(figure_of(panels[0]).axes)
    image = None
    for panel, one in zip(panels, layers, strict=True):
        image = draw_cells(
            panel, grids[one], low=low, high=high, text=(lambda x: _number(x / 10.0**power, decimals)) if few else None
        )
        name_tokens(panel, names, owners)
        panel.set_title(layer_name(one) + times * (not has_bar))
        panel.set_xlabel("from (source)")
        panel.set_ylabel("to (destination)")
    assert image is not None
    if has_bar:
        bar = colour_bar(image, panels, bar_label(label or value) + times, whole=whole, shrink=0.8, aspect=25)
        if power:
            bar.formatter = FuncFormatter(lambda x, _: f"{x / 10.0**power:g}".replace("-", "−"))
            bar.update_ticks()
    return panels


def token_order(rows: pd.DataFrame, layout: TokenLayout | None = None) -> list[str]:
    """Return the names of destinations and sources in the order of the layout; without one, CLS first."""
    names = list(dict.fromkeys([*rows["src"].astype(str), *rows["dest"].astype(str)]))
    if layout is None:
        groups = list(dict.fromkeys(owner_of(name, None) for name in names))
        groups.sort(key=lambda group: group.lower() != CLS)
        return sorted(names, key=lambda name: (groups.index(owner_of(name, None)), _natural(name)))
    first: dict[str, int] = {}
    channels = [f"{group}.{channel}" for group, channel in zip(layout.group, layout.channel, strict=True)]
    for i, known in enumerate(zip(layout.names, token_owners(layout), channels, strict=True)):
        for name in known:
            first.setdefault(name, i)
    unknown = [name for name in names if name not in first]
    if unknown:
        raise ArgumentError(f"table names {unknown[0]!r}; expected tokens, channels or modalities of the layout")
    return sorted(names, key=first.__getitem__)


def _natural(name: str) -> int:
    number = name.rpartition(".")[2]
    return int(number) if number.isdigit() else 0


def _number(value: float, decimals: int) -> str:
    return f"{round(value, decimals) + 0:.{decimals}f}".replace("-", "−")  # + 0 turns -0 into 0
