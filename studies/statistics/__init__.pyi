from .comparison import StatisticsError, StatisticsSpec, compare

__all__ = ["StatisticsError", "StatisticsSpec", "compare"]
