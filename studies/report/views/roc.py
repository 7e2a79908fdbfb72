"""Receiver operating characteristics of the unmasked models, each class against the rest.

Areas are computed by scikit-learn. Every test repetition has the same weight.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.figure import Figure
from scipy.special import softmax

from emg_lens.plotting.curves import draw_curve
from emg_lens.plotting.panels import new_figure, plain_text
from emg_lens.plotting.style import CATEGORIES, DARK, DOTTED, GREY, PAGE, category_colour
from emg_lens.studies.report.view import OutputsView, by_title, outputs_of_fits, repetition_fractions
from emg_lens.studies.report.wording import value
from emg_lens.studies.results.findings import Findings

FALSE_RATES: Float[np.ndarray, " point"] = np.linspace(0, 1, 201)
"""False positive rates at which the curves of several fits are averaged."""
MACRO, MICRO = "Macro", "Micro"
MOST_NAMED = 12
"""Up to this many classes, each curve has a colour and a name."""


class ReceiverCurves(OutputsView):
    """ROC curves and the areas under them, from the outputs of every fit, if a study asks for this view."""

    name, order = "roc", 61
    captions = {
        "roc": "True positive rate against false positive rate, each class against the rest; mean over fits at"
        " equal false positive rates. Macro: mean over classes; micro: all one-against-rest decisions pooled. The"
        " legend gives the areas. Dotted: chance."
    }

    def tables(self, findings: Findings) -> Mapping[str, pd.DataFrame]:
        """One table per `Cell`: area of each class against the rest, macro average, micro average."""
        return by_title("ROC by class", {label: layout_areas(one) for label, one in mean_curves(findings).items()})

    def figures(self, findings: Findings) -> Mapping[str, Figure]:
        """One figure per combination of factor levels (`Cell`)."""
        return by_title("roc", {label: figure_curves(one) for label, one in mean_curves(findings).items()})


ROC = ReceiverCurves()


@dataclass(frozen=True, eq=False)
class ReceiverCurve:
    """ROC curve of one class against the rest, of their mean, or of all such decisions pooled.

    Attributes:
        true_rates: True positive rate at each of `FALSE_RATES`.
        area: Area under the curve; 0.5 at chance.
        precision: Average precision: the mean precision at each threshold, weighted by the gain in recall.
        n_repetitions: Test repetitions of the class.
    """

    true_rates: Float[np.ndarray, " point"]
    area: float
    precision: float
    n_repetitions: float


Curves = dict[str, ReceiverCurve]
"""Curves by class, then `MACRO` and `MICRO`."""


def receiver_curves(trials: pd.DataFrame, names: list[str]) -> Curves:
    """Compute the curves of one fit; classes with no test trial, or with all of them, are left out.

    Args:
        trials: Rows of `StudyResult.predictions`: subject, repetition_id, target (class index), output_{name} columns.
        names: Names of the classes.
    """
    logits = trials[[f"output_{name}" for name in names]].to_numpy(np.float64)
    probabilities, weights = softmax(logits, axis=1), repetition_fractions(trials)
    is_class = trials["target"].to_numpy()[:, None] == np.arange(len(names))
    decided = [k for k in range(len(names)) if 0 < is_class[:, k].sum() < len(trials)]
    curves = {names[k]: _curve(is_class[:, k], probabilities[:, k], weights) for k in decided}
    if not curves:
        return {}
    pooled = _curve(is_class.ravel(), probabilities.ravel(), np.repeat(weights, len(names)))
    n_repetitions = float(weights.sum())
    return curves | {MACRO: _mean(list(curves.values()), n_repetitions), MICRO: _mean([pooled], n_repetitions)}


def mean_curves(findings: Findings) -> dict[str, Curves]:
    """Average the curves over the fits of each cell, by the cell's label; repetitions are summed over the fits.

    Curves are averaged at equal false positive rates; scores of different models are never pooled in one curve.
    """
    of_fit = {fit: receiver_curves(*outputs) for fit, outputs in outputs_of_fits(findings).items()}
    means = {}
    for cell in findings.cells:
        of_cell = [of_fit[fit] for fit in cell.scores["fit"].unique()]
        order = [n for n in dict.fromkeys(name for curves in of_cell for name in curves) if n not in (MACRO, MICRO)]
        by_name = {name: [curves[name] for curves in of_cell if name in curves] for name in (*order, MACRO, MICRO)}
        means[cell.label] = {
            name: _mean(some, sum(one.n_repetitions for one in some)) for name, some in by_name.items() if some
        }
    return means


def layout_areas(curves: Curves) -> pd.DataFrame:
    """Lay out one row per class, then macro and micro: repetitions, area under the curve, average precision."""
    rows = [
        [name, str(round(one.n_repetitions)), value(one.area), value(one.precision)] for name, one in curves.items()
    ]
    table = pd.DataFrame(rows, columns=["Class", "Repetitions", "AUC", "Average precision"])
    table.attrs["notes"] = [
        "Unmasked models; each class against the rest, ranked by its probability; means over fits. Macro: mean over the"
        " tested classes; micro: all decisions pooled in one curve. At chance, AUC is 0.5 and average precision equals"
        " the fraction of the class."
    ]
    return table


def figure_curves(curves: Curves) -> Figure:
    """Draw true against false positive rates: macro, micro and each class."""
    classes = [name for name in curves if name not in (MACRO, MICRO)]
    side = PAGE * 0.45
    with new_figure(side + 1.6, side) as figure:
        axes = figure.subplots()
        axes.plot([0, 1], [0, 1], **DOTTED)
        few = len(classes) <= MOST_NAMED
        for k, name in enumerate(classes):
            dash = "-" if k < len(CATEGORIES) else "--"
            style: dict[str, Any] = {"ls": dash, "label": _label(name, curves)} if few else {"alpha": 0.4}
            colour = category_colour(k) if few else GREY
            draw_curve(axes, FALSE_RATES, curves[name].true_rates, colour, None, linewidth=0.7, **style)
        for name, dash in ((MACRO, "-"), (MICRO, (0, (4, 2)))):
            if name in curves:
                line = {"linewidth": 1.6, "linestyle": dash, "label": _label(name, curves)}
                draw_curve(axes, FALSE_RATES, curves[name].true_rates, DARK, **line)
        axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect="equal")
        axes.set_xlabel("False positive rate")
        axes.set_ylabel("True positive rate")
        figure.legend(loc="outside right upper", frameon=False)
    return figure


def _label(name: str, curves: Curves) -> str:
    return f"{plain_text(name)}, {curves[name].area:.3f}"


def _curve(
    positive: np.ndarray, score: Float[np.ndarray, " decision"], weights: Float[np.ndarray, " decision"]
) -> ReceiverCurve:
    # imported here, as other reports do not need it
    from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

    false, true, _ = roc_curve(positive, score, sample_weight=weights)
    area = float(roc_auc_score(positive, score, sample_weight=weights))
    precision = float(average_precision_score(positive, score, sample_weight=weights))
    at_rates = np.interp(FALSE_RATES, false, true)
    return ReceiverCurve(at_rates, area, precision, float(weights[positive].sum()))


def _mean(curves: list[ReceiverCurve], n_repetitions: float) -> ReceiverCurve:
    return ReceiverCurve(
        np.mean([one.true_rates for one in curves], axis=0),
        float(np.mean([one.area for one in curves])),
        float(np.mean([one.precision for one in curves])),
        n_repetitions,
    )
