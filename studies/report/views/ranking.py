"""Heads by what cutting them costs."""

from collections.abc import Mapping

import matplotlib
import pandas as pd
from matplotlib.figure import Figure

from emg_lens.studies.findings import Cell, Findings
from emg_lens.studies.report.figures import DPI, STYLE, WIDTH, plain_text
from emg_lens.studies.report.notes import mark_notes, study_notes
from emg_lens.studies.report.view import View, in_each_cell
from emg_lens.studies.report.wording import (
    NULL,
    SIGNIFICANCE,
    change_name,
    edge_name,
    head_conditions,
    layer_name,
    metric_name,
    relative_change,
    value,
    with_interval,
)
from emg_lens.training.metrics import METRICS


class HeadRanking(View):
    """Every head of every layer, the costliest first."""

    name, order = "ranking", 30

    def shows(self, findings: Findings) -> bool:
        """Where conditions cut single heads."""
        return any(len(head_conditions(cell.tests)) for cell in findings.cells)

    def tables(self, findings: Findings) -> Mapping[str, pd.DataFrame]:
        """One a cell."""
        return in_each_cell(findings, "Heads, the costliest first", layout_ranking)

    def headline(self, findings: Findings) -> Mapping[str, pd.DataFrame]:
        """All of them."""
        return self.tables(findings)

    def figures(self, findings: Findings) -> Mapping[str, Figure]:
        """Layer × head maps, one a cell."""
        return in_each_cell(findings, "heads", figure_heads)

    def captions(self) -> Mapping[str, str]:
        """By figure."""
        return {"heads": "Mean change when one head's edges are cut (shares in percentage points); †: structural null."}


RANKING = HeadRanking()


def layout_ranking(cell: Cell) -> pd.DataFrame | None:
    """One row a head and kind of edges, ordered by the mean change, the costliest first."""
    rows = head_conditions(cell.tests)
    if not len(rows):
        return None
    lower_is_better = cell.metric in METRICS and METRICS[cell.metric].better == "lower"
    rows = rows.sort_values(["difference", "layer", "head"], ascending=[not lower_is_better, True, True], kind="stable")
    body = [
        [
            str(rank),
            f"{layer_name(r.layer)}H{int(r.head)}",  # pyright: ignore
            edge_name(str(r.edges)),
            value(r.mean),  # pyright: ignore
            f"{r.stars}{NULL if r.structural_null else ''}",
            relative_change(cell, r.delta_percent),  # pyright: ignore
            with_interval(r),
            f"{r.n_changed} of {r.n_subjects}",
        ]
        for rank, r in enumerate(rows.itertuples(), start=1)
    ]
    change = f"Change{', pp' if cell.is_share else ''} [{100 * cell.statistics.confidence:g} % CI]"
    columns = ["Rank", "Head", "Edges", metric_name(cell.metric), SIGNIFICANCE, change_name(cell), change]
    table = pd.DataFrame(body, columns=[*columns, "Subjects changed"])
    table.attrs["notes"] = [*study_notes(cell), *mark_notes(rows)]
    return table


def figure_heads(cell: Cell) -> Figure | None:
    """Mean change by layer and head, one map a kind of edges."""
    rows = head_conditions(cell.tests)
    if not len(rows):
        return None
    kinds = list(rows["edges"].unique())
    most = max(float(rows["difference"].abs().max()), 1e-9)
    with matplotlib.rc_context(STYLE):
        size = (
            min(WIDTH, 0.8 + len(kinds) * (0.8 + 0.28 * rows["head"].nunique())),
            0.9 + 0.28 * rows["layer"].nunique(),
        )
        figure = Figure(figsize=size, dpi=DPI, layout="constrained")
        panels = figure.subplots(1, len(kinds), squeeze=False)[0]
        for axes, kind in zip(panels, kinds, strict=True):
            mine = rows[rows["edges"] == kind]
            grid = mine.pivot(index="layer", columns="head", values="difference")
            image = axes.imshow(grid, cmap="RdBu", vmin=-most, vmax=most, aspect="auto")
            for r in mine[mine["structural_null"]].itertuples():
                axes.text(
                    list(grid.columns).index(r.head), list(grid.index).index(r.layer), NULL, ha="center", va="center"
                )
            axes.set_xticks(range(grid.shape[1]), [f"H{int(head)}" for head in grid.columns])
            axes.set_yticks(range(grid.shape[0]), [layer_name(layer) for layer in grid.index])
            axes.set_title(plain_text(str(kind)))
        figure.colorbar(image, ax=list(panels), label=f"Change{' (pp)' if cell.is_share else ''}", shrink=0.9)  # pyright: ignore
    return figure
