"""Footnotes of tables: cohort, tests, chance level, leakage, intervals and marks."""

import pandas as pd

from emg_lens.data.leakage import Leakage
from emg_lens.scoring.metric_registry import METRICS, weighted_mean
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
    """Footnotes on cohort, relative change, tests and families, chance, and the weight of one test repetition."""
    scores, tests, spec, metric = cell.scores, cell.tests, cell.statistics, metric_words(cell.metric)
    sizes = {family: family_sizes(tests, family) for family in ("mode", "all", "distinct")}
    chosen = ", ".join(f"{MODE_NAMES.get(name, name)} {n}" for name, n in sizes[spec.family].items())
    relative = f"100 (baseline − masked) / baseline, positive where {metric} fell."
    notes = [
        f"n = {scores['subject'].nunique()} subjects; {metric} is the mean over subjects.",
        f"{change_name(cell)} = {relative if cell.is_fraction else '100 (masked − baseline) / baseline.'}",
        f"Sig.: {TEST_NAMES[spec.test]}, {CORRECTION_NAMES[spec.correction]} within family “{spec.family}” "
        f"(number of tests: {chosen}). * p < .05, ** < .01, *** < .001, **** < .0001, ns: not significant."
        " These are tests over subjects. The p of a verdict compares with random controls instead.",
        _number_of_tests(sizes),
    ]
    unmasked = scores[scores["condition"] == BASELINE]
    fits = unmasked.groupby("subject")["fit"].nunique() if "fit" in scores else pd.Series([1])
    several = fits.max() > 1
    if several:
        notes.append(f"{_range(fits)} fits per subject (seeds, electrode sets, folds), averaged within subjects first.")
    if cell.chance is not None:
        notes.append(f"Chance {metric}: {cell.chance:.3f}.")
    if "n_test" in scores and scores["n_test"].notna().all():
        per, whole = ("per subject and fit", "fit") if several else ("per subject", "subject")
        n, of = scores["n_test"], "trial"
        if "n_repetitions" in scores:
            n, of = scores["n_repetitions"], "repetition"
        windows = f" ({_range(scores['n_test'])} windows)" if (scores["n_test"] != n).any() else ""
        step = f"{'up to ' * bool(n.min() < n.max())}{100 / max(int(n.min()), 1):.2f} pp"
        one = f": one {of} changes the {whole}'s {metric} by {step}" if _is_mean_over_repetitions(cell.metric) else ""
        notes.append(f"{_range(n)} test {of}s {per}{windows}{one}.")
    return notes if cell.leakage is None else [*notes, *_leakage_notes(cell.leakage)]


def _is_mean_over_repetitions(metric: str) -> bool:
    """Whether a metric is a plain mean in which every repetition has the same weight."""
    if metric not in METRICS:
        return False
    declared = METRICS[metric]
    return declared.unit == "fraction" and declared.value is weighted_mean and declared.repetitions != "ignored"


def _leakage_notes(leakage: Leakage) -> list[str]:
    """Footnotes on class information outside the gesture: before its onset, and in the order of repetitions."""
    before_onset = leakage.decodability_clause()
    return [*([f"{before_onset}."] if before_onset else []), *order_notes(leakage)]


def order_notes(leakage: Leakage) -> list[str]:
    """A footnote on the order of repetitions, if gestures were recorded in blocks."""
    if not leakage.is_blocked:
        return []
    return [
        f"{leakage.class_repeats_clause()}: posture, sweat or electrode shift that lasts beyond one repetition can"
        " also predict the class."
    ]


def interval_notes(rows: pd.DataFrame) -> list[str]:
    """Footnotes on how the intervals of these rows (`n_subjects`, `ci_low`) are computed, and why some are missing."""
    n, without = int(rows["n_subjects"].min()), rows["ci_low"].isna()
    if n < FEWEST:
        return [f"No CI: an interval needs at least {FEWEST} subjects (n = {n})."]
    if without.all():
        return ["No CI where all subjects have the same value."]
    none = " No CI where all subjects have the same value." if without.any() else ""
    return [f"CI: Student t confidence interval of the mean over subjects.{none}"]


def mark_notes(rows: pd.DataFrame) -> list[str]:
    """Footnotes on † and ‡, where these marks occur."""
    notes = []
    if rows["structural_null"].any():
        notes.append(
            f"{NULL} Structural null: no cut edge has a path to the readout, so the result equals the baseline for any"
            " weights. It says nothing about the layer."
        )
    same = _equalities(rows)
    if same:
        notes.append(f"{SAME} Cuts the same live edges as an earlier condition, with equal results: {'; '.join(same)}.")
    return notes


def _equalities(rows: pd.DataFrame) -> list[str]:
    """Equal conditions as `"RFB L1 = Individual L1"`; the edge types are listed where it does not hold for all."""
    masks = layer_conditions(rows)
    place = {r["condition"]: f"{MODE_NAMES[r['mode']]} {layer_name(r['layer'])}" for r in masks.to_dict("records")}
    kinds_of: dict[str, list[str]] = {}
    for r in rows[~rows["structural_null"]].to_dict("records"):
        if r["equivalent_to"] not in (r["condition"], BASELINE):
            here, other = (place.get(c, c) for c in (r["condition"], r["equivalent_to"]))
            kinds_of.setdefault(f"{here} = {other}", []).append(edge_name(r.get("edges", r["condition"])))
    everywhere = masks["edges"].nunique() if len(masks) else 0
    return [
        text if len(kinds) == everywhere or " = " + kinds[0] in text else f"{text} ({', '.join(kinds)})"
        for text, kinds in kinds_of.items()
    ]


def _number_of_tests(sizes: dict[str, dict[str, int]]) -> str:
    per_mode, every, distinct = (
        " or ".join(map(str, sorted(set(sizes[family].values())))) or "0" for family in ("mode", "all", "distinct")
    )
    tests = "1 test" if every == "1" else f"{every} tests"
    by_mode = f" ({per_mode} per mode)" if per_mode != every else ""
    kind = "is distinct and not a structural null" if distinct == "1" else "are distinct and not structural nulls"
    return f"{tests}{by_mode}, of which {distinct} {kind}."


def _range(column: pd.Series) -> str:
    low, high = int(column.min()), int(column.max())
    return f"{low}" if low == high else f"{low} to {high}"
