"""The unmasked models along an ordered factor: a number of channels, of layers, of training trials."""

from collections.abc import Mapping

import matplotlib
import pandas as pd
from matplotlib.figure import Figure

from emg_lens.studies.findings import Findings
from emg_lens.studies.report.figures import DPI, STYLE, WIDTH, colour_of, plain_text
from emg_lens.studies.report.view import View
from emg_lens.studies.report.views.grid import subject_means
from emg_lens.studies.report.wording import metric_name, value
from emg_lens.studies.statistics.rank_tests import bootstrap_interval


class Curve(View):
    """The metric against each factor whose levels are numbers."""

    name, order = "curve", 15

    def shows(self, findings: Findings) -> bool:
        """Where a factor has three or more levels that are numbers."""
        return bool(_ordered(findings))

    def tables(self, findings: Findings) -> Mapping[str, pd.DataFrame]:
        """Mean and interval at each level, one row a level and combination of the other factors."""
        return {
            f"{metric_name(findings.metric)} along {factor}": _layout(findings, factor) for factor in _ordered(findings)
        }

    def figures(self, findings: Findings) -> Mapping[str, Figure]:
        """One a factor."""
        return {f"curve {factor}": figure_curve(findings, factor) for factor in _ordered(findings)}

    def captions(self) -> Mapping[str, str]:
        """By figure."""
        return {"curve": "Unmasked models along an ordered factor: mean and bootstrap interval over subjects."}


CURVE = Curve()


def curve_points(findings: Findings, factor: str) -> pd.DataFrame:
    """One row a level and combination of the other factors: level as a number, mean, ci_low, ci_high."""
    others = [name for name in findings.factors if name != factor]
    means, spec = subject_means(findings), findings.study.statistics
    rows = []
    for key, part in means.groupby([*others, factor], sort=False):
        *rest, level = key
        values = part[findings.metric].to_numpy()
        low, high = bootstrap_interval(values - values.mean(), spec.confidence, spec.n_bootstrap, spec.seed)
        rows.append((", ".join(map(str, rest)), float(level), values.mean(), values.mean() + low, values.mean() + high))
    return pd.DataFrame(rows, columns=["others", "level", "mean", "ci_low", "ci_high"]).sort_values(["others", "level"])


def figure_curve(findings: Findings, factor: str) -> Figure:
    """The metric along a factor, one line a combination of the others, with its interval."""
    points = curve_points(findings, factor)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH * 0.5, 2.3), dpi=DPI, layout="constrained")
        axes = figure.subplots()
        for k, (others, line) in enumerate(points.groupby("others", sort=False)):
            axes.plot(
                line["level"], line["mean"], "o-", color=colour_of(k), markersize=3, label=plain_text(str(others))
            )
            axes.fill_between(
                line["level"], line["ci_low"], line["ci_high"], color=colour_of(k), alpha=0.2, linewidth=0
            )
        axes.set_xlabel(plain_text(factor))
        axes.set_ylabel(findings.metric.replace("_", " ").capitalize())
        if points["others"].nunique() > 1:
            axes.legend(frameon=False)
    return figure


def _layout(findings: Findings, factor: str) -> pd.DataFrame:
    points = curve_points(findings, factor)
    table = points.assign(**{name: points[name].map(value) for name in ("mean", "ci_low", "ci_high")})
    table["level"] = [f"{level:g}" for level in points["level"]]
    table = table.rename(columns={"others": "At", "level": factor, "mean": metric_name(findings.metric)})
    table = table.rename(columns={"ci_low": "CI low", "ci_high": "CI high"})
    return table if (table["At"] != "").any() else table.drop(columns="At")


def _ordered(findings: Findings) -> list[str]:
    return [
        name for name in findings.factors if len(findings.study.factors[name]) >= 3 and _are_numbers(findings, name)
    ]


def _are_numbers(findings: Findings, factor: str) -> bool:
    try:
        return [float(level) for level in findings.study.factors[factor]] != []
    except ValueError:
        return False
