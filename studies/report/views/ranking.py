"""Heads ranked by the effect of cutting them."""

from collections.abc import Mapping, Sequence

import pandas as pd
from matplotlib.figure import Figure

from emg_lens.plotting.matrices import draw_heads
from emg_lens.plotting.panels import colour_bar, new_figure, plain_text
from emg_lens.plotting.style import PAGE
from emg_lens.plotting.values import grid_of
from emg_lens.studies.report.answers import PLACES
from emg_lens.studies.report.notes import interval_notes, mark_notes, study_notes
from emg_lens.studies.report.table_formats import without_empty_columns
from emg_lens.studies.report.view import View, in_each_cell
from emg_lens.studies.report.wording import (
    EMPTY,
    NULL,
    SIGNIFICANCE,
    change_name,
    column_name,
    condition_cells,
    cut_in_words,
    edge_name,
    head_conditions,
    interval_heading,
    layer_name,
    metric_words,
    with_interval,
)
from emg_lens.studies.results.findings import Cell, Findings
from emg_lens.studies.results.verdicts import Verdict, verdicts_of

SHOWN = "•"
"""Mark of a clear and specific effect."""


def layout_ranking(cell: Cell, verdicts: Sequence[Verdict] = ()) -> pd.DataFrame | None:
    """Lay out one row per head and edge type, ordered by the mean change, the most harmful first."""
    rows, judged = head_conditions(cell.tests), {one.cut.condition: one for one in verdicts}
    if not len(rows):
        return None
    rows = rows.sort_values(["difference", "layer", "head"], ascending=[not cell.lower_is_better, True, True])
    body = []
    for rank, row in enumerate(rows.to_dict("records"), start=1):
        head = f"{layer_name(row['layer'])}H{int(row['head'])}"
        changed = f"{row['n_changed']} of {row['n_subjects']}"
        cells = condition_cells(cell, row)
        one = judged.get(row["condition"])
        random = f"{one.cut.n_random_hurt_less} of {len(one.cut.random)}" if one and one.cut.random else EMPTY
        controlled = [random, one.verdict if one else EMPTY]
        body.append([str(rank), head, edge_name(row["edges"]), *cells, with_interval(row), changed, *controlled])
    change = interval_heading(rows, cell.statistics.confidence)
    columns = ["Rank", "Head", "Edges", column_name(cell.metric), SIGNIFICANCE, change_name(cell), change]
    columns += ["Subjects changed", "Random cuts that hurt less", "Verdict"]
    table = without_empty_columns(pd.DataFrame(body, columns=columns))
    table.attrs["notes"] = [*study_notes(cell), *mark_notes(rows), *interval_notes(rows)]
    return table


def figure_heads(cell: Cell, verdicts: Sequence[Verdict] = ()) -> Figure | None:
    """Draw the mean change by layer and head, one map per edge type."""
    rows, shown = head_conditions(cell.tests), {one.cut.condition for one in verdicts if one.verdict == "shown"}
    if not len(rows):
        return None
    kinds, most = list(rows["edges"].unique()), max(float(rows["difference"].abs().max()), 1e-9)
    layers, heads = sorted(rows["layer"].unique()), sorted(rows["head"].unique())
    unit = " (pp)" if cell.is_fraction else ""
    width, height = min(PAGE, 1.1 + len(kinds) * (0.5 + 0.28 * len(heads))), 0.9 + 0.28 * len(layers)
    with new_figure(width, height) as figure:
        panels = list(figure.subplots(1, len(kinds), squeeze=False, sharey=True).flat)
        drawn = set()
        for axes, kind in zip(panels, kinds, strict=True):
            of_kind = rows[rows["edges"] == kind]
            grid = grid_of("heads", of_kind, "difference", layers, heads, ("layer", "head"))
            marks = {
                (row["layer"], row["head"]): SHOWN for row in of_kind.to_dict("records") if row["condition"] in shown
            }
            marks |= {
                (row["layer"], row["head"]): NULL for row in of_kind[of_kind["structural_null"]].to_dict("records")
            }
            draw_heads(axes, grid, layers, heads, (-most, most), cell.lower_is_better, marks)
            drawn |= set(marks.values())
            axes.set_title(plain_text(cut_in_words(kind)))
        meanings = {NULL: "structural null", SHOWN: "verdict “shown”"}
        legend = "".join(f"\n{mark} {meaning}" for mark, meaning in meanings.items() if mark in drawn)
        colour_bar(panels[0].images[0], panels, f"Change in {metric_words(cell.metric)}{unit}{legend}", shrink=0.95)
    return figure


class HeadRanking(View):
    """Every head of every layer, the most harmful cut first."""

    name, order, question = "ranking", 22, PLACES
    captions = {"heads": "Mean change when the edges of one head are cut. Orange: worse than the baseline."}

    def shows(self, findings: Findings) -> bool:
        """Whether the study has conditions that cut a single head."""
        return any(len(head_conditions(cell.tests)) for cell in findings.cells)

    def tables(self, findings: Findings) -> Mapping[str, pd.DataFrame]:
        """One table per `Cell`."""
        verdicts = dict(verdicts_of(findings))
        return in_each_cell(findings, "Heads ranked by effect", lambda cell: layout_ranking(cell, verdicts[cell]))

    def figures(self, findings: Findings) -> Mapping[str, Figure]:
        """One figure per `Cell`."""
        verdicts = dict(verdicts_of(findings))
        return in_each_cell(findings, "heads", lambda cell: figure_heads(cell, verdicts[cell]))


RANKING = HeadRanking()
