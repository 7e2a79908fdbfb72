"""Many conditions on one model: what each could change, what they share, and the engines that run them."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
