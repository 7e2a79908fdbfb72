"""Figures of the layer sweep: the metric by layer (IsoNet paper, Fig. 5) and mean changes by layer."""

from matplotlib.figure import Figure

from emg_lens.plotting.boxes import offset_in_group
from emg_lens.plotting.curves import value_lines
from emg_lens.plotting.layer_sweeps import (
    BOXES_PER_THIRD,
    draw_layer_sweep,
    draw_profile,
    sweep_legend,
    sweep_panels,
    title_modes,
)
from emg_lens.plotting.panels import figure_of
from emg_lens.plotting.style import DASHED, edge_colours, plot_style
from emg_lens.studies.report.wording import layer_conditions, metric_name, metric_words
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
    with plot_style():
        panels = draw_layer_sweep(cell.values, masks, metric_name(cell.metric), cell.chance, BASELINE, cell.is_fraction)
    return figure_of(panels[0])


def figure_profile(cell: Cell) -> Figure | None:
    """Draw the mean change by layer with its interval, one panel per masking mode."""
    masks = layer_conditions(cell.tests)
    if not len(masks):
        return None
    kinds, modes = list(masks["edges"].unique()), list(masks["mode"].unique())
    layers = sorted(masks["layer"].unique())
    stacked = len(layers) * len(kinds) + 1 > 2 * BOXES_PER_THIRD
    with plot_style():
        panels = sweep_panels(None, len(modes), stacked, height=2.2)
        for axes, mode in zip(panels, modes, strict=True):
            axes.axhline(0, **DASHED)
            for k, kind in enumerate(kinds):
                rows = masks[(masks["mode"] == mode) & (masks["edges"] == kind)].sort_values("layer")
                draw_profile(axes, rows, 0.3 * offset_in_group(k, len(kinds)), edge_colours(kinds)[kind])
            axes.set_xlim(min(layers) - 0.4, max(layers) + 0.4)
            value_lines(axes)
        for axes in panels if stacked else panels[:1]:
            axes.set_ylabel(f"Change in {metric_words(cell.metric)}{' (pp)' if cell.is_fraction else ''}")
        title_modes(panels, modes, pad=5)
        sweep_legend(panels, kinds, boxes=False, null=bool(masks["structural_null"].any()))
    return figure_of(panels[0])
