"""Confusion matrix of the unmasked models, with recall, precision and F1 of each class."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.figure import Figure

from emg_lens.plotting import plot_confusion
from emg_lens.plotting.panels import figure_of
from emg_lens.studies.report.view import OutputsView, by_title, outputs_of_fits, repetition_fractions
from emg_lens.studies.report.wording import value
from emg_lens.studies.results.findings import Findings


class Confusion(OutputsView):
    """Fraction of each performed class that is predicted as each class, if a study asks for this view.

    Computed from the outputs of every fit. Every test repetition has the same weight; subjects, folds and seeds of a
    cell are pooled.
    """

    name, order = "confusion", 60
    captions = {
        "confusion": "Rows: performed class; columns: predicted class. Each cell is a fraction of the repetitions in"
        " its row, pooled over subjects and seeds."
    }

    def tables(self, findings: Findings) -> Mapping[str, pd.DataFrame]:
        """One table per `Cell`: recall, precision and F1 of every class, and their means."""
        return by_title("By class", {label: layout_classes(one) for label, one in confusions(findings).items()})

    def figures(self, findings: Findings) -> Mapping[str, Figure]:
        """One figure per combination of factor levels (`Cell`)."""
        return by_title("confusion", {label: figure_confusion(one) for label, one in confusions(findings).items()})


CONFUSION = Confusion()


def confusions(findings: Findings) -> dict[str, pd.DataFrame]:
    """Weights of test repetitions by performed (rows) and predicted class (columns), by the label of each cell."""
    matrices = {fit: confusion_matrix(*outputs) for fit, outputs in outputs_of_fits(findings).items()}
    confusions_of_cells = {}
    for cell in findings.cells:
        of_fits = [matrices[fit] for fit in dict.fromkeys(cell.scores["fit"])]
        total = of_fits[0]
        for other in of_fits[1:]:
            total = total.add(other, fill_value=0.0)
        order = list(dict.fromkeys(name for matrix in of_fits for name in matrix.index))
        confusions_of_cells[cell.label] = total.loc[order, order].fillna(0.0)
    return confusions_of_cells


def confusion_matrix(trials: pd.DataFrame, names: list[str]) -> pd.DataFrame:
    """Count the test repetitions of one fit by performed and predicted class; each repetition has weight 1.

    Args:
        trials: Rows of `StudyResult.predictions`: subject, repetition_id, target (class index), output_{name} columns.
        names: Names of the classes.
    """
    counts: Float[np.ndarray, "performed predicted"] = np.zeros((len(names), len(names)))
    predicted = trials[[f"output_{name}" for name in names]].to_numpy().argmax(1)
    np.add.at(counts, (trials["target"].to_numpy(int), predicted), repetition_fractions(trials))
    return pd.DataFrame(counts, index=names, columns=names)


def layout_classes(matrix: pd.DataFrame) -> pd.DataFrame:
    """Lay out recall, precision and F1 of each class; the last row is the mean over the tested classes."""
    correct, performed = np.diag(matrix.to_numpy()), matrix.sum(axis=1).to_numpy()
    predicted = matrix.sum(axis=0).to_numpy()
    with np.errstate(invalid="ignore", divide="ignore"):
        recall, precision = correct / performed, correct / predicted
        f1 = 2 * correct / (performed + predicted)
    columns = {"Recall": recall, "Precision": precision, "F1": f1}
    rows = [
        [name, round(performed[k]), *(value(column[k]) for column in columns.values())] for k, name in enumerate(matrix)
    ]
    tested = performed > 0
    means = [float(np.nan_to_num(column[tested]).mean()) for column in columns.values()]
    rows.append(["Mean over classes", round(performed.sum()), *map(value, means)])
    table = pd.DataFrame(rows, columns=["Class", "Repetitions", *columns]).astype({"Repetitions": str})
    table.attrs["notes"] = [
        "Unmasked models; repetitions of all subjects and seeds are pooled. A class that is never predicted has no"
        " precision and counts as 0 in the mean."
    ]
    return table


def figure_confusion(matrix: pd.DataFrame) -> Figure:
    """Draw the fraction of each performed class (rows) that is predicted as each class (columns)."""
    return figure_of(plot_confusion(matrix))
