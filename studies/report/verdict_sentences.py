"""The verdict on an ablation as one sentence: finding, number with interval, comparison with the controls.

No sentence says that edges carry, need or prove something.
"""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from emg_lens.studies.report.wording import (
    UNIT_WORDS,
    change_in_words,
    count,
    layer_name,
    metric_words,
    number,
    p_value,
    value,
)
from emg_lens.studies.results.control_effects import cuts_every_layer
from emg_lens.studies.results.findings import Cell, Findings
from emg_lens.studies.results.verdicts import Verdict, enough_random, verdicts_of
from emg_lens.studies.spec.removal_spec import REMOVAL
from emg_lens.studies.statistics.intervals import FEWEST

EDGES_IN_WORDS = {
    "unimodal but self-edges": "unimodal edges except self-edges",
    "unimodal": "unimodal edges",
    "cross_modal": "cross-modal edges",
    "every": "edges",
    "all": "edges",
    "other channels": "edges between channels",
    "same channel": "edges within a channel",
    "other times": "edges between times",
    "same time": "edges within a time",
}
NO_CONTROL = {
    "mean": "only removals by the signals of another trial have random controls",
    "several layers": "only cuts of one layer and of every layer have random controls",
    "single": "of the study's extra conditions, only those that cut edges and do nothing else have random controls, if"
    " other sets of as many edges exist",
}
"""Why there is no random control, by `Verdict.reason`."""
OBJECTIONS = {
    "zero": "interval includes zero",
    "random": "not clearly above random controls",
    "superset": "cutting more hurts less",
    "superset on average": "cutting more hurts less on average",
    "not requested": "study asks for too few",
    "most channels": "takes most channels",
    "mean": "set to a mean",
    "several layers": "several layers, not all",
    "single": "not a plain cut",
    "few random": "too few other sets exist",
}
"""Why an effect is not shown, or why it has no control, by `Verdict.reason`."""
COLUMNS = ("condition", "verdict", "drop", "low", "high", "unit", "p", "p_random", "controls", "sentence")


def verdict_table(findings: Findings) -> pd.DataFrame:
    """Return the verdicts as a data frame: the factors, then `COLUMNS`, one row per distinct ablation."""
    rows = [
        {**cell.levels, **dict(zip(COLUMNS, _columns(one, cell), strict=True))}
        for cell, verdicts in verdicts_of(findings)
        for one in verdicts
    ]
    return pd.DataFrame(rows, columns=[*findings.factors, *COLUMNS])


def _columns(one: Verdict, cell: Cell) -> tuple[Any, ...]:
    numbers = (one.drop, *one.interval, one.row["unit"], one.row["p_corrected"], one.p_random)
    return one.cut.condition, one.verdict, *numbers, controls_in_words(one), sentence(one, cell)


def sentence(one: Verdict, cell: Cell) -> str:
    """Write a verdict as one to three sentences."""
    done, n = f"With {what_was_done(one.row, cell)}", len(one.changes)
    if one.verdict == "no interval":
        return f"{done}, {_changes_of_subjects(one, cell)}"
    if one.reason == "zero" and not one.interval[1] < 0:
        worse = f"{one.n_worse} of {n} subjects get worse"
        change = change_in_words(one.row, cell.statistics.confidence)
        return f"{done}, {metric_words(cell.metric)} does not change clearly: {change}; {worse}."
    gains = one.drop < 0
    moves, change = ("falls", "rises")[cell.lower_is_better != gains], drop_in_words(one, cell, -1 if gains else 1)
    effect = f"{done}, {metric_words(cell.metric)} {moves} by {change} to {value(one.cut.mean)}"
    if gains:
        return f"{effect}."
    comparison = controls_in_words(one)
    family = f"{one.n_screened} {'cuts of heads' if one.cut.shares_random else 'ablations'}"
    among = f"{p_value(one.p_random)}{f', corrected for {family}' * (one.n_screened > 1)}"
    if one.verdict == "shown":
        of = f"All {n}" if one.n_worse == n else f"{one.n_worse} of {n}"
        return f"{effect}. {of} subjects get worse, and {comparison} ({among})."
    if one.verdict == "no control":
        return f"{effect}. Whether this {harm(cell)} is specific is open: {why_no_control(one, cell)}."
    if one.reason == "random" and one.cut.n_random_hurt_less < len(one.cut.random):
        also = ""
        if one.row.get("mode") == REMOVAL and " channel" not in one.row["edges"]:
            also = (
                " Most of these random removals also remove channels of other sensors, so they cannot show which sensor"
                " matters."
            )
        return (
            f"{effect}. {controls_in_words(one, as_much=True)}, so this {harm(cell)} is not specific ({among}).{also}"
        )
    if one.reason == "random":
        return f"{effect}. {comparison}, but the difference is not clear ({among})."
    if one.reason == "superset":
        larger = _superset(one.cut.superset or "", cell)
        return (
            f"{effect}. {comparison}. But cutting more ({larger}) also hurts less: {value(one.cut.superset_mean)}. So"
            f" lost information does not explain all of this {harm(cell)}."
        )
    larger, best = _superset(one.cut.best_superset or "", cell), value(one.cut.best_superset_mean)
    return (
        f"{effect}. {comparison}. Cutting more ({larger}) hurts less on average ({best}), but this difference is not"
        f" clear. So part of this {harm(cell)} may not be lost information."
    )


