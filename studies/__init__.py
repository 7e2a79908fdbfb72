"""Studies: a file that says what to cut on whom, and everything that turns it into a table with statistics.

As in `emg_lens`, names are imported from where they live on first use: to read a study, nobody waits for models.
"""

from typing import TYPE_CHECKING

from emg_lens.lazy import make_lazy

if TYPE_CHECKING:  # what editors and type checkers see; tests hold it equal to `_HOMES`
    from emg_lens.studies.conditions import Condition, head_masks, layer_masks
    from emg_lens.studies.results import StudyResult
    from emg_lens.studies.spec import Study, StudyError, catalogue
    from emg_lens.studies.statistics import StatisticsSpec, compare
    from emg_lens.studies.sweep import SweepResult, audit, sweep

_HOMES = {
    "emg_lens.studies.conditions": ("Condition", "head_masks", "layer_masks"),
    "emg_lens.studies.results": ("StudyResult",),
    "emg_lens.studies.spec": ("Study", "StudyError", "catalogue"),
    "emg_lens.studies.statistics": ("StatisticsSpec", "compare"),
    "emg_lens.studies.sweep": ("SweepResult", "audit", "sweep"),
}

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

make_lazy(__name__, _HOMES)
