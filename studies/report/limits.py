"""What a study shows and what it cannot show, computed from its controls, its audit and its leakage report.

A sentence stands under "shows" only where an interval excludes no change and every control that was run agrees, on the
mean: not to have found that a larger cut costs less is no finding. Whatever a control, the audit or the split leaves
open stands under "cannot show" (docs/controls.md §8).
"""

from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from emg_lens.data.pre_onset import ALL
from emg_lens.studies.report.wording import (
    NOT_SIGNIFICANT,
    UNIT_WORDS,
    cut_names,
    edge_name,
    layer_conditions,
    layer_name,
    metric_words,
    value,
    with_interval,
)
from emg_lens.studies.results.control_effects import Controlled, controlled_cuts
from emg_lens.studies.results.findings import Cell, Findings
from emg_lens.studies.spec.factors import SEED
from emg_lens.studies.statistics.comparison import by_subject
from emg_lens.studies.statistics.power import smallest_p
from emg_lens.studies.statistics.spec import StatisticsSpec
from emg_lens.sweeps.conditions import BASELINE

ENOUGH_DRAWS = 19
"""Random cuts of which one costs most by luck once in twenty."""
NOTHING_SHOWN = "Of no cut: none has both a price whose interval excludes zero and controls that all cost less."
LARGER_AGREE = ", and each of {n} larger cuts costs as much or more on the mean"
TOLD_BEFORE = 2.0
"""Times chance: from which accuracy in the rest before a movement on a report warns of it."""


def what_is_shown(findings: Findings) -> list[str]:
    """Sentences that the numbers and all their controls allow; where conditions are and none of them has one, that."""
    confidence = findings.study.statistics.confidence
    of_cells = [f"{_at(cell)}{sentence}" for cell in findings.cells for sentence in shown_of(cell)]
    has_cuts = any(len(cell.tests) for cell in findings.cells)
    if has_cuts and not any(sentence for cell in findings.cells for sentence in _prices(cell)):
        of_cells.append(NOTHING_SHOWN)
    return of_cells + [
        f"Unmasked models, {_levels(findings, row)}: {with_interval(row)}{_unit(row)} ({100 * confidence:g} % CI) over"
        f" {row['n_subjects']} subjects, as they are fitted here."
        for row in _level_rows(findings, told_apart=True)
    ]


def what_is_not_shown(findings: Findings) -> list[str]:
    """Sentences on what the numbers leave open; those that hold at all levels once."""
    said: dict[str, list[str]] = {}
    for cell in findings.cells:
        for sentence in not_shown_of(cell):
            said.setdefault(sentence, []).append(cell.label)
    every = len(findings.cells)
    sentences = [sentence if len(at) == every else f"{'; '.join(at)}: {sentence}" for sentence, at in said.items()]
    alike = [
        f"{_levels(findings, row)} {with_interval(row)}{_unit(row)}" for row in _level_rows(findings, told_apart=False)
    ]
    if alike:
        sentences.append(f"A difference between levels: {'; '.join(alike)}; that is no sign that they are equal.")
    if len(findings.level_tests):
        sentences += [f"Between levels: {told}" for told in _blind(findings.level_tests, findings.study.statistics)]
    if any(spec.model.pretrained for _, spec in findings.study.cells):
        sentences.append(
            "That whoever is tested is new to the models: fits begin with weights of another training; whom that met is"
            " no matter of this split (see the notes on the weights)."
        )
    if SEED not in findings.study.factors:
        sentences.append("One model a fold: what another seed of its training would change is not known.")
    n_sets = len({spec.cohort.dataset for _, spec in findings.study.cells})
    if n_sets == 1:
        sentences.append("One data set: what holds for other sensors, movements and people is not known.")
    return sentences


def _at(cell: Cell) -> str:
    return f"{cell.label}: " if cell.label else ""


def _level_rows(findings: Findings, *, told_apart: bool) -> list[dict[str, Any]]:
    """Comparisons of levels whose interval excludes no difference, or those whose interval does not (or has none)."""
    rows = findings.level_tests
    if not len(rows):
        return []
    apart = (rows["ci_low"] > 0) | (rows["ci_high"] < 0)
    return rows[apart == told_apart].to_dict("records")


def _levels(findings: Findings, row: Mapping[str, Any]) -> str:
    """`"architecture multimodal-mlp against hierarchical (sensors: acc)"`."""
    others = [f"{name}: {row[name]}" for name in findings.factors if name != row["factor"]]
    return f"{row['factor']} {row['level']} against {row['to']}" + (f" ({', '.join(others)})" if others else "")


def _unit(row: Mapping[str, Any]) -> str:
    return f" {UNIT_WORDS[row['unit']]}" if UNIT_WORDS.get(row["unit"]) else ""


def _blind(tests: pd.DataFrame, statistics: StatisticsSpec) -> Iterator[str]:
    """Families of tests in which so few subjects cannot be significant, whatever they show."""
    rows = tests[tests["family_size"] > 0].drop_duplicates(["family_size", "n_subjects"]).to_dict("records")
    for n in sorted({int(row["n_subjects"]) for row in rows}):
        sizes = sorted(int(row["family_size"]) for row in rows if row["n_subjects"] == n)
        blind = [str(size) for size in sizes if smallest_p(n, size, statistics).corrected >= statistics.alpha]
        if blind:
            yield (
                f"Significance in families of {', '.join(blind)} {'test' if blind == ['1'] else 'tests'}: {n} subjects"
                f" cannot reach it, whatever they show; {NOT_SIGNIFICANT} says nothing there."
            )


