"""Sentences on what a study shows and does not show, from its controls, its audit and its leakage report.

A cut is listed under "Shown" only if its interval excludes zero and every control that was run agrees on average.
Limits that follow from a control, the audit or the split are listed under "Not shown" (docs/controls.md §8).
"""

from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from emg_lens.data.pre_onset import ALL
from emg_lens.studies.report.wording import (
    NOT_SIGNIFICANT,
    change_in_words,
    cut_names,
    edge_name,
    harm_word,
    layer_conditions,
    layer_name,
    metric_name,
    metric_words,
    no_superset,
    p_limit,
    value,
)
from emg_lens.studies.results.control_effects import Controlled, controlled_cuts
from emg_lens.studies.results.findings import Cell, Findings
from emg_lens.studies.spec.factors import SEED
from emg_lens.studies.statistics.comparison import by_subject
from emg_lens.studies.statistics.intervals import FEWEST
from emg_lens.studies.statistics.power import smallest_p
from emg_lens.studies.statistics.spec import StatisticsSpec
from emg_lens.sweeps.conditions import BASELINE

ENOUGH_RANDOM_CUTS = 19
"""With so many random cuts, the cut hurts most by chance once in twenty studies."""
NOTHING_SHOWN = (
    "No cut had a clear and specific effect: none has both an interval that excludes zero and controls that all"
    " hurt less."
)
PRE_ONSET_LIMIT = 2.0
"""A report warns of pre-onset decodability above so many times chance."""


def what_is_shown(findings: Findings) -> list[str]:
    """Sentences that the numbers and all their controls support."""
    confidence = findings.study.statistics.confidence
    sentences = [f"{_at(cell)}{sentence}" for cell in findings.cells for sentence in shown_of(cell)]
    is_judged = any((cell.tests["n_subjects"] >= FEWEST).any() for cell in findings.cells if len(cell.tests))
    if is_judged and not any(sentence for cell in findings.cells for sentence in _specific_effects(cell)):
        sentences.append(NOTHING_SHOWN)
    return sentences + [
        f"Unmasked models, {_levels(findings, row)}: {change_in_words(row, confidence)}, {row['n_subjects']} subjects,"
        " with the training settings of this study."
        for row in _level_rows(findings)["different"]
    ]


def what_is_not_shown(findings: Findings) -> list[str]:
    """Sentences on what the numbers leave open; a sentence that holds at all levels is printed once."""
    labels: dict[str, list[str]] = {}
    for cell in findings.cells:
        for sentence in not_shown_of(cell):
            labels.setdefault(sentence, []).append(cell.label)
    every = len(findings.cells)
    sentences = [sentence if len(at) == every else f"{'; '.join(at)}: {sentence}" for sentence, at in labels.items()]
    rows, confidence = _level_rows(findings), findings.study.statistics.confidence
    if rows["not different"]:
        changes = "; ".join(f"{_levels(findings, r)} {change_in_words(r, confidence)}" for r in rows["not different"])
        sentences.append(f"No detectable difference between levels: {changes}. This does not show that they are equal.")
    if rows["no interval"]:
        changes = "; ".join(f"{_levels(findings, r)} {change_in_words(r, confidence)}" for r in rows["no interval"])
        sentences.append(f"Differences between levels without an interval: {changes}.")
    if len(findings.level_tests):
        sentences += [f"Between levels: {text}" for text in _too_few(findings.level_tests, findings.study.statistics)]
    if any(spec.model.pretrained for _, spec in findings.study.cells):
        sentences.append(
            "Pre-training subjects may overlap with the test subjects of this split: training started from pre-trained"
            " weights (see the notes on the weights)."
        )
    if SEED not in findings.study.factors:
        sentences.append("One training seed: the variation between seeds is unknown.")
    n_sets = len({spec.cohort.dataset for _, spec in findings.study.cells})
    if n_sets == 1:
        sentences.append("One data set: results for other sensors, gestures and people are unknown.")
    return sentences


def _at(cell: Cell) -> str:
    return f"{cell.label}: " if cell.label else ""


def _level_rows(findings: Findings) -> dict[str, list[dict[str, Any]]]:
    """Comparisons of levels, grouped by whether the interval excludes zero."""
    groups: dict[str, list[dict[str, Any]]] = {"different": [], "not different": [], "no interval": []}
    for row in findings.level_tests.to_dict("records"):
        excludes_zero = "different" if row["ci_low"] > 0 or row["ci_high"] < 0 else "not different"
        groups["no interval" if pd.isna(row["ci_low"]) else excludes_zero].append(row)
    return groups


