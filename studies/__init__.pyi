from .result import StudyResult
from .spec.catalog_lookup import catalogue
from .spec.errors import StudyError
from .statistics import StatisticsSpec, compare
from .study import Study

__all__ = [
    "StatisticsSpec",
    "Study",
    "StudyError",
    "StudyResult",
    "catalogue",
    "compare",
]
