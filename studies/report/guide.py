"""What a reader must know to read the numbers of a study rightly (docs/controls.md §8)."""

from emg_lens.studies.statistics.comparison import is_fraction

READING_GUIDE = {
    "Drops do not add up": "Cutting unimodal and cutting cross-modal edges are separate interventions on one"
    " model, each with the other kind intact. Their drops need not sum to anything; nor need single layers.",
    "A cut is a deletion": "Scores of cut edges become −∞ before the softmax, and the remaining attention is"
    " renormalised. The model was not trained that way: part of a drop may come from activations it has never"
    " met (off-distribution), rather than from information that is missing.",
    "A single layer can be made up for": "Later layers can make up for what an earlier one lost (self-repair). A"
    " small drop from one layer does not show that the layer does nothing.",
    "Structural nulls": "Where no cut edge has a path to the readout, the result equals the baseline for any"
    " weights. It says nothing about the layer.",
    "Which p": "Mann–Whitney, the paper's test, treats masked and unmasked models as if they came from"
    " different people. Wilcoxon and the sign flip compare each subject with itself, as the study is"
    " designed. All of them, under three corrections, are in “Statistics in full”.",
    "What n is": "Subjects are the unit of analysis. Trials and seeds do not count as subjects: models of one"
    " subject are averaged first. Other seeds and data sets are further sources of variation, unseen by these tests.",
}
GUIDE_TO_SHARES = {
    "Drop %": "Relative to the baseline, as in the paper's Δ%. It is what one intervention costs,"
    " not the share of a signal that flows through the edges. Percentage points (pp) are absolute.",
    "Granularity": "Windows of one movement are no independent trials: each movement counts the same, however many"
    " windows it has, and 1 / (number of test movements) is what one of them weighs. A single window weighs less.",
}
GUIDE_TO_OTHERS = {
    "Change %": "Relative to the baseline, signed; none where the baseline is not positive. It is what one"
    " intervention costs, not the share of a signal that flows through the edges.",
}


def reading_guide(metric: str) -> dict[str, str]:
    """What a reader must know to read numbers of this metric rightly."""
    return (GUIDE_TO_SHARES if is_fraction(metric) else GUIDE_TO_OTHERS) | READING_GUIDE
