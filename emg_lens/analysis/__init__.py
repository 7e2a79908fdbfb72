"""Analyses of a fitted model: attention maps, controls, shift of activations, readout vectors, costs."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
