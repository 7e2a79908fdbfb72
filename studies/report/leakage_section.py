"""What a report says of the split: what training and test trials share, and what is told before the movement."""

import pandas as pd

from emg_lens.data.leakage import Leakage
from emg_lens.studies.findings import Findings


def leakage_by_cohort(findings: Findings) -> dict[str, Leakage]:
    """One report over the folds of each cohort and split, by the levels that make it; `""` where there is one."""
    reports: dict[str, list[Leakage]] = {}
    place = findings.facts.set_index("fit")
    for entry in findings.leakage:
        levels = [f"{name}: {place.loc[entry['fit'], name]}" for name in findings.factors]
        report = Leakage.from_dict({key: value for key, value in entry.items() if key != "fit"})
        reports.setdefault(", ".join(levels), []).append(report)
    found = {label: Leakage.over(some) for label, some in reports.items()}
    return {"": next(iter(found.values()))} if len(found) == 1 else found


def leakage_sentences(findings: Findings) -> list[str]:
    """The reports in words."""
    return [
        f"{label} — {sentence}" if label else sentence
        for label, report in leakage_by_cohort(findings).items()
        for sentence in report.sentences()
    ]


def leakage_table(findings: Findings) -> pd.DataFrame:
    """The reports in numbers, one row a fact."""
    parts = [report.to_frame() for report in leakage_by_cohort(findings).values()]
    if len(parts) > 1:
        parts = [p.assign(levels=label) for p, label in zip(parts, leakage_by_cohort(findings), strict=True)]
    return pd.concat(parts, ignore_index=True)
