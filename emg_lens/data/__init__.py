"""Recordings, their preprocessing, trials, and the data sets we read: `load_dataset`, `load_trials`."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
