"""Studies: a YAML file describes an ablation study; a run gives scores, tests, tables, figures and a report."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
