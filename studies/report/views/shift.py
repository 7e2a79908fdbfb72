"""Shift of the residual stream under each condition: a drop may come from off-distribution activations."""

import pandas as pd
from matplotlib.figure import Figure

from emg_lens.layout import CLS
from emg_lens.plotting.curves import draw_curve
from emg_lens.plotting.panels import new_figure, place_legend, wrapped_text
from emg_lens.plotting.style import PAGE
from emg_lens.studies.report.ablation_colours import RANDOM_CONTROL, ablation_colour
from emg_lens.studies.report.view import View
from emg_lens.studies.report.wording import NULL, cut_names, layer_name, number
from emg_lens.studies.results.findings import Cell, Findings
from emg_lens.studies.spec.condition_spec import RANDOM

UNCHANGED = 1e-6
"""A cosine this close to 1 means equal activations, up to rounding."""
MARKERS = "os^vDP"
MEASURES = ["cosine", "cka", "mmd", "mmd_of_trials"]


def layout_shift(cell: Cell) -> pd.DataFrame | None:
    """Lay out one row per condition: cosine after every layer, then CKA and MMD after the last."""
    shift, names, rows = _of_readout(cell), _names(cell), []
    if not len(shift):
        return None
    for condition, by_layer in shift.groupby("condition", sort=False):
        last = by_layer.iloc[-1]
        cosines = [f"{number(one, 2)}{NULL if abs(1 - one) < UNCHANGED else ''}" for one in by_layer["cosine"]]
        numbers = [number(last["cka"], 2), *(number(last[measure], 3) for measure in ("mmd", "mmd_of_trials"))]
        rows.append([names.get(str(condition), condition), *cosines, *numbers])
    columns = [f"Cosine {layer_name(layer)}" for layer in shift["layer"].unique()]
    table = pd.DataFrame(rows, columns=["Condition", *columns, "CKA", "MMD", "MMD of trials"])
    table.attrs["notes"] = [
        "Residual stream at CLS (at all tokens if there is no CLS), compared with the unmasked model; mean over"
        " trials and fits. CKA (linear centred kernel alignment) and MMD (maximum mean discrepancy, Gaussian kernel"
        " of median width, unbiased) are measured after the last layer. For comparison, “MMD of trials” is the MMD"
        " between test and training trials of the unmasked model.",
        f"{NULL} Unchanged: up to this layer, no cut edge has a path to these tokens.",
    ]
    return table


def figure_shift(cell: Cell) -> Figure | None:
    """Draw the cosine to the unmasked residual stream by layer, one line per condition."""
    shift, names, random_cuts, lines = _of_readout(cell), _names(cell), _random_cuts(cell), {}
    if not len(shift):
        return None
    rows = {row["condition"]: row for row in cell.tests.to_dict("records")}
    order = list(dict.fromkeys(random_cuts.get(name, name) for name in shift["condition"].unique()))
    with new_figure(PAGE, 3.0) as figure:
        axes = figure.subplots()
        for condition, by_layer in shift.groupby("condition", sort=False):
            name = str(condition)
            of, random = random_cuts.get(name, name), name in random_cuts
            look = {"marker": MARKERS[order.index(of) % len(MARKERS)], "ls": (0, (2, 2)) if random else "-"}
            colour = RANDOM_CONTROL if random else ablation_colour(rows.get(of, {}))
            line = draw_curve(axes, by_layer["layer"], by_layer["cosine"], colour, **look)
            lines["a size-matched random cut" if random else wrapped_text(names.get(name, name), 48)] = line
        layers = shift["layer"].unique()
        axes.set_xticks(layers, [layer_name(layer) for layer in layers])
        axes.set_ylabel("Cosine to the unmasked model")
        place_legend(figure, lines, 3)
    return figure


def _of_readout(cell: Cell) -> pd.DataFrame:
    """Means over fits at CLS, or at all tokens without CLS; one row per condition and layer."""
    shift = cell.analysis("shift")
    if not len(shift):
        return shift
    of_cls = shift["tokens"] == CLS
    rows = shift[of_cls] if of_cls.any() else shift
    return rows.groupby(["condition", "layer"], sort=False)[MEASURES].mean().reset_index()


def _random_cuts(cell: Cell) -> dict[str, str]:
    """Size-matched random cuts, and the displayed condition that each matches."""
    if not len(cell.controls):
        return {}
    rows = cell.controls[cell.controls["control"] == RANDOM]
    same = dict(zip(cell.tests["condition"], cell.tests["equivalent_to"], strict=True))
    shift = cell.analysis("shift")
    shown = {same.get(name, name): name for name in shift["condition"].unique()} if len(shift) else {}
    return {cut: shown.get(same.get(of, of), of) for cut, of in zip(rows["condition"], rows["of"], strict=True)}


def _names(cell: Cell) -> dict[str, str]:
    names = cut_names(cell)
    return names | {cut: f"random, size-matched to {names.get(of, of)}" for cut, of in _random_cuts(cell).items()}


class Shift(View):
    """Shift of the residual stream: each condition compared with the unmasked model."""

    name, order = "shift", 40
    captions = {
        "shift": "Cosine similarity of the residual streams under a condition and of the unmasked model, after"
        " every layer, at CLS (at all tokens if there is no CLS). Mean over trials and fits. Grey: one size-matched"
        " random cut of the ablation with the same marker."
    }
    cell_tables = {"Shift of the residual stream": layout_shift}
    cell_figures = {"shift": figure_shift}

    def shows(self, findings: Findings) -> bool:
        """Whether the shift was measured."""
        return any(len(cell.analysis("shift")) for cell in findings.cells)


SHIFT = Shift()
