"""New figures and axes, user text, legends and colour bars."""

import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import wraps
from typing import Any, TypeVar

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from emg_lens.plotting.style import COLUMN, DPI, PAGE, SIZE, TITLE, plot_style
from emg_lens.validation import ArgumentError

F = TypeVar("F", bound=Callable[..., Any])
LETTER_POINTS = 4.2
"""Mean width of a letter of a legend, in points."""
NO_VALUE_LABEL = "grey: no value"
BAR_LETTERS = 34
"""Letters of a line next to the colour bar of a row of maps."""


@contextmanager
def new_figure(width: float, height: float) -> Iterator[Figure]:
    """Make a figure of this size (inches); inside the context, everything is drawn in the style of all figures."""
    with plot_style():
        yield Figure(figsize=(width, height), dpi=DPI, layout="constrained")


def in_style(function: F) -> F:
    """Decorator: run a function that draws in `plot_style`."""

    @wraps(function)
    def styled(*args: Any, **kwargs: Any) -> Any:
        with plot_style():
            return function(*args, **kwargs)

    return styled  # pyright: ignore[reportReturnType]


def axes_or_new(ax: Axes | None, width: float = COLUMN, height: float = COLUMN) -> Axes:
    """Return the given axes, or the axes of a new figure of this size (inches)."""
    return Figure(figsize=(width, height), dpi=DPI, layout="constrained").subplots() if ax is None else ax


def panels_or_new(
    axes: Sequence[Axes] | Axes | None,
    n: int,
    what: str,
    per_row: int,
    width: float,
    height: float,
    share: bool = False,
) -> list[Axes]:
    """Return the given axes, one for each of n panels, or those of a new figure.

    Args:
        axes: The axes of the caller, if there are any.
        n: Number of panels.
        what: What a panel shows, for the message.
        per_row: Most panels in a row of a new figure.
        width: Width of a new panel, in inches.
        height: Height of a new panel, in inches.
        share: Whether panels of a new figure share their axes.
    """
    if axes is not None:
        given = list(axes.flat if isinstance(axes, np.ndarray) else axes if isinstance(axes, Iterable) else [axes])
        if len(given) != n or not all(isinstance(one, Axes) for one in given):
            raise ArgumentError(
                f"axes has {len(given)} entries; expected {n} matplotlib Axes, one for each {what}; or leave axes out"
            )
        return given
    across = min(per_row, n)
    down = -(-n // across)
    size = (min(PAGE, across * width), down * height)
    figure = Figure(figsize=size, dpi=DPI, layout="constrained")
    panels = list(figure.subplots(down, across, squeeze=False, sharex=share, sharey=share).flat)
    for unused in panels[n:]:
        unused.remove()
    return panels[:n]


def figure_of(ax: Axes) -> Figure:
    """Return the figure of some axes."""
    figure = ax.get_figure(root=True)
    assert figure is not None
    return figure


def plain_text(text: object) -> str:
    """Escape dollar signs, so that matplotlib does not read user text as a formula."""
    return str(text).replace("$", r"\$")


def wrapped_text(text: str, width: int) -> str:
    """Wrap user text into lines of at most `width` letters."""
    return plain_text("\n".join(textwrap.wrap(text, width)) or text)


def entitle(ax: Axes, title: str) -> Figure:
    """Write a title over the whole figure of some axes, wrapped to its width, and return the figure."""
    figure = figure_of(ax)
    figure.suptitle(wrapped_text(title, int(72 * figure.get_figwidth() / LETTER_POINTS)), fontsize=TITLE)
    return figure


def place_legend(figure: Figure, entries: Mapping[str, Any], n_columns: int, title: str = "") -> None:
    """Place a legend below the panels of a figure, in as many columns as fit into the width."""
    figure.legend(*_entries(entries), loc="outside lower center", **_columns(figure, entries, n_columns, title))


def legend_below(ax: Axes, entries: Mapping[str, Any], n_columns: int = 3, title: str = "") -> None:
    """Place a legend below the axes and their labels, in as many columns as fit into the width of the figure."""
    if figure_of(ax).get_layout_engine() is not None and len(figure_of(ax).axes) == 1:
        place_legend(figure_of(ax), entries, n_columns, title)
        return
    place = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.16), "borderaxespad": 0.0}
    ax.legend(*_entries(entries), **place, **_columns(figure_of(ax), entries, n_columns, title))


def _entries(entries: Mapping[str, Any]) -> tuple[list[Any], list[str]]:
    return list(entries.values()), list(entries)


def _columns(figure: Figure, entries: Mapping[str, Any], n_columns: int, title: str) -> dict[str, Any]:
    longest = max((len(line) for name in entries for line in name.split("\n")), default=1)
    n_columns = min(n_columns, int(72 * figure.get_figwidth() / (LETTER_POINTS * longest + 34)) or 1)
    return {
        "ncols": max(min(len(entries), n_columns), 1),
        "title": title or None,
        "fontsize": SIZE,
        "title_fontsize": SIZE,
        "frameon": False,
        "handlelength": 1.8,
        "columnspacing": 1.4,
    }


def colour_bar(image: ScalarMappable, panels: Sequence[Axes], label: str, whole: bool = False, **place: Any) -> Any:
    """Add a colour bar without a frame next to the panels, for whole numbers with ticks at whole numbers.

    If some cells of the maps are masked, its label says that grey cells have no value.
    """
    bar = figure_of(panels[0]).colorbar(image, ax=list(panels), **{"shrink": 0.9, "pad": 0.02, **place})
    maps = [one.get_array() for panel in panels for one in panel.images]
    bar.set_label(f"{label}\n{NO_VALUE_LABEL}".strip() if any(map(np.ma.is_masked, maps)) else label)
    if whole:
        bar.locator = MaxNLocator(integer=True, nbins=5)
        bar.update_ticks()
    bar.outline.set_visible(False)  # pyright: ignore[reportCallIssue]
    return bar


def bar_label(text: str) -> str:
    """Wrap the name of values to the length of a colour bar; own line breaks stay."""
    return plain_text(text) if "\n" in text else wrapped_text(text, BAR_LETTERS)


def plain_frame(ax: Axes) -> None:
    """Remove ticks and frame of a map, and keep the size of its labels outside of `plot_style`."""
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
