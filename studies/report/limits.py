"""Sentences on what a study leaves open: effects without a verdict, and limits of audit, split and cohort."""

from collections.abc import Iterator, Sequence

import pandas as pd

from emg_lens.data.leakage import Leakage
from emg_lens.data.pre_onset import ALL, Decodability
from emg_lens.studies.report.verdict_sentences import NO_CONTROL, drop_in_words, harm
from emg_lens.studies.report.wording import (
    NOT_SIGNIFICANT,
    cut_names,
    edge_name,
    layer_conditions,
    layer_name,
    metric_name,
    p_limit,
    value,
)
from emg_lens.studies.results.findings import Cell, Findings
from emg_lens.studies.results.verdicts import Verdict, verdicts_of
from emg_lens.studies.spec.factors import SEED
from emg_lens.studies.statistics.intervals import FEWEST
from emg_lens.studies.statistics.power import smallest_p
from emg_lens.studies.statistics.spec import StatisticsSpec

REASONS = {
    "zero": "the {harm} is not clear, which does not show that what was cut does nothing",
    "random": "the {harm} is not clearly larger than with random controls",
    "superset": "cutting more (a superset ablation) hurts less, so lost information does not explain all of the {harm}",
    "superset on average": "cutting more (a superset ablation) hurts less on average, but not clearly",
    "most channels": "it takes more than half of the channels, so no random removal can judge whether the {harm} is"
    " specific",
    "few random": "too few other sets of this size exist, so it is open whether the {harm} is specific",
    "not requested": "the study asks for too few random controls, so it is open whether the {harm} is specific",
    **{reason: f"{why}, so it is open whether the {{harm}} is specific" for reason, why in NO_CONTROL.items()},
    "subjects": f"no interval, which needs {FEWEST} subjects",
    "alike": "no interval, because all subjects changed by the same amount",
}
"""Why an effect is not shown, by `Verdict.reason`."""
PRE_ONSET_LIMIT = 2.0
"""A report warns of pre-onset decodability above so many times chance."""


def what_is_not_shown(findings: Findings) -> list[str]:
    """Sentences on what the numbers leave open; a sentence that holds at all levels is printed once."""
    labels: dict[str, list[str]] = {}
    for cell, verdicts in verdicts_of(findings):
        for text in [*_effects_not_shown(cell, verdicts), *_limits_of_design(cell, verdicts), *_limits_of_split(cell)]:
            labels.setdefault(text, []).append(cell.label)
    every = len(findings.cells)
    sentences = [text if len(at) == every else f"{'; '.join(at)}: {text}" for text, at in labels.items()]
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


def _effects_not_shown(cell: Cell, verdicts: Sequence[Verdict]) -> Iterator[str]:
    """List the ablations without a shown effect by the reason."""
    names, by_reason = cut_names(cell), {}
    for one in verdicts:
        if one.verdict != "shown":
            name = names.get(one.cut.condition, one.cut.condition)
            by_reason.setdefault(one.reason, []).append(f"{name} {drop_in_words(one, cell)}")
    for reason, why in REASONS.items():
        if reason in by_reason:
            text = why.format(harm=harm(cell))
            yield f"{text[:1].upper()}{text[1:]}: {'; '.join(by_reason[reason])}."


def _limits_of_design(cell: Cell, verdicts: Sequence[Verdict]) -> Iterator[str]:
    """Sentences on structural nulls, indirect paths and the number of subjects."""
    masks = layer_conditions(cell.tests)
    nulls = masks[masks["structural_null"] & (masks["mode"] == "individual")] if len(masks) else masks
    if len(nulls):
        where = ", ".join(f"{edge_name(row.edges)} {layer_name(row.layer)}" for row in nulls.itertuples())
        yield f"Not testable: {where}. The cut edges have no path to the readout, so the result equals the baseline."
    open_paths = [one.cut for one in verdicts if not pd.isna(one.cut.cls_path_closed)]
    if open_paths:
        names, metric = cut_names(cell), metric_name(cell.metric)
        pairs = [f"{names[cut.condition]} {value(cut.mean)} and {value(cut.cls_path_closed)}" for cut in open_paths]
        yield f"Information can still pass through CLS. {metric} with that path open and closed: {'; '.join(pairs)}."
    yield from _too_few(cell.tests, cell.statistics)


def is_decodable_before(one: Decodability) -> bool:
    """Say whether the class can be decoded before movement onset far above chance."""
    return one.before > PRE_ONSET_LIMIT * one.chance


def decoded_before(one: Decodability) -> str:
    """Say how well a classifier decodes the class before movement onset, as the end of a sentence."""
    return f"before movement onset with accuracy {one.before:.2f} (chance {one.chance:.2f})"


def _decodable_before(leakage: Leakage) -> Decodability | None:
    """Return the pre-onset decodability from all channels, if it is far above chance."""
    of_all = [one for one in leakage.decodability if one.modality == ALL] or leakage.decodability
    return next(filter(is_decodable_before, of_all[:1]), None)


def warnings_of_split(cell: Cell) -> Iterator[str]:
    """Short warnings next to the accuracy of the models: what else than the movement may contribute to it."""
    if cell.leakage is None:
        return
    if one := _decodable_before(cell.leakage):
        yield (
            "Part of this score may not come from the movement: a linear classifier decodes the class"
            f" {decoded_before(one)}."
        )
    if cell.leakage.is_blocked:
        yield (
            "Gestures were recorded in blocks, so posture, sweat or electrode shift may also predict the class (section"
            " Leakage of the report)."
        )


def _limits_of_split(cell: Cell) -> Iterator[str]:
    """Sentences on the limits that follow from the leakage report."""
    if cell.leakage is None:
        return
    if one := _decodable_before(cell.leakage):
        yield (
            "The models may use more than the gesture: a linear classifier of all recorded channels decodes the"
            f" class {decoded_before(one)}."
        )
    if cell.leakage.is_blocked:
        repeats = cell.leakage.class_repeats_clause()
        yield f"The models may use the time of recording instead of the gesture: {repeats}."
    shared = cell.leakage.shared
    if shared.get("subject"):
        yield "Accuracy for new people is unknown: the test subjects are also in the training set."
