"""Conditions outside the layer and head sweeps, one per row."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from emg_lens.plotting.boxes import draw_mark, draw_references, metric_limits, plot_boxes
from emg_lens.plotting.layer_sweeps import reference_entries
from emg_lens.plotting.panels import new_figure, place_legend
from emg_lens.plotting.style import PAGE
from emg_lens.plotting.words import NULL
from emg_lens.studies.report.ablation_colours import EXPECTED, UNMASKED, ablation_colour
from emg_lens.studies.report.equal_conditions import identities
from emg_lens.studies.report.notes import interval_notes, mark_notes, study_notes
from emg_lens.studies.report.view import View
from emg_lens.studies.report.wording import (
    PAPER,
    SIGNIFICANCE,
    change_name,
    column_name,
    condition_cells,
    interval_heading,
    layer_conditions,
    metric_name,
    metric_words,
    single_conditions,
    value,
    with_interval,
)
from emg_lens.studies.results.findings import Cell, Findings
from emg_lens.sweeps.conditions import BASELINE


def layout_singles(cell: Cell, rows: pd.DataFrame) -> pd.DataFrame:
    """Lay out these conditions, one per row, with the expected accuracy if there is one."""
    has_expected, has_paper = _has_expected(cell, rows), bool(cell.published)
    body = []
    for row in rows.to_dict("records"):
        mean, significance, relative = condition_cells(cell, row)
        expected = [_expected_in_words(row)] if has_expected else []
        paper = [value(cell.published.get(row["condition"], np.nan))] if has_paper else []
        body.append([row["condition"], mean, *paper, *expected, significance, relative, with_interval(row)])
    change = interval_heading(rows, cell.statistics.confidence)
    expected = ["Expected"] if has_expected else []
    paper = [PAPER] if has_paper else []
    columns = ["Condition", column_name(cell.metric), *paper, *expected, SIGNIFICANCE, change_name(cell), change]
    table = pd.DataFrame(body, columns=columns)
    notes = [*mark_notes(rows), *interval_notes(rows)]
    if has_expected and any(BASELINE in row[2] for row in body):
        notes.insert(
            0,
            "Expected “baseline”: the simulation implies at least the accuracy of the unmasked models, so no drop is"
            " expected.",
        )
    table.attrs["notes"] = notes
    return table


def layout_identities(cell: Cell) -> pd.DataFrame | None:
    """Lay out single conditions that equal another one for any weights, with the largest measured difference."""
    rows = single_conditions(cell.tests)
    same = identities(cell.scores, cell.metric)
    same = same[same["condition"].isin(rows["condition"])]
    if not len(same):
        return None
    table = pd.DataFrame(
        {
            "Condition": same["condition"],
            "Equal to": same["equal_to"],
            "Reason": same["reason"],
            "Largest difference": [f"{difference:g}" for difference in same["max_abs_difference"]],
        }
    ).reset_index(drop=True)
    table.attrs["notes"] = [
        f"Differences in {metric_words(cell.metric)} over fits and subjects. These conditions are equal by the"
        " structure of the model. They say nothing about what it has learned."
    ]
    return table


def layout_measured(cell: Cell) -> pd.DataFrame | None:
    """Lay out the single conditions that are not equal by construction, then the baseline."""
    rows = single_conditions(cell.tests)
    rows = rows[~rows["condition"].isin(identities(cell.scores, cell.metric)["condition"])]
    if not len(rows):
        return None
    table = layout_singles(cell, rows)
    paper = [value(cell.published.get(BASELINE, np.nan))] if cell.published else []
    table.loc[len(table)] = ["Baseline", value(cell.baseline), *paper, *[""] * (len(table.columns) - 2 - len(paper))]
    if not len(layer_conditions(cell.tests)):  # otherwise the layer sweep has these notes
        table.attrs["notes"] = [*study_notes(cell), *table.attrs["notes"]]
    return table


def _has_expected(cell: Cell, rows: pd.DataFrame) -> bool:
    """Whether these rows have an expected accuracy."""
    return cell.metric == "accuracy" and "expected" in rows and bool(rows["expected"].notna().any())


def _expected_in_words(row: Mapping[str, Any]) -> str:
    """The expected accuracy, or "baseline" where no drop is expected, with the fraction of fits if not all."""
    fraction = row.get("expected_is_baseline", 0)
    if fraction == 1:
        return BASELINE
    return value(row["expected"]) + (f" ({100 * fraction:.0f} % {BASELINE})" if fraction > 0 else "")


def figure_singles(cell: Cell) -> Figure | None:
    """Draw the metric under these conditions, one row per condition."""
    rows = single_conditions(cell.tests)
    if not len(rows):
        return None
    values, chance = cell.values, cell.chance
    limits = metric_limits(values[[BASELINE, *rows["condition"]]].to_numpy(), cell.is_fraction)
    if chance is not None and chance < (limits[0] or 0):
        chance = None  # outside the axis
    has_expected = _has_expected(cell, rows)
    colours = [UNMASKED, *(ablation_colour(row) for row in rows.to_dict("records"))]
    boxes = {"Baseline": values[BASELINE], **{name: values[name].dropna() for name in rows["condition"]}}
    with new_figure(PAGE * 0.72, 0.95 + 0.27 * (len(rows) + 1)) as figure:
        axes = plot_boxes(
            boxes, colours=colours, label=metric_name(cell.metric), limits=limits, ax=figure.subplots(),
            hollow=list(rows.loc[rows["structural_null"].astype(bool), "condition"]),
        )  # fmt: skip
        draw_references(axes, values[BASELINE].mean(), chance, vertical=False)
        for at, row in enumerate(rows.to_dict("records"), start=1):
            draw_mark(
                axes, at, 1.01, f"{row['stars']}{NULL if row['structural_null'] else ''}", colours[at], vertical=False
            )
            if has_expected and row.get("expected_is_baseline", 0) < 1:
                axes.plot(row["expected"], at, **EXPECTED, zorder=5)
        entries: dict[str, Any] = reference_entries(chance, bool(rows["structural_null"].any()))
        place_legend(figure, entries | ({"expected": Line2D([], [], **EXPECTED)} if has_expected else {}), n_columns=5)
    return figure


class SingleConditions(View):
    """Conditions that a study lists under `extra`."""

    name, order = "single", 20
    captions = {
        "single": "Subjects (dots) under each single condition, next to the unmasked models (grey box). Boxes: median"
        " and quartiles."
    }
    cell_tables = {
        "Single conditions": layout_measured,
        "Single conditions that are equal by construction": layout_identities,
    }
    cell_figures = {"single": figure_singles}

    def shows(self, findings: Findings) -> bool:
        """Whether the study has single conditions."""
        return any(len(single_conditions(cell.tests)) for cell in findings.cells)


SINGLE = SingleConditions()
