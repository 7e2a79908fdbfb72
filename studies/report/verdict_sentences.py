"""The verdict on an ablation as one sentence: finding, number with interval, comparison with the controls.

No sentence says that edges carry, need or prove something.
"""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from emg_lens.studies.report.wording import (
    UNIT_WORDS,
    layer_name,
    metric_words,
    number,
    p_value,
    value,
)
from emg_lens.studies.results.control_effects import cuts_every_layer
from emg_lens.studies.results.findings import Cell, Findings
from emg_lens.studies.results.verdicts import Verdict, verdicts_of
from emg_lens.studies.spec.removal_spec import REMOVAL
from emg_lens.studies.statistics.intervals import FEWEST

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
    """Write a verdict as one or two sentences."""
    done, comparison = f"With {what_was_done(one.row, cell)}", controls_in_words(one)
    if one.verdict == "no interval":
        return f"{done}, {_changes_of_subjects(one, cell)}{f' {comparison}.' if comparison else ''}"
    if one.reason == "zero":
        return f"{done}, there is no detectable {harm(cell)}: {drop_in_words(one, cell)}."
    moves = "rises" if cell.lower_is_better else "falls"
    effect = f"{done}, {metric_words(cell.metric)} {moves} by {drop_in_words(one, cell)} to {value(one.cut.mean)}"
    among = f"{p_value(one.p_random)}{f', corrected for {one.n_screened} ablations' * (one.n_screened > 1)}"
    if one.verdict == "shown":
        n = len(one.changes)
        of = f"All {n}" if one.n_worse == n else f"{one.n_worse} of {n}"
        return f"{effect}. {of} subjects become worse, and {comparison} ({among})."
    if one.verdict == "no control":
        which = f"only {len(one.cut.random)} random controls exist" if one.cut.random else "no random control was run"
        return f"{effect}. Whether this {harm(cell)} is specific is open: {which}."
    if one.reason == "random" and one.row.get("mode") == REMOVAL:
        return f"{effect}. This {harm(cell)} is not clearly larger than for random channels: {comparison} ({among})."
    if one.reason == "random":
        return f"{effect}, but not clearly more than with random controls: {comparison} ({among})."
    if one.reason == "superset":
        larger = f"with {_superset(one.cut.superset or '', cell)}: {value(one.cut.superset_mean)}"
        return (
            f"{effect}. {comparison}, but so does a superset ablation ({larger}). Part of this {harm(cell)} is not lost"
            " information."
        )
    best = value(one.cut.best_superset_mean)
    return f"{effect}. {comparison}. A superset ablation also hurts less on average ({best}), but not clearly."


def what_was_done(row: Mapping[str, Any], cell: Cell) -> str:
    """Describe an ablation: `"all cross-modal edges cut"`, `"head H2 of L1 cut"`; single conditions by their name."""
    edges, layer, mode = edges_in_words(str(row.get("edges", ""))), row.get("layer", float("nan")), row.get("mode", "")
    if pd.isna(layer):
        return str(row["condition"]) if mode == REMOVAL else f"“{row['condition']}”"
    if not pd.isna(row.get("head", float("nan"))):
        return f"{edges} of head H{int(row['head'])} in {layer_name(layer)} cut"
    if cuts_every_layer(cell, row):
        return f"all {edges} cut"
    if mode == "individual":
        return f"{edges} of {layer_name(layer)} cut"
    return f"{edges} {'up to' if mode == 'from_beginning' else 'from'} {layer_name(layer)} cut"


def edges_in_words(kind: str) -> str:
    """Name an edge type in a sentence: `"cross-modal edges"` for `"cross_modal"`."""
    return {"unimodal": "unimodal edges", "cross_modal": "cross-modal edges", "every": "edges"}.get(
        kind, f"{kind} edges"
    )


def drop_in_words(one: Verdict, cell: Cell) -> str:
    """Format a drop with its interval for a sentence: `"31.2 pp (95 % CI [25.0, 37.4])"`."""
    drop, _, interval = with_interval_of(one).partition(" ")
    unit = UNIT_WORDS.get(one.row["unit"], "")
    ends = f" ({100 * cell.statistics.confidence:g} % CI {interval})" if interval else ""
    return f"{drop}{' ' * bool(unit)}{unit}{ends}"


def with_interval_of(one: Verdict) -> str:
    """Format a drop with its interval for a table: `"31.2 [25.0, 37.4]"`."""
    decimals = 1 if one.row["unit"] == "pp" else 3
    drop, low, high = (number(x, decimals) for x in (one.drop, *one.interval))
    return drop if pd.isna(one.interval[0]) else f"{drop} [{low}, {high}]"


def controls_in_words(one: Verdict) -> str:
    """Name the controls that hurt less: `"20 of 20 size-matched random cuts hurt less"`; empty without controls."""
    n = len(one.cut.random)
    if not n:
        return ""
    kind = "random removals of as many channels" if one.row.get("mode") == REMOVAL else "size-matched random cuts"
    return f"{one.cut.n_random_hurt_less} of {n} {kind} hurt less"


def harm(cell: Cell) -> str:
    """Word for a harmful change: `"drop"`, or `"increase"` for an error."""
    return "increase" if cell.lower_is_better else "drop"


def _superset(name: str, cell: Cell) -> str:
    """Describe a superset ablation, which is a condition or a control."""
    rows = cell.tests[cell.tests["condition"] == name].to_dict("records")
    if rows:
        return what_was_done(rows[0], cell)
    return f"all {name.replace('unimodal', 'unimodal edges').replace('cross_modal', 'cross-modal edges')} cut"


def _changes_of_subjects(one: Verdict, cell: Cell) -> str:
    """Describe the subjects' changes where there is no interval."""
    n, metric, unit = len(one.changes), metric_words(cell.metric), UNIT_WORDS.get(one.row["unit"], "")
    unit, decimals = f"{' ' * bool(unit)}{unit}", 1 if one.row["unit"] == "pp" else 3
    low, high = (number(x, decimals) for x in (min(one.changes), max(one.changes)))
    if one.reason == "alike":
        return f"{metric} changes by the same amount in all {n} subjects ({low}{unit}), so there is no interval."
    return (
        f"{metric} becomes worse in {one.n_worse} of {n} subjects (changes from {low} to {high}{unit})."
        f" An interval needs {FEWEST} subjects."
    )
