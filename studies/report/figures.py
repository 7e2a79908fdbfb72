"""The figures of a study, at the width of a paper's page.

`figure_accuracy` is the IsoNet paper's Fig. 5 (accuracy of every subject under every mask), `figure_profile`
the mean change by layer with its interval, `figure_extras` the conditions outside the layer-by-layer scheme.
All are plain matplotlib `Figure` objects, made without pyplot: nothing global is touched, and any worker can
make them.
"""

import io
from collections.abc import Mapping, Sequence
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
from emg_lens.studies.report.tables import NULL, layer_conditions, layer_name
from emg_lens.sweeps.conditions import BASELINE

WIDTH = 180 / 25.4
"""Full width of a journal page, 180 mm, in inches."""
DPI = 200
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Okabe and Ito's colours, told apart with every common kind of colour vision."""
GREY, DARK = "#8a8f98", "#3b3f46"
MODE_TITLES = {
    "individual": "Single layers",
    "from_beginning": "From the first layer on (RFB)",
    "from_end": "From the last layer back (RFE)",
}
LEGEND_NAMES = {"unimodal": "unimodal edges cut", "cross_modal": "cross-modal edges cut"}
CAPTIONS = {
    "accuracy": "Accuracy of every subject (dots) under every mask, against the unmasked model (grey box;"
    " dashed: its mean). Boxes: median and quartiles, whiskers to 1.5 times the interquartile range; hollow"
    " boxes: structural nulls. Above: significance against the baseline, corrected, coloured by edges.",
    "profile": "Mean change in accuracy by layer, in percentage points, with its bootstrap interval over"
    " subjects. Hollow markers: structural nulls, which are 0 whatever the weights are.",
    "training": "Loss and accuracy of the training trials: one thin line a subject, thick: their mean. Dotted: from"
    " here on the CLS head alone drives learning.",
    "extras": "Accuracy of every subject (dots) under the extra conditions, against the unmasked model (grey"
    " box; dashed: its mean; dotted: chance). White diamonds: accuracy expected of a condition, if known.",
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

_DASHED: dict[str, Any] = {"color": DARK, "linewidth": 0.8, "linestyle": (0, (4, 2))}
_DOTTED: dict[str, Any] = {"color": GREY, "linewidth": 0.8, "linestyle": (0, (1, 1.5))}
_ROOM = 18  # boxes that fit side by side into a third of the width


def study_figures(scores: pd.DataFrame, tests: pd.DataFrame) -> dict[str, Figure]:
    """All figures that the conditions of a study allow, by the name of their file."""
    figures = {}
    if len(layer_conditions(tests)):
        figures["accuracy"] = figure_accuracy(scores, tests)
        figures["profile"] = figure_profile(tests)
    if len(layer_conditions(tests)) < len(tests):
        figures["extras"] = figure_extras(scores, tests)
    return figures


def figure_accuracy(scores: pd.DataFrame, tests: pd.DataFrame) -> Figure:
    """Accuracy by layer, one panel a masking mode, edge types side by side (IsoNet paper, Fig. 5).

    Args:
        scores: Tidy scores, one row a subject and condition.
        tests: Result of `compare`, for the stars, the chance level and the structural nulls.
    """
    masks = layer_conditions(tests)
    accuracy, kinds = _by_condition(scores), list(masks["edges"].unique())
    layers, modes = sorted(masks["layer"].unique()), list(masks["mode"].unique())
    stacked = len(layers) * len(kinds) + 1 > _ROOM
    with matplotlib.rc_context(STYLE):
        figure, panels = _panels(len(modes), stacked, height=2.55 + 0.12 * len(kinds))
        for axes, mode in zip(panels, modes, strict=True):
            rows = masks[masks["mode"] == mode]
            _box(axes, 0, accuracy[BASELINE], GREY, width=0.55)
            _references(axes, accuracy[BASELINE].mean(), _chance(tests))
            for row in rows.itertuples():
                k = kinds.index(row.edges)
                at = 1 + layers.index(row.layer) + _offset(k, len(kinds))
                _box(
                    axes,
                    at,
                    accuracy[row.condition],
                    _colour(k),
                    0.8 / len(kinds) - 0.06,
                    row.structural_null,
                )
                height = 1.02 + 0.055 * (len(kinds) - 1 - k)
                _significance(axes, 1 + layers.index(row.layer), height, row, _colour(k))
            axes.set_xticks(range(len(layers) + 1), ["Base", *(layer_name(layer) for layer in layers)])
            axes.set_xlim(-0.6, len(layers) + 0.6)
            axes.set_ylim(*_accuracy_limits(accuracy[[BASELINE, *rows["condition"]]].to_numpy()))
        for axes in panels if stacked else panels[:1]:
            axes.set_ylabel("Accuracy")
        _titles(panels, modes, pad=5 + 8.5 * len(kinds))
        _legend(figure, kinds, masks["structural_null"].any(), _chance(tests), boxes=True)
    return figure


def figure_profile(tests: pd.DataFrame) -> Figure:
    """Mean change in accuracy (percentage points) by layer with its interval, one panel a masking mode."""
    masks = layer_conditions(tests)
    kinds, modes = list(masks["edges"].unique()), list(masks["mode"].unique())
    layers = sorted(masks["layer"].unique())
    stacked = len(layers) * len(kinds) + 1 > 2 * _ROOM
    with matplotlib.rc_context(STYLE):
        figure, panels = _panels(len(modes), stacked, height=2.2)
        for axes, mode in zip(panels, modes, strict=True):
            axes.axhline(0, **_DASHED)
            for k, kind in enumerate(kinds):
                rows = masks[(masks["mode"] == mode) & (masks["edges"] == kind)].sort_values("layer")
                _profile(axes, rows, 0.3 * _offset(k, len(kinds)), _colour(k))
            axes.set_xticks([int(layer) for layer in layers], [layer_name(layer) for layer in layers])
            axes.set_xlim(min(layers) - 0.4, max(layers) + 0.4)
            axes.grid(axis="y", color="#e6e8eb", linewidth=0.6)
            axes.set_axisbelow(True)
        for axes in panels if stacked else panels[:1]:
            axes.set_ylabel("Change in accuracy (pp)")
        _titles(panels, modes, pad=5)
        _legend(figure, kinds, masks["structural_null"].any(), None, boxes=False)
    return figure


def figure_extras(scores: pd.DataFrame, tests: pd.DataFrame) -> Figure:
    """Accuracy under the conditions outside the layer-by-layer scheme, one line a condition."""
    extras = tests.drop(index=layer_conditions(tests).index)
    accuracy = _by_condition(scores)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH * 0.72, 0.75 + 0.27 * (len(extras) + 1)), dpi=DPI, layout="constrained")
        axes = figure.subplots()
        _box(axes, 0, accuracy[BASELINE], GREY, 0.6, vertical=False)
        _references(axes, accuracy[BASELINE].mean(), _chance(tests), vertical=False)
        for at, row in enumerate(extras.itertuples(), start=1):
            _box(axes, at, accuracy[row.condition], COLOURS[0], 0.6, row.structural_null, vertical=False)
            _significance(axes, at, 1.01, row, COLOURS[0], vertical=False)
            expected = getattr(row, "expected", np.nan)
            axes.plot(expected, at, "D", color="white", markeredgecolor="black", markersize=4.5, zorder=5)
        axes.set_yticks(range(len(extras) + 1), [BASELINE, *map(_plain, extras["condition"])])
        axes.set_ylim(len(extras) + 0.6, -0.6)
        axes.set_xlim(*_accuracy_limits(accuracy[[BASELINE, *extras["condition"]]].to_numpy()))
        axes.set_xlabel("Accuracy")
        axes.tick_params(axis="y", length=0)
        axes.tick_params(axis="x", length=2.5)
    return figure


