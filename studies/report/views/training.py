"""Training and held-out curves."""

from collections.abc import Mapping

import matplotlib
import pandas as pd
from matplotlib.figure import Figure

from emg_lens.studies.findings import Findings
from emg_lens.studies.report.figures import COLOURS, DOTTED, DPI, GREY, STYLE, WIDTH
from emg_lens.studies.report.view import View


class TrainingCurves(View):
    """How the fits went."""

    name, order = "training", 90

    def shows(self, findings: Findings) -> bool:
        """Always: every study fits models."""
        return len(findings.curves) > 0

    def figures(self, findings: Findings) -> Mapping[str, Figure]:
        """Loss and metric by epoch."""
        return {"training": figure_training(findings.curves)}

    def captions(self) -> Mapping[str, str]:
        """By figure."""
        return {
            "training": "Loss and metric by epoch: one thin line a fit, thick: their mean; orange: held-out trials,"
            " which take no part in training. Dotted: from here on the main head alone drives learning."
        }


TRAINING = TrainingCurves()


def figure_training(curves: pd.DataFrame) -> Figure:
    """Loss and metric by epoch, training (blue) and held-out (orange), one thin line a fit and their means.

    Args:
        curves: One row a fit and epoch: fit, epoch, loss, a metric, cls_weight, and `held_out_` columns.
    """
    metric = next(c for c in curves.columns if c not in ("fit", "epoch", "loss"))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH * 0.72, 1.9), dpi=DPI, layout="constrained")
        for axes, column in zip(figure.subplots(1, 2), ("loss", metric), strict=True):
            for k, name in enumerate((column, f"held_out_{column}")):
                if name not in curves:
                    continue
                lines = curves.pivot(index="epoch", columns="fit", values=name).dropna(how="all")
                axes.plot(lines.index, lines, color=COLOURS[k] if k else GREY, linewidth=0.5, alpha=0.35)
                axes.plot(lines.index, lines.mean(axis=1), color=COLOURS[k], linewidth=1.3)
            if (curves["cls_weight"] < 1).any():
                axes.axvline(curves.loc[curves["cls_weight"] >= 1, "epoch"].min(), **DOTTED)
            axes.set_xlabel("Epoch")
            axes.set_ylabel(column.replace("_", " ").capitalize())
            if (curves[column].dropna() >= 0).all():
                axes.set_ylim(bottom=0)
    return figure
