"""Sizes, colours and settings of all pictures.

The colours are palettes of Okabe and Ito and of Paul Tol, whose members are distinguishable with all common types of
colour vision. Maps of values use `Blues`, and `PuOr` (orange and violet) for values with a sign.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any
from zlib import crc32

import matplotlib

from emg_lens.layout import CLS
from emg_lens.plotting.words import UNGROUPED

COLUMN, PAGE = 85 / 25.4, 180 / 25.4
"""Widths of a column (85 mm) and of a page (180 mm) of a journal, in inches."""
DPI = 200
SIZE, SMALL, TITLE = 7.5, 6.5, 8
"""Sizes of letters in points: of all text, of numbers and names inside maps, and of titles."""
STYLE: dict[Any, Any] = {
    "font.size": SIZE,
    "axes.titlesize": TITLE,
    "axes.labelsize": 8,
    "xtick.labelsize": SIZE,
    "ytick.labelsize": SIZE,
    "legend.fontsize": SIZE,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.major.size": 0,
    "ytick.major.size": 2.5,
    "ytick.major.width": 0.6,
    "axes.titlelocation": "left",
    "svg.fonttype": "none",  # letters stay text; the file contains the font
    "pdf.fonttype": 42,
    "svg.hashsalt": "emg-lens",  # the same figure gives the same bytes
}

GREY, DARK, PALE, NO_VALUE = "#8a8f98", "#3b3f46", "#e6e8eb", "#E4E6EA"
UNIMODAL, CROSS_MODAL, REMOVED, OTHER_ABLATION = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
"""Colours of ablations."""
CATEGORIES = ("#332288", "#999933", "#882255", "#44AA99", "#88CCEE", "#DDCC77")
"""Colours of factor levels, classes and subjects: none of them is the colour of an ablation."""
SHADES, SIGNED_SHADES = "Blues", "PuOr_r"
"""Colour maps of values, and of values with a sign (orange: positive)."""
DASHED: dict[str, Any] = {"color": DARK, "linewidth": 0.8, "linestyle": (0, (4, 2))}
DOTTED: dict[str, Any] = {"color": GREY, "linewidth": 0.8, "linestyle": (0, (1, 1.5))}

_OF_MODALITIES = {
    "emg": "#0072B2", "acc": "#E69F00", "gyro": "#009E73", "force": "#CC79A7", "mag": "#56B4E9", "imu": "#D55E00",
    CLS: "#5f6570", UNGROUPED: "#c3c8d0",
}  # fmt: skip
_OF_OTHER_MODALITIES = ("#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#E69F00", "#0072B2")
_OF_EDGES = {"unimodal": UNIMODAL, "cross_modal": CROSS_MODAL}
_OF_OTHER_EDGES = (OTHER_ABLATION, "#E69F00", "#56B4E9", "#F0E442")


@contextmanager
def plot_style() -> Iterator[None]:
    """Context in which matplotlib has the settings of our pictures; afterwards it has its own again.

    The functions of `emg_lens.plotting` use it themselves. Use it for pictures of your own next to ours.

    Example:
        >>> from matplotlib import rcParams
        >>> from emg_lens.plotting import plot_style
        >>> with plot_style():
        ...     inside = rcParams["font.size"]
        >>> inside, rcParams["font.size"]
        (7.5, 10.0)
    """
    with matplotlib.rc_context(STYLE):
        yield


def modality_colours(names: Iterable[str]) -> dict[str, str]:
    """Colour of each modality: the same in every picture.

    EMG, accelerometer, gyroscope, force, magnetometer, IMU and CLS have fixed colours (`"emg"` and `"EMG"` the same).
    Any other name has a colour that depends on the name, or the next free one if another modality of the same picture
    has it already.

    Args:
        names: Names of modalities.

    Example:
        >>> from emg_lens.plotting import modality_colours
        >>> modality_colours(["cls", "emg", "acc"])
        {'cls': '#5f6570', 'emg': '#0072B2', 'acc': '#E69F00'}
    """
    names = list(dict.fromkeys(names))
    colours = {name: _OF_MODALITIES[name.lower()] for name in names if name.lower() in _OF_MODALITIES}
    for name in names:
        if name not in colours:
            first = crc32(name.encode()) % len(_OF_OTHER_MODALITIES)
            order = [*_OF_OTHER_MODALITIES[first:], *_OF_OTHER_MODALITIES[:first]]
            free = [colour for colour in order if colour not in colours.values()]
            colours[name] = (free or order)[0]
    return {name: colours[name] for name in names}


def category_colour(k: int) -> str:
    """Colour of the k-th level, class or subject."""
    return CATEGORIES[k % len(CATEGORIES)]


def edge_colours(kinds: Iterable[str]) -> dict[str, str]:
    """Colour of each edge type: the same one in every figure for unimodal and cross-modal edges."""
    kinds = list(kinds)
    others = [kind for kind in kinds if kind not in _OF_EDGES]
    return {kind: _OF_EDGES.get(kind) or _OF_OTHER_EDGES[others.index(kind) % len(_OF_OTHER_EDGES)] for kind in kinds}
