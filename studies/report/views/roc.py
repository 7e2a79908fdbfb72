"""How well the unmasked models rank each class above the others: receiver operating characteristics, one against rest.

The areas are scikit-learn's. Every tested movement weighs the same.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.figure import Figure
from scipy.special import softmax

from emg_lens.studies.report.figures import COLOURS, DARK, DOTTED, DPI, GREY, STYLE, WIDTH, plain_text
from emg_lens.studies.report.view import OutputsView, by_title, outputs_of_fits, repetition_fractions
from emg_lens.studies.report.wording import value
from emg_lens.studies.results.findings import Findings

FALSE_RATES: Float[np.ndarray, " point"] = np.linspace(0, 1, 201)
"""Shares of false positives at which curves of several fits are averaged."""
MACRO, MICRO = "Macro", "Micro"
MOST_NAMED = 12
"""Classes up to which each curve has a colour and a name."""


class ReceiverCurves(OutputsView):
    """ROC curves and the areas under them, where a study asks for them: they are read from every fit's outputs."""

    name, order = "roc", 61

    def tables(self, findings: Findings) -> Mapping[str, pd.DataFrame]:
        """One a cell: areas of each class against the rest, of their mean (macro) and of all decisions (micro)."""
        return by_title("ROC by class", {label: layout_areas(one) for label, one in mean_curves(findings).items()})

    def figures(self, findings: Findings) -> Mapping[str, Figure]:
        """One a cell."""
        return by_title("roc", {label: figure_curves(one) for label, one in mean_curves(findings).items()})

    def captions(self) -> Mapping[str, str]:
        """By figure."""
        return {
            "roc": "Share of a class's movements that are told (up) against the share of the others that are taken for"
            " it (right), mean over fits at equal shares of the latter; macro: mean over classes, micro: all decisions"
            " of one class against the rest together; beside the names the areas. Dotted: guessing."
        }


ROC = ReceiverCurves()


@dataclass(frozen=True, eq=False)
class ReceiverCurve:
    """One class against the rest, a mean over classes, or all such decisions together.

    Attributes:
        true_rates: Share of true positives at `FALSE_RATES`.
        area: Under the curve, 0.5 for guessing.
        precision: Average precision: the mean precision at each threshold, weighted by the gain in recall.
        movements: Of the class, that were tested.
    """

    true_rates: Float[np.ndarray, " point"]
    area: float
    precision: float
    movements: float


Curves = dict[str, ReceiverCurve]
"""By class; then `MACRO` and `MICRO`."""


def receiver_curves(trials: pd.DataFrame, names: list[str]) -> Curves:
    """Curves of one fit; classes that no tested trial, or every one, is of are left out.

    Args:
        trials: Rows of `StudyResult.predictions`: subject, movement, target (a class index), output_{name} columns.
        names: Of the classes.
    """
    logits = trials[[f"output_{name}" for name in names]].to_numpy(np.float64)
    told, weights = softmax(logits, axis=1), repetition_fractions(trials)
    is_class = trials["target"].to_numpy()[:, None] == np.arange(len(names))
    decided = [k for k in range(len(names)) if 0 < is_class[:, k].sum() < len(trials)]
    found = {names[k]: _curve(is_class[:, k], told[:, k], weights) for k in decided}
    if not found:
        return {}
    every = list(found.values())
    together = _curve(is_class.ravel(), told.ravel(), np.repeat(weights, len(names)))
    return found | {MACRO: _mean(every, float(weights.sum())), MICRO: _mean([together], float(weights.sum()))}


def mean_curves(findings: Findings) -> dict[str, Curves]:
    """Means over the fits of each cell, by its label; movements are counted over the fits.

    Curves are averaged at equal shares of false positives, never scores of different models in one curve.
    """
    of_fit = {fit: receiver_curves(*outputs) for fit, outputs in outputs_of_fits(findings).items()}
    found = {}
    for cell in findings.cells:
        mine = [of_fit[fit] for fit in cell.scores["fit"].unique()]
        order = [n for n in dict.fromkeys(name for curves in mine for name in curves) if n not in (MACRO, MICRO)]
        by_name = {name: [curves[name] for curves in mine if name in curves] for name in (*order, MACRO, MICRO)}
        found[cell.label] = {
            name: _mean(some, sum(one.movements for one in some)) for name, some in by_name.items() if some
        }
    return found


def layout_areas(curves: Curves) -> pd.DataFrame:
    """One row a class, macro and micro: movements, area under the curve, average precision."""
    rows = [[name, str(round(one.movements)), value(one.area), value(one.precision)] for name, one in curves.items()]
    table = pd.DataFrame(rows, columns=["Class", "Movements", "AUC", "Average precision"])
    table.attrs["notes"] = [
        "Of the unmasked models, each class against the rest, by its probability; means over fits. Macro: mean over the"
        " classes that are tested; micro: all these decisions in one curve. Guessing has an AUC of 0.5, and as average"
        " precision the share of the class."
    ]
    return table


def figure_curves(curves: Curves) -> Figure:
    """True against false positives: macro and micro, and each class."""
    classes = [name for name in curves if name not in (MACRO, MICRO)]
    side = WIDTH * 0.45
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(side + 1.6, side), dpi=DPI, layout="constrained")
        axes = figure.subplots()
        axes.plot([0, 1], [0, 1], **DOTTED)
        few = len(classes) <= MOST_NAMED
        for k, name in enumerate(classes):
            style: dict[str, Any] = {"color": COLOURS[k % len(COLOURS)], "linestyle": "-" if k < len(COLOURS) else "--"}
            style = style | {"label": _label(name, curves)} if few else {"color": GREY, "alpha": 0.4}
            axes.plot(FALSE_RATES, curves[name].true_rates, linewidth=0.7, **style)
        for name, dash in ((MACRO, "-"), (MICRO, (0, (4, 2)))):
            if name in curves:
                line = {"color": DARK, "linewidth": 1.6, "linestyle": dash, "label": _label(name, curves)}
                axes.plot(FALSE_RATES, curves[name].true_rates, **line)
        axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect="equal")
        axes.set_xlabel("False positives, share of the other classes")
        axes.set_ylabel("True positives, share of the class")
        figure.legend(loc="outside right upper", frameon=False)
    return figure


def _label(name: str, curves: Curves) -> str:
    return f"{plain_text(name)}, {curves[name].area:.3f}"


def _curve(
    positive: np.ndarray, score: Float[np.ndarray, " decision"], weights: Float[np.ndarray, " decision"]
) -> ReceiverCurve:
    # Other reports need not wait for it.
    from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

    false, true, _ = roc_curve(positive, score, sample_weight=weights)
    area = float(roc_auc_score(positive, score, sample_weight=weights))
    precision = float(average_precision_score(positive, score, sample_weight=weights))
    at_rates = np.interp(FALSE_RATES, false, true)
    return ReceiverCurve(at_rates, area, precision, float(weights[positive].sum()))


def _mean(curves: list[ReceiverCurve], movements: float) -> ReceiverCurve:
    return ReceiverCurve(
        np.mean([one.true_rates for one in curves], axis=0),
        float(np.mean([one.area for one in curves])),
        float(np.mean([one.precision for one in curves])),
        movements,
    )
