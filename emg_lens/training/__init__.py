"""Fitting models: recipes, objectives, metrics, one fit for all of them, and cohorts at once."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
