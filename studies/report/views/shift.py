"""How far conditions move the residual stream: what a cut costs may be what the model makes of strange activations."""

from collections.abc import Mapping

import matplotlib
import pandas as pd
from matplotlib.figure import Figure

from emg_lens.layout import CLS
from emg_lens.studies.report.figures import COLOURS, DPI, STYLE, WIDTH, colour_of, place_legend, wrapped_text
from emg_lens.studies.report.view import View, in_each_cell
from emg_lens.studies.report.wording import NULL, cut_names, layer_name, number
from emg_lens.studies.results.findings import Cell, Findings
from emg_lens.studies.spec.condition_spec import RANDOM

UNMOVED = 1e-6
"""From 1, cosines of activations that are the same up to rounding."""
MEASURES = ["cosine", "cka", "mmd", "mmd_of_trials"]


class Shift(View):
    """Residual streams under cuts against those of the unmasked model."""

    name, order = "shift", 40

    def shows(self, findings: Findings) -> bool:
        """Where it was measured."""
        return any(len(cell.shift) for cell in findings.cells)

    def tables(self, findings: Findings) -> Mapping[str, pd.DataFrame]:
        """One a cell."""
        return in_each_cell(findings, "How far the residual stream is moved", layout_shift)

    def headline(self, findings: Findings) -> Mapping[str, pd.DataFrame]:  # noqa: ARG002
        """None: it is detail."""
        return {}

    def figures(self, findings: Findings) -> Mapping[str, Figure]:
        """One a cell."""
        return in_each_cell(findings, "shift", figure_shift)

    def captions(self) -> Mapping[str, str]:
        """By figure."""
        return {
            "shift": "Cosine between the residual stream under a condition and that of the unmasked model, after every"
            " layer, of CLS (of all tokens, where there is none); mean over trials and fits. Dashed: one random cut of"
            " as many edges."
        }


SHIFT = Shift()


def layout_shift(cell: Cell) -> pd.DataFrame | None:
    """One row a condition: cosine after every layer, then alignment and discrepancy after the last."""
    found, names, rows = _of_readout(cell), _names(cell), []
    if not len(found):
        return None
    for condition, by_layer in found.groupby("condition", sort=False):
        last = by_layer.iloc[-1]
        cosines = [f"{number(one, 2)}{NULL if abs(1 - one) < UNMOVED else ''}" for one in by_layer["cosine"]]
        numbers = [number(last["cka"], 2), *(number(last[measure], 3) for measure in ("mmd", "mmd_of_trials"))]
        rows.append([names.get(str(condition), condition), *cosines, *numbers])
    columns = [f"Cosine {layer_name(layer)}" for layer in found["layer"].unique()]
    table = pd.DataFrame(rows, columns=["Condition", *columns, "CKA", "MMD", "MMD of trials"])
    table.attrs["notes"] = [
        "Residual stream of CLS (of all tokens, where there is none) against the unmasked model;"
        " mean over trials and fits. CKA: linear centred kernel alignment, MMD: maximum mean discrepancy (Gaussian"
        " kernel, median width, unbiased), both after the last layer. MMD of trials: that between unmasked test and"
        " training trials, for comparison.",
        f"{NULL} Not moved: nothing that is changed reaches these tokens up to there, whatever the weights.",
    ]
    return table


def figure_shift(cell: Cell) -> Figure | None:
    """Cosine to the unmasked residual stream, layer by layer, one line a condition."""
    found, names, draws, lines = _of_readout(cell), _names(cell), _draws(cell), {}
    if not len(found):
        return None
    order = list(dict.fromkeys(draws.get(name, name) for name in found["condition"].unique()))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 3.0), dpi=DPI, layout="constrained")
        axes = figure.subplots()
        for condition, by_layer in found.groupby("condition", sort=False):
            name = str(condition)
            k, dashed = order.index(draws.get(name, name)), name in draws
            look = {"color": colour_of(k), "marker": "os^"[k // len(COLOURS) % 3], "ls": (0, (2, 2)) if dashed else "-"}
            (line,) = axes.plot(by_layer["layer"], by_layer["cosine"], ms=3, lw=1, **look)
            if not dashed:
                lines[wrapped_text(names.get(name, name), 40)] = line
        layers = found["layer"].unique()
        axes.set_xticks(layers, [layer_name(layer) for layer in layers])
        axes.set_ylabel("Cosine to unmasked")
        place_legend(figure, lines, 3)
    return figure


def _of_readout(cell: Cell) -> pd.DataFrame:
    """Means over fits, one row a condition and layer, of CLS or, where there is none, of all tokens' groups."""
    if not len(cell.shift):
        return cell.shift
    of_cls = cell.shift["tokens"] == CLS
    rows = cell.shift[of_cls] if of_cls.any() else cell.shift
    return rows.groupby(["condition", "layer"], sort=False)[MEASURES].mean().reset_index()


def _draws(cell: Cell) -> dict[str, str]:
    """Random cuts, and which of the conditions that are shown each matches."""
    if not len(cell.controls):
        return {}
    rows = cell.controls[cell.controls["control"] == RANDOM]
    same = dict(zip(cell.tests["condition"], cell.tests["equivalent_to"], strict=True))
    shown = {same.get(name, name): name for name in cell.shift["condition"].unique()} if len(cell.shift) else {}
    return {draw: shown.get(same.get(of, of), of) for draw, of in zip(rows["condition"], rows["of"], strict=True)}


def _names(cell: Cell) -> dict[str, str]:
    names = cut_names(cell)
    return names | {draw: f"random, as many as {names.get(of, of)}" for draw, of in _draws(cell).items()}
