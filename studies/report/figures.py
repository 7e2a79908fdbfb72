"""Shared parts of all figures: style, boxes, reference lines, significance marks, legends, and saving.

Figures are plain matplotlib `Figure` objects made without pyplot, so no global state changes and any process can draw.
"""

import io
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.transforms import blended_transform_factory

from emg_lens.io.files import write_bytes
from emg_lens.studies.report.wording import NULL, REMOVAL, cut_in_words

WIDTH = 180 / 25.4
"""Full width of a journal page, 180 mm, in inches."""
DPI = 200
GREY, DARK = "#8a8f98", "#3b3f46"
UNIMODAL, CROSS_MODAL, REMOVED, OTHER_ABLATION = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
"""Colours of ablations, of Okabe and Ito's palette: distinguishable with all common types of colour vision."""
UNMASKED, RANDOM_CONTROL = DARK, GREY
CATEGORIES = ("#332288", "#999933", "#882255", "#44AA99", "#88CCEE", "#DDCC77")
"""Colours of factor levels, classes and subjects, of Tol's muted palette: none of them is an ablation's."""
_OF_EDGES = {"unimodal": UNIMODAL, "cross_modal": CROSS_MODAL}
_OF_OTHER_EDGES = (OTHER_ABLATION, "#E69F00", "#56B4E9", "#F0E442")
MODE_TITLES = {
    "individual": "Single layers",
    "from_beginning": "From the first layer on (RFB)",
    "from_end": "From the last layer back (RFE)",
}
STYLE: dict[Any, Any] = {
    "font.size": 7.5,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "legend.fontsize": 7.5,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.major.size": 0,
    "ytick.major.size": 2.5,
    "ytick.major.width": 0.6,
    "axes.titlelocation": "left",
    "svg.hashsalt": "emg-lens",  # the same figure gives the same bytes
}

DASHED: dict[str, Any] = {"color": DARK, "linewidth": 0.8, "linestyle": (0, (4, 2))}
DOTTED: dict[str, Any] = {"color": GREY, "linewidth": 0.8, "linestyle": (0, (1, 1.5))}
EXPECTED: dict[str, Any] = {
    "marker": "D",
    "linestyle": "none",
    "color": "white",
    "markeredgecolor": "black",
    "markersize": 4.5,
}
LETTER_POINTS = 4.2
"""Mean width of a letter of a legend, in points."""
BOXES_PER_THIRD = 18  # boxes that fit side by side into a third of the width


def save_figures(figures: Mapping[str, Figure], folder: str | Path) -> dict[str, bytes]:
    """Write each figure as `<name>.svg`, `.png` (200 dpi) and `.pdf`; the folder is created if necessary.

    Returns:
        Name -> svg.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    svgs: dict[str, bytes] = {}
    files = [file_name(name) for name in figures]
    for k, (name, figure) in enumerate(figures.items()):
        file = f"{files[k]}-{k + 1}" if files[k].lower() in [f.lower() for f in files[:k]] else files[k]
        engine = figure.get_layout_engine()
        for kind, render in (("svg", to_svg), ("png", to_png), ("pdf", to_pdf)):
            content = render(figure)
            write_bytes(folder / f"{file}.{kind}", content)
            svgs.setdefault(name, content)
            figure.set_layout_engine(None)  # the first layout is reused for the other formats
        figure.set_layout_engine(engine)
    return svgs


LONGEST_NAME = 120
"""Longest file name, in letters."""


def file_name(name: str) -> str:
    """Convert a figure's name to a file name of letters, digits, `_`, `-`, `.`."""
    return re.sub(r"[^A-Za-z0-9_.]+", "-", name).strip("-.")[:LONGEST_NAME]


def to_svg(figure: Figure) -> bytes:
    """Render as svg; the same figure gives the same bytes."""
    return _rendered(figure, format="svg", metadata={"Date": None})


def to_pdf(figure: Figure) -> bytes:
    """Render as pdf; the same figure gives the same bytes."""
    return _rendered(figure, format="pdf", metadata={"CreationDate": None})


