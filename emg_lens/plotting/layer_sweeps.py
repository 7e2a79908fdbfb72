"""Boxes of a layer sweep: the metric under every cut, by layer, edge type and masking mode."""

from itertools import cycle
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from emg_lens.plotting.boxes import draw_box, draw_mark, draw_references, metric_limits, offset_in_group
from emg_lens.plotting.panels import (
    figure_of,
    in_style,
    legend_below,
    panels_or_new,
    place_legend,
    plain_text,
)
from emg_lens.plotting.style import COLUMN, DARK, DASHED, DOTTED, GREY, PAGE, edge_colours
from emg_lens.plotting.values import table_of
from emg_lens.plotting.words import MODE_TITLES, NULL, cut_in_words, layer_name
from emg_lens.validation import ArgumentError, checked

BOXES_PER_THIRD = 18
"""Boxes that fit side by side into a third of a page."""
ROUNDING = 1e-6
"""A mean of fractions may be larger than 1 by this much."""


@checked
@in_style
def plot_layer_sweep(
    scores: Any,
    *,
    metric: str = "accuracy",
    label: str = "",
    chance: float | None = None,
    baseline: str = "baseline",
    is_fraction: bool = True,
    axes: Any = None,
) -> list[Axes]:
    """Draw the metric by layer, one panel per masking mode, edge types side by side (IsoNet paper, Fig. 5).

    Boxes show median and quartiles, whiskers at most 1.5 times the interquartile range, dots the subjects. Dashed: mean
    of the unmasked models.

    Args:
        scores: Data frame with one row per condition, or per subject and condition: `condition`, `edges` (name of the
            edge set), `mode`, `layer` (0-based), the metric and, for several subjects, `subject`. It has a row with the
            condition `baseline`. Several rows of one subject and condition, such as seeds, are averaged. For example
            `StudyResult.scores`, or `SweepResult.to_frame(y)`. Optional columns: `stars` (significance, written above a
            box), and `structural_null` (hollow boxes).
        metric: Column of the metric.
        label: Name of the metric at the axis; default: the name of the column.
        chance: Chance level, drawn as a dotted line.
        baseline: Name of the condition without a cut.
        is_fraction: Whether the metric lies between 0 and 1, so that the axis ends there; False for other metrics, such
            as an accuracy in per cent.
        axes: The axes of each mode; default: a new figure.

    Returns:
        The axes of each mode.

    Raises:
        ArgumentError: Lacking columns, no baseline, no layer conditions, values that are not finite, or not between 0
            and 1 although `is_fraction`.

    Example:
        >>> import torch
        >>> from emg_lens import build_model, cross_modal, layer_masks, sweep, unimodal
        >>> from emg_lens.plotting import plot_layer_sweep
        >>> _ = torch.manual_seed(0)
        >>> model = build_model("isonet", modalities={"emg": 4, "acc": 3}, n_samples=20, n_classes=2, n_layers=2)
        >>> conditions = layer_masks({"unimodal": unimodal(), "cross_modal": cross_modal()}, 2, modes=["individual"])
        >>> result = sweep(model, model.example_input(40), conditions)
        >>> panels = plot_layer_sweep(result.to_frame(torch.arange(40) % 2), chance=0.5)
        >>> [panel.get_title("left") for panel in panels], len(panels[0].patches)
        (['Single layers'], 5)
    """
    table = table_of("scores", scores, ["condition", "edges", "mode", "layer", metric], [metric])
    outside = table[metric][(table[metric] < 0) | (table[metric] > 1 + ROUNDING)]
    if is_fraction and len(outside):
        raise ArgumentError(
            f"scores: {metric} is {outside.iloc[0]:g} in a row; expected fractions from 0 to 1; for per cent or another"
            " metric, give is_fraction=False"
        )
    is_baseline = table["condition"] == baseline
    if not is_baseline.any():
        raise ArgumentError(f"scores has no row with the condition {baseline!r}; expected the unmasked models in it")
    masks = table[~is_baseline & table["mode"].isin(MODE_TITLES) & table["layer"].notna()]
    if not len(masks):
        raise ArgumentError(
            f"scores has no conditions of a layer sweep; expected modes such as {', '.join(MODE_TITLES)}"
        )
    subjects = table["subject"] if "subject" in table else pd.Series(0, index=table.index)
    values = table.assign(subject=subjects).pivot_table(index="subject", columns="condition", values=metric, sort=False)
    return draw_layer_sweep(
        values, masks.drop_duplicates("condition"), label or metric.replace("_", " ").capitalize(), chance, baseline,
        is_fraction, axes,
    )  # fmt: skip


