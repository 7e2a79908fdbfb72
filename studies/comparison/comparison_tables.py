"""The tables of a comparison of runs. Sentences, files and figures read them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pandas as pd

from emg_lens.studies.statistics.spec import StatisticsSpec


@dataclass(frozen=True, eq=False)
class ComparisonTables:
    """The differences between runs and a reference run.

    Attributes:
        reference: Name of the reference run.
        metric: The compared metric.
        unit: Unit of differences: `"pp"` (percentage points) for fractions of trials.
        lower_is_better: Whether the metric is an error.
        statistics: Settings of the comparison: those of the reference run.
        models: One row a run and level: the difference of the unmasked models (`model_difference`).
        ablations: One row a run, level and ablation: the difference of the drops (`drop_differences`).
        subjects: The metric of every subject: `run`, `level`, `subject`, `condition`, `value`.
        notes: What was paired or left out, by run and level.
        settings: Settings of the studies that differ: `run`, `setting`, `reference`, `other`.
    """

    reference: str
    metric: str
    unit: str
    lower_is_better: bool
    statistics: StatisticsSpec = field(repr=False)
    models: pd.DataFrame = field(repr=False)
    ablations: pd.DataFrame = field(repr=False)
    subjects: pd.DataFrame = field(repr=False)
    notes: Mapping[tuple[str, str], Sequence[str]] = field(repr=False)
    settings: pd.DataFrame = field(repr=False)
