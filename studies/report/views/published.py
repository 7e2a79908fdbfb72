"""Published numbers next to the numbers of the study. They are only shown, not used in any computation."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from emg_lens.studies.report.notes import interval_notes
from emg_lens.studies.report.view import View
from emg_lens.studies.report.wording import EMPTY, metric_name, number, value
from emg_lens.studies.results.findings import Findings
from emg_lens.studies.statistics.comparison import by_subject, is_fraction
from emg_lens.studies.statistics.intervals import mean_interval
from emg_lens.sweeps.conditions import BASELINE


class PublishedNumbers(View):
    """All numbers of a study's `reference`, next to the measured ones."""

    name, order = "published", 12

    def shows(self, findings: Findings) -> bool:
        """Whether the study has published numbers for a metric that was measured."""
        return findings.reference is not None and findings.reference.metric in findings.metrics

    def tables(self, findings: Findings) -> Mapping[str, pd.DataFrame]:
        """One table."""
        return {"Comparison with published numbers": layout_published(findings)}


PUBLISHED = PublishedNumbers()


def published_rows(findings: Findings) -> pd.DataFrame:
    """One row per published number, with the number measured here.

    Returns:
        The compared factors, `condition`, `paper`, `paper_stars`, `source`; of the study: `n_subjects`, `mean`,
        `stars`, `difference` = here − paper with `ci_low` and `ci_high`, in `unit`. The interval is the interval of
        the mean here; the published number counts as exact.
    """
    reference = findings.reference
    assert reference is not None
    fraction, rows = is_fraction(reference.metric), []
    scale, bounds = (100, (0.0, 1.0)) if fraction else (1, (-np.inf, np.inf))
    for cell in findings.cells:
        values = by_subject(cell.scores, reference.metric)
        stars = dict(zip(cell.tests["condition"], cell.tests["stars"], strict=True))
        for row in reference.at(cell.levels):
            if row.condition not in values:
                continue
            measured = values[row.condition].to_numpy()
            low, high = mean_interval(measured, cell.statistics.confidence, bounds)
            rows.append(
                {
                    **cell.levels,
                    "condition": row.condition,
                    "paper": row.value,
                    "paper_stars": row.stars or "",
                    "n_subjects": len(measured),
                    "mean": measured.mean(),
                    "stars": stars.get(row.condition, "") if reference.metric == findings.metric else "",
                    "difference": scale * (measured.mean() - row.value),
                    "ci_low": scale * (low - row.value),
                    "ci_high": scale * (high - row.value),
                    "unit": "pp" if fraction else "",
                    "source": reference.source_of(row),
                }
            )
    return pd.DataFrame(rows)


def layout_published(findings: Findings) -> pd.DataFrame:
    """Lay out `published_rows` as text."""
    rows, reference = published_rows(findings), findings.reference
    assert reference is not None
    decimals = 1 if is_fraction(reference.metric) else 3
    body = []
    for row in rows.to_dict("records"):
        ends = [number(row[name], decimals) for name in ("difference", "ci_low", "ci_high")]
        difference = ends[0] if ends[1] == EMPTY else f"{ends[0]} [{ends[1]}, {ends[2]}]"
        at = ", ".join(f"{name} {row[name]}" for name in findings.factors)
        printed = [value(row["paper"]), row["paper_stars"], value(row["mean"]), row["stars"], difference, row["source"]]
        body.append([at, "Baseline" if row["condition"] == BASELINE else row["condition"], *printed])
    confidence = f" [{100 * findings.study.statistics.confidence:g} % CI]" * bool(rows["ci_low"].notna().any())
    unit = ", pp" * is_fraction(reference.metric)
    columns = [
        "Levels",
        "Condition",
        "Paper",
        "Sig. paper",
        "Here",
        "Sig. here",
        f"Here − paper{unit}{confidence}",
        "Source",
    ]
    table = pd.DataFrame(body, columns=columns)
    for name in ("Levels", "Sig. paper", "Sig. here"):
        if not (table[name] != "").any():
            table = table.drop(columns=name)
    table.attrs["notes"] = [
        f"{metric_name(reference.metric)}. Published numbers are only shown. CI: uncertainty of the mean measured here;"
        " the published number counts as exact.",
        *interval_notes(rows)[: int(rows["ci_low"].isna().any())],
    ]
    return table
