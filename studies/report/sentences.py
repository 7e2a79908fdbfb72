"""What a report says of its cuts in words: what they cost, and what their controls say of it (docs/controls.md §8).

No sentence says that edges carry, need or prove something: a price is told, and beside it what random cuts, larger cuts
and open detours make of it.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from emg_lens.studies.report.wording import (
    NOT_SIGNIFICANT,
    UNIT_WORDS,
    cut_in_words,
    cut_names,
    layer_conditions,
    layer_name,
    metric_words,
    value,
    with_interval,
)
from emg_lens.studies.results.control_effects import Controlled, controlled_cuts, is_everywhere
from emg_lens.studies.results.findings import Cell
from emg_lens.studies.statistics.power import smallest_p


def cost_sentences(cell: Cell) -> list[str]:
    """For each edge type: what cutting it in every layer costs, where one layer costs most, and what controls say."""
    masks = layer_conditions(cell.tests)
    controlled = {name: one for one in controlled_cuts(cell) for name in one.alike}
    names = cut_names(cell)
    sentences = []
    for kind in masks["edges"].unique() if len(masks) else ():
        rows = masks[(masks["edges"] == kind) & ~masks["structural_null"]]
        single = rows[rows["mode"] == "individual"].sort_values("difference", ascending=not cell.lower_is_better)
        whole = [row for row in rows.to_dict("records") if is_everywhere(cell, row)][:1]
        told = [("in every layer", row) for row in whole]
        worse = 1 if cell.lower_is_better else -1
        for row in single.head(1).to_dict("records"):
            if worse * row["difference"] <= 0 or row["equivalent_to"] in [one["equivalent_to"] for one in whole]:
                continue
            told.append((f"in {layer_name(row['layer'])}, the costliest layer", row))
        name, at = cut_in_words(str(kind)), f"{cell.label}: " if cell.label else ""
        for where, row in told:
            said = [f"{at}{name[:1].upper()}{name[1:]} {where}: {_change(row, cell)}."]
            if row["condition"] in controlled:
                said.append(control_sentence(controlled[row["condition"]], cell, names))
            sentences.append(" ".join(said))
    return sentences


def control_sentence(cut: Controlled, cell: Cell, names: Mapping[str, str]) -> str:
    """What the controls of a cut say of its price."""
    metric, said = metric_words(cell.metric), []
    if cut.random:
        spread = f"{value(float(np.mean(cut.random)))}, from {value(min(cut.random))} to {value(max(cut.random))}"
        said.append(
            f"Of {len(cut.random)} random cuts of as many live edges of the same kinds {cut.n_cheaper} cost less on the"
            f" mean over subjects ({metric} {spread}; here {value(cut.mean)})."
        )
    if cut.larger:
        said.append(
            f"A larger cut costs less ({names.get(cut.larger, cut.larger)}: {value(cut.larger_mean)}): not all of this"
            " price is information that only these edges bring."
        )
    elif cut.n_larger:
        less = "; on the mean one does" if cut.costs_more_than_a_larger else ""
        said.append(f"No larger cut is found to cost less beyond chance, of {cut.n_larger}{less}.")
    if not np.isnan(cut.cls_path_closed):
        said.append(f"CLS stays open as a detour; with CLS unread by other tokens too: {metric} {value(cut.cls_path_closed)}.")
    return " ".join(said)


def _change(row: Mapping[str, Any], cell: Cell) -> str:
    sign = "+" if row["difference"] > 0 else ""
    level = f"({100 * cell.statistics.confidence:g} % CI)" if not np.isnan(row["ci_low"]) else ""
    parts = (f"{sign}{with_interval(row)}", UNIT_WORDS.get(row["unit"], ""), level, _significance(row, cell))
    return " ".join(part for part in parts if part)


def _significance(row: Mapping[str, Any], cell: Cell) -> str:
    """The stars; where no result of so few subjects could have any, that."""
    size, spec = row["family_size"], cell.statistics
    if row["stars"] != NOT_SIGNIFICANT or not size > 0:
        return row["stars"]
    possible = smallest_p(int(row["n_subjects"]), int(size), spec).corrected < spec.alpha
    return row["stars"] if possible else f"({NOT_SIGNIFICANT}: {row['n_subjects']} subjects cannot be significant)"
