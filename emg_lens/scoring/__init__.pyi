from .metrics import METRICS, Metric, MetricError, add_metric, measure

__all__ = ["METRICS", "Metric", "MetricError", "add_metric", "measure"]
