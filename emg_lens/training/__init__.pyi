from .cohort import fit_cohort
from .fitting import fit
from .masked_reconstruction import MaskedReconstruction
from .metrics import METRICS, Metric, MetricError, add_metric, measure
from .objectives import OBJECTIVES, Classification, FitError, Objective, Regression
from .pretraining import pretrain
from .pretraining_recipe import PretrainingRecipe
from .pretraining_run import PretrainedRun, run_pretraining
from .pretraining_spec import PretrainingError, PretrainingSpec
from .recipe import TrainingRecipe

__all__ = [
    "METRICS",
    "OBJECTIVES",
    "Classification",
    "FitError",
    "MaskedReconstruction",
    "Metric",
    "MetricError",
    "Objective",
    "PretrainedRun",
    "PretrainingError",
    "PretrainingRecipe",
    "PretrainingSpec",
    "Regression",
    "TrainingRecipe",
    "add_metric",
    "fit",
    "fit_cohort",
    "measure",
    "pretrain",
    "run_pretraining",
]