def _levels(findings: Findings, row: Mapping[str, Any]) -> str:
    """`"architecture multimodal-mlp compared with hierarchical (sensors: acc)"`."""
    others = [f"{name}: {row[name]}" for name in findings.factors if name != row["factor"]]
    return f"{row['factor']} {row['level']} compared with {row['to']}" + (f" ({', '.join(others)})" if others else "")


def _too_few(tests: pd.DataFrame, statistics: StatisticsSpec) -> Iterator[str]:
    """Sentences on families of tests in which so few subjects can never be significant."""
    rows = tests[tests["family_size"] > 0].drop_duplicates(["family_size", "n_subjects"]).to_dict("records")
    for n in sorted({int(row["n_subjects"]) for row in rows}):
        sizes = sorted(int(row["family_size"]) for row in rows if row["n_subjects"] == n)
        hopeless = [str(size) for size in sizes if smallest_p(n, size, statistics).corrected >= statistics.alpha]
        if hopeless:
            tests_of = "one test" if hopeless == ["1"] else f"{' or '.join(hopeless)} tests"
            yield (
                f"With {n} subjects, no test in a family of {tests_of} can reach p < {p_limit(statistics.alpha)}."
                f" There, {NOT_SIGNIFICANT} does not mean “no effect”."
            )


def shown_of(cell: Cell) -> Iterator[str]:
    """Sentences on what the numbers of one cell support."""
    metric, unmasked = metric_words(cell.metric), by_subject(cell.scores, cell.metric)[BASELINE]
    if cell.chance is not None and cell.is_fraction:
        above = int((unmasked > cell.chance).sum())
        yield (
            f"Unmasked models: mean {metric} {value(cell.baseline)}, above chance ({value(cell.chance)})"
            f" for {above} of {len(unmasked)} subjects."
        )
    yield from _specific_effects(cell)


def _specific_effects(cell: Cell) -> Iterator[str]:
    """Cuts that hurt more than all of their controls."""
    metric, names, confidence = metric_words(cell.metric), cut_names(cell), cell.statistics.confidence
    for cut in controlled_cuts(cell):
        row = _row_of(cell, cut)
        if _hurts(cell, row) and not _objections(cut):
            yield (
                f"{names.get(cut.condition, cut.condition)}: {metric} changes by {change_in_words(row, confidence)} to"
                f" {value(cut.mean)}. {cut.n_random_hurt_less} of {len(cut.random)} size-matched random cuts hurt less"
                f" ({value(min(cut.random))} to {value(max(cut.random))})."
                f"{' ' + no_superset(cut.n_supersets, 'hurts less on average') if cut.n_supersets else ''}"
            )


def _row_of(cell: Cell, cut: Controlled) -> Mapping[str, Any]:
    return cell.tests[cell.tests["condition"] == cut.condition].to_dict("records")[0]


def _hurts(cell: Cell, row: Mapping[str, Any]) -> bool:
    """Whether the interval of the change lies on the worse side of zero."""
    return row["ci_low"] > 0 if cell.lower_is_better else row["ci_high"] < 0


def _objections(cut: Controlled) -> list[str]:
    """Reasons from the controls not to attribute the effect of a cut to its edges."""
    objections, n_random = [], len(cut.random)
    if not cut.random:
        objections.append("no random control was run")
    elif cut.n_random_hurt_less < n_random:
        objections.append(
            f"{n_random - cut.n_random_hurt_less} of {n_random} size-matched random cuts hurt as much or more"
        )
    elif n_random < ENOUGH_RANDOM_CUTS:
        objections.append(f"only {n_random} of at least {ENOUGH_RANDOM_CUTS} size-matched random cuts were run")
    if cut.superset:
        objections.append("a superset ablation hurts less")
    elif cut.hurts_more_than_a_superset:
        objections.append("a superset ablation hurts less on average, but not clearly")
    return objections


def not_shown_of(cell: Cell) -> Iterator[str]:
    """Sentences on what the numbers of one cell leave open."""
    yield from _unattributed_effects(cell)
    yield from _limits_of_design(cell)
    yield from _limits_of_split(cell)


