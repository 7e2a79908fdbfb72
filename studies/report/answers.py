"""The first screen of a report: one short answer to each question of a study.

Every answer is made of the verdicts (`emg_lens.studies.results.verdicts`).
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from emg_lens.studies.report.limits import decoded_before, is_decodable_before
from emg_lens.studies.report.quality_sentences import quality_warning
from emg_lens.studies.report.verdict_sentences import (
    OBJECTIONS,
    drop_in_words,
    harm,
    is_all_but_one,
    sentence,
    what_was_done,
    why_no_control,
)
from emg_lens.studies.report.view import VIEWS
from emg_lens.studies.report.wording import (
    change_in_words,
    count,
    head_conditions,
    layer_conditions,
    metric_words,
    removal_conditions,
    single_conditions,
    value,
)
from emg_lens.studies.results.control_effects import cuts_every_layer
from emg_lens.studies.results.findings import Cell, Findings
from emg_lens.studies.results.verdicts import Verdict, verdicts_of
from emg_lens.studies.statistics.intervals import FEWEST

SUMMARY = "In short"
SENSORS = "Which sensor matters?"
ELECTRODES = "Which electrodes matter?"
FUSION = "Is there fusion, and where?"
EDGES = "Which attention edges matter?"
PLACES = "Which layers and heads?"
OTHERS = "Other ablations"
LEVELS = "Which level is better?"
REMOVED = (
    " “Removed” means that signals of a random training trial replace this sensor. A model trained without this sensor"
    " may lose much less."
)
CLS_READS = " What CLS itself attends to does not change."
MOST = 3
"""Sentences on one question for one cell; the other ablations are in the tables."""


def answers_to_questions(findings: Findings) -> dict[str, list[str]]:
    """Answer the questions of a study.

    Returns:
        Sentences by question, the most important first. A study without ablations has the comparison of its levels.
    """
    by_question: dict[str, list[str]] = {}
    of_cells = [(f"{cell.label}: " if cell.label else "", cell, verdicts) for cell, verdicts in verdicts_of(findings)]
    for at, cell, verdicts in of_cells:
        for text in _summary(cell, verdicts):
            by_question.setdefault(SUMMARY, []).append(f"{at}{text}")
    for _, view in VIEWS.items():  # questions of the study's own analyses come before those of every study
        for question, make in view.answers.items() if view.answers and view.shows(findings) else ():
            texts = [f"{cell.label and cell.label + ': '}{text}" for cell in findings.cells for text in make(cell)]
            by_question |= {question: texts} if texts else {}
    for at, cell, verdicts in of_cells:
        for question, texts in _answers_of(cell, verdicts, explains_removed=SENSORS not in by_question).items():
            by_question.setdefault(question, []).extend(f"{at}{text}" for text in texts)
    if len(findings.level_tests):
        by_question[LEVELS] = [*_comparisons(findings)]
    return by_question


def _summary(cell: Cell, verdicts: Sequence[Verdict]) -> Iterator[str]:
    """Count the ablations with a shown effect and name those with the largest; name what the controls cannot judge."""
    judged = sorted((one for one in verdicts if one.is_screened and one.verdict != "no interval"), key=_importance)
    shown = [what_was_done(one.row, cell) for one in judged if one.verdict == "shown"]
    if judged:
        more = f" and {len(shown) - MOST} more" * (len(shown) > MOST)
        named = f": {', '.join(shown[:MOST])}{more}" if shown else ""
        verb = "has" if len(shown) == 1 else "have"
        text = (
            f"{len(shown)} of {count(len(judged), 'ablation')} with random controls {verb} a clear and specific effect"
        )
        poor = " The model is not good enough to interpret them (see the warning)." * (
            quality_warning(cell) is not None
        )
        yield f"{text}{named}.{poor}"
    elif verdicts and not any(one.is_screened for one in verdicts):
        one_channel = ": with one channel there are no other channels or edges to compare with"
        why = one_channel * (sum(cell.channels.values()) == 1)
        yield f"No ablation has enough random controls, so no effect can be shown to be specific{why}."
    for one in sorted(verdicts, key=_importance):
        if one.reason == "most channels" and not is_all_but_one(one.row):
            drop = f"{harm(cell)} {drop_in_words(one, cell).partition(' (')[0]}"
            yield f"No random control can judge {what_was_done(one.row, cell)} ({drop}), which takes most channels."


def _answers_of(cell: Cell, verdicts: Sequence[Verdict], explains_removed: bool) -> dict[str, list[str]]:
    texts: dict[str, list[str]] = {}
    for question, parts in _answered(cell, verdicts).items():
        if question == PLACES:
            single, of_head = parts
            masks, heads = layer_conditions(cell.tests), head_conditions(cell.tests)
            texts[question] = [
                *_places(single, cell, "layer", masks[masks["mode"] == "individual"] if len(masks) else masks),
                *_places(of_head, cell, "head", heads),
            ]
            continue
        (some,) = parts
        is_of_input = question in (SENSORS, ELECTRODES)
        texts[question] = [
            sentence(one, cell) + (_before_onset(one, cell) if is_of_input else _closed(one, cell)) for one in some
        ]
        first_closed = next((at for at, text in enumerate(texts[question][:MOST]) if "attend to CLS" in text), None)
        if first_closed is not None:
            texts[question][first_closed] += CLS_READS
        if question == SENSORS and explains_removed and some[0].row["by"] == "resample":
            texts[question][0] += REMOVED
    return {question: _first(some) for question, some in texts.items() if some}


def _answered(cell: Cell, verdicts: Sequence[Verdict]) -> dict[str, list[list[Verdict]]]:
    """Return the ablations that answer each question, in parts that are answered separately: single layers and heads.

    Removals by a mean answer only if there are no others.
    """
    heads = set(head_conditions(cell.tests)["condition"])
    answered = {}
    for question, some in ablations_by_question(cell, verdicts).items():
        parts = [some]
        if question in (SENSORS, ELECTRODES):
            parts = [[one for one in some if one.row["by"] == "resample"] or some]
        elif question == PLACES:
            parts = [[one for one in some if (one.cut.condition in heads) == of_head] for of_head in (False, True)]
        answered[question] = parts
    return answered


def named_in_answers(cell: Cell, verdicts: Sequence[Verdict]) -> list[str]:
    """Return the conditions that the answers name, then all with a shown effect, the largest drop first."""
    named: list[Verdict] = []
    for question, parts in _answered(cell, verdicts).items():
        of_place = [sorted(some, key=lambda one: -one.drop)[:1] for some in parts]
        named += sum(of_place, []) if question == PLACES else parts[0][:MOST]
    shown = sorted((one for one in verdicts if one.verdict == "shown"), key=_importance)
    return list(dict.fromkeys(one.cut.condition for one in [*named, *shown]))


def _first(texts: Sequence[str]) -> list[str]:
    """Return the first sentences, and the number of the others."""
    if len(texts) <= MOST:
        return [*texts]
    return [*texts[:MOST], f"{len(texts) - MOST} more: see the table of verdicts."]


def ablations_by_question(cell: Cell, verdicts: Sequence[Verdict]) -> dict[str, list[Verdict]]:
    """Group the ablations of a cell by the question that they answer: shown effects first, then by the drop.

    Cuts of several but not all layers are in no group.
    """
    masks = layer_conditions(cell.tests)
    whole = [row["condition"] for row in masks.to_dict("records") if cuts_every_layer(cell, row)]
    single = masks.loc[masks["mode"] == "individual", "condition"] if len(masks) else ()
    removals = removal_conditions(cell.tests)
    of_channels = len(removals) and removals["edges"].str.contains(" channel").all()
    names = {
        ELECTRODES if of_channels else SENSORS: removals["condition"],
        FUSION if "cross_modal" in set(masks.get("edges", ())) else EDGES: whole,
        PLACES: [name for name in (*single, *head_conditions(cell.tests)["condition"]) if name not in whole],
        OTHERS: single_conditions(cell.tests)["condition"],
    }
    groups = {
        question: sorted((one for one in verdicts if one.cut.condition in set(of)), key=_importance)
        for question, of in names.items()
    }
    return {question: some for question, some in groups.items() if some}


def _importance(one: Verdict) -> tuple[bool, bool, float]:
    return is_all_but_one(one.row), one.verdict != "shown", -one.drop


def _before_onset(one: Verdict, cell: Cell) -> str:
    """Warn that the removed sensor also predicts the class before the movement starts."""
    known = () if cell.leakage is None else cell.leakage.decodability
    for of in known if one.reason != "zero" else ():
        if of.modality == one.row["edges"] and is_decodable_before(of):
            return f" A linear classifier decodes the class from {of.modality.upper()} {decoded_before(of)}."
    return ""


def _closed(one: Verdict, cell: Cell) -> str:
    """Say how the result changes with the indirect path through CLS closed."""
    is_named = one.reason == "superset" and str(one.cut.superset).endswith(", CLS path closed")
    if pd.isna(one.cut.cls_path_closed) or is_named:
        return ""
    metric = metric_words(cell.metric)
    return f" If, in addition, no other token may attend to CLS, {metric} is {value(one.cut.cls_path_closed)}."


def _places(ablations: Sequence[Verdict], cell: Cell, kind: str, conditions: pd.DataFrame) -> Iterator[str]:
    """Name the single layers or heads with a shown effect, and the largest drop if it is not one of them."""
    shown = [one for one in ablations if one.verdict == "shown"]
    if shown:
        named = [f"{what_was_done(one.row, cell).removesuffix(' cut')} {drop_in_words(one, cell)}" for one in shown]
        verb = "has" if len(shown) == 1 else "have"
        others = f"; {len(shown) - MOST} more in the table of verdicts" * (len(shown) > MOST)
        n_nulls = int(conditions["structural_null"].sum())
        nulls = f" (without {count(n_nulls, 'structural null')}, which cannot have an effect)" * bool(n_nulls)
        start = f"{len(shown)} of {count(len(ablations), 'cut')} of a single {kind}{nulls} {verb}"
        yield f"{start} a clear and specific effect: {'; '.join(named[:MOST])}{others}.{_larger_drop(ablations, cell)}"
    elif ablations:
        is_compared = any(one.is_screened for one in ablations)
        start = f"No cut of a single {kind} has a clear and specific effect"
        if all(one.reason in ("zero", "alike") for one in ablations):
            start = f"No cut of a single {kind} has a clear effect"
        elif not is_compared:
            start = f"No cut of a single {kind} has random controls"
        largest = ablations[0]
        what = what_was_done(largest.row, cell).removesuffix(" cut")
        is_open = largest.verdict == "no control"
        why = f" Whether it is specific is open: {why_no_control(largest, cell)}." if is_open else ""
        yield f"{start}. The largest {harm(cell)}, {drop_in_words(largest, cell)}, is for {what}.{why}"


def _larger_drop(ablations: Sequence[Verdict], cell: Cell) -> str:
    """Name the largest drop if it is not shown, with the reason."""
    largest = max(ablations, key=lambda one: one.drop)
    if largest.verdict == "shown":
        return ""
    why = f"is not shown: {OBJECTIONS.get(largest.reason, 'no interval')}"
    if largest.verdict == "no control":
        why = f"has no control: {why_no_control(largest, cell)}"
    what = what_was_done(largest.row, cell).removesuffix(" cut")
    return f" The largest {harm(cell)}, {drop_in_words(largest, cell)} for {what}, {why}."


def _comparisons(findings: Findings) -> Iterator[str]:
    """Compare each level of a factor with the reference level."""
    confidence, metric = findings.study.statistics.confidence, metric_words(findings.metric)
    n = len(findings.level_tests)
    uncorrected = f", not corrected for {n} comparisons" * (n > 1)
    for row in findings.level_tests.to_dict("records"):
        where = level_in_words(findings, row)
        change = f"{metric} {value(row['mean'])} compared with {value(row['baseline_mean'])}"
        if pd.isna(row["ci_low"]):
            why = f"an interval needs {FEWEST} subjects" if row["n_subjects"] < FEWEST else "all subjects changed alike"
            yield f"{where}: {change}, a change of {change_in_words(row, confidence)} without an interval ({why})."
        elif row["ci_low"] > 0 or row["ci_high"] < 0:
            yield f"{where}: {change}, a difference of {change_in_words(row, confidence)}{uncorrected}."
        else:
            yield f"{where}: no clear difference ({change}, {change_in_words(row, confidence)})."


def level_in_words(findings: Findings, row: Mapping[str, Any]) -> str:
    """Name a comparison of levels: `"architecture “mlp” compared with “hierarchical” (sensors: acc)"`."""
    others = [f"{name}: {row[name]}" for name in findings.factors if name != row["factor"]]
    return f"{row['factor']} “{row['level']}” compared with “{row['to']}”" + (
        f" ({', '.join(others)})" if others else ""
    )
