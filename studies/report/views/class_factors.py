"""Factors of the classes: what of a gesture a cut takes away."""

from collections.abc import Mapping

import pandas as pd

from emg_lens.studies.report.view import View, in_each_cell
from emg_lens.studies.report.wording import cut_names, single_conditions, value
from emg_lens.studies.results.class_factors import PREFIX
from emg_lens.studies.results.control_effects import whole_cuts
from emg_lens.studies.results.findings import Cell, Findings
from emg_lens.studies.spec.condition_spec import RANDOM
from emg_lens.studies.statistics.comparison import by_subject
from emg_lens.sweeps.conditions import BASELINE


class ClassFactors(View):
    """Accuracy of each factor, where classes are combinations of factors."""

    name, order = "class-factors", 25

    def shows(self, findings: Findings) -> bool:
        """Where the classes' names list values of factors."""
        return any(column.startswith(PREFIX) for column in findings.scores)

    def tables(self, findings: Findings) -> Mapping[str, pd.DataFrame]:
        """One a cell."""
        return in_each_cell(findings, "What of the class is told", layout_factors)


CLASS_FACTORS = ClassFactors()


def layout_factors(cell: Cell) -> pd.DataFrame | None:
    """One row a cut of every layer, single condition and control (but random ones); one column a factor."""
    columns = [column for column in cell.scores if column.startswith(PREFIX) and cell.scores[column].notna().all()]
    if not columns:
        return None
    scores, names = cell.scores, cut_names(cell)
    shown = [BASELINE, *whole_cuts(cell), *single_conditions(cell.tests)["condition"]]
    if len(cell.controls):
        others = cell.controls[cell.controls["control"] != RANDOM]
        scores, shown = pd.concat([scores, others], ignore_index=True), [*shown, *others["condition"].unique()]
    means = pd.DataFrame(
        {column: by_subject(scores, column).mean() for column in ["accuracy", *columns] if column in scores}
    )
    names[BASELINE] = "Baseline"
    rows = [[names.get(name, name), *map(value, means.loc[name])] for name in shown]
    heads = ["All" if column == "accuracy" else column.removeprefix(PREFIX) for column in means]
    table = pd.DataFrame(rows, columns=["Condition", *heads])
    table.attrs["notes"] = [
        "Share of test trials whose told class has the right value of the factor; mean over subjects, each movement"
        " weighing the same."
    ]
    return table
