from .cohort import fit_cohort
from .fitting import fit
from .metrics import METRICS, Metric, MetricError, add_metric, measure
from .objectives import OBJECTIVES, Classification, FitError, Objective, Regression
from .recipe import TrainingRecipe

__all__ = [
    "METRICS",
    "OBJECTIVES",
    "Classification",
    "FitError",
    "Metric",
    "MetricError",
    "Objective",
    "Regression",
    "TrainingRecipe",
    "add_metric",
    "fit",
    "fit_cohort",
    "measure",
]
