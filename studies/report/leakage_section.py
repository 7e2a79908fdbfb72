"""What a report says of the split: what training and test trials share, and what is told before the movement."""

import pandas as pd

from emg_lens.data.leakage import Leakage
from emg_lens.studies.results.findings import Findings


def leakage_by_cohort(findings: Findings) -> dict[str, Leakage]:
    """One report over the folds of each combination of levels; `""` where all say the same.

    Combinations whose reports say the same share one, under all their names.
    """
    found = {cell.label: cell.leakage for cell in findings.cells if cell.leakage is not None}
    labels: dict[tuple[str, ...], list[str]] = {}
    for label, report in found.items():
        labels.setdefault(tuple(report.sentences()), []).append(label)
    if len(labels) == 1:
        return {"": next(iter(found.values()))}
    return {"; ".join(same): found[same[0]] for same in labels.values()}


def leakage_sentences(findings: Findings) -> list[str]:
    """The reports in words."""
    return [
        f"{label} — {sentence}" if label else sentence
        for label, report in leakage_by_cohort(findings).items()
        for sentence in report.sentences()
    ]


def leakage_table(findings: Findings) -> pd.DataFrame:
    """The reports in numbers, one row a fact."""
    parts = []
    for label, report in leakage_by_cohort(findings).items():
        part = report.to_frame()
        if label:
            part.insert(0, "levels", label)
        parts.append(part)
    return pd.concat(parts, ignore_index=True)
