from ._sweeps import Condition, SweepResult, audit, head_masks, layer_masks, sweep
from .result import StudyResult
from .shipped import catalogue
from .spec import StudyError
from .statistics import StatisticsSpec, compare
from .study import Study

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
