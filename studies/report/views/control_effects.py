"""Every cut beside its controls: matched random cuts, larger cuts that cost less, the detour through CLS closed."""

from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from emg_lens.studies.report.figures import (
    COLOURS,
    DPI,
    GREY,
    STYLE,
    WIDTH,
    draw_references,
    place_legend,
    wrapped_text,
)
from emg_lens.studies.report.view import View, in_each_cell
from emg_lens.studies.report.wording import (
    EMPTY,
    column_name,
    cut_names,
    metric_name,
    metric_words,
    single_conditions,
    value,
)
from emg_lens.studies.results.control_effects import Controlled, controlled_cuts, whole_cuts
from emg_lens.studies.results.findings import Cell, Findings


class ControlledCuts(View):
    """Cuts and their controls."""

    name, order = "controls", 30

    def shows(self, findings: Findings) -> bool:
        """Where cuts have controls."""
        return any(controlled_cuts(cell) for cell in findings.cells)

    def tables(self, findings: Findings) -> Mapping[str, pd.DataFrame]:
        """One a cell."""
        return in_each_cell(findings, "Cuts and their controls", layout_controls)

    def headline(self, findings: Findings) -> Mapping[str, pd.DataFrame]:
        """The cuts of every layer, and those outside the layer scheme."""
        return in_each_cell(findings, "Cuts and their controls", _layout_of_whole_cuts)

    def figures(self, findings: Findings) -> Mapping[str, Figure]:
        """One a cell."""
        return in_each_cell(findings, "controls", figure_controls)

    def captions(self) -> Mapping[str, str]:
        """By figure."""
        return {
            "controls": "Cuts (coloured) beside random cuts of as many live edges of the same layers (grey: one"
            " dot a draw), the larger cut that costs less, if there is one (diamond), and, of edges cut in every layer,"
            " the same with CLS unread by other tokens (cross, where there is one). Means over subjects; dashed: the"
            " unmasked models."
        }


CONTROLS = ControlledCuts()
UNREAD = "CLS unread too"


def layout_controls(cell: Cell) -> pd.DataFrame | None:
    """One row a cut: the metric, with matched random cuts, with a larger cut, with the detour closed."""
    return _layout(cell, controlled_cuts(cell))


def _layout_of_whole_cuts(cell: Cell) -> pd.DataFrame | None:
    shown = {*whole_cuts(cell), *single_conditions(cell.tests)["condition"]}
    return _layout(cell, [one for one in controlled_cuts(cell) if one.condition in shown])


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
            row[3] = f"{one.n_cheaper} of {len(one.random)}"
        if one.n_larger:
            row[4] = f"{value(one.larger_best)} on the mean" if one.costs_more_than_a_larger else "none"
        if one.larger:
            row[4] = f"{value(one.larger_mean)} ({names.get(one.larger, one.larger)})"
        rows.append(row)
    columns = ["Cut", column_name(cell.metric), "Random cuts [range]", "Random cuts that cost less"]
    table = pd.DataFrame(rows, columns=[*columns, "A larger cut that costs less", UNREAD])
    if all(one.cls_path_closed != one.cls_path_closed for one in cuts):  # NaN: a model without CLS, or not asked for
        table = table.drop(columns=UNREAD)
    of_random = (
        "Random cuts: in every layer and head as many edges of each kind (read by CLS, reading CLS, self-edges, others)"
        f" of those that are live in the unmasked model; mean and range over draws of the {metric_words(cell.metric)}"
        " over subjects. Cuts of several layers, but not of all, have none."
    )
    table.attrs["notes"] = [
        *([of_random] if any(one.random for one in cuts) else []),
        "Where a larger cut costs less (the interval of the difference, corrected for the number of larger cuts, lies"
        " on its side), not all of the smaller one's price is information that only its edges bring. “On the mean”: one"
        f" costs less, but not beyond chance; “{EMPTY}”: the cut costs nothing, or none larger is compared.",
    ]
    return table


def figure_controls(cell: Cell) -> Figure | None:
    """The metric under every cut and under its controls, one line a cut."""
    cuts, names = [one for one in controlled_cuts(cell) if one.random], cut_names(cell)
    if not cuts:
        return None
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH * 0.72, 1.0 + 0.24 * len(cuts)), dpi=DPI, layout="constrained")
        axes, drawn = figure.subplots(), {}
        draw_references(axes, cell.baseline, None, vertical=False)
        for at, one in enumerate(cuts):
            marks = {
                "random cuts": axes.plot(one.random, [at] * len(one.random), "o", ms=3, mfc="none", mec=GREY, mew=0.6),
                "the cut": axes.plot(one.mean, at, "o", ms=5, color=COLOURS[0], zorder=4),
                "a larger cut": axes.plot(one.larger_mean, at, "D", ms=4, mfc="white", mec=COLOURS[1], zorder=5),
                UNREAD: axes.plot(one.cls_path_closed, at, "x", ms=5, color=COLOURS[1], zorder=5),
            }
            drawn |= {name: line for name, (line,) in marks.items() if not np.isnan(line.get_xdata()).all()}
        axes.set_yticks(range(len(cuts)), [wrapped_text(names[one.condition], 36) for one in cuts])
        axes.set_ylim(len(cuts) - 0.4, -0.6)
        axes.set_xlabel(metric_name(cell.metric))
        axes.tick_params(axis="y", length=0)
        axes.tick_params(axis="x", length=2.5)
        place_legend(figure, drawn, len(drawn))
    return figure
