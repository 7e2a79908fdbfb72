"""Studies: a file that says what to cut on whom, and everything that turns it into a table with statistics."""

from emg_lens.studies.conditions import Condition, head_masks, layer_masks
from emg_lens.studies.results import StudyResult
from emg_lens.studies.spec import Study, StudyError, catalogue
from emg_lens.studies.statistics import StatisticsSpec, compare
from emg_lens.studies.sweep import SweepResult, audit, sweep

__all__ = [
    "Condition",
    "StatisticsSpec",
    "Study",
    "StudyError",
    "StudyResult",
    "SweepResult",
    "audit",
    "catalogue",
    "compare",
    "head_masks",
    "layer_masks",
    "sweep",
]
