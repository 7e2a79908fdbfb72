"""Conditions outside every family, one a row."""

from collections.abc import Mapping

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from emg_lens.studies.findings import Cell, Findings
from emg_lens.studies.report.figures import (
    COLOURS,
    DPI,
    GREY,
    STYLE,
    WIDTH,
    by_condition,
    chance_of,
    draw_box,
    draw_references,
    draw_significance,
    metric_limits,
    plain_text,
)
from emg_lens.studies.report.notes import mark_notes, study_notes
from emg_lens.studies.report.view import View, in_each_cell
from emg_lens.studies.report.wording import (
    NULL,
    SAME,
    SIGNIFICANCE,
    change_name,
    layer_conditions,
    metric_name,
    relative_change,
    single_conditions,
    value,
    with_interval,
)
from emg_lens.sweeps.conditions import BASELINE


class SingleConditions(View):
    """Every condition of a study's `extra`."""

    name, order = "single", 20

    def shows(self, findings: Findings) -> bool:
        """Where there are any."""
        return any(len(single_conditions(cell.tests)) for cell in findings.cells)

    def tables(self, findings: Findings) -> Mapping[str, pd.DataFrame]:
        """One a cell."""
        return in_each_cell(findings, "Single conditions", _layout)

    def headline(self, findings: Findings) -> Mapping[str, pd.DataFrame]:
        """All of them."""
        return self.tables(findings)

    def figures(self, findings: Findings) -> Mapping[str, Figure]:
        """One a cell."""
        return in_each_cell(findings, "single", figure_singles)

    def captions(self) -> Mapping[str, str]:
        """By figure."""
        return {
            "single": "Every subject (dots) under the single conditions, against the unmasked model (grey box; dashed:"
            " its mean; dotted: chance). White diamonds: accuracy expected of a condition, if known."
        }


SINGLE = SingleConditions()


def layout_singles(cell: Cell, rows: pd.DataFrame) -> pd.DataFrame:
    """These conditions, one a row; with the expected accuracy if there is one."""
    has_expected = "expected" in rows and bool(rows["expected"].notna().any())
    body = []
    for r in rows.itertuples():
        same = r.equivalent_to not in (r.condition, BASELINE)
        mark = NULL if r.structural_null else SAME if same else ""
        expected = [value(r.expected)] if has_expected else []  # pyright: ignore
        change = [relative_change(cell, r.delta_percent), with_interval(r)]  # pyright: ignore
        body.append([r.condition, value(r.mean), *expected, f"{r.stars}{mark}", *change])  # pyright: ignore
    expected = ["Expected"] if has_expected else []
    unit = ", pp" if cell.is_share else ""
    change = f"Change{unit} [{100 * cell.statistics.confidence:g} % CI]"
    columns = ["Condition", metric_name(cell.metric), *expected, SIGNIFICANCE, change_name(cell), change]
    table = pd.DataFrame(body, columns=columns)
    table.attrs["notes"] = mark_notes(rows)
    return table


def _layout(cell: Cell) -> pd.DataFrame | None:
    rows = single_conditions(cell.tests)
    if not len(rows):
        return None
    table = layout_singles(cell, rows)
    blank = [""] * (len(table.columns) - 2)
    table.loc[len(table)] = ["Baseline", value(cell.baseline.mean()), *blank]
    if not len(layer_conditions(cell.tests)):  # the other table says it
        table.attrs["notes"] = [*study_notes(cell), *table.attrs.get("notes", ())]
    return table


def figure_singles(cell: Cell) -> Figure | None:
    """The metric under these conditions, one line a condition."""
    rows = single_conditions(cell.tests)
    if not len(rows):
        return None
    values, chance = by_condition(cell.scores, cell.metric), chance_of(cell.tests)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH * 0.72, 0.75 + 0.27 * (len(rows) + 1)), dpi=DPI, layout="constrained")
        axes = figure.subplots()
        draw_box(axes, 0, values[BASELINE], GREY, 0.6, vertical=False)
        draw_references(axes, values[BASELINE].mean(), chance, vertical=False)
        for at, row in enumerate(rows.itertuples(), start=1):
            draw_box(axes, at, values[row.condition], COLOURS[0], 0.6, bool(row.structural_null), vertical=False)
            draw_significance(axes, at, 1.01, row, COLOURS[0], vertical=False)
            expected = getattr(row, "expected", np.nan)
            axes.plot(expected, at, "D", color="white", markeredgecolor="black", markersize=4.5, zorder=5)
        axes.set_yticks(range(len(rows) + 1), [BASELINE, *map(plain_text, rows["condition"])])
        axes.set_ylim(len(rows) + 0.6, -0.6)
        limits = metric_limits(values[[BASELINE, *rows["condition"]]].to_numpy(), cell.is_share)
        if limits is not None:
            axes.set_xlim(*limits)
        axes.set_xlabel(metric_name(cell.metric) if not cell.is_share else cell.metric.replace("_", " ").capitalize())
        axes.tick_params(axis="y", length=0)
        axes.tick_params(axis="x", length=2.5)
    return figure
