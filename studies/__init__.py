"""Studies: a file that says what to cut on whom, and everything that turns it into a table with statistics."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
