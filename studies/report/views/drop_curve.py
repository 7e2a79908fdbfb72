"""Accuracy drop of each cut against a numeric factor: from how many electrodes on is the second sensor redundant?"""

from collections.abc import Mapping

import pandas as pd
from matplotlib.figure import Figure

from emg_lens.plotting import plot_curves
from emg_lens.plotting.panels import new_figure
from emg_lens.plotting.style import DASHED, PAGE
from emg_lens.studies.report.notes import interval_notes
from emg_lens.studies.report.view import View
from emg_lens.studies.report.views.curve import ordered_factors
from emg_lens.studies.report.wording import change_name, interval_heading, number, single_conditions, with_interval
from emg_lens.studies.results.findings import Findings

THRESHOLD = 15.0
"""A drop below this percentage of the baseline counts as small (docs/isonet-protocol.md §4.11)."""


class DropCurve(View):
    """The relative drop under every single condition, against a study's only factor, which has numeric levels."""

    name, order = "drop-curve", 16
    captions = {"drop-curve": f"Mean relative drop under each single condition; dashed: {THRESHOLD:g} %."}

    def shows(self, findings: Findings) -> bool:
        """Whether the only compared factor is numeric, the metric a fraction, and there are single conditions."""
        one = len(findings.factors) == 1 and bool(ordered_factors(findings))
        return one and all(cell.is_fraction and len(single_conditions(cell.tests)) for cell in findings.cells)

    def tables(self, findings: Findings) -> Mapping[str, pd.DataFrame]:
        """One row per condition and level."""
        return {f"Drop under each condition by {findings.factors[0]}": layout_drops(findings)}

    def figures(self, findings: Findings) -> Mapping[str, Figure]:
        """One line per condition."""
        return {f"drop-curve {findings.factors[0]}": figure_drops(findings)}


DROP_CURVE = DropCurve()


def drop_points(findings: Findings) -> pd.DataFrame:
    """One row per single condition and level: `level`, `drop` (% of the baseline), and the columns of `compare`."""
    (factor,) = findings.factors
    parts = [single_conditions(cell.tests).assign(level=float(cell.levels[factor])) for cell in findings.cells]
    rows = pd.concat(parts, ignore_index=True)
    place = {name: k for k, name in enumerate(rows["condition"].unique())}
    rows = rows.assign(drop=-rows["delta_percent"])
    return rows.sort_values(["condition", "level"], key=lambda c: c.map(place) if c.name == "condition" else c)


def layout_drops(findings: Findings) -> pd.DataFrame:
    """Lay out `drop_points` as text; notes give the level from which on each drop stays below the threshold."""
    points, cell = drop_points(findings), findings.cells[0]
    table = pd.DataFrame(
        {
            "Condition": points["condition"],
            findings.factors[0]: [f"{level:g}" for level in points["level"]],
            change_name(cell): points["drop"].map(number),
            interval_heading(points, cell.statistics.confidence): list(map(with_interval, points.to_dict("records"))),
        }
    ).reset_index(drop=True)
    notes = []
    for name, line in points.groupby("condition", sort=False):
        large = line.loc[line["drop"] >= THRESHOLD, "level"]
        later = line.loc[line["level"] > (large.max() if len(large) else -float("inf")), "level"]
        from_on = f"from level {later.min():g} on" if len(later) else "at no level"
        notes.append(f"{name}: the mean drop stays below {THRESHOLD:g} % {from_on}.")
    table.attrs["notes"] = [*notes, *interval_notes(points)]
    return table


def figure_drops(findings: Findings) -> Figure:
    """Draw the relative drop against the factor."""
    points = drop_points(findings)
    labels = (findings.factors[0], change_name(findings.cells[0]))
    with new_figure(PAGE * 0.72, 2.6) as figure:
        axes = plot_curves(
            points, "level", "drop", by="condition", labels=labels, ticks=True, log=False, ax=figure.subplots()
        )
        axes.axhline(THRESHOLD, **DASHED)
    return figure
