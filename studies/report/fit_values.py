"""Values of fit analyses by subject, and their means with intervals."""

import numpy as np
import pandas as pd
from jaxtyping import Float

from emg_lens.scoring.metrics import METRICS
from emg_lens.studies.report.wording import EMPTY, number
from emg_lens.studies.results.findings import Cell
from emg_lens.studies.statistics.intervals import FEWEST, mean_interval


def with_subjects(cell: Cell, analysis: str) -> pd.DataFrame:
    """Return the table of a fit analysis with the column `subject`: the test subject of the fit, or several of them."""
    names = cell.scores.groupby("fit", sort=False)["subject"].unique()
    labels = {fit: of[0] if len(of) == 1 else f"{of[0]} and {len(of) - 1} more" for fit, of in names.items()}
    table = cell.analysis(analysis)
    return table.assign(subject=table["fit"].map(labels)) if len(table) else table


def mean_with_interval(
    values: Float[np.ndarray, " subject"],
    decimals: int,
    confidence: float,
    unit: str = "",
    name: bool = False,
    bounds: tuple[float, float] = (-np.inf, np.inf),
) -> str:
    """Format the mean over subjects with its interval: `"87 [81, 93]"`, `"87 % (95 % CI [81, 93])"` with its name.

    `bounds` are the smallest and largest possible mean, to which the interval is clipped.
    """
    mean = f"{number(float(np.mean(values)), decimals)}{unit}"
    low, high = (number(end, decimals) for end in mean_interval(np.asarray(values, float), confidence, bounds))
    if low == EMPTY:
        return mean
    return f"{mean} ({100 * confidence:g} % CI [{low}, {high}])" if name else f"{mean} [{low}, {high}]"


def mean_heading(confidence: float, n: int) -> str:
    """Name of a row of `mean_with_interval`: `"Mean [95 % CI]"`."""
    return "Mean" if n < FEWEST else f"Mean [{100 * confidence:g} % CI]"


def attributed_metric(cell: Cell) -> str:
    """Name of the metric that attributions and circuits explain."""
    of_classes = cell.metric in METRICS and METRICS[cell.metric].kind == "classes"
    return "margin" if of_classes else "negative squared error"
