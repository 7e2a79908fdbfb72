"""Analyses that a study runs on each of its fitted models; each gives one table.

A package adds its own analysis as a subclass of `FitAnalysis` with one object. The object is named as an entry point
`emg_lens.fit_analyses`, or added with `FIT_ANALYSES.add("mine", Mine())`. A study file then asks for it:
`analyses: [mine]`.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from emg_lens.errors import EmgLensError
from emg_lens.registry import Registry

if TYPE_CHECKING:  # studies read the names of analyses without torch
    from emg_lens.data.batch import Batch
    from emg_lens.sweeps.conditions import Condition


class AnalysisError(EmgLensError, ValueError):
    """An analysis that does not return a table."""


class FitAnalysis(ABC):
    """An analysis of one fitted model."""

    @abstractmethod
    def run(self, model: Any, batch: "Batch", conditions: Sequence["Condition"]) -> pd.DataFrame:
        """Analyse a fitted model.

        A study also runs the analysis once on an untrained model and a few trials before it fits anything, so that an
        error is found at once.

        Args:
            model: The fitted model, in evaluation mode.
            batch: Test trials `x` `[trial, channel, time]` and their targets, both standardized. `reference` holds the
                training trials.
            conditions: The baseline, the conditions of the study and their controls. The tags of a control say its
                kind (`control`) and its condition (`of`).

        Returns:
            A table with named columns, which the study stores as `analyses/<name>.csv` in the folder of the fit.
            `StudyResult.analyses[<name>]` is the table of all fits, with the column `fit`.
        """


FIT_ANALYSES: Registry[FitAnalysis] = Registry("fit analysis", "emg_lens.fit_analyses")


def run_analyses(
    names: Iterable[str], model: Any, batch: "Batch", conditions: Sequence["Condition"]
) -> dict[str, pd.DataFrame]:
    """Run analyses by their names.

    Args:
        names: Names in the registry.
        model: As in `FitAnalysis.run`.
        batch: As in `FitAnalysis.run`.
        conditions: As in `FitAnalysis.run`.

    Returns:
        The table of each analysis.

    Raises:
        UnknownNameError: No analysis has this name.
        AnalysisError: An analysis returns something else than a table with columns.
    """
    tables = {}
    for name in names:
        table = FIT_ANALYSES[name].run(model, batch, conditions)
        if not isinstance(table, pd.DataFrame) or not len(table.columns) or "fit" in table:
            raise AnalysisError(
                f"the analysis {name!r} returned {type(table).__name__}; expected a pandas.DataFrame with columns, none"
                " of them called 'fit'"
            )
        tables[name] = table
    return tables
