"""Training and held-out curves."""

from collections.abc import Mapping
from typing import Any

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from emg_lens.studies.report.figures import DARK, DOTTED, DPI, STYLE, WIDTH, colour_of, place_legend, plain_text
from emg_lens.studies.report.view import View
from emg_lens.studies.report.wording import metric_name
from emg_lens.studies.results.findings import Findings

MOST_GROUPS = 6
"""Combinations of levels that get a colour each; of more, all fits are drawn alike."""

LOOKED_AT = {"held_out_": ("held out", (0, (3, 1.5))), "validation_": ("validation", (0, (1, 1)))}
"""Trials that are not fitted: what their columns begin with, and how they are drawn."""


class TrainingCurves(View):
    """How the fits went."""

    name, order = "training", 90
    section = "training"

    def shows(self, findings: Findings) -> bool:
        """Always: every study fits models."""
        return len(findings.curves) > 0

    def figures(self, findings: Findings) -> Mapping[str, Figure]:
        """Loss and metric by epoch."""
        facts = findings.facts
        labels = {
            row["fit"]: ", ".join(str(row[name]) for name in findings.factors) for row in facts.to_dict("records")
        }
        groups = findings.curves["fit"].map(labels)
        return {"training": figure_training(findings.curves, groups if groups.nunique() <= MOST_GROUPS else None)}

    def captions(self) -> Mapping[str, str]:
        """By figure."""
        return {
            "training": "Loss and metric by epoch: one thin line a fit, thick: their mean. Held-out trials take no part"
            " in training, validation trials choose the epoch;"
            " curves count every window alike, tables every movement. Dotted: from here on the main head"
            " alone drives learning."
        }


TRAINING = TrainingCurves()


def figure_training(curves: pd.DataFrame, groups: pd.Series | None = None) -> Figure:
    """Loss and metric by epoch, one colour a group of fits.

    Solid for training, dashed for held-out trials, dotted for validation.

    Args:
        curves: One row a fit and epoch: fit, epoch, loss, a metric, cls_weight, and `held_out_` columns,
            and those of validation.
        groups: Of each row, what the legend calls its group; default one group.
    """
    metric = next(c for c in curves.columns if c not in ("fit", "epoch", "loss"))
    group_of = pd.Series("", index=curves.index) if groups is None else groups
    names = list(group_of.unique())
    annealed = curves[curves["cls_weight"] >= 1].groupby("fit")["epoch"].min()
    annealed = annealed[annealed > curves["epoch"].min()]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH * 0.72, 2.2), dpi=DPI, layout="constrained")
        for axes, column in zip(figure.subplots(1, 2), ("loss", metric), strict=True):
            for k, name in enumerate(names):
                _draw_lines(axes, curves[group_of == name], column, colour_of(k), "-")
                for number, (prefix, (_, style)) in enumerate(LOOKED_AT.items(), start=1):
                    if f"{prefix}{column}" in curves:
                        colour = colour_of(k if len(names) > 1 else number)
                        _draw_lines(axes, curves[group_of == name], f"{prefix}{column}", colour, style)
            if len(annealed):
                axes.axvline(annealed.max(), **DOTTED)
            axes.set_xlabel("Epoch")
            axes.set_ylabel(metric_name(column))
            if (curves[column].dropna() >= 0).all():
                axes.set_ylim(bottom=0)
        entries = {plain_text(name): Line2D([], [], color=colour_of(k)) for k, name in enumerate(names) if name}
        both = DARK if entries else None
        entries["training"] = Line2D([], [], color=both or colour_of(0))
        for number, (prefix, (label, style)) in enumerate(LOOKED_AT.items(), start=1):
            if f"{prefix}{metric}" in curves:
                entries[label] = Line2D([], [], color=both or colour_of(number), linestyle=style)
        place_legend(figure, entries, n_columns=4)
    return figure


def _draw_lines(axes: Axes, curves: pd.DataFrame, column: str, colour: str, style: Any) -> None:
    """One thin line a fit, and their mean."""
    lines = curves.pivot(index="epoch", columns="fit", values=column).dropna(how="all")
    axes.plot(lines.index, lines, color=colour, linewidth=0.5, alpha=0.3)
    axes.plot(lines.index, lines.mean(axis=1), color=colour, linewidth=1.3, linestyle=style)
