"""Run many conditions on one model: what each could change, what they share, and how they are run."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
