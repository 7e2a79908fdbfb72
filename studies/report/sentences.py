"""Sentences on the effect of each cut, and on what its controls add (docs/controls.md §8).

A sentence gives the change, its interval and the comparison with the controls. It never says that edges carry, need or
prove something.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from emg_lens.studies.report.wording import (
    NOT_SIGNIFICANT,
    change_in_words,
    cut_in_words,
    cut_names,
    layer_conditions,
    layer_name,
    metric_words,
    no_superset,
    p_limit,
    single_conditions,
    value,
)
from emg_lens.studies.results.control_effects import Controlled, controlled_cuts, cuts_every_layer
from emg_lens.studies.results.findings import Cell
from emg_lens.studies.statistics.corrections import STARS
from emg_lens.studies.statistics.power import smallest_p

MOST_SINGLE_CONDITIONS = 4
"""The summary lists the effects of so many single conditions; more are in the tables only."""


def effect_sentences(cell: Cell) -> list[str]:
    """Describe the effects that answer the question of a study.

    For each edge type: the effect of cutting it in every layer, and in the single layer where it hurts most. Then the
    effects of the single conditions, unless a study has more than `MOST_SINGLE_CONDITIONS`.
    """
    masks = layer_conditions(cell.tests)
    controlled = {name: cut for cut in controlled_cuts(cell) for name in cut.alike}
    names = cut_names(cell)
    sentences = []
    for kind in masks["edges"].unique() if len(masks) else ():
        rows = masks[(masks["edges"] == kind) & ~masks["structural_null"]]
        single = rows[rows["mode"] == "individual"].sort_values("difference", ascending=not cell.lower_is_better)
        whole = [row for row in rows.to_dict("records") if cuts_every_layer(cell, row)][:1]
        chosen = [("in every layer", row) for row in whole]
        worse = 1 if cell.lower_is_better else -1
        for row in single.head(1).to_dict("records"):
            if worse * row["difference"] <= 0 or row["equivalent_to"] in [one["equivalent_to"] for one in whole]:
                continue
            chosen.append((f"in {layer_name(row['layer'])} alone, the layer with the largest effect", row))
        name, at = cut_in_words(str(kind)), f"{cell.label}: " if cell.label else ""
        for where, row in chosen:
            parts = [f"{at}{name[:1].upper()}{name[1:]} {where}: {_change(row, cell)}."]
            if row["condition"] in controlled:
                parts.append(control_sentences(controlled[row["condition"]], cell, names))
            sentences.append(" ".join(parts))
    return sentences + _effects_of_single_conditions(cell, controlled, names)


def _effects_of_single_conditions(
    cell: Cell, controlled: Mapping[str, Controlled], names: Mapping[str, str]
) -> list[str]:
    rows = single_conditions(cell.tests)
    rows = rows[~rows["structural_null"].astype(bool) & (rows["equivalent_to"] == rows["condition"])]
    at, sentences = f"{cell.label}: " if cell.label else "", []
    for row in rows.to_dict("records") if len(rows) <= MOST_SINGLE_CONDITIONS else ():
        parts = [f"{at}{row['condition']}: {_change(row, cell)}."]
        if row["condition"] in controlled:
            parts.append(control_sentences(controlled[row["condition"]], cell, names))
        sentences.append(" ".join(parts))
    return sentences


def control_sentences(cut: Controlled, cell: Cell, names: Mapping[str, str]) -> str:
    """The comparison of a cut with its controls, one sentence per kind of control."""
    metric, sentences = metric_words(cell.metric), []
    if cut.random:
        spread = f"mean {value(float(np.mean(cut.random)))}, range {value(min(cut.random))} to {value(max(cut.random))}"
        sentences.append(
            f"{cut.n_random_hurt_less} of {len(cut.random)} size-matched random cuts hurt less"
            f" ({metric} with this cut: {value(cut.mean)}; with random cuts: {spread})."
        )
    if cut.superset:
        sentences.append(
            "Part of this effect is not lost information: a cut of these edges and more (superset ablation) hurts less"
            f" ({names.get(cut.superset, cut.superset)}: {value(cut.superset_mean)})."
        )
    elif cut.n_supersets:
        on_average = " At least one is better on average." if cut.hurts_more_than_a_superset else ""
        sentences.append(no_superset(cut.n_supersets, "is clearly better") + on_average)
    if not np.isnan(cut.cls_path_closed):
        sentences.append(
            f"Information can still pass through CLS. With that path closed, {metric} is {value(cut.cls_path_closed)}."
        )
    return " ".join(sentences)


def _change(row: Mapping[str, Any], cell: Cell) -> str:
    change = change_in_words(row, cell.statistics.confidence)
    return f"{metric_words(cell.metric)} changes by {change}, {_significance(row, cell)}"


def _significance(row: Mapping[str, Any], cell: Cell) -> str:
    """The corrected p as an upper limit; "not significant", and whether so few subjects could be."""
    size, spec = row["family_size"], cell.statistics
    limits = {stars: limit for limit, stars in STARS}
    if row["stars"] in limits:
        return f"corrected p < {p_limit(limits[row['stars']])}"
    if row["stars"] != NOT_SIGNIFICANT:
        return "not tested"
    possible = not size > 0 or smallest_p(int(row["n_subjects"]), int(size), spec).corrected < spec.alpha
    return "not significant" if possible else f"not significant (with {row['n_subjects']} subjects no test can be)"
