"""The section "How to read these numbers" of a report (docs/controls.md §8)."""

from emg_lens.studies.report.wording import SIZE_MATCHED, head_conditions, layer_conditions
from emg_lens.studies.results.findings import Findings
from emg_lens.studies.spec.condition_spec import RANDOM

ABLATIONS = ("Drop %", "Change %", "Superset ablations", "A cut is a deletion", "Which p")
CUTS = ("A cut is a deletion", "Later layers can compensate")
EDGE_TYPES = ("Drops do not add up",)
RANDOM_CUTS = ("Size-matched random cuts",)
NULLS = ("Structural nulls",)
"""Entries that only such studies need: with ablations, with cuts by layer or head, ..."""
READING_GUIDE = {
    "Size-matched random cuts": f"{SIZE_MATCHED} If such cuts hurt as much, the effect is not specific to the edges.",
    "Superset ablations": "A superset ablation cuts the edges of a condition and more. If it hurts less, the"
    " model can classify with less input than the condition leaves. So lost information does not explain all of the"
    " drop.",
    "Drops do not add up": "Cutting unimodal edges and cutting cross-modal edges are two separate interventions on"
    " one model. Each leaves the other edge type intact. Their drops need not add up to anything, and neither need"
    " the drops of single layers.",
    "A cut is a deletion": "Scores of cut edges become −∞ before the softmax, so the remaining attention is"
    " renormalised. The model was not trained this way. Part of a drop may therefore come from unusual activations"
    " (off-distribution), not from missing information.",
    "Later layers can compensate": "Later layers can compensate for a cut in an earlier layer (self-repair). A small"
    " drop from one layer does not show that the layer does nothing.",
    "Structural nulls": "If no cut edge has a path to the readout, the result equals the baseline for any weights. It"
    " says nothing about the layer.",
    "Which p": "The Mann–Whitney test of the paper treats masked and unmasked models as if they came from different"
    " people. The Wilcoxon and sign-flip tests compare each subject with itself, which matches the design of the study."
    " “Statistics in full” lists all three tests under three corrections.",
    "What n is": "Subjects are the unit of analysis; trials and seeds are not. Scores of several models of one"
    " subject are averaged first. These tests do not cover the variation between seeds or between data sets.",
}
GUIDE_TO_FRACTIONS = {
    "Drop %": "The drop relative to the baseline, as in the paper's Δ%. It is the effect of one intervention, not the"
    " fraction of a signal that flows through the edges. Percentage points (pp) are absolute.",
    "Windows and repetitions": "Windows of one repetition are not independent trials. Each test repetition has the same"
    " weight, 1 / (number of test repetitions), however many windows it has.",
}
GUIDE_TO_OTHERS = {
    "Change %": "The signed change relative to the baseline; missing where the baseline is not positive. It is the"
    " effect of one intervention, not the fraction of a signal that flows through the edges.",
}


def reading_guide(findings: Findings) -> dict[str, str]:
    """Titles and explanations that a reader needs for the numbers of these findings."""
    is_fraction = all(cell.is_fraction for cell in findings.cells)
    guide = (GUIDE_TO_FRACTIONS if is_fraction else GUIDE_TO_OTHERS) | READING_GUIDE
    tests = [cell.tests for cell in findings.cells]
    cuts = sum(len(layer_conditions(one)) + len(head_conditions(one)) for one in tests)
    kinds = {kind for one in tests for kind in layer_conditions(one).get("edges", ())}
    needed = {
        ABLATIONS: any(map(len, tests)),
        CUTS: cuts > 0,
        EDGE_TYPES: len(kinds) > 1,
        RANDOM_CUTS: len(findings.controls) > 0 and cuts > 0 and RANDOM in set(findings.controls["control"]),
        NULLS: any(one["structural_null"].any() for one in tests),
    }
    unneeded = {title for titles, is_needed in needed.items() if not is_needed for title in titles}
    return {title: text for title, text in guide.items() if title not in unneeded}
