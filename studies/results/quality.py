"""Compare models with chance, a simple reference and their training score (docs/statistics.md §5.7)."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from emg_lens.analysis.simple_reference import REFERENCE
from emg_lens.studies.results.findings import Cell, quality_columns
from emg_lens.studies.statistics.intervals import mean_interval
from emg_lens.studies.statistics.rank_tests import difference

CLEARLY_WORSE = 5.0
"""Without an interval, a fraction counts as worse if every subject is so many percentage points below the reference."""
NEAR_ONE = 0.95
"""Training score of a model that may be overfitted."""
LOST = 0.5
"""An overfitted model loses more than this fraction of its training score above chance on test trials."""


@dataclass(frozen=True)
class Quality:
    """How good the unmasked models of a cell are: means over subjects.

    Attributes:
        chance: Chance level; NaN if it is unknown.
        reference: Score of the simple reference on all channels; NaN if this kind of output has none.
        references: Score of the reference on each modality.
        test: Score of the models on test trials.
        train: Score of the models on their training trials.
        difference: Test score minus reference, in percentage points for fractions.
        low: Lower end of the paired interval of the difference; NaN if there is none (fewer than five subjects, or all
            differences are equal).
        high: Upper end.
        n_subjects: Number of subjects.
        n_below: Number of subjects with a worse score of the model than of the reference.
        below_reference: Whether the model is worse than the reference: the interval lies on the worse side of zero.
            Without an interval: every subject is worse, fractions by at least `CLEARLY_WORSE`.
        not_above_reference: Whether the model is shown to be neither better nor worse than the reference: the interval
            includes zero. Without an interval: the mean is not better, and `below_reference` is false.
        overfitted: Whether a fraction is at least `NEAR_ONE` on training trials, and more than half of its distance
            from chance is lost on test trials.
    """

    chance: float
    reference: float
    test: float
    train: float
    difference: float
    low: float
    high: float
    n_subjects: int
    n_below: int
    below_reference: bool
    not_above_reference: bool
    overfitted: bool
    references: Mapping[str, float] = field(default_factory=dict)


def quality_of(cell: Cell) -> Quality | None:
    """Judge the models of a cell; None if its scores hold no training score and no reference."""
    if not len(cell.quality):
        return None
    by_subject = cell.quality.drop(columns="fit").groupby("subject").mean()
    means = by_subject.mean().round(12)  # a limit that is reached exactly counts as reached
    reference = by_subject.get(REFERENCE, by_subject["test"] * np.nan).to_numpy()
    change = difference(by_subject["test"].to_numpy(), reference)
    bounds = (-1.0, 1.0) if cell.is_fraction else (-np.inf, np.inf)
    low, high = mean_interval(change, cell.statistics.confidence, bounds)
    loss, scale = (change if cell.lower_is_better else -change), (100 if cell.is_fraction else 1)
    if np.isnan(low):
        below = loss >= CLEARLY_WORSE / 100 if cell.is_fraction else loss > 0
        is_open = round(loss.mean(), 12) >= 0
    else:
        below = np.array([low > 0 if cell.lower_is_better else high < 0])
        is_open = low <= 0 <= high
    lost, learned = means["train"] - means["test"], means["train"] - means["chance"]
    references = {name.removeprefix(f"{REFERENCE}_"): float(means[name]) for name in quality_columns(by_subject)}
    return Quality(
        chance=float(means["chance"]),
        reference=float(reference.mean()),
        references={name: mean for name, mean in references.items() if name != REFERENCE and not np.isnan(mean)},
        test=float(means["test"]),
        train=float(means["train"]),
        difference=float(scale * change.mean()),
        low=scale * low,
        high=scale * high,
        n_subjects=len(by_subject),
        n_below=int((loss > 0).sum()),
        below_reference=bool(below.all()),
        not_above_reference=bool(is_open and not below.all()),
        overfitted=bool(
            cell.is_fraction and not cell.lower_is_better and means["train"] >= NEAR_ONE and lost > LOST * learned
        ),
    )
