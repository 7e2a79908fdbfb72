"""Training curves, with held-out and validation curves."""

from collections.abc import Mapping
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from emg_lens.plotting.curves import draw_many
from emg_lens.plotting.panels import new_figure, place_legend, plain_text
from emg_lens.plotting.style import DARK, DOTTED, PAGE, category_colour
from emg_lens.studies.report.view import View
from emg_lens.studies.report.wording import metric_name
from emg_lens.studies.results.findings import Findings

MOST_GROUPS = 6
"""Up to this many combinations of levels have their own colour."""

NOT_FITTED = {
    "held_out_": ("held out, not used in training", (0, (3, 1.5))),
    "validation_": ("validation, selects the epoch", (0, (1, 1))),
}
"""Trials that are not used for fitting: prefix of their columns, name and line style."""


class TrainingCurves(View):
    """Loss and metric by epoch."""

    name, order = "training", 90
    section = "training"
    captions = {
        "training": "Loss and metric by epoch: one thin line per model; thick line: mean. Curves weigh every window"
        " equally, tables every repetition."
    }

    def shows(self, findings: Findings) -> bool:
        """Whether there are curves: always, as every study fits models."""
        return len(findings.curves) > 0

    def figures(self, findings: Findings) -> Mapping[str, Figure]:
        """One figure."""
        facts = findings.facts
        labels = {
            row["fit"]: ", ".join(str(row[name]) for name in findings.factors) for row in facts.to_dict("records")
        }
        groups = findings.curves["fit"].map(labels)
        return {"training": figure_training(findings.curves, groups if groups.nunique() <= MOST_GROUPS else None)}


TRAINING = TrainingCurves()


def figure_training(curves: pd.DataFrame, groups: pd.Series | None = None) -> Figure:
    """Draw loss and metric by epoch, one colour per group of fits.

    Solid for training, dashed for held-out trials, dotted for validation.

    Args:
        curves: One row per fit and epoch: fit, epoch, loss, a metric, cls_weight, and the same columns with the
            prefixes `held_out_` and `validation_`.
        groups: Legend name of each row's group; default: one group.
    """
    metric = next(c for c in curves.columns if c not in ("fit", "epoch", "loss"))
    group_of = pd.Series("", index=curves.index) if groups is None else groups
    names = list(group_of.unique())
    annealed = curves[curves["cls_weight"] >= 1].groupby("fit")["epoch"].min()
    annealed = annealed[annealed > curves["epoch"].min()]
    with new_figure(PAGE * 0.72, 2.2) as figure:
        for axes, column in zip(figure.subplots(1, 2), ("loss", metric), strict=True):
            for k, name in enumerate(names):
                _draw_lines(axes, curves[group_of == name], column, category_colour(k), "-")
                for number, (prefix, (_, style)) in enumerate(NOT_FITTED.items(), start=1):
                    if f"{prefix}{column}" in curves:
                        colour = category_colour(k if len(names) > 1 else number)
                        _draw_lines(axes, curves[group_of == name], f"{prefix}{column}", colour, style)
            if len(annealed):
                axes.axvline(annealed.max(), **DOTTED)
            axes.set_xlabel("Epoch")
            axes.set_ylabel(metric_name(column))
            if (curves[column].dropna() >= 0).all():
                axes.set_ylim(bottom=0)
        entries = {plain_text(name): Line2D([], [], color=category_colour(k)) for k, name in enumerate(names) if name}
        both = DARK if entries else None
        entries["training"] = Line2D([], [], color=both or category_colour(0))
        for number, (prefix, (label, style)) in enumerate(NOT_FITTED.items(), start=1):
            if f"{prefix}{metric}" in curves:
                entries[label] = Line2D([], [], color=both or category_colour(number), linestyle=style)
        if len(annealed):
            entries["from here on, only the main head is trained"] = Line2D([], [], **DOTTED)
        place_legend(figure, entries, n_columns=4)
    return figure


def _draw_lines(axes: Axes, curves: pd.DataFrame, column: str, colour: str, style: Any) -> None:
    """Draw one thin line per fit, and their mean."""
    draw_many(axes, curves.pivot(index="epoch", columns="fit", values=column).dropna(how="all"), colour, ls=style)
