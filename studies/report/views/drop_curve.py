"""What cuts cost along an ordered factor: at how many electrodes does the other sensor stop to matter?"""

from collections.abc import Mapping

import matplotlib
import pandas as pd
from matplotlib.figure import Figure

from emg_lens.studies.report.figures import DPI, STYLE, WIDTH, colour_of, plain_text
from emg_lens.studies.report.notes import interval_notes
from emg_lens.studies.report.view import View
from emg_lens.studies.report.views.curve import ordered_factors
from emg_lens.studies.report.wording import change_name, interval_heading, number, single_conditions, with_interval
from emg_lens.studies.results.findings import Findings

THRESHOLD = 15.0
"""Per cent of the baseline below which a cut counts as cheap (docs/isonet-protocol.md §4.11)."""


class CostsAlong(View):
    """The cost of every single condition against the one factor of a study, whose levels are numbers."""

    name, order = "drop-curve", 16

    def shows(self, findings: Findings) -> bool:
        """Where the only compared factor is ordered, the metric a share, and there are single conditions."""
        one = len(findings.factors) == 1 and bool(ordered_factors(findings))
        return one and all(cell.is_fraction and len(single_conditions(cell.tests)) for cell in findings.cells)

    def tables(self, findings: Findings) -> Mapping[str, pd.DataFrame]:
        """One row a condition and level."""
        return {f"What cuts cost along {findings.factors[0]}": layout_costs(findings)}

    def figures(self, findings: Findings) -> Mapping[str, Figure]:
        """One line a condition."""
        return {f"costs {findings.factors[0]}": figure_costs(findings)}

    def captions(self) -> Mapping[str, str]:
        """By figure."""
        return {"drop-curve": f"Mean relative drop under each single condition; dashed: {THRESHOLD:g} %."}


DROP_CURVE = CostsAlong()


def cost_points(findings: Findings) -> pd.DataFrame:
    """One row a single condition and level: `condition`, `level`, `drop` (% of the baseline), what `compare` says."""
    (factor,) = findings.factors
    parts = [single_conditions(cell.tests).assign(level=float(cell.levels[factor])) for cell in findings.cells]
    found = pd.concat(parts, ignore_index=True)
    place = {name: k for k, name in enumerate(found["condition"].unique())}
    found = found.assign(drop=-found["delta_percent"])
    return found.sort_values(["condition", "level"], key=lambda c: c.map(place) if c.name == "condition" else c)


def layout_costs(findings: Findings) -> pd.DataFrame:
    """`cost_points` as text, and from which level on each condition costs less than the threshold."""
    points, cell = cost_points(findings), findings.cells[0]
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
        dear = line.loc[line["drop"] >= THRESHOLD, "level"]
        later = line.loc[line["level"] > (dear.max() if len(dear) else -float("inf")), "level"]
        from_on = f"from {later.min():g} on" if len(later) else "at no level"
        notes.append(f"{name}: a mean drop below {THRESHOLD:g} % {from_on}.")
    table.attrs["notes"] = [*notes, *interval_notes(points)]
    return table


def figure_costs(findings: Findings) -> Figure:
    """The relative drop along the factor."""
    points = cost_points(findings)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH * 0.72, 2.4), dpi=DPI, layout="constrained")
        axes = figure.subplots()
        for k, (name, line) in enumerate(points.groupby("condition", sort=False)):
            style = {"color": colour_of(k), "linewidth": 1.2, "markersize": 3.5, "label": plain_text(str(name))}
            axes.plot(line["level"], line["drop"], "o-", **style)
        axes.axhline(THRESHOLD, color="grey", linewidth=0.8, linestyle="--")
        levels = sorted(points["level"].unique())
        axes.set_xticks(levels, [f"{level:g}" for level in levels])
        axes.set_xlabel(plain_text(findings.factors[0]))
        axes.set_ylabel(change_name(findings.cells[0]))
        figure.legend(loc="outside right upper", frameon=False)
    return figure
