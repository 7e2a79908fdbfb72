"""The metric of unmasked models against a numeric factor, such as the number of channels or training trials."""

import math
from collections.abc import Mapping

import pandas as pd
from matplotlib.figure import Figure

from emg_lens.plotting import plot_curves
from emg_lens.plotting.panels import new_figure, plain_text
from emg_lens.plotting.style import PAGE
from emg_lens.studies.report.notes import interval_notes
from emg_lens.studies.report.view import View
from emg_lens.studies.report.views.grid import subject_means
from emg_lens.studies.report.wording import EMPTY, metric_name, number, value
from emg_lens.studies.results.findings import Findings
from emg_lens.studies.statistics.comparison import metric_range
from emg_lens.studies.statistics.intervals import mean_interval

FEWEST = 3
"""Fewer levels are not drawn as a curve."""


class Curve(View):
    """The metric against each factor that has numeric levels."""

    name, order = "curve", 15
    captions = {
        "curve": "Models at each level of the factor: mean over subjects, with its confidence interval (band) where"
        " there is one."
    }

    def shows(self, findings: Findings) -> bool:
        """Whether a factor has three or more numeric levels."""
        return bool(ordered_factors(findings))

    def tables(self, findings: Findings) -> Mapping[str, pd.DataFrame]:
        """Mean and interval, one row per level and combination of the other factors."""
        return {
            f"{metric_name(findings.metric)} by {factor}": layout_curve(findings, factor)
            for factor in ordered_factors(findings)
        }

    def figures(self, findings: Findings) -> Mapping[str, Figure]:
        """One figure per factor."""
        return {f"curve {factor}": figure_curve(findings, factor) for factor in ordered_factors(findings)}


CURVE = Curve()


def curve_points(findings: Findings, factor: str) -> pd.DataFrame:
    """Mean and interval over subjects, one row per level and combination of the other factors, sorted by level.

    Returns:
        `others`, `level`, `n_subjects`, `mean`, `ci_low`, `ci_high` (NaN if there is no interval).
    """
    others = [name for name in findings.factors if name != factor]
    means, spec = subject_means(findings), findings.study.statistics
    rows = []
    for levels, part in means.groupby([*others, factor], sort=False):
        *rest, level = map(str, levels)
        values = part[findings.metric].to_numpy()
        low, high = mean_interval(values, spec.confidence, metric_range(findings.metric))
        rows.append((", ".join(rest), float(level), len(values), values.mean(), low, high))
    points = pd.DataFrame(rows, columns=["others", "level", "n_subjects", "mean", "ci_low", "ci_high"])
    place = {name: k for k, name in enumerate(points["others"].unique())}
    return points.sort_values(["others", "level"], key=lambda c: c.map(place) if c.name == "others" else c)


def layout_curve(findings: Findings, factor: str) -> pd.DataFrame:
    """Lay out `curve_points` as text."""
    points = curve_points(findings, factor)
    ends = zip(points["ci_low"].map(value), points["ci_high"].map(value), strict=True)
    interval = [EMPTY if low == EMPTY else f"{low} to {high}" for low, high in ends]
    table = pd.DataFrame(
        {
            "Levels": points["others"],
            factor: [number(level, 0) if level.is_integer() else f"{level:g}" for level in points["level"]],
            metric_name(findings.metric): points["mean"].map(value),
            f"{100 * findings.study.statistics.confidence:g} % CI": interval,
        }
    )
    table.attrs["notes"] = interval_notes(points)
    return table if (table["Levels"] != "").any() else table.drop(columns="Levels")


def figure_curve(findings: Findings, factor: str) -> Figure:
    """Draw the metric with its interval against a factor, one line per combination of the other factors."""
    points = curve_points(findings, factor)
    others = [name for name in findings.factors if name != factor]
    with new_figure(PAGE * (0.72 if others else 0.5), 2.4 + 0.2 * bool(others)) as figure:
        plot_curves(
            points,
            "level",
            "mean",
            by="others" if others else None,
            interval=("ci_low", "ci_high"),
            labels=(factor, metric_name(findings.metric)),
            ticks=True,
            legend_title=plain_text(", ".join(others)),
            ax=figure.subplots(),
        )
    return figure


def ordered_factors(findings: Findings) -> list[str]:
    """Factors with three or more levels, all numeric."""
    levels = {name: findings.study.factors[name] for name in findings.factors}
    return [name for name, some in levels.items() if len(some) >= FEWEST and all(map(_is_number, some))]


def _is_number(level: str) -> bool:
    try:
        return math.isfinite(float(level))
    except ValueError:
        return False