def figure_training(fits: pd.DataFrame) -> Figure:
    """Loss and accuracy of the training trials by epoch, one thin line a subject and their mean.

    Args:
        fits: One row a subject and epoch: subject, epoch, loss, accuracy, cls_weight.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH * 0.72, 1.9), dpi=DPI, layout="constrained")
        for axes, column, label in zip(
            figure.subplots(1, 2), ("loss", "accuracy"), ("Training loss", "Training accuracy"), strict=True
        ):
            curves = fits.pivot(index="epoch", columns="subject", values=column)
            axes.plot(curves.index, curves, color=GREY, linewidth=0.5, alpha=0.6)
            axes.plot(curves.index, curves.mean(axis=1), color=COLOURS[0], linewidth=1.3)
            annealed = fits.loc[fits["cls_weight"] >= 1, "epoch"].min()
            axes.axvline(annealed, **_DOTTED)
            axes.set_xlabel("Epoch")
            axes.set_ylabel(label)
            axes.set_ylim(bottom=0)
    return figure


def save_figures(figures: Mapping[str, Figure], folder: str | Path) -> list[Path]:
    """Write each figure as `<name>.svg` and `<name>.png` (200 dpi), laid out once; the folder is made if need be."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, figure in figures.items():
        engine = figure.get_layout_engine()
        for kind, render in (("svg", to_svg), ("png", to_png)):
            paths.append(folder / f"{name}.{kind}")
            write_bytes(paths[-1], render(figure))
            figure.set_layout_engine("none")  # what the first has laid out is good for the second
        figure.set_layout_engine(engine)
    return paths


def to_svg(figure: Figure) -> bytes:
    """The figure as vectors; the same figure gives the same bytes."""
    return _rendered(figure, format="svg", metadata={"Date": None})


def to_png(figure: Figure) -> bytes:
    """The figure as pixels, 200 to the inch."""
    return _rendered(figure, format="png", dpi=DPI)


def _rendered(figure: Figure, **options: object) -> bytes:
    buffer = io.BytesIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(buffer, **options)  # pyright: ignore[reportArgumentType]
    return buffer.getvalue()


# --- parts ------------------------------------------------------------------------------------------------


