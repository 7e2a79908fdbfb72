"""Table 3 and Figure 5 of the IsoNet paper: layers and edge types down, masking modes across."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from emg_lens.studies.report.layer_figures import CAPTIONS, figure_metric, figure_profile
from emg_lens.studies.report.notes import mark_notes, study_notes
from emg_lens.studies.report.view import View, in_each_cell
from emg_lens.studies.report.views.single import layout_singles
from emg_lens.studies.report.wording import (
    EMPTY,
    MODE_NAMES,
    PAPER,
    SIGNIFICANCE,
    change_name,
    column_name,
    condition_cells,
    edge_name,
    layer_conditions,
    layer_name,
    number,
    value,
)
from emg_lens.studies.results.findings import Cell, Findings
from emg_lens.sweeps.conditions import BASELINE


class Table3(View):
    """Every edge set × mode × layer."""

    name, order = "layer-sweep", 10

    def shows(self, findings: Findings) -> bool:
        """Where conditions have a mode and a layer."""
        return any(len(layer_conditions(cell.tests)) for cell in findings.cells)

    def tables(self, findings: Findings) -> Mapping[str, pd.DataFrame]:
        """The table of each cell, then depth, additivity, and expectations where there are any."""
        layouts = {
            "Layer by layer": layout_layer_sweep,
            "Measured and expected": layout_expected,
            "By number of layers cut": layout_depth,
            "Single layers against all layers": layout_additivity,
        }
        found = {}
        for title, layout in layouts.items():
            found |= in_each_cell(findings, title, layout)
        return found

    def headline(self, findings: Findings) -> Mapping[str, pd.DataFrame]:
        """The table of each cell."""
        return in_each_cell(findings, "Layer by layer", layout_layer_sweep)

    def figures(self, findings: Findings) -> Mapping[str, Figure]:
        """The metric of every subject under every mask, and mean changes."""
        return in_each_cell(findings, "layers", figure_metric) | in_each_cell(findings, "profile", figure_profile)

    def captions(self) -> Mapping[str, str]:
        """By figure."""
        return CAPTIONS


LAYER_SWEEP = Table3()


def layout_layer_sweep(cell: Cell) -> pd.DataFrame | None:
    """The layout of the IsoNet paper's Table 3.

    Returns:
        Text, indexed by (Layer, Type), with the columns (mode, metric | Sig. | Drop %), and of a study with published
        numbers (mode, Paper); the baseline is the last row.
        † marks structural nulls, ‡ conditions that equal an earlier one by construction. None without such conditions.
    """
    masks = layer_conditions(cell.tests)
    if not len(masks):
        return None
    modes, kinds = list(masks["mode"].unique()), list(masks["edges"].unique())
    cells, width = {}, 3 + bool(cell.published)
    for row in masks.to_dict("records"):
        printed = (value(cell.published.get(row["condition"], np.nan)),) * bool(cell.published)
        cells[row["layer"], row["edges"], row["mode"]] = (*condition_cells(cell, row), *printed)
    index, body = [], []
    for layer in sorted(masks["layer"].unique()):
        for kind in kinds:
            index.append((layer_name(layer), edge_name(kind)))
            body.append([c for mode in modes for c in cells.get((layer, kind, mode), (EMPTY,) * width)])
    index.append(("Baseline", EMPTY))
    body.append([value(cell.baseline), *[EMPTY] * (width * len(modes) - 1)])
    if cell.published:
        body[-1][width - 1] = value(cell.published.get(BASELINE, np.nan))
    names = [column_name(cell.metric), SIGNIFICANCE, change_name(cell), *[PAPER] * bool(cell.published)]
    columns = [[MODE_NAMES[mode] for mode in modes], names]
    table = pd.DataFrame(
        body,
        index=pd.MultiIndex.from_tuples(index, names=["Layer", "Type"]),
        columns=pd.MultiIndex.from_product(columns),
    )
    table.attrs["notes"] = [*study_notes(cell), *mark_notes(masks)]
    return table


def layout_expected(cell: Cell) -> pd.DataFrame | None:
    """Layer conditions beside the accuracy expected of them (a paper's, a simulation's), if any is given."""
    masks = layer_conditions(cell.tests)
    known = masks[masks["expected"].notna()] if "expected" in masks else masks.iloc[:0]
    return layout_singles(cell, known) if len(known) else None


def layout_depth(cell: Cell) -> pd.DataFrame | None:
    """The metric by the number of layers cut, from the beginning and from the end, counted in two ways.

    "Layers cut" counts masked layers; "Live layers cut" only those that add a live edge to the cut, so that both
    directions are compared at the same depth (docs/isonet-protocol.md §4.9, item 5).
    """
    masks = layer_conditions(cell.tests)
    paths = masks[masks["mode"] != "individual"]
    if not len(paths):
        return None
    nominal, effective = {}, {}
    n_layers = masks["layer"].max() + 1
    for kind in paths["edges"].unique():
        for mode in paths["mode"].unique():
            path = paths[(paths["edges"] == kind) & (paths["mode"] == mode)]
            forwards = mode == "from_beginning"
            path = path.sort_values("layer", ascending=forwards)
            depth = (path["layer"] + 1 if forwards else n_layers - path["layer"]).astype(int)
            nominal[f"{edge_name(kind)} {MODE_NAMES[mode]}"] = dict(zip(depth, path["mean"], strict=True))
            live = path[~path["structural_null"] & ~path["equivalent_to"].duplicated()]
            effective[f"{edge_name(kind)} {MODE_NAMES[mode]}"] = dict(enumerate(live["mean"], start=1))
    table = pd.concat(
        {"Layers cut": pd.DataFrame(nominal), "Live layers cut": pd.DataFrame(effective)}, axis=1
    ).sort_index()
    table.index = pd.Index([str(i) for i in table.index], name="Number")
    return table.map(value)


def layout_additivity(cell: Cell) -> pd.DataFrame | None:
    """Sum of the single-layer changes beside the change with every layer cut: they need not agree.

    Shares in percentage points (pp), positive where they fell; the all-layer change also relative to the baseline, and
    to the baseline's distance from chance.
    """
    masks = layer_conditions(cell.tests)
    if not len(masks) or not cell.is_fraction:
        return None
    first, last = masks["layer"].min(), masks["layer"].max()
    every = ((masks["mode"] == "from_beginning") & (masks["layer"] == last)) | (
        (masks["mode"] == "from_end") & (masks["layer"] == first)
    )
    rows = []
    for kind in masks["edges"].unique():
        single = masks[(masks["edges"] == kind) & (masks["mode"] == "individual")]
        whole = masks[(masks["edges"] == kind) & every].head(1)
        if len(single) and len(whole):
            drops = [-single["difference"].sum(), *-whole[["difference", "delta_percent"]].iloc[0]]
            drops.append(whole["chance_corrected_drop_percent"].iloc[0])
            rows.append([edge_name(kind), *(number(drop) for drop in drops)])
    columns = ["Single-layer drops, summed (pp)", "All layers cut (pp)", change_name(cell), "Drop % above chance"]
    return pd.DataFrame(rows, columns=["Type", *columns]) if rows else None
