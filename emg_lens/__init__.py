"""Attention-edge ablation and circuit inspection for multimodal biosignal encoders, as a TransformerLens plugin.

The names that users need are available here. Each is imported from its module on first use (the stub file
`__init__.pyi` lists the modules). Therefore `import emg_lens` is fast, and reading data does not load TransformerLens.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