def shown_of(cell: Cell) -> Iterator[str]:
    """What one cell shows."""
    metric, unmasked = metric_words(cell.metric), by_subject(cell.scores, cell.metric)[BASELINE]
    if cell.chance is not None and cell.is_fraction:
        above = int((unmasked > cell.chance).sum())
        yield (
            f"The unmasked models' {metric} is {value(cell.baseline)} on the mean, above chance ({value(cell.chance)})"
            f" for {above} of {len(unmasked)} subjects."
        )
    yield from _prices(cell)


def _prices(cell: Cell) -> Iterator[str]:
    """Cuts that cost more than all of their controls."""
    metric, names = metric_words(cell.metric), cut_names(cell)
    for cut in controlled_cuts(cell):
        if _costs(cell, cut) and not _objections(cut):
            yield (
                f"{names.get(cut.condition, cut.condition)}: the price is more than that of any of {len(cut.random)}"
                f" random cuts of as many live edges of the same kinds ({metric} {value(cut.mean)}; theirs"
                f" {value(min(cut.random))} to {value(max(cut.random))})"
                f"{LARGER_AGREE.format(n=cut.n_larger) if cut.n_larger else ''}."
            )


def _costs(cell: Cell, cut: Controlled) -> bool:
    """Whether the interval of the change lies on the worse side of zero."""
    row = cell.tests.set_index("condition").loc[cut.condition]
    return row["ci_low"] > 0 if cell.lower_is_better else row["ci_high"] < 0


def _objections(cut: Controlled) -> list[str]:
    """What the controls of a cut say against reading its price as that of its edges."""
    found = []
    if not cut.random:
        found.append("no random cuts stand beside it")
    elif cut.n_cheaper < len(cut.random):
        found.append(f"{len(cut.random) - cut.n_cheaper} of {len(cut.random)} random cuts cost as much or more")
    elif len(cut.random) < ENOUGH_DRAWS:
        found.append(f"{len(cut.random)} random cuts are too few to tell from luck")
    if cut.larger:
        found.append("a larger cut costs less")
    elif cut.costs_more_than_a_larger:
        found.append("a larger cut costs less on the mean, if not beyond chance")
    return found


def not_shown_of(cell: Cell) -> Iterator[str]:
    """What one cell leaves open."""
    yield from _not_told_apart(cell)
    yield from _left_open(cell)
    yield from _of_the_split(cell)


def _not_told_apart(cell: Cell) -> Iterator[str]:
    """Cuts that cost something, and whose controls object; those that are not found to cost anything."""
    names, cheap, controlled = cut_names(cell), [], set()
    for cut in controlled_cuts(cell):
        controlled |= {*cut.alike, cut.condition}
        name = names.get(cut.condition, cut.condition)
        if not _costs(cell, cut):
            cheap.append(name)
        elif objections := _objections(cut):
            yield f"{name}: whether its price is that of these edges is open, for {' and '.join(objections)}."
    if cheap:
        yield (
            f"No change is found of {', '.join(cheap)}: no interval of theirs lies on the worse side of zero. That is"
            " no sign that these edges do nothing."
        )
    rows = cell.tests[~cell.tests["structural_null"] & ~cell.tests["condition"].isin(controlled)]
    alone = rows[rows["ci_low"] > 0] if cell.lower_is_better else rows[rows["ci_high"] < 0]
    alone = alone[alone["equivalent_to"] == alone["condition"]]
    if len(alone):
        told = ", ".join(str(names.get(name, name)) for name in alone["condition"])
        yield f"What the prices of {told} are worth: no control stands beside them."


def _left_open(cell: Cell) -> Iterator[str]:
    """What the audit and the number of subjects leave open."""
    masks = layer_conditions(cell.tests)
    nulls = masks[masks["structural_null"] & (masks["mode"] == "individual")] if len(masks) else masks
    if len(nulls):
        where = ", ".join(f"{layer_name(row.layer)} {edge_name(row.edges)}" for row in nulls.itertuples())
        yield f"Nothing about {where}: no cut edge has a path to the readout there, whatever the weights are."
    names = cut_names(cell)
    detours = [cut for cut in controlled_cuts(cell) if cut.cls_path_closed == cut.cls_path_closed]  # no NaN
    if detours:
        told = ", ".join(f"{names[cut.condition]} {value(cut.mean)} and {value(cut.cls_path_closed)}" for cut in detours)
        yield f"That tokens were kept apart: what is cut can pass through CLS. With CLS read and unread: {told}."
    yield from _blind(cell.tests, cell.statistics)


def _of_the_split(cell: Cell) -> Iterator[str]:
    """What the leakage report leaves open."""
    if cell.leakage is None:
        return
    before = [told for told in cell.leakage.told if told.modality == ALL] or list(cell.leakage.told)
    for told in before[:1]:
        if told.before > TOLD_BEFORE * told.chance:
            yield (
                f"That the movement alone is read: before it begins its class is told with an accuracy of"
                f" {told.before:.2f} (chance {told.chance:.2f})."
            )
    if cell.leakage.is_blocked:
        repeats = cell.leakage.repeats_in_short()
        yield f"That a class is told from its movement rather than from its place in time: {repeats}."
    shared = cell.leakage.shared
    if shared.get("subject"):
        yield "How well other people's movements are told: test trials are of subjects who were trained on."
