"""Figures of the layer sweep: the metric by layer (IsoNet paper, Fig. 5) and mean changes by layer."""

import matplotlib
from matplotlib.figure import Figure

from emg_lens.studies.report.figures import (
    BOXES_PER_THIRD,
    DASHED,
    STYLE,
    UNMASKED,
    draw_box,
    draw_legend,
    draw_profile,
    draw_references,
    draw_significance,
    edge_colours,
    metric_limits,
    new_panels,
    offset_in_group,
    title_panels,
)
from emg_lens.studies.report.wording import layer_conditions, layer_name, metric_name, metric_words
from emg_lens.studies.results.findings import Cell
from emg_lens.sweeps.conditions import BASELINE

CAPTIONS = {
    "layers": "Subjects (dots) under every cut, next to the unmasked models (grey box). Boxes: median and quartiles;"
    " whiskers: up to 1.5 times the interquartile range. Marks above: corrected significance of the difference from the"
    " baseline, in the colour of the edges.",
    "profile": "Mean change by layer, with its confidence interval over subjects where there is one.",
}


def figure_metric(cell: Cell) -> Figure | None:
    """Draw the metric by layer, one panel per masking mode, edge types side by side (IsoNet paper, Fig. 5)."""
    masks = layer_conditions(cell.tests)
    if not len(masks):
        return None
    values, kinds, chance = cell.values, list(masks["edges"].unique()), cell.chance
    limits = metric_limits(values[[BASELINE, *masks["condition"]]].to_numpy(), cell.is_fraction)
    if chance is not None and chance < (limits[0] or 0):
        chance = None  # outside the axis
    layers, modes, colours = sorted(masks["layer"].unique()), list(masks["mode"].unique()), edge_colours(kinds)
    stacked = len(layers) * len(kinds) + 1 > BOXES_PER_THIRD
    with matplotlib.rc_context(STYLE):
        figure, panels = new_panels(len(modes), stacked, height=2.55 + 0.12 * len(kinds))
        for axes, mode in zip(panels, modes, strict=True):
            rows = masks[masks["mode"] == mode]
            draw_box(axes, 0, values[BASELINE], UNMASKED, width=0.55)
            draw_references(axes, values[BASELINE].mean(), chance)
            for row in rows.to_dict("records"):
                k, group = kinds.index(row["edges"]), 1 + layers.index(row["layer"])
                at, width = group + offset_in_group(k, len(kinds)), 0.8 / len(kinds) - 0.06
                colour = colours[row["edges"]]
                draw_box(axes, at, values[row["condition"]], colour, width, row["structural_null"])
                draw_significance(axes, group, 1.02 + 0.055 * (len(kinds) - 1 - k), row, colour)
            axes.set_xticks(range(len(layers) + 1), ["Base", *(layer_name(layer) for layer in layers)])
            axes.set_xlim(-0.6, len(layers) + 0.6)
            axes.set_ylim(*limits)
        for axes in panels if stacked else panels[:1]:
            axes.set_ylabel(metric_name(cell.metric))
        title_panels(panels, modes, pad=5 + 8.5 * len(kinds))
        draw_legend(figure, kinds, boxes=True, null=masks["structural_null"].any(), chance=chance)
    return figure


def figure_profile(cell: Cell) -> Figure | None:
    """Draw the mean change by layer with its interval, one panel per masking mode."""
    masks = layer_conditions(cell.tests)
    if not len(masks):
        return None
    kinds, modes = list(masks["edges"].unique()), list(masks["mode"].unique())
    layers = sorted(masks["layer"].unique())
    stacked = len(layers) * len(kinds) + 1 > 2 * BOXES_PER_THIRD
    with matplotlib.rc_context(STYLE):
        figure, panels = new_panels(len(modes), stacked, height=2.2)
        for axes, mode in zip(panels, modes, strict=True):
            axes.axhline(0, **DASHED)
            for k, kind in enumerate(kinds):
                rows = masks[(masks["mode"] == mode) & (masks["edges"] == kind)].sort_values("layer")
                draw_profile(axes, rows, 0.3 * offset_in_group(k, len(kinds)), edge_colours(kinds)[kind])
            axes.set_xticks([int(layer) for layer in layers], [layer_name(layer) for layer in layers])
            axes.set_xlim(min(layers) - 0.4, max(layers) + 0.4)
            axes.grid(axis="y", color="#e6e8eb", linewidth=0.6)
            axes.set_axisbelow(True)
        for axes in panels if stacked else panels[:1]:
            axes.set_ylabel(f"Change in {metric_words(cell.metric)}{' (pp)' if cell.is_fraction else ''}")
        title_panels(panels, modes, pad=5)
        draw_legend(figure, kinds, boxes=False, null=masks["structural_null"].any())
    return figure
