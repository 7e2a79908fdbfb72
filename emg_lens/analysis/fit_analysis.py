"""Analyses that a study runs on each of its fitted models; each gives one table.

A package adds its own analysis as a subclass of `FitAnalysis` with one object. The object is named as an entry point
`emg_lens.fit_analyses`, or added with `FIT_ANALYSES.add("mine", Mine())`. A study file then asks for it:
`analyses: [mine]`.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd
from pandas.api.types import is_numeric_dtype

from emg_lens.errors import EmgLensError
from emg_lens.io.csv_tables import TEXT_COLUMNS
from emg_lens.registry import Registry
from emg_lens.validation import short

if TYPE_CHECKING:  # studies read the names of analyses without torch
    from emg_lens.data.batch import Batch
    from emg_lens.sweeps.conditions import Condition


class AnalysisError(EmgLensError, ValueError):
    """An analysis that does not return a table, or that changes what it analyses."""


class FitAnalysis(ABC):
    """An analysis of one fitted model."""

    @abstractmethod
    def run(self, model: Any, batch: "Batch", conditions: Sequence["Condition"]) -> pd.DataFrame:
        """Analyse a fitted model.

        A study also runs the analysis once on an untrained model and a few trials before it fits anything, so that an
        error is found at once. The analysis must not change the model or the batch.

        Args:
            model: The fitted model, in evaluation mode.
            batch: Test trials `x` `[trial, channel, time]` and their targets, both standardized. `reference` holds the
                training trials. All tensors are on the device of the model.
            conditions: The baseline, the conditions of the study and their controls. The tags of a control say its
                kind (`control`) and its condition (`of`).

        Returns:
            A table with named columns, which the study stores as `analyses/<name>.csv` in the folder of the fit.
            `StudyResult.analyses[<name>]` is the table of all fits, with the column `fit`.
        """


FIT_ANALYSES: Registry[FitAnalysis] = Registry("fit analysis", "emg_lens.fit_analyses", FitAnalysis)


def run_analyses(
    names: Iterable[str], model: Any, batch: "Batch", conditions: Sequence["Condition"]
) -> dict[str, pd.DataFrame]:
    """Run analyses by their names."""
    tables = {}
    for name in names:
        analysis, before = FIT_ANALYSES[name], _state(model, batch)
        if not re.fullmatch(r"\w[\w.-]*", name):
            raise AnalysisError(
                f"{name!r} is not a name of an analysis; expected letters, digits, '-', '_' and '.', because its table"
                " is a file of this name"
            )
        table = analysis.run(model, batch, conditions)
        if not isinstance(table, pd.DataFrame) or not len(table.columns) or "fit" in table:
            raise AnalysisError(
                f"the analysis {name!r} returned {type(table).__name__}; expected a pandas.DataFrame with columns, none"
                " of them called 'fit'"
            )
        named = table.columns.is_unique and all(isinstance(column, str) and column for column in table.columns)
        if not named or (len(table) and (table.index.names != [None] or table.index.dtype.kind not in "iu")):
            raise AnalysisError(
                f"the analysis {name!r} returned the columns {list(table.columns)[:8]} and the index"
                f" {short(table.index)}; expected a different text for each column, and no values in its index, which"
                " is not stored: return table.reset_index()"
            )
        if as_text := [name for name in table if name in TEXT_COLUMNS and is_numeric_dtype(table[name])]:
            raise AnalysisError(
                f"the analysis {name!r} returned numbers in the column {as_text[0]!r}, which stored tables read as"
                " text; give the column another name"
            )
        if _state(model, batch) != before:
            raise AnalysisError(
                f"the analysis {name!r} changed the model or the batch, and the scores of the study are computed after"
                " it; work on copy.deepcopy(model) and batch.x.clone(), and remove all hooks"
            )
        tables[name] = table
    return tables


def _state(model: Any, batch: Any) -> list[tuple[int, ...]]:
    """Return values that change when a tensor of the model or the batch is edited or replaced, or a hook is added."""
    parts = list(model.modules()) if hasattr(model, "modules") else []
    tensors = [tensor for part in parts for tensor in (*part._parameters.values(), *part._buffers.values())]
    tensors += [getattr(batch, name, None) for name in ("x", "targets", "lengths", "reference", "reference_targets")]
    versions = [(id(t), t._version) for t in tensors if t is not None and not t.is_inference()]
    return versions + [
        (id(part), part.training, len(part._forward_hooks), len(part._forward_pre_hooks)) for part in parts
    ]
