from .comparison.pairing import ComparisonError
from .comparison.run_comparison import RunComparison, compare_runs
from .result import StudyResult
from .sharing import share_run, unpack_run
from .spec.catalog_lookup import catalogue
from .spec.errors import StudyError
from .statistics import StatisticsSpec, compare
from .study import Study

__all__ = [
    "ComparisonError",
    "RunComparison",
    "StatisticsSpec",
    "Study",
    "StudyError",
    "StudyResult",
    "catalogue",
    "compare",
    "compare_runs",
    "share_run",
    "unpack_run",
]
