"""Make an encoder a TransformerLens model: configuration, hook points, caches, handles."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
