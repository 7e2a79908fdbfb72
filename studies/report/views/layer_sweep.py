"""The layer sweep as in Table 3 and Figure 5 of the IsoNet paper: layers and edge types in rows, modes in columns."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from emg_lens.studies.report.layer_figures import CAPTIONS, figure_metric, figure_profile
from emg_lens.studies.report.notes import mark_notes, study_notes
from emg_lens.studies.report.view import View
from emg_lens.studies.report.views.single import layout_singles
from emg_lens.studies.report.wording import (
    EMPTY,
    MODE_NAMES,
    PAPER,
    SIGNIFICANCE,
    change_name,
    column_name,
    condition_cells,
    cut_in_words,
    edge_name,
    layer_conditions,
    layer_name,
    number,
    value,
)
from emg_lens.studies.results.findings import Cell, Findings
from emg_lens.sweeps.conditions import BASELINE

LAYERS_CUT = {
    "individual": "in this layer only",
    "from_beginning": "in the layers up to this one",
    "from_end": "from this layer on",
}


def layout_layer_sweep(cell: Cell) -> pd.DataFrame | None:
    """Lay out the sweep as in Table 3 of the IsoNet paper.

    Returns:
        Text, indexed by (Layer, Type), with the columns (mode, metric | Sig. | Drop %), and (mode, Paper) if the study
        has published numbers; the last row is the baseline. † marks structural nulls, ‡ conditions that equal an
        earlier one by construction. None if there are no such conditions.
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
    table.attrs["notes"] = [_legend(kinds, modes), *study_notes(cell), *mark_notes(masks)]
    return table


def _legend(kinds: Sequence[str], modes: Sequence[str]) -> str:
    """Explain the short names of edges and modes."""
    edges = [f"{edge_name(kind)}: {cut_in_words(kind)}" for kind in kinds if edge_name(kind) != kind]
    return f"{'; '.join([*edges, *(f'{MODE_NAMES[mode]}: {LAYERS_CUT[mode]}' for mode in modes)])}."


def layout_expected(cell: Cell) -> pd.DataFrame | None:
    """Lay out layer conditions with their expected accuracy; None if none has one."""
    masks = layer_conditions(cell.tests)
    known = masks[masks["expected"].notna()] if "expected" in masks else masks.iloc[:0]
    return layout_singles(cell, known) if len(known) else None


def layout_depth(cell: Cell) -> pd.DataFrame | None:
    """Lay out the metric by the number of layers cut, from the beginning and from the end, counted in two ways.

    "Layers cut" counts masked layers. "Live layers cut" counts only layers that add a live edge to the cut. Then both
    directions can be compared at the same depth (docs/isonet-protocol.md §4.9, item 5).
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
    table = table.map(value)
    table.attrs["notes"] = [
        "Layers cut: all masked layers. Live layers cut: only those whose cut edges have a path to the readout and add"
        " to the cut, so that both directions can be compared at the same depth."
    ]
    return table


def layout_additivity(cell: Cell) -> pd.DataFrame | None:
    """Lay out the sum of the single-layer drops next to the drop with every layer cut: they need not agree.

    Drops are in percentage points (pp). The all-layer drop is also given relative to the baseline, and relative to the
    baseline's distance from chance.
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
    columns = [
        "Single-layer drops, summed (pp)",
        "All layers cut (pp)",
        change_name(cell),
        "Drop %, relative to baseline − chance",
    ]
    return pd.DataFrame(rows, columns=["Type", *columns]) if rows else None


class LayerSweep(View):
    """The metric under every edge set × mode × layer."""

    name, order = "layer-sweep", 10
    captions = CAPTIONS
    cell_tables = {
        "Layer by layer": layout_layer_sweep,
        "Measured and expected": layout_expected,
        "By number of layers cut": layout_depth,
        "Single layers compared with all layers": layout_additivity,
    }
    cell_figures = {"layers": figure_metric, "profile": figure_profile}

    def shows(self, findings: Findings) -> bool:
        """Whether conditions have a mode and a layer."""
        return any(len(layer_conditions(cell.tests)) for cell in findings.cells)


LAYER_SWEEP = LayerSweep()