def to_png(figure: Figure) -> bytes:
    """Render as png, 200 dpi."""
    return _rendered(figure, format="png", dpi=DPI)


def _rendered(figure: Figure, **options: object) -> bytes:
    buffer = io.BytesIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(buffer, **options)  # pyright: ignore[reportArgumentType]
    return buffer.getvalue()


# --- parts ------------------------------------------------------------------------------------------------


def category_colour(k: int) -> str:
    """Colour of the k-th level, class or subject."""
    return CATEGORIES[k % len(CATEGORIES)]


def edge_colours(kinds: Sequence[str]) -> dict[str, str]:
    """Colour of each edge type: the same one in every figure for unimodal and cross-modal edges."""
    others = [kind for kind in kinds if kind not in _OF_EDGES]
    return {kind: _OF_EDGES.get(kind) or _OF_OTHER_EDGES[others.index(kind) % len(_OF_OTHER_EDGES)] for kind in kinds}


def ablation_colour(row: Mapping[str, Any]) -> str:
    """Colour of a condition: of its edge type, of a removed sensor, or of any other ablation."""
    return REMOVED if row.get("mode") == REMOVAL else _OF_EDGES.get(str(row.get("edges")), OTHER_ABLATION)


def plain_text(text: str) -> str:
    """Escape dollar signs, so that matplotlib does not read user text as a formula."""
    return text.replace("$", r"\$")


def wrapped_text(text: str, width: int) -> str:
    """Wrap user text into lines of at most `width` letters."""
    return plain_text("\n".join(textwrap.wrap(text, width)) or text)


def offset_in_group(k: int, n: int) -> float:
    """Offset of the k-th of n items from the middle of their group, which is 0.8 wide."""
    return 0.8 * ((k + 0.5) / n - 0.5)


@contextmanager
def new_figure(width: float, height: float) -> Iterator[Figure]:
    """Make a figure of this size (inches); inside the context, everything is drawn in the style of all figures."""
    with matplotlib.rc_context(STYLE):
        yield Figure(figsize=(width, height), dpi=DPI, layout="constrained")


def new_panels(n: int, stacked: bool, height: float) -> tuple[Figure, Sequence[Axes]]:
    """Make a figure with n panels of one scale, side by side or stacked; height in inches."""
    size = (WIDTH, n * height) if stacked else (WIDTH if n > 1 else WIDTH / 2, height)
    figure = Figure(figsize=size, dpi=DPI, layout="constrained")
    shape = (n, 1) if stacked else (1, n)
    return figure, list(figure.subplots(*shape, sharey=True, squeeze=False).flat)


