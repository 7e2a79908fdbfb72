"""Edge sets, the hooks that cut them on any TransformerLens model, and interventions as values."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
