"""The leakage section of a report: what training and test trials share, and pre-onset decodability."""

import pandas as pd

from emg_lens.data.leakage import Leakage
from emg_lens.studies.results.findings import Findings


def leakage_by_cohort(findings: Findings) -> dict[str, Leakage]:
    """Leakage over the folds of each combination of levels, by the label of the combination.

    Combinations with the same sentences are merged under a joint label; the label is `""` where all have the same.
    """
    reports = {cell.label: cell.leakage for cell in findings.cells if cell.leakage is not None}
    labels: dict[tuple[str, ...], list[str]] = {}
    for label, report in reports.items():
        labels.setdefault(tuple(report.sentences()), []).append(label)
    if len(labels) == 1:
        return {"": next(iter(reports.values()))}
    return {"; ".join(same): reports[same[0]] for same in labels.values()}


def leakage_sentences(findings: Findings) -> list[str]:
    """Leakage in sentences, each with the levels that it is about."""
    return [
        f"{label} — {sentence}" if label else sentence
        for label, report in leakage_by_cohort(findings).items()
        for sentence in report.sentences()
    ]


def leakage_table(findings: Findings) -> pd.DataFrame:
    """Leakage in numbers, one row per fact."""
    parts = []
    for label, report in leakage_by_cohort(findings).items():
        part = report.to_frame()
        if label:
            part.insert(0, "levels", label)
        parts.append(part)
    return pd.concat(parts, ignore_index=True)
