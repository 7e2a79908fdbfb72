"""Turn outputs of a model into events, text and sound. `emg_lens.scoring` scores the results."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
