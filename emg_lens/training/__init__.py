"""Fit models: recipes, objectives, `fit` for one model, `fit_cohort` for many, and pre-training."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
