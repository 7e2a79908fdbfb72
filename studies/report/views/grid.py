"""Factor by factor: the unmasked models at every combination of levels, and levels against levels."""

from collections.abc import Mapping

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from emg_lens.studies.factors import SEED
from emg_lens.studies.findings import Findings
from emg_lens.studies.report.figures import DPI, STYLE, WIDTH, colour_of, metric_limits, offset_in_group, plain_text
from emg_lens.studies.report.view import View
from emg_lens.studies.report.wording import metric_name, value, with_interval
from emg_lens.sweeps.conditions import BASELINE


class Grid(View):
    """The metric at every level of the factors."""

    name, order = "grid", 5

    def shows(self, findings: Findings) -> bool:
        """Where a study has factors to compare."""
        return bool(findings.factors)

    def tables(self, findings: Findings) -> Mapping[str, pd.DataFrame]:
        """First factor down, the others across; then the comparisons that the study asks for."""
        found = {f"{metric_name(findings.metric)} by {' × '.join(findings.factors)}": layout_grid(findings)}
        if len(findings.level_tests):
            found["Levels against levels"] = layout_levels(findings)
        return found

    def headline(self, findings: Findings) -> Mapping[str, pd.DataFrame]:
        """All of them."""
        return self.tables(findings)

    def figures(self, findings: Findings) -> Mapping[str, Figure]:
        """Every subject at every combination of levels."""
        return {"grid": figure_grid(findings)}

    def captions(self) -> Mapping[str, str]:
        """By figure."""
        return {
            "grid": "Unmasked models at every level: every subject (dots), mean and standard deviation over subjects."
        }


GRID = Grid()


def subject_means(findings: Findings) -> pd.DataFrame:
    """The metric of unmasked models, one row a subject and combination of levels; seeds and folds averaged."""
    rows = findings.scores[findings.scores["condition"] == BASELINE]
    return rows.groupby([*findings.factors, "subject"], sort=False)[findings.metric].mean().reset_index()


def layout_grid(findings: Findings) -> pd.DataFrame:
    """Mean ± standard deviation over subjects, first factor down, the others across, with parameter counts."""
    first, *others = findings.factors
    means = subject_means(findings)
    summary = means.groupby(list(findings.factors), sort=False)[findings.metric].agg(["mean", "std", "count"])
    cells = {
        levels: f"{value(row['mean'])} ± {value(row['std'])}"
        for levels, row in zip(summary.index, summary.to_dict("records"), strict=True)
    }
    down = list(dict.fromkeys(means[first]))
    across = list(dict.fromkeys(map(tuple, means[others].to_numpy().tolist()))) if others else [()]
    body = [[cells.get((level, *rest) if others else level, "–") for rest in across] for level in down]
    headings = [", ".join(map(str, rest)) or metric_name(findings.metric) for rest in across]
    table = pd.DataFrame(body, index=pd.Index(map(str, down), name=first), columns=headings)
    fewest, most = int(summary["count"].min()), int(summary["count"].max())
    n = f"{fewest}" if fewest == most else f"{fewest} to {most}"
    seeds = findings.study.factors.get(SEED)
    averaged = f", each the mean of {len(seeds)} seeds" if seeds else ""
    table.attrs["notes"] = [
        f"{findings.metric}: mean ± standard deviation over subjects (n = {n}){averaged}.",
        f"Parameters a model: {_parameters(findings)}.",
    ]
    return table


def layout_levels(findings: Findings) -> pd.DataFrame:
    """Every asked level against its reference, subject by subject."""
    rows, others = findings.level_tests, list(findings.factors)
    share = rows["unit"].iloc[0] == "pp"
    body = []
    for r in rows.to_dict("records"):
        where = ", ".join(f"{name}: {r[name]}" for name in others if name in r and not pd.isna(r[name]))
        named = type("Row", (), r)
        body.append(
            [
                where,
                f"{r['level']} − {r['to']}",
                value(r["mean"]),
                value(r["baseline_mean"]),
                with_interval(named),
                r["stars"],
            ]
        )
    change = f"Difference{', pp' * share} [{100 * findings.study.statistics.confidence:g} % CI]"
    table = pd.DataFrame(body, columns=["At", "Levels", "First", "Second", change, "Sig."])
    return table if (table["At"] != "").any() else table.drop(columns="At")


def figure_grid(findings: Findings) -> Figure:
    """One group a level of the first factor, one colour a combination of the others."""
    first, *others = findings.factors
    means = subject_means(findings)
    down = list(dict.fromkeys(means[first]))
    across = list(dict.fromkeys(map(tuple, means[others].to_numpy().tolist()))) if others else [()]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH * 0.72, 2.4), dpi=DPI, layout="constrained")
        axes = figure.subplots()
        for k, rest in enumerate(across):
            for i, level in enumerate(down):
                mine = means[means[first] == level]
                for name, chosen in zip(others, rest, strict=True):
                    mine = mine[mine[name] == chosen]
                if not len(mine):
                    continue
                at, values = i + offset_in_group(k, len(across)), mine[findings.metric].to_numpy()
                spread = np.random.default_rng(0).uniform(-0.08, 0.08, len(values)) / len(across)
                axes.scatter(at + spread, values, s=5, color=colour_of(k), alpha=0.45, linewidths=0)
                axes.errorbar(
                    at,
                    values.mean(),
                    values.std(ddof=1) if len(values) > 1 else 0,
                    fmt="_",
                    color=colour_of(k),
                    capsize=2,
                )
            if others:
                axes.plot([], [], "o", color=colour_of(k), label=plain_text(", ".join(map(str, rest))))
        axes.set_xticks(range(len(down)), [plain_text(str(level)) for level in down])
        axes.set_xlabel(plain_text(first))
        axes.set_ylabel(findings.metric.replace("_", " ").capitalize())
        limits = metric_limits(means[findings.metric].to_numpy(), findings.cells[0].is_share)
        if limits is not None:
            axes.set_ylim(*limits)
        if others:
            figure.legend(loc="outside right upper", frameon=False)
    return figure


def _parameters(findings: Findings) -> str:
    counts = findings.facts.groupby(list(findings.factors), sort=False)["n_parameters"].first()
    if counts.nunique() == 1:
        return f"{int(counts.iloc[0]):,}"
    return "; ".join(f"{', '.join(map(str, k)) if isinstance(k, tuple) else k} {int(n):,}" for k, n in counts.items())