def _unattributed_effects(cell: Cell) -> Iterator[str]:
    """Sentences on harmful cuts with controls that hurt as much, on cuts without a detectable effect or controls."""
    names, undetected, controlled = cut_names(cell), [], set()
    unattributed: dict[str, list[str]] = {}
    harm, confidence = harm_word(cell), cell.statistics.confidence
    for cut in controlled_cuts(cell):
        controlled |= {*cut.alike, cut.condition}
        name, row = names.get(cut.condition, cut.condition), _row_of(cell, cut)
        if pd.isna(row["ci_low"]):
            continue
        if not _hurts(cell, row):
            undetected.append(f"{name} {change_in_words(row, confidence)}")
        elif objections := _objections(cut):
            unattributed.setdefault("; ".join(objections), []).append(name)
    for reasons, which in unattributed.items():
        subject = f"this {harm}" if len(which) == 1 else f"these {harm}s"
        yield f"{', '.join(which)}: {subject} cannot be attributed to these edges ({reasons})."
    if undetected:
        yield f"No detectable {harm}: {'; '.join(undetected)}. This does not show that these edges do nothing."
    yield from _missing_intervals(cell, names)
    rows = cell.tests[~cell.tests["structural_null"] & ~cell.tests["condition"].isin(controlled)]
    alone = rows[rows["ci_low"] > 0] if cell.lower_is_better else rows[rows["ci_high"] < 0]
    alone = alone[alone["equivalent_to"] == alone["condition"]]
    if len(alone):
        verb = f"this {harm} is" if len(alone) == 1 else f"these {harm}s are"
        which = ", ".join(str(names.get(name, name)) for name in alone["condition"])
        yield f"{which}: no control was run; {verb} not interpreted."


def _missing_intervals(cell: Cell, names: Mapping[str, str]) -> Iterator[str]:
    """The conditions without an interval, and why: a missing interval does not mean "no change"."""
    rows = cell.tests[~cell.tests["structural_null"] & cell.tests["ci_low"].isna()]
    if not len(rows):
        return
    n = int(rows["n_subjects"].min())
    if n < FEWEST:
        yield (
            f"Whether any cut has an effect: with {n} subjects there is no confidence interval (at least {FEWEST}"
            " subjects are needed)."
        )
    else:
        which = ", ".join(str(names.get(name, name)) for name in rows["condition"])
        yield f"No interval could be computed: all subjects changed by the same amount ({which})."


def _limits_of_design(cell: Cell) -> Iterator[str]:
    """Sentences on structural nulls, indirect paths and the number of subjects."""
    masks = layer_conditions(cell.tests)
    nulls = masks[masks["structural_null"] & (masks["mode"] == "individual")] if len(masks) else masks
    if len(nulls):
        where = ", ".join(f"{edge_name(row.edges)} {layer_name(row.layer)}" for row in nulls.itertuples())
        yield f"Not testable: {where}. The cut edges have no path to the readout, so the result equals the baseline."
    names = cut_names(cell)
    open_paths = [cut for cut in controlled_cuts(cell) if not pd.isna(cut.cls_path_closed)]
    if open_paths:
        pairs = [f"{names[cut.condition]} {value(cut.mean)} and {value(cut.cls_path_closed)}" for cut in open_paths]
        metric = metric_name(cell.metric)
        yield f"Information can still pass through CLS. {metric} with that path open and closed: {'; '.join(pairs)}."
    yield from _too_few(cell.tests, cell.statistics)


def _limits_of_split(cell: Cell) -> Iterator[str]:
    """Sentences on the limits that follow from the leakage report."""
    if cell.leakage is None:
        return
    of_all = [one for one in cell.leakage.decodability if one.modality == ALL] or list(cell.leakage.decodability)
    for one in of_all[:1]:
        if one.before > PRE_ONSET_LIMIT * one.chance:
            yield (
                "The models may use more than the gesture: a linear classifier decodes the class before movement onset"
                f" with accuracy {one.before:.2f} (chance {one.chance:.2f})."
            )
    if cell.leakage.is_blocked:
        repeats = cell.leakage.class_repeats_clause()
        yield f"The models may use the time of recording instead of the gesture: {repeats}."
    shared = cell.leakage.shared
    if shared.get("subject"):
        yield "Accuracy for new people is unknown: the test subjects are also in the training set."
