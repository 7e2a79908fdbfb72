"""Trials and metric of attributions in studies."""

import torch
from torch import Tensor

from emg_lens.analysis.fit_analysis import AnalysisError
from emg_lens.data.batch import Batch

SEARCH_TRIALS, TEST_TRIALS = 64, 256
"""Numbers of evenly spaced training trials for rankings and searches, and of test trials for their evaluation."""


def search_trials(batch: Batch) -> tuple[Tensor, Tensor]:
    """Return evenly spaced training trials and their targets."""
    if batch.reference is None or batch.reference_targets is None:
        raise AnalysisError("the batch has no training trials; expected Batch(..., reference=x, reference_targets=y)")
    return _some(batch.reference, SEARCH_TRIALS), _some(batch.reference_targets, SEARCH_TRIALS)


def second_search_trials(batch: Batch) -> tuple[Tensor, Tensor] | None:
    """Return as many other training trials and their targets, or None if there are not enough."""
    x, y = batch.reference, batch.reference_targets
    if x is None or y is None or len(x) < 2 * SEARCH_TRIALS:
        return None
    index = torch.arange(len(x))
    others = index[~torch.isin(index, _some(index, SEARCH_TRIALS))]
    return _some(x[others], SEARCH_TRIALS), _some(y[others], SEARCH_TRIALS)


def evaluation_trials(batch: Batch) -> tuple[Tensor, Tensor]:
    """Return evenly spaced test trials and their targets."""
    if batch.targets is None:
        raise AnalysisError("the batch has no targets; expected one per trial")
    return _some(batch.x, TEST_TRIALS), _some(batch.targets, TEST_TRIALS)


def metric_for(y: Tensor) -> str:
    """Name the metric of single trials: of classes, or of values."""
    return "negative_squared_error" if y.is_floating_point() else "margin"


def _some(values: Tensor, most: int) -> Tensor:
    return values[torch.linspace(0, len(values) - 1, min(len(values), most)).long()]
