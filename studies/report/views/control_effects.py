"""Every ablation next to its controls: random cuts or removals, superset ablations, the closed path through CLS."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from emg_lens.plotting.boxes import draw_references
from emg_lens.plotting.panels import new_figure, place_legend, wrapped_text
from emg_lens.plotting.style import DARK, PAGE
from emg_lens.studies.report.ablation_colours import RANDOM_CONTROL, ablation_colour
from emg_lens.studies.report.table_formats import without_empty_columns
from emg_lens.studies.report.view import View
from emg_lens.studies.report.wording import (
    EMPTY,
    SIZE_MATCHED,
    column_name,
    cut_names,
    metric_name,
    metric_words,
    value,
)
from emg_lens.studies.results.control_effects import Controlled, controlled_cuts
from emg_lens.studies.results.findings import Cell, Findings
from emg_lens.studies.spec.removal_spec import REMOVAL

SUPERSET_HURTS_LESS, CLS_CLOSED = "Superset ablation that hurts less", "Path through CLS closed"


def layout_control_effects(cell: Cell) -> pd.DataFrame | None:
    """Lay out one row per cut: the metric under the cut and under each kind of control."""
    return _layout(cell, _cuts_with_controls(cell))


def _cuts_with_controls(cell: Cell) -> list[Controlled]:
    return [one for one in controlled_cuts(cell) if one.is_controlled]


def _layout(cell: Cell, cuts: Sequence[Controlled]) -> pd.DataFrame | None:
    if not cuts:
        return None
    names = cut_names(cell)
    rows = []
    for one in cuts:
        row = [names[one.condition], value(one.mean), EMPTY, EMPTY, EMPTY, value(one.cls_path_closed)]
        if one.random:
            mean = sum(one.random) / len(one.random)
            row[2] = f"{value(mean)} [{value(min(one.random))}, {value(max(one.random))}]"
            row[3] = f"{one.n_random_hurt_less} of {len(one.random)}"
        if one.n_supersets:
            row[4] = f"{value(one.best_superset_mean)} on average" if one.hurts_more_than_a_superset else "none"
        if one.superset:
            row[4] = f"{value(one.superset_mean)} ({names.get(one.superset, one.superset)})"
        rows.append(row)
    columns = ["Ablation", column_name(cell.metric), "Random controls [range]", "Random controls that hurt less"]
    table = without_empty_columns(pd.DataFrame(rows, columns=[*columns, SUPERSET_HURTS_LESS, CLS_CLOSED]))
    is_removal = {cell.rows[one.condition].get("mode") == REMOVAL for one in cuts if one.random}
    of_cuts = f"{SIZE_MATCHED} Cuts of several but not all layers have no random cuts. " * (False in is_removal)
    of_removals = "A random control of a removal removes as many random channels. " * (True in is_removal)
    of_random = (
        f"{of_cuts}{of_removals}The table gives mean and range over random controls of the mean"
        f" {metric_words(cell.metric)} over subjects."
    )
    of_supersets = (
        "Superset ablation: a condition that cuts these edges and more. If it hurts less, lost information does"
        " not explain all of the effect. “Hurts less” requires an interval of the difference that excludes zero,"
        " corrected for the"
        " number of superset ablations. “On average”: at least one hurts less, but the interval of its difference"
        f" includes zero. “{EMPTY}”: the cut does not worsen the mean, there is no superset ablation, or there are too"
        " few subjects."
    )
    notes = {columns[2]: of_random, SUPERSET_HURTS_LESS: of_supersets}
    table.attrs["notes"] = [note for column, note in notes.items() if column in table]
    return table


def figure_control_effects(cell: Cell) -> Figure | None:
    """Draw the metric under every cut and under its controls, one row per cut; the heads have a figure of their own."""
    cuts, names = [one for one in controlled_cuts(cell) if one.random and not one.shares_random], cut_names(cell)
    if not cuts:
        return None
    colours = {row["condition"]: ablation_colour(row) for row in cell.tests.to_dict("records")}
    with new_figure(PAGE * 0.72, 1.0 + 0.24 * len(cuts)) as figure:
        axes, drawn = figure.subplots(), {}
        draw_references(axes, cell.baseline, None, vertical=False)
        for at, one in enumerate(cuts):
            colour = colours[one.condition]
            hollow: dict[str, Any] = {"mfc": "white", "mec": DARK}
            circles: dict[str, Any] = {"ms": 3, "mfc": "none", "mec": RANDOM_CONTROL, "mew": 0.6}
            marks = {
                "random control": axes.plot(one.random, [at] * len(one.random), "o", **circles),
                "the ablation": axes.plot(one.mean, at, "o", ms=5, color=colour, zorder=4),
                "superset ablation that hurts less": axes.plot(one.superset_mean, at, "D", ms=4, **hollow, zorder=5),
                "path through CLS closed as well": axes.plot(one.cls_path_closed, at, "x", color=colour, zorder=5),
            }
            drawn |= {name: line for name, (line,) in marks.items() if not np.isnan(line.get_xdata()).all()}
        axes.set_yticks(range(len(cuts)), [wrapped_text(names[one.condition], 36) for one in cuts])
        axes.set_ylim(len(cuts) - 0.4, -0.6)
        axes.set_xlabel(metric_name(cell.metric))
        axes.tick_params(axis="y", length=0)
        axes.tick_params(axis="x", length=2.5)
        place_legend(figure, drawn, n_columns=2)
    return figure


class ControlEffects(View):
    """The effect of every cut compared with the effects of its controls."""

    name, order = "control-effects", 30
    captions = {
        "control-effects": "Means over subjects under each ablation and under its controls. Dashed: unmasked models."
    }
    cell_tables = {"Ablations and their controls": layout_control_effects}
    cell_figures = {"control-effects": figure_control_effects}

    def shows(self, findings: Findings) -> bool:
        """Whether cuts have controls."""
        return any(_cuts_with_controls(cell) for cell in findings.cells)


CONTROL_EFFECTS = ControlEffects()
