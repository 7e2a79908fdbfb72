from .metric_registry import Metric, MetricError, OutputKind, add_metric
from .metrics import METRICS, chances, measure

__all__ = ["METRICS", "Metric", "MetricError", "OutputKind", "add_metric", "chances", "measure"]
