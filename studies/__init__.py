"""Studies: a file that says what to cut on whom, and everything that turns it into a table with statistics.

As in `emg_lens`, names are imported from where they live on first use: to read a study, nobody waits for models.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

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
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

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


class _Package(ModuleType):
    """A package whose `sweep` is the function, also once the module of that name has been imported."""

    def __getattr__(self, name: str) -> Any:
        if name not in _HOME_OF:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        value = getattr(import_module(_HOME_OF[name]), name)
        setattr(self, name, value)  # found without this method from now on
        return value

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _HOME_OF and isinstance(value, ModuleType)):
            super().__setattr__(name, value)

    def __dir__(self) -> list[str]:
        return sorted({*self.__dict__, *__all__})


sys.modules[__name__].__class__ = _Package
