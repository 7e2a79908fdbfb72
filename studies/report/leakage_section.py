"""The leakage section of a report: what training and test trials share, pre-onset decodability, repetitions used."""

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
    chosen = any(spec.cohort.channels is not None for _, spec in findings.study.cells)
    decodable = any(report.decodability for report in leakage_by_cohort(findings).values())
    added = ["A model may receive only a part of the channels that the linear classifier receives."]
    return [
        f"{label} — {sentence}" if label else sentence
        for label, report in leakage_by_cohort(findings).items()
        for sentence in report.sentences()
    ] + added * (chosen and decodable)


def leakage_table(findings: Findings) -> pd.DataFrame:
    """Leakage in numbers, one row per fact."""
    parts = []
    for label, report in leakage_by_cohort(findings).items():
        part = report.to_frame()
        if label:
            part.insert(0, "levels", label)
        parts.append(part)
    return pd.concat(parts, ignore_index=True)


def training_repetitions(findings: Findings) -> dict[str, str]:
    """Repetitions that the models were trained on, as one fact; empty unless the study names only the tested ones."""
    split, used = findings.study.split, findings.facts.get("train_repetitions")
    if split.by != "repetition" or split.train is not None or used is None:
        return {}
    return {"training repetitions": " or ".join(dict.fromkeys(", ".join(map(str, numbers)) for numbers in used))}