def draw_layer_sweep(
    values: pd.DataFrame,
    masks: pd.DataFrame,
    label: str,
    chance: float | None,
    baseline: str,
    is_fraction: bool,
    axes: Any = None,
) -> list[Axes]:
    """Draw the sweep from the values `[subject, condition]` and one row per condition, see `plot_layer_sweep`."""
    kinds, modes = list(masks["edges"].unique()), list(masks["mode"].unique())
    layers, colours = sorted(masks["layer"].unique()), edge_colours(kinds)
    limits = metric_limits(values[[baseline, *masks["condition"]]].to_numpy(), is_fraction)
    if chance is not None and chance < (limits[0] or 0):
        chance = None  # outside the axis
    stacked = len(layers) * len(kinds) + 1 > BOXES_PER_THIRD
    panels = sweep_panels(axes, len(modes), stacked, 2.55 + 0.12 * len(kinds))
    null = masks["structural_null"].fillna(False) if "structural_null" in masks else pd.Series(False, masks.index)
    masks = masks.assign(null=null.astype(bool), stars=masks.get("stars", ""))
    for panel, mode in zip(panels, modes, strict=True):
        draw_box(panel, 0, values[baseline], DARK, width=0.55)
        draw_references(panel, values[baseline].mean(), chance)
        for row in masks[masks["mode"] == mode].to_dict("records"):
            k, group = kinds.index(row["edges"]), 1 + layers.index(row["layer"])
            at, width = group + offset_in_group(k, len(kinds)), 0.8 / len(kinds) - 0.06
            draw_box(panel, at, values[row["condition"]].dropna(), colours[row["edges"]], width, row["null"])
            mark = f"{row['stars']}{NULL if row['null'] else ''}"
            draw_mark(panel, at, 1.02 + 0.055 * (len(kinds) - 1 - k), mark, colours[row["edges"]])
        panel.set_xticks(range(len(layers) + 1), ["Base", *map(layer_name, layers)])
        panel.set_xlim(-0.6, len(layers) + 0.6)
        panel.set_ylim(*limits)
    for panel in panels if stacked else panels[:1]:
        panel.set_ylabel(label)
    marked = bool((masks["stars"] != "").any() or null.any())
    title_modes(panels, modes, pad=5 + 8.5 * len(kinds) * marked)
    sweep_legend(panels, kinds, boxes=True, null=bool(null.any()), chance=chance)
    return panels


def sweep_panels(axes: Any, n: int, stacked: bool, height: float) -> list[Axes]:
    """Return the given axes, or those of a new figure with n panels of one scale; height in inches."""
    width = PAGE if stacked else PAGE / n if n > 1 else COLUMN
    panels = panels_or_new(axes, n, "mode", 1 if stacked else n, width, height, share=axes is None)
    for panel in panels:
        panel.xaxis.set_tick_params(labelbottom=True)
    return panels


def title_modes(panels: list[Axes], modes: list[str], pad: float) -> None:
    """Write a letter and the mode's name above each panel."""
    for letter, panel, mode in zip(cycle("abcdefgh"), panels, modes, strict=False):
        panel.set_title(f"{f'({letter}) ' if len(panels) > 1 else ''}{MODE_TITLES.get(mode, mode)}", pad=pad)


def sweep_legend(
    panels: list[Axes],
    kinds: list[str],
    boxes: bool,
    null: bool = False,
    chance: float | None = None,
) -> None:
    """Draw the legend of edge types, lines and hollow boxes below the panels; unused entries are left out."""
    entries: dict[str, Any] = {}
    for kind, colour in edge_colours(kinds).items():
        solid = Patch(facecolor=f"{colour}33", edgecolor=colour, linewidth=0.8)
        entries[plain_text(cut_in_words(kind))] = (
            solid if boxes else Line2D([], [], color=colour, marker="o", markersize=4)
        )
    entries |= reference_entries(chance, null, boxes)
    figure = figure_of(panels[0])
    if len(figure.axes) == len(panels):
        place_legend(figure, entries, n_columns=5)
    else:
        legend_below(panels[-1], entries)


def reference_entries(chance: float | None, null: bool, boxes: bool = True) -> dict[str, Any]:
    """Legend entries of the lines of the baseline and of chance, and of hollow boxes."""
    entries: dict[str, Any] = {"baseline mean": Line2D([], [], **DASHED)}
    if chance is not None:
        entries[f"chance ({chance:.3f})"] = Line2D([], [], **DOTTED)
    if null:
        hollow: dict[str, Any] = {"markerfacecolor": "white", "markeredgecolor": GREY, "linestyle": "none"}
        entries[f"{NULL} structural null"] = Line2D([], [], marker="s" if boxes else "o", markersize=5, **hollow)
    return entries


def draw_profile(axes: Axes, rows: pd.DataFrame, shift: float, colour: str) -> None:
    """Draw mean changes by layer as a line with intervals; hollow markers for structural nulls."""
    x, y = rows["layer"].to_numpy(dtype=float) + shift, rows["difference"].to_numpy()
    axes.plot(x, y, color=colour, linewidth=1.2, alpha=0.85)
    axes.vlines(x, rows["ci_low"].to_numpy(), rows["ci_high"].to_numpy(), color=colour, linewidth=1.4)
    null = rows["structural_null"].to_numpy(dtype=bool)
    for at, face in ((~null, colour), (null, "white")):
        axes.plot(x[at], y[at], "o", markerfacecolor=face, markeredgecolor=colour, markersize=3.2)
    axes.set_xticks(np.unique(rows["layer"]).astype(int), list(map(layer_name, np.unique(rows["layer"]))))
