"""Attention-edge ablation and circuit inspection for multimodal biosignal encoders, as a TransformerLens plugin.

Everything a user needs by name is here, imported from where it lives on first use (the stub file beside this one says
where), so that `import emg_lens` costs nothing and reading data never loads TransformerLens.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
