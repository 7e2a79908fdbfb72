"""What a study's user expects to find here too: the sweep and its conditions live in `emg_lens.sweeps`."""

from emg_lens.sweeps.conditions import Condition, head_masks, layer_masks
from emg_lens.sweeps.engine import SweepResult, audit, sweep

__all__ = ["Condition", "SweepResult", "audit", "head_masks", "layer_masks", "sweep"]
