"""Pictures of masks, heads, flows, layer sweeps, curves, confusions, patching and circuits, with matplotlib.

Every function draws into the `Axes` that it gets, or makes a figure of the width of a journal column, and returns the
`Axes`. No function changes matplotlib's settings or uses pyplot. Show a picture in a notebook with `axes.figure`, and
save it with `save_figure`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
