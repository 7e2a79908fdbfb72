from .conditions import BASELINE, Condition, head_masks, layer_masks
from .engine import SweepError, SweepResult, audit, sweep
from .live_edges import Reach, reach

__all__ = [
    "BASELINE",
    "Condition",
    "Reach",
    "SweepError",
    "SweepResult",
    "audit",
    "head_masks",
    "layer_masks",
    "reach",
    "sweep",
]
