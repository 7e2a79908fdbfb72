"""Which class is taken for which: a confusion matrix of the unmasked models, and what it says of each class."""

from collections.abc import Mapping
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.figure import Figure

from emg_lens.studies.report.figures import DPI, STYLE, WIDTH, plain_text
from emg_lens.studies.report.view import OutputsView, by_title, outputs_of_fits, repetition_fractions
from emg_lens.studies.report.wording import value
from emg_lens.studies.results.findings import Cell, Findings

MOST_NUMBERS = 12
"""Classes up to which the matrix is drawn with its numbers."""


class Confusion(OutputsView):
    """Shares of each class that are told as each, where a study asks for them: they are read from every fit's outputs.

    Every tested movement weighs the same; subjects, folds and seeds of a cell are counted together.
    """

    name, order = "confusion", 60

    def tables(self, findings: Findings) -> Mapping[str, pd.DataFrame]:
        """One a cell: recall, precision and F1 of every class, and their means."""
        return by_title("By class", {label: layout_classes(one) for label, one in confusions(findings).items()})

    def figures(self, findings: Findings) -> Mapping[str, Figure]:
        """One a cell."""
        return by_title("confusion", {label: figure_confusion(one) for label, one in confusions(findings).items()})

    def captions(self) -> Mapping[str, str]:
        """By figure."""
        return {
            "confusion": "Rows: the class performed; columns: the class told. Each row is a share of its movements, all"
            " subjects and seeds together."
        }


CONFUSION = Confusion()


def confusions(findings: Findings) -> dict[str, pd.DataFrame]:
    """Weights of tested movements by class performed (rows) and told (columns), by the label of each cell."""
    matrices = {fit: confusion_matrix(*outputs) for fit, outputs in outputs_of_fits(findings).items()}
    found = {}
    for cell in findings.cells:
        mine = [matrices[fit] for fit in _fits_of(cell)]
        total = mine[0]
        for other in mine[1:]:
            total = total.add(other, fill_value=0.0)
        order = list(dict.fromkeys(name for matrix in mine for name in matrix.index))
        found[cell.label] = total.loc[order, order].fillna(0.0)
    return found


def _fits_of(cell: Cell) -> list[Any]:
    return list(dict.fromkeys(cell.scores["fit"]))


def confusion_matrix(trials: pd.DataFrame, names: list[str]) -> pd.DataFrame:
    """Weights of the trials of one fit by class performed and told; each movement weighs one.

    Args:
        trials: Rows of `StudyResult.predictions`: subject, movement, target (a class index), output_{name} columns.
        names: Of the classes.
    """
    counts: Float[np.ndarray, "performed told"] = np.zeros((len(names), len(names)))
    told = trials[[f"output_{name}" for name in names]].to_numpy().argmax(1)
    np.add.at(counts, (trials["target"].to_numpy(int), told), repetition_fractions(trials))
    return pd.DataFrame(counts, index=names, columns=names)


def layout_classes(matrix: pd.DataFrame) -> pd.DataFrame:
    """Recall, precision and F1 of each class, and in the last row the means over classes that are tested."""
    right, performed, told = np.diag(matrix.to_numpy()), matrix.sum(axis=1).to_numpy(), matrix.sum(axis=0).to_numpy()
    with np.errstate(invalid="ignore", divide="ignore"):
        recall, precision = right / performed, right / told
        f1 = 2 * right / (performed + told)
    columns = {"Recall": recall, "Precision": precision, "F1": f1}
    rows = [
        [name, round(performed[k]), *(value(column[k]) for column in columns.values())] for k, name in enumerate(matrix)
    ]
    tested = performed > 0
    means = [float(np.nan_to_num(column[tested]).mean()) for column in columns.values()]
    rows.append(["Mean over classes", round(performed.sum()), *map(value, means)])
    table = pd.DataFrame(rows, columns=["Class", "Movements", *columns]).astype({"Movements": str})
    table.attrs["notes"] = [
        "Of the unmasked models, all movements of all subjects and seeds counted together; a class that is never told"
        " has no precision, and counts as 0 in the mean."
    ]
    return table


def figure_confusion(matrix: pd.DataFrame) -> Figure:
    """Shares of each performed class (rows) that are told as each (columns)."""
    counts, n = matrix.to_numpy(), len(matrix)
    performed = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, performed, out=np.zeros_like(counts), where=performed > 0)
    names = [plain_text(str(name)) for name in matrix]
    side = min(WIDTH * 0.72, 1.6 + 0.3 * n)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(side + 0.5, side), dpi=DPI, layout="constrained")
        axes = figure.subplots()
        image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        axes.set_xticks(range(n), names, rotation=90)
        axes.set_yticks(range(n), names)
        axes.set_xlabel("Told")
        axes.set_ylabel("Performed")
        for row, column in np.ndindex(n, n) if n <= MOST_NUMBERS else ():
            share = shares[row, column]
            if share >= 0.005:
                colour = "white" if share > 0.5 else "black"
                axes.text(column, row, f"{100 * share:.0f}", ha="center", va="center", color=colour, fontsize=6.5)
        figure.colorbar(image, ax=axes, label="Share of movements", shrink=0.8)
    return figure
