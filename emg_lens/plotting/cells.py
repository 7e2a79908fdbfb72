"""Draw a grid of coloured cells: the common part of all maps."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from matplotlib.transforms import ScaledTranslation, blended_transform_factory

from emg_lens.layout import CLS, TokenLayout
from emg_lens.plotting.panels import figure_of, plain_frame, plain_text
from emg_lens.plotting.style import NO_VALUE, SHADES, SIGNED_SHADES, SMALL, modality_colours
from emg_lens.plotting.values import CellGrid
from emg_lens.plotting.words import UNGROUPED

MOST_NAMES = 24
"""With more tokens than this, a map names the modalities only."""
STRIP, GAP, PAD = 3.0, 3.0, 6.5
"""Width of the coloured strip along a map, and distances of its middle and of names from the map, in points."""
RASTER_FROM = 100
"""Maps with more rows are stored as a bitmap inside svg and pdf."""
BORDER = "0.35"


def draw_cells(
    ax: Axes,
    grid: CellGrid,
    *,
    low: float | None = None,
    high: float | None = None,
    text: Callable[[float], str] | None = None,
    low_is_good: bool = True,
    aspect: str = "equal",
) -> AxesImage:
    """Draw a grid as coloured cells: the first row on top; masked cells are grey.

    Args:
        ax: Where to draw.
        grid: The values.
        low: Value of the first colour. By default, both ends are those of the grid; if there are negative values, they
            are symmetric about 0.
        high: Value of the last colour.
        text: Function that writes a value into its cell; an empty text leaves it out. Default: no numbers.
        low_is_good: Whether positive values are orange and negative ones violet, or the other way round.
        aspect: `"equal"` for square cells, `"auto"` to fill the axes.
    """
    values = grid.compressed()
    most = float(np.abs(values).max()) if values.size else 1.0
    signed = bool(values.size) and float(values.min()) < 0
    low = (-most if signed else 0.0) if low is None else low
    high = (most or 1.0) if high is None else high
    shades = SHADES if low >= 0 else SIGNED_SHADES if low_is_good else SIGNED_SHADES.removesuffix("_r")
    colours = colormaps[shades].with_extremes(bad=NO_VALUE)
    image = ax.imshow(
        grid, cmap=colours, vmin=low, vmax=high, aspect=aspect,  # pyright: ignore[reportArgumentType]
        interpolation="nearest", rasterized=len(grid) > RASTER_FROM,
    )  # fmt: skip
    plain_frame(ax)
    if text is None:
        return image
    for (row, column), value in np.ma.ndenumerate(grid):
        if not (written := text(value)):
            continue
        red, green, blue, _ = image.to_rgba(np.array([value]))[0]
        bright = 0.299 * red + 0.587 * green + 0.114 * blue > 0.55  # weights of ITU-R BT.601
        ax.text(column, row, written, ha="center", va="center", fontsize=SMALL, color="black" if bright else "white")
    return image


def name_cells(ax: Axes, rows: Sequence[str], columns: Sequence[str], rotation: float = 0) -> None:
    """Name the rows and columns of a grid."""
    style: dict[str, Any] = {"ha": "right", "rotation_mode": "anchor"} if 0 < rotation < 90 else {}  # noqa: PLR2004
    ax.set_xticks(range(len(columns)), list(map(plain_text, columns)), rotation=rotation, **style)
    ax.set_yticks(range(len(rows)), list(map(plain_text, rows)))


def name_tokens(
    ax: Axes, names: Sequence[str], owners: Sequence[str], axis: str = "both", most: int = MOST_NAMES
) -> None:
    """Name tokens along a map, draw lines between modalities, and a strip in the colour of each modality.

    Args:
        ax: The map; one cell for each token.
        names: Names of the tokens.
        owners: Modality of each token; `"cls"` for CLS.
        axis: `"x"`, `"y"` or `"both"`: where the tokens are.
        most: With more tokens than this, only modalities are named.
    """
    starts = [i for i, owner in enumerate(owners) if i == 0 or owner != owners[i - 1]]
    ends, colours = [*starts[1:], len(owners)], modality_colours(owners)
    ticks, labels = list(range(len(names))), list(names)
    if len(names) > most:
        ticks = [(a + b - 1) / 2 for a, b in zip(starts, ends, strict=True)]
        labels = [owners[a] for a in starts]
    size = SMALL if len(ticks) <= MOST_NAMES * 2 // 3 else 5.0
    for one in "xy" if axis == "both" else axis:
        draw_borders(ax, owners, 0.6, one)
        both = (ax.transData, ax.transAxes) if one == "x" else (ax.transAxes, ax.transData)
        transform = blended_transform_factory(*both)
        shift = (0, -GAP / 72) if one == "x" else (-GAP / 72, 0)
        transform += ScaledTranslation(*shift, figure_of(ax).dpi_scale_trans)
        for start, end in zip(starts, ends, strict=True):
            along, across = (start - 0.5, end - 0.5), (0, 0)
            ends_of = (along, across) if one == "x" else (across, along)
            style = {"color": colours[owners[start]], "lw": STRIP, "solid_capstyle": "butt", "clip_on": False}
            ax.add_artist(Line2D(*ends_of, transform=transform, **style))
        set_ticks = ax.set_xticks if one == "x" else ax.set_yticks
        turned = one == "x" and (len(names) <= most and max(map(len, labels)) > 3)  # noqa: PLR2004
        set_ticks(ticks, list(map(plain_text, labels)), fontsize=size, rotation=90 if turned else 0)
        ax.tick_params(axis=one, length=0, pad=PAD)  # pyright: ignore[reportArgumentType]


def draw_borders(ax: Axes, owners: Sequence[str], width: float, axis: str = "both") -> None:
    """Draw thin lines between modalities; width in points."""
    starts = [i for i, owner in enumerate(owners) if i and owner != owners[i - 1]]
    for one in "xy" if axis == "both" else axis:
        for start in starts:
            (ax.axvline if one == "x" else ax.axhline)(start - 0.5, color=BORDER, linewidth=width)


def token_owners(layout: TokenLayout) -> list[str]:
    """Modality of each token of a layout; `"cls"` for CLS, `"(ungrouped)"` outside every group."""
    return [UNGROUPED if group is None else group for group in layout.group]


def owner_of(name: str, layout: TokenLayout | None) -> str:
    """Modality of a token, channel or modality with this name."""
    if layout is not None:
        for own, group, channel in zip(layout.names, token_owners(layout), layout.channel, strict=True):
            if name in (own, group, f"{group}.{channel}"):
                return group
    return CLS if name == CLS else name.partition(".")[0]
