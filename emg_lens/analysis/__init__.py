"""What is learned from a fitted model by looking at it: attention maps and their summaries."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
