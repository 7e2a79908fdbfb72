from .conditions import BASELINE, Condition, head_masks, layer_masks
from .engine import audit, sweep
from .live_edges import Reach, reach
from .result import SweepError, SweepResult
from .sampled_baseline import BaselineError
from .settings import SweepInputError

__all__ = [
    "BASELINE",
    "BaselineError",
    "Condition",
    "Reach",
    "SweepError",
    "SweepInputError",
    "SweepResult",
    "audit",
    "head_masks",
    "layer_masks",
    "reach",
    "sweep",
]
