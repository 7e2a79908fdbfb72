"""Footnotes: what a reader needs to read the numbers of a table."""

import pandas as pd

from emg_lens.data.leakage import Leakage
from emg_lens.studies.report.wording import (
    CORRECTION_NAMES,
    MODE_NAMES,
    NULL,
    SAME,
    TEST_NAMES,
    change_name,
    edge_name,
    layer_conditions,
    layer_name,
    metric_words,
)
from emg_lens.studies.results.findings import Cell
from emg_lens.studies.statistics.families import family_sizes
from emg_lens.studies.statistics.intervals import FEWEST
from emg_lens.sweeps.conditions import BASELINE


def study_notes(cell: Cell) -> list[str]:
    """Cohort, change, tests and families, chance, granularity."""
    scores, tests, spec, metric = cell.scores, cell.tests, cell.statistics, metric_words(cell.metric)
    sizes = {family: family_sizes(tests, family) for family in ("mode", "all", "distinct")}
    chosen = ", ".join(f"{MODE_NAMES.get(name, name)} {n}" for name, n in sizes[spec.family].items())
    relative = f"100 (baseline − masked) / baseline: relative, positive where {metric} fell."
    notes = [
        f"n = {scores['subject'].nunique()} subjects, the unit of analysis; {metric} is a mean over them.",
        f"{change_name(cell)} = {relative if cell.is_fraction else '100 (masked − baseline) / baseline.'}",
        f"Sig.: {TEST_NAMES[spec.test]}, {CORRECTION_NAMES[spec.correction]} within family “{spec.family}” "
        f"(number of tests: {chosen}). * p < .05, ** < .01, *** < .001, **** < .0001, ns: not significant.",
        f"Tests by other counts: {_sizes_in_words(sizes)}.",
    ]
    unmasked = scores[scores["condition"] == BASELINE]
    fits = unmasked.groupby("subject")["fit"].nunique() if "fit" in scores else pd.Series([1])
    several = fits.max() > 1
    if several:
        notes.append(f"{_range(fits)} fits a subject (seeds, draws, folds), averaged within the subject first.")
    if cell.chance is not None:
        notes.append(f"Chance {metric}: {cell.chance:.3f}.")
    if "n_test" in scores and scores["n_test"].notna().all():
        whose, its = ("a subject in each fit", f"that fit's {metric}") if several else ("a subject", f"its {metric}")
        n, of = scores["n_test"], "trial"
        if "n_repetitions" in scores:
            n, of = scores["n_repetitions"], "repetition_id"
        windows = f" (in {_range(scores['n_test'])} windows)" if (scores["n_test"] != n).any() else ""
        one = (
            f": one {of} moves {its} by {'up to ' * bool(n.min() < n.max())}{100 / max(int(n.min()), 1):.2f} pp"
            if cell.metric in ("accuracy", "repetition_accuracy")
            else ""
        )
        notes.append(f"{_range(n)} test {of}s {whose}{windows}{one}.")
    return notes if cell.leakage is None else [*notes, *_leakage_notes(cell.leakage)]


def _leakage_notes(leakage: Leakage) -> list[str]:
    """What tells the class beside the movement: rest before it, and repetitions that follow each other."""
    told, notes = leakage.told_in_short(), []
    if told:
        notes.append(f"{told}.")
    if leakage.is_blocked:
        notes.append(
            f"{leakage.repeats_in_short()}: what outlasts a movement (posture, sweat, electrode shift) can tell its"
            " class too."
        )
    return notes


def interval_notes(rows: pd.DataFrame) -> list[str]:
    """What the intervals of these rows (`n_subjects`, `ci_low`) are, and why some have none."""
    n, without = int(rows["n_subjects"].min()), rows["ci_low"].isna()
    if n < FEWEST:
        return [f"No CI: n = {n}, and an interval needs {FEWEST} subjects to cover what it promises."]
    if without.all():
        return ["No CI where all subjects are alike."]
    none = " None where all subjects are alike." if without.any() else ""
    return [f"CI: of the mean over subjects, corrected for skewness (Hall 1992).{none}"]


def mark_notes(rows: pd.DataFrame) -> list[str]:
    """What † and ‡ mean, where they stand."""
    notes = []
    if rows["structural_null"].any():
        notes.append(
            f"{NULL} Structural null: nothing that is cut has a path to the readout, so the result equals"
            " the baseline whatever the weights are; it says nothing about the layer."
        )
    same = _equalities(rows)
    if same:
        notes.append(f"{SAME} The same live edges as an earlier condition, equal to it: {'; '.join(same)}.")
    return notes


def _equalities(rows: pd.DataFrame) -> list[str]:
    """`"RFB L1 = Individual L1"`, said once where it holds for every edge type."""
    masks = layer_conditions(rows)
    place = {r["condition"]: f"{MODE_NAMES[r['mode']]} {layer_name(r['layer'])}" for r in masks.to_dict("records")}
    said: dict[str, list[str]] = {}
    for r in rows[~rows["structural_null"]].to_dict("records"):
        if r["equivalent_to"] not in (r["condition"], BASELINE):
            here, other = (place.get(c, c) for c in (r["condition"], r["equivalent_to"]))
            said.setdefault(f"{here} = {other}", []).append(edge_name(r.get("edges", r["condition"])))
    everywhere = masks["edges"].nunique() if len(masks) else 0
    return [
        text if len(kinds) == everywhere or " = " + kinds[0] in text else f"{text} ({', '.join(kinds)})"
        for text, kinds in said.items()
    ]


def _sizes_in_words(sizes: dict[str, dict[str, int]]) -> str:
    words = {"mode": "within a mode", "all": "in all", "distinct": "distinct and able to matter"}
    counts = {family: sorted(set(by_name.values())) for family, by_name in sizes.items()}
    return ", ".join(f"{' or '.join(map(str, counts[family])) or '0'} {w}" for family, w in words.items())


def _range(column: pd.Series) -> str:
    low, high = int(column.min()), int(column.max())
    return f"{low}" if low == high else f"{low} to {high}"
