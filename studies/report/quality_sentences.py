"""Sentences that judge a model before its cuts are interpreted (docs/statistics.md §5.7)."""

from emg_lens.scoring.metrics import METRICS
from emg_lens.studies.report.wording import EMPTY, change_in_words, metric_words, value
from emg_lens.studies.results.findings import Cell
from emg_lens.studies.results.quality import NEAR_ONE, Quality, quality_of

REFERENCES = {"classes": "linear discriminant analysis", "values": "ridge regression"}
"""The simple reference for each kind of output."""


def quality_line(cell: Cell) -> str:
    """Scores of the model and of the simple reference in sentences; empty if they are unknown."""
    quality = quality_of(cell)
    if quality is None:
        return ""
    others = [f"{name} {value(x)}" for name, x in (("chance", quality.chance), ("training", quality.train)) if x == x]
    model = f"{_at(cell)}Model {metric_words(cell.metric)} {value(quality.test)} on test trials"
    model += f" ({', '.join(others)})" if others else ""
    if quality.reference != quality.reference:
        return f"{model}. No simple reference exists for these outputs."
    alone = [f"{value(x)} with {name.upper()} alone" for name, x in quality.references.items()]
    by_modality = f" ({', '.join(alone)})" if len(alone) > 1 else ""
    method = REFERENCES[METRICS[cell.metric].kind] if cell.metric in METRICS else "a linear model"
    reference = f"A simple reference ({method} on mean and log-variance) reaches {value(quality.reference)}"
    is_open = f" The model is not shown to be better: {_from_reference(cell, quality)}." * quality.not_above_reference
    return f"{model}. {reference}{by_modality}.{is_open}"


def compared_with_reference(quality: Quality) -> str:
    """Say in a table whether the model is better than the simple reference."""
    if quality.reference != quality.reference:
        return EMPTY
    return "worse" if quality.below_reference else "not shown to be better" if quality.not_above_reference else "better"


def quality_warning(cell: Cell) -> str | None:
    """What is wrong with the model and what to try; None if neither warning applies."""
    quality = quality_of(cell)
    if quality is None or not (quality.below_reference or quality.overfitted):
        return None
    wrong = [_below_reference(cell, quality)] if quality.below_reference else []
    if quality.overfitted:
        wrong.append(
            f"Training trials reach {value(quality.train)}, test trials only {value(quality.test)}: the model is"
            " overfitted."
        )
    is_trained = cell.is_fraction and quality.train >= NEAR_ONE
    to_try = ["envelopes as input (rectify, then low-pass, in cohort.recipe)", "a smaller width (model.d_model)"]
    to_try += [] if is_trained else ["more epochs (training.epochs)"]
    return (
        f"{_at(cell)}{' '.join(wrong)} Improve the model before its attention is interpreted. Try"
        f" {', '.join(to_try[:-1])} or {to_try[-1]}."
    )


def _below_reference(cell: Cell, quality: Quality) -> str:
    return f"The model is worse than the simple reference: {_from_reference(cell, quality)}."


def _from_reference(cell: Cell, quality: Quality) -> str:
    """State the difference from the simple reference, and how many subjects are worse."""
    n_worse = f"{quality.n_below} of {quality.n_subjects} subjects are worse"
    if not quality.difference:
        return f"{metric_words(cell.metric)} is equal on average; {n_worse}"
    unit = "pp" if cell.is_fraction else METRICS[cell.metric].unit if cell.metric in METRICS else ""
    row = {"difference": quality.difference, "ci_low": quality.low, "ci_high": quality.high, "unit": unit}
    change = change_in_words(row, cell.statistics.confidence)
    return f"the difference in {metric_words(cell.metric)} (model minus reference) is {change}; {n_worse}"


def _at(cell: Cell) -> str:
    return f"{cell.label}: " if cell.label else ""
