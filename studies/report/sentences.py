"""What a report says of its cuts in words: what they cost, and what their controls say of it (docs/protocol.md §8).

No sentence says that edges carry, need or prove something: a price is told, and beside it what random cuts, larger cuts
and open detours make of it.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from emg_lens.studies.control_values import Controlled, controlled_cuts, is_everywhere
from emg_lens.studies.findings import Cell
from emg_lens.studies.report.wording import (
    UNIT_WORDS,
    cut_in_words,
    cut_names,
    layer_conditions,
    layer_name,
    metric_words,
    value,
    with_interval,
)


def cost_sentences(cell: Cell) -> list[str]:
    """For each edge type: what cutting it in every layer costs, where one layer costs most, and what controls say."""
    masks = layer_conditions(cell.tests)
    controlled = {one.condition: one for one in controlled_cuts(cell)}
    names = cut_names(cell)
    sentences = []
    for kind in masks["edges"].unique() if len(masks) else ():
        rows = masks[(masks["edges"] == kind) & ~masks["structural_null"]]
        single = rows[rows["mode"] == "individual"].sort_values("difference", ascending=not cell.lower_is_better)
        whole = [row for row in rows.to_dict("records") if is_everywhere(cell, row)][:1]
        costs = [f"in every layer: {_change(row, cell)}" for row in whole]
        for row in single.head(1).to_dict("records"):
            costs.append(f"among single layers most at {layer_name(row['layer'])}: {_change(row, cell)}")
        if costs:
            name = cut_in_words(str(kind))
            at = f"{cell.label}: " if cell.label else ""
            checked = [
                control_sentence(controlled[row["condition"]], cell, names)
                for row in whole
                if row["condition"] in controlled
            ]
            sentences.append(" ".join([f"{at}{name[:1].upper()}{name[1:]} {'; '.join(costs)}.", *checked]))
    return sentences


def control_sentence(cut: Controlled, cell: Cell, names: Mapping[str, str]) -> str:
    """What the controls of a cut say of its price."""
    metric, said = metric_words(cell.metric), []
    if cut.random:
        spread = (
            f"{value(float(np.mean(cut.random)))} on the mean, {value(min(cut.random))} to {value(max(cut.random))}"
        )
        said.append(
            f"Of {len(cut.random)} random cuts of as many live edges, {cut.n_cheaper} cost less ({metric} {spread},"
            f" against {value(cut.mean)})."
        )
    if cut.larger:
        said.append(
            f"A larger cut costs less ({names.get(cut.larger, cut.larger)}: {value(cut.larger_mean)}), so this price is"
            " not what the edges carried."
        )
    elif cut.n_larger:
        said.append(f"None of the {cut.n_larger} larger cuts costs less.")
    if not np.isnan(cut.detour):
        said.append(f"CLS is a detour that stays open; with CLS unread by other tokens too: {value(cut.detour)}.")
    return " ".join(said)


def _change(row: Mapping[str, Any], cell: Cell) -> str:
    sign = "+" if row["difference"] > 0 else ""
    level = f"({100 * cell.statistics.confidence:g} % CI)" if not np.isnan(row["ci_low"]) else ""
    parts = (f"{sign}{with_interval(row)}", UNIT_WORDS.get(row["unit"], ""), level, row["stars"])
    return " ".join(part for part in parts if part)