def draw_box(
    axes: Axes,
    at: float,
    values: pd.Series,
    colour: str,
    width: float,
    hollow: bool = False,
    vertical: bool = True,
) -> None:
    """Draw a box with every subject as a dot; hollow for structural nulls."""
    line = {"color": colour, "linewidth": 0.8}
    axes.boxplot(
        [values.to_numpy()],
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
    x, y = at + spread, values.to_numpy()
    style = {"s": 3.2, "color": colour, "alpha": 0.25 if hollow else 0.55, "linewidths": 0, "zorder": 3}
    axes.scatter(*((x, y) if vertical else (y, x)), **style)


def draw_references(axes: Axes, baseline: float, chance: float | None, vertical: bool = True) -> None:
    """Draw lines at the baseline's mean and at chance."""
    line = axes.axhline if vertical else axes.axvline
    line(baseline, **DASHED, zorder=1)
    if chance is not None:
        line(chance, **DOTTED, zorder=1)


def draw_significance(
    axes: Axes, at: float, beyond: float, row: Mapping[str, Any], colour: str, vertical: bool = True
) -> None:
    """Draw stars beyond the end of the metric's axis, where no box can cover them."""
    text = f"{row['stars']}{NULL if row['structural_null'] else ''}"
    starred = text.startswith("*")
    shown = {"color": colour if starred else GREY, "fontsize": 7.5 if starred else 6.5}
    if vertical:
        place = blended_transform_factory(axes.transData, axes.transAxes)
        axes.text(at, beyond, text, transform=place, ha="center", va="bottom", **shown)
    else:
        place = blended_transform_factory(axes.transAxes, axes.transData)
        axes.text(beyond, at, text, transform=place, ha="left", va="center", **shown)


def draw_profile(axes: Axes, rows: pd.DataFrame, shift: float, colour: str) -> None:
    """Draw mean changes by layer as a line with intervals; hollow markers for structural nulls."""
    x, y = rows["layer"].to_numpy(dtype=float) + shift, rows["difference"].to_numpy()
    low, high = rows["ci_low"].to_numpy(), rows["ci_high"].to_numpy()
    axes.plot(x, y, color=colour, linewidth=1.2, alpha=0.85)
    axes.vlines(x, low, high, color=colour, linewidth=1.4)
    null = rows["structural_null"].to_numpy(dtype=bool)
    axes.plot(x[~null], y[~null], "o", color=colour, markersize=3.2)
    axes.plot(x[null], y[null], "o", markerfacecolor="white", markeredgecolor=colour, markersize=3.2)


def metric_limits(values: np.ndarray, is_fraction: bool) -> tuple[float | None, float | None]:
    """Axis limits: for fractions 0 to 1, or from just below the smallest value if all are above .45; else None."""
    if not is_fraction:
        return None, None
    least = float(np.nanmin(values))
    return (0.0 if least < 0.45 else np.floor(10 * (least - 0.02)) / 10), 1.02


def title_panels(panels: Sequence[Axes], modes: Sequence[str], pad: float) -> None:
    """Write a letter and the mode's name above each panel."""
    for letter, axes, mode in zip(cycle("abcdefgh"), panels, modes, strict=False):
        label = rf"$\bf{{({letter})}}$ " if len(panels) > 1 else ""
        axes.set_title(f"{label}{MODE_TITLES[mode]}", pad=pad)


def draw_legend(
    figure: Figure,
    kinds: Sequence[str],
    boxes: bool,
    null: bool = False,
    chance: float | None = None,
    expected: bool = False,
) -> None:
    """Draw the legend of boxes, lines and markers below the panels; unused lines are left out."""
    entries = {}
    for kind, colour in edge_colours(kinds).items():
        solid = {"facecolor": f"{colour}33", "edgecolor": colour, "linewidth": 0.8}
        name = plain_text(cut_in_words(kind))
        entries[name] = Patch(**solid) if boxes else Line2D([], [], color=colour, marker="o", markersize=4)
    entries["baseline mean"] = Line2D([], [], **DASHED)
    if chance is not None:
        entries[f"chance ({chance:.3f})"] = Line2D([], [], **DOTTED)
    if null:
        hollow: dict[str, Any] = {"markerfacecolor": "white", "markeredgecolor": GREY, "linestyle": "none"}
        entries[f"{NULL} structural null"] = Line2D([], [], marker="s" if boxes else "o", markersize=5, **hollow)
    if expected:
        entries["expected"] = Line2D([], [], **EXPECTED)
    place_legend(figure, entries, n_columns=5)


def place_legend(figure: Figure, entries: Mapping[str, Any], n_columns: int, title: str = "") -> None:
    """Place a legend below the panels, in as many columns as fit into the width."""
    longest = max(len(line) for name in entries for line in name.split("\n"))
    n_columns = min(n_columns, int(72 * figure.get_figwidth() / (LETTER_POINTS * longest + 34)) or 1)
    figure.legend(
        list(entries.values()),
        list(entries),
        loc="outside lower center",
        ncols=min(len(entries), n_columns),
        title=title or None,
        title_fontsize=STYLE["legend.fontsize"],
        frameon=False,
        handlelength=1.8,
        columnspacing=1.4,
    )
