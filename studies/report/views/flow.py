"""Flow between modalities: how much the edges from one modality to another contribute, in each layer."""

from collections.abc import Iterator

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from emg_lens.layout import CLS
from emg_lens.plotting import plot_flow
from emg_lens.plotting.panels import figure_of
from emg_lens.studies.report.fit_values import attributed_metric, mean_heading, mean_with_interval, with_subjects
from emg_lens.studies.report.view import View
from emg_lens.studies.report.wording import count, layer_name, number
from emg_lens.studies.results.findings import Cell, Findings

KINDS = {
    "to_cls": "edges from sensors to CLS",
    "unimodal": "edges within a modality",
    "cross_modal": "edges between modalities",
    "from_cls": "edges from CLS to sensors",
}


def layout_flow(cell: Cell) -> pd.DataFrame | None:
    """Lay out one row per layer and pair of modalities, the largest flow first."""
    flow = _flow(cell)
    if not len(flow):
        return None
    confidence, n = cell.statistics.confidence, flow["subject"].nunique()
    groups = flow.groupby(["layer", "src", "dest"], sort=False)["flow"]
    rows = []
    for (layer, src, dest), values in sorted(groups, key=lambda group: -group[1].mean()):
        text = mean_with_interval(values.to_numpy(), 1, confidence)
        rows.append([edge_text(src, dest), layer_name(layer), text, f"{int((values > 0).sum())} of {len(values)}"])
    heading = mean_heading(confidence, n).replace("Mean", "Flow, %")
    table = pd.DataFrame(rows, columns=["Edges", "Layer", heading, "Subjects above 0"])
    table.attrs["notes"] = [*flow_sentences(cell), *_method(cell)]
    return table


def flow_sentences(cell: Cell) -> Iterator[str]:
    """Say which edges contribute most, and how much each kind of edge contributes."""
    flow, confidence, metric = _flow(cell), cell.statistics.confidence, attributed_metric(cell)
    means = flow.groupby(["layer", "src", "dest"])["flow"].mean()
    layer, src, dest = means.idxmax()
    largest = flow[(flow["layer"] == layer) & (flow["src"] == src) & (flow["dest"] == dest)]["flow"].to_numpy()
    yield (
        f"The largest flow is {edge_text(src, dest)} in {layer_name(layer)}:"
        f" {mean_with_interval(largest, 1, confidence, ' %', name=True)} of the range of the {metric}."
    )
    sums = flow.groupby(["kind", "subject"])["flow"].sum()
    parts = [
        f"{words} {mean_with_interval(sums[kind].to_numpy(), 1, confidence, ' %', name=True)}"
        for kind, words in KINDS.items()
        if kind in sums.index
    ]
    yield f"Sums over all layers: {', '.join(parts)}."


def figure_flow(cell: Cell) -> Figure | None:
    """Draw one matrix per layer, mean over subjects: destinations in rows, sources in columns."""
    flow = _flow(cell)
    if not len(flow):
        return None
    means = flow.groupby(["layer", "dest", "src"])["flow"].mean().reset_index()
    printed = means.assign(dest=means["dest"].map(_printed), src=means["src"].map(_printed))
    printed["src"] = pd.Categorical(printed["src"], [_printed(name) for name in [CLS, *_modalities(flow)]])
    label = f"% of the range\nof the {attributed_metric(cell)}"
    most = float(means["flow"].abs().max())
    return figure_of(
        plot_flow(printed.sort_values("src"), value="flow", label=label, limits=(-most, most), decimals=1)[0]
    )


def edge_text(src: str, dest: str) -> str:
    """Name the edges from one group of tokens to another: `"ACC → EMG"`."""
    return f"{_printed(src)} → {_printed(dest)}"


def _printed(name: str) -> str:
    return name.upper()


def _modalities(flow: pd.DataFrame) -> list[str]:
    return [name for name in dict.fromkeys(flow["src"]) if name != CLS]


def _flow(cell: Cell) -> pd.DataFrame:
    """One row per subject, layer and pair: the score in per cent of the metric's range, mean over fits."""
    table = with_subjects(cell, "flow")
    table = table[table["full"] > table["all_cut"]] if len(table) else table
    if not len(table):
        return table
    flow = table.assign(flow=100 * table["score"] / (table["full"] - table["all_cut"]))
    flow = flow.groupby(["subject", "layer", "dest", "src"], sort=False)["flow"].mean().reset_index()
    of_cls = {"dest": flow["dest"] == CLS, "src": flow["src"] == CLS}
    same = np.where(flow["dest"] == flow["src"], "unimodal", "cross_modal")
    return flow.assign(kind=np.select([of_cls["dest"], of_cls["src"]], ["to_cls", "from_cls"], same))


def _method(cell: Cell) -> Iterator[str]:
    table = cell.analysis("flow")
    audit = table.drop_duplicates("fit")
    falls = audit["full"] > audit["all_cut"]
    flat, errors = int((~falls).sum()), audit.loc[falls, "completeness_error"].abs()
    yield (
        "Flow is the attribution of these edges (integrated gradients of shared gates, on test trials), in per cent of"
        f" the range between all edges cut (0 %) and the unmasked model (100 %) of the {attributed_metric(cell)}."
        " Negative: the edges lower it. Self-edges are the floor and have no score. The method does not see a second"
        " route that is silent as long as the first one works."
    )
    yield (f"The scores of a model sum to 100 % up to an error of at most {number(100 * float(errors.max()), 1)} %.")
    if flat:
        yield f"{count(flat, 'model')} left out: the {attributed_metric(cell)} does not fall when all edges are cut."


class Flow(View):
    """Contribution of the edges between two modalities in each layer."""

    name, order = "flow", 32
    captions = {
        "flow": "How much the edges from the modality of the column to the modality of the row contribute to the"
        " decision, in per cent; one matrix per layer, mean over subjects. Orange: these edges help the decision."
        " Violet: they harm it. Grey: no edge with a path to the readout."
    }
    cell_tables = {"Flow between modalities": layout_flow}
    cell_figures = {"flow": figure_flow}

    def shows(self, findings: Findings) -> bool:
        """Whether the flow was measured."""
        return any(len(cell.analysis("flow")) for cell in findings.cells)


FLOW = Flow()
