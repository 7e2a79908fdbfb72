from .cohort import fit_cohort
from .fitting import fit
from .objectives import OBJECTIVES, Classification, FitError, Objective, Regression
from .pretraining.loop import pretrain
from .pretraining.masked_reconstruction import MaskedReconstruction
from .pretraining.recipe import PretrainingRecipe
from .pretraining.run_folder import PretrainedRun, run_pretraining
from .pretraining.spec import PretrainingError, PretrainingSpec
from .recipe import TrainingRecipe

__all__ = [
    "OBJECTIVES",
    "Classification",
    "FitError",
    "MaskedReconstruction",
    "Objective",
    "PretrainedRun",
    "PretrainingError",
    "PretrainingRecipe",
    "PretrainingSpec",
    "Regression",
    "TrainingRecipe",
    "fit",
    "fit_cohort",
    "pretrain",
    "run_pretraining",
]