def why_no_control(one: Verdict, cell: Cell) -> str:
    """Say why an ablation has no random control, or too few."""
    needed, n = enough_random(cell.statistics.alpha), len(one.cut.random)
    if one.reason == "most channels":
        removed, of = sum(cell.channels[name] for name in one.row["edges"].split(" and ")), sum(cell.channels.values())
        return (
            f"the removal takes {removed} of {of} channels, and random removals of as many take most of the same"
            " channels"
        )
    if one.reason == "not requested":
        return f"the study asks for fewer than {needed} random controls (conditions.controls.random_edges)"
    if one.reason == "few random" and one.row["mode"] != REMOVAL and not n:
        return "the cut has every edge of its kinds in these layers, so no other edges can be cut instead"
    if one.reason == "few random":
        others = count(n, "other set") + (" of this size exists" if n == 1 else " of this size exist")
        return f"{'only ' * bool(n)}{others if n else 'no other set of this size exists'}, and {needed} are needed"
    return NO_CONTROL[one.reason]


def what_was_done(row: Mapping[str, Any], cell: Cell) -> str:
    """Describe an ablation: `"all cross-modal edges cut"`, `"head H2 of L1 cut"`; single conditions by their name."""
    edges, layer, mode = edges_in_words(str(row.get("edges", ""))), row.get("layer", float("nan")), row.get("mode", "")
    if pd.isna(layer):
        name = str(row["condition"])
        if row.get("edges_cut", 0) > 0 and (name in EDGES_IN_WORDS or " -> " in name):
            return f"{EDGES_IN_WORDS.get(name, f'edges {name}')} cut"
        return name if mode == REMOVAL else f"“{name}”"
    if not pd.isna(row.get("head", float("nan"))):
        return f"{edges} of head H{int(row['head'])} in {layer_name(layer)} cut"
    if cuts_every_layer(cell, row):
        return f"all {edges} cut"
    if mode == "individual":
        return f"{edges} of {layer_name(layer)} cut"
    return f"{edges} {'up to' if mode == 'from_beginning' else 'from'} {layer_name(layer)} cut"


def is_all_but_one(row: Mapping[str, Any]) -> bool:
    """Say whether an ablation removes all sensors but one. It does not answer whether the model needs a sensor."""
    return row.get("mode") == REMOVAL and " and " in str(row.get("edges"))


def edges_in_words(kind: str) -> str:
    """Name an edge type in a sentence: `"cross-modal edges"` for `"cross_modal"`."""
    return EDGES_IN_WORDS.get(kind, f"{kind} edges")


def drop_in_words(one: Verdict, cell: Cell, sign: int = 1) -> str:
    """Format a drop, or with `sign=-1` a gain, with its interval: `"31.2 pp (95 % CI [25.0, 37.4])"`."""
    drop, _, interval = with_interval_of(one, sign).partition(" ")
    unit = UNIT_WORDS.get(one.row["unit"], "")
    ends = f" ({100 * cell.statistics.confidence:g} % CI {interval})" if interval else ""
    return f"{drop}{' ' * bool(unit)}{unit}{ends}"


def with_interval_of(one: Verdict, sign: int = 1) -> str:
    """Format a drop, or with `sign=-1` a gain, with its interval for a table: `"31.2 [25.0, 37.4]"`."""
    low, high = sorted(sign * end for end in one.interval)
    drop, low, high = (_number(one, x) for x in (sign * one.drop, low, high))
    return drop if pd.isna(one.interval[0]) else f"{drop} [{low}, {high}]"


def _number(one: Verdict, x: float) -> str:
    """Format a number in the unit of a drop; tiny drops get more decimals."""
    return number(x, 1 if one.row["unit"] == "pp" and not 0 < abs(one.drop) < 0.1 else 3)


def controls_in_words(one: Verdict, as_much: bool = False) -> str:
    """Count the controls that hurt less, or with `as_much` those that hurt at least as much; empty without controls."""
    n = len(one.cut.random)
    if not n:
        return ""
    kind = "random removals of as many channels" if one.row.get("mode") == REMOVAL else "size-matched random cuts"
    if one.cut.shares_random:
        kind += f" in {layer_name(one.row['layer'])}"
    if as_much:
        return f"{n - one.cut.n_random_hurt_less} of {n} {kind} hurt as much or more"
    return f"{one.cut.n_random_hurt_less} of {n} {kind} hurt less"


def harm(cell: Cell) -> str:
    """Word for a harmful change: `"drop"`, or `"increase"` for an error."""
    return "increase" if cell.lower_is_better else "drop"


def _superset(name: str, cell: Cell) -> str:
    """Describe a superset ablation, which is a condition or a control."""
    if name in cell.rows:
        return what_was_done(cell.rows[name], cell).removesuffix(" cut")
    if name.endswith(", CLS path closed"):
        return "the path through CLS closed as well"
    return f"all {name.replace('cross_modal', 'cross-modal')} edges"


def _changes_of_subjects(one: Verdict, cell: Cell) -> str:
    """Describe the subjects' changes where there is no interval."""
    n, metric, unit = len(one.changes), metric_words(cell.metric), UNIT_WORDS.get(one.row["unit"], "")
    drops, unit = sorted(-change for change in one.changes), f"{' ' * bool(unit)}{unit}"
    low, high = _number(one, drops[0]), _number(one, drops[-1])
    if one.reason == "alike" or (n > 1 and drops[0] == drops[-1]):
        if drops[0] == 0:
            return f"{metric} does not change in any of {count(n, 'subject')}."
        return f"the {harm(cell)} of {metric} is the same in all {n} subjects ({low}{unit}), so there is no interval."
    needs = f"An interval needs {FEWEST} subjects."
    if n == 1:
        return f"the {harm(cell)} of {metric} is {low}{unit} in the only subject. {needs}"
    return f"{metric} gets worse in {one.n_worse} of {n} subjects ({harm(cell)}s from {low} to {high}{unit}). {needs}"
