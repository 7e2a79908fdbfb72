"""Accuracy of each class factor: which part of a gesture is lost by a cut."""

import pandas as pd

from emg_lens.scoring.class_factors import PREFIX
from emg_lens.studies.report.view import View
from emg_lens.studies.report.wording import cut_names, single_conditions, value
from emg_lens.studies.results.control_effects import cuts_of_every_layer
from emg_lens.studies.results.findings import Cell, Findings
from emg_lens.studies.spec.condition_spec import RANDOM
from emg_lens.studies.statistics.comparison import by_subject
from emg_lens.sweeps.conditions import BASELINE


def layout_factors(cell: Cell) -> pd.DataFrame | None:
    """Lay out one row per cut of every layer, single condition and non-random control; one column per factor."""
    columns = [column for column in cell.scores if column.startswith(PREFIX) and cell.scores[column].notna().all()]
    if not columns:
        return None
    scores, names = cell.scores, cut_names(cell)
    shown = [BASELINE, *cuts_of_every_layer(cell), *single_conditions(cell.tests)["condition"]]
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
        "Fraction of test trials for which the predicted class has the correct value of the factor. Mean over subjects;"
        " each repetition has the same weight."
    ]
    return table


class ClassFactors(View):
    """Accuracy of each factor under each condition, for classes that are combinations of factors."""

    name, order = "class-factors", 25
    cell_tables = {"Accuracy by class factor": layout_factors}

    def shows(self, findings: Findings) -> bool:
        """Whether every class is named by values of factors, such as `"emg 0, acc 1"`."""
        return any(column.startswith(PREFIX) for column in findings.scores)


CLASS_FACTORS = ClassFactors()
