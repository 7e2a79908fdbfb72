"""What a study shows and what it cannot show, computed from its controls, its audit and its leakage report.

A sentence stands under "shows" only where an interval excludes no change and every control that was run agrees;
whatever a control, the audit or the split leaves open stands under "cannot show" (docs/protocol.md §8).
"""

from collections.abc import Iterator

from emg_lens.data.rest import ALL
from emg_lens.studies.control_values import Controlled, controlled_cuts
from emg_lens.studies.factors import SEED
from emg_lens.studies.findings import Cell, Findings
from emg_lens.studies.report.wording import (
    NOT_SIGNIFICANT,
    cut_names,
    edge_name,
    layer_conditions,
    layer_name,
    metric_words,
    value,
)
from emg_lens.studies.statistics.comparison import by_subject
from emg_lens.studies.statistics.power import smallest_p
from emg_lens.sweeps.conditions import BASELINE

TOLD_BEFORE = 2.0
"""Times chance: from which accuracy in the rest before a movement on a report warns of it."""


def what_is_shown(findings: Findings) -> list[str]:
    """Sentences that the numbers and all their controls allow."""
    return [f"{_at(cell)}{sentence}" for cell in findings.cells for sentence in shown_of(cell)]


def what_is_not_shown(findings: Findings) -> list[str]:
    """Sentences on what the numbers leave open; those that hold at all levels once."""
    said: dict[str, list[str]] = {}
    for cell in findings.cells:
        for sentence in not_shown_of(cell):
            said.setdefault(sentence, []).append(cell.label)
    every = len(findings.cells)
    sentences = [sentence if len(at) == every else f"{'; '.join(at)}: {sentence}" for sentence, at in said.items()]
    if SEED not in findings.study.factors:
        sentences.append("One model a fold: what another seed of its training would change is not known.")
    n_sets = len({spec.cohort.dataset for _, spec in findings.study.cells})
    if n_sets == 1:
        sentences.append("One data set: what holds for other sensors, movements and people is not known.")
    return sentences


def _at(cell: Cell) -> str:
    return f"{cell.label}: " if cell.label else ""


def shown_of(cell: Cell) -> Iterator[str]:
    """What one cell shows."""
    metric, unmasked = metric_words(cell.metric), by_subject(cell.scores, cell.metric)[BASELINE]
    if cell.chance is not None and cell.is_share:
        above = int((unmasked > cell.chance).sum())
        yield (
            f"The unmasked models' {metric} is {value(cell.baseline)} on the mean, above chance ({value(cell.chance)})"
            f" for {above} of {len(unmasked)} subjects."
        )
    names = cut_names(cell)
    for cut in controlled_cuts(cell):
        if _costs(cell, cut) and not _objections(cut):
            yield (
                f"{names.get(cut.condition, cut.condition)}: the price is more than that of any of {len(cut.random)}"
                f" random cuts of as many live edges of the same kinds ({metric} {value(cut.mean)}; theirs"
                f" {value(min(cut.random))} to {value(max(cut.random))})"
                + (f", and none of {cut.n_larger} larger cuts is found to cost less." if cut.n_larger else ".")
            )


def _costs(cell: Cell, cut: Controlled) -> bool:
    """Whether the interval of the change lies on the worse side of zero."""
    row = cell.tests.set_index("condition").loc[cut.condition]
    return row["ci_low"] > 0 if cell.lower_is_better else row["ci_high"] < 0


def _objections(cut: Controlled) -> list[str]:
    """What the controls of a cut say against reading its price as that of its edges."""
    found = []
    if not cut.random:
        found.append("no other edges are left to draw random cuts from")
    elif cut.n_cheaper < len(cut.random):
        found.append(f"{len(cut.random) - cut.n_cheaper} of {len(cut.random)} random cuts cost as much or more")
    if cut.larger:
        found.append("a larger cut costs less")
    return found


def not_shown_of(cell: Cell) -> Iterator[str]:
    """What one cell leaves open."""
    yield from _not_told_apart(cell)
    yield from _left_open(cell)
    yield from _of_the_split(cell)


def _not_told_apart(cell: Cell) -> Iterator[str]:
    """Cuts that cost something, and whose controls object; those that are not found to cost anything."""
    names, cheap = cut_names(cell), []
    for cut in controlled_cuts(cell):
        name = names.get(cut.condition, cut.condition)
        if not _costs(cell, cut):
            cheap.append(name)
        elif objections := _objections(cut):
            yield f"{name}: whether its price is that of these edges is open, for {' and '.join(objections)}."
    if cheap:
        yield (
            f"No change is found of {', '.join(cheap)}; that is no sign that these edges do nothing: later layers can"
            " make up for them."
        )


def _left_open(cell: Cell) -> Iterator[str]:
    """What the audit and the number of subjects leave open."""
    masks = layer_conditions(cell.tests)
    nulls = masks[masks["structural_null"] & (masks["mode"] == "individual")] if len(masks) else masks
    if len(nulls):
        where = ", ".join(f"{layer_name(row.layer)} {edge_name(row.edges)}" for row in nulls.itertuples())
        yield f"Nothing about {where}: no cut edge has a path to the readout there, whatever the weights are."
    names = cut_names(cell)
    detours = [cut for cut in controlled_cuts(cell) if cut.detour == cut.detour]  # no NaN
    if detours:
        told = ", ".join(f"{names[cut.condition]} {value(cut.mean)} and {value(cut.detour)}" for cut in detours)
        yield f"That tokens were kept apart: what is cut can pass through CLS. With CLS read and unread: {told}."
    tested = cell.tests[cell.tests["family_size"] > 0]
    blind = [
        row
        for row in tested.drop_duplicates("family_size").to_dict("records")
        if smallest_p(int(row["n_subjects"]), int(row["family_size"]), cell.statistics).corrected
        >= cell.statistics.alpha
    ]
    if blind:
        sizes = ", ".join(str(int(row["family_size"])) for row in blind)
        yield (
            f"Significance in families of {sizes} tests: {int(blind[0]['n_subjects'])} subjects cannot reach it,"
            f" whatever they show; {NOT_SIGNIFICANT} says nothing there."
        )


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
