from .cohort import fit_cohort
from .fitting import FitError, fit
from .recipe import TrainingRecipe

__all__ = ["FitError", "TrainingRecipe", "fit", "fit_cohort"]