def _by_condition(scores: pd.DataFrame) -> pd.DataFrame:
    """Accuracy, one row a subject, one column a condition."""
    return scores.groupby(["subject", "condition"], sort=False)["accuracy"].mean().unstack("condition")


def _chance(tests: pd.DataFrame) -> float | None:
    known = "chance" in tests and tests["chance"].notna().any()
    return float(tests["chance"].mean()) if known else None


def _colour(k: int) -> str:
    return COLOURS[k % len(COLOURS)]


def _plain(text: str) -> str:
    """A user's text as it is: matplotlib would read what stands between two dollar signs as a formula."""
    return text.replace("$", r"\$")


def _offset(k: int, n: int) -> float:
    """Where the k-th of n neighbours stands, from the middle of their group, which is 0.8 wide."""
    return 0.8 * ((k + 0.5) / n - 0.5)


def _panels(n: int, stacked: bool, height: float) -> tuple[Figure, Sequence[Axes]]:
    size = (WIDTH, n * height) if stacked else (WIDTH if n > 1 else WIDTH / 2, height)
    figure = Figure(figsize=size, dpi=DPI, layout="constrained")
    shape = (n, 1) if stacked else (1, n)
    return figure, list(figure.subplots(*shape, sharey=True, squeeze=False).flat)


def _box(
    axes: Axes,
    at: float,
    values: pd.Series,
    colour: str,
    width: float,
    hollow: bool = False,
    vertical: bool = True,
) -> None:
    """A box with every subject as a dot; hollow for structural nulls."""
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


def _references(axes: Axes, baseline: float, chance: float | None, vertical: bool = True) -> None:
    """Lines at the baseline's mean and at chance."""
    line = axes.axhline if vertical else axes.axvline
    line(baseline, **_DASHED, zorder=1)
    if chance is not None:
        line(chance, **_DOTTED, zorder=1)


def _significance(axes: Axes, at: float, beyond: float, row: Any, colour: str, vertical: bool = True) -> None:
    """Stars beyond the end of the accuracy axis, so that no box can cover them."""
    text = f"{row.stars}{NULL if row.structural_null else ''}"
    starred = text.startswith("*")
    shown = {"color": colour if starred else GREY, "fontsize": 7.5 if starred else 6.5}
    if vertical:
        place = blended_transform_factory(axes.transData, axes.transAxes)
        axes.text(at, beyond, text, transform=place, ha="center", va="bottom", **shown)
    else:
        place = blended_transform_factory(axes.transAxes, axes.transData)
        axes.text(beyond, at, text, transform=place, ha="left", va="center", **shown)


def _profile(axes: Axes, rows: pd.DataFrame, shift: float, colour: str) -> None:
    x, y = rows["layer"].to_numpy(dtype=float) + shift, rows["difference_pp"].to_numpy()
    low, high = rows["ci_low_pp"].to_numpy(), rows["ci_high_pp"].to_numpy()
    axes.plot(x, y, color=colour, linewidth=1.2, alpha=0.85)
    axes.vlines(x, low, high, color=colour, linewidth=1.4)
    null = rows["structural_null"].to_numpy(dtype=bool)
    axes.plot(x[~null], y[~null], "o", color=colour, markersize=3.2)
    axes.plot(x[null], y[null], "o", markerfacecolor="white", markeredgecolor=colour, markersize=3.2)


def _accuracy_limits(values: np.ndarray) -> tuple[float, float]:
    """All of 0 to 1, unless everything lies in its upper half."""
    return (0.0 if np.nanmin(values) < 0.45 else 0.4, 1.02)


def _titles(panels: Sequence[Axes], modes: Sequence[str], pad: float) -> None:
    for letter, axes, mode in zip(cycle("abcdefgh"), panels, modes, strict=False):
        label = rf"$\bf{{({letter})}}$ " if len(panels) > 1 else ""
        axes.set_title(f"{label}{MODE_TITLES[mode]}", pad=pad)


def _legend(figure: Figure, kinds: Sequence[str], null: bool, chance: float | None, boxes: bool) -> None:
    entries = {}
    for k, kind in enumerate(kinds):
        solid = {"facecolor": f"{_colour(k)}33", "edgecolor": _colour(k), "linewidth": 0.8}
        name = LEGEND_NAMES.get(kind, f"{_plain(kind)} cut")
        entries[name] = Patch(**solid) if boxes else Line2D([], [], color=_colour(k), marker="o", markersize=4)
    entries["baseline mean"] = Line2D([], [], **_DASHED)
    if chance is not None:
        entries[f"chance ({chance:.3f})"] = Line2D([], [], **_DOTTED)
    if null:
        hollow: dict[str, Any] = {"markerfacecolor": "white", "markeredgecolor": GREY, "linestyle": "none"}
        entries[f"{NULL} structural null"] = Line2D([], [], marker="s" if boxes else "o", markersize=5, **hollow)
    figure.legend(
        list(entries.values()),
        list(entries),
        loc="outside lower center",
        ncols=min(len(entries), 5),
        frameon=False,
        handlelength=1.8,
        columnspacing=1.4,
    )
