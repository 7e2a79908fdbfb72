"""Files of figures: svg, png and pdf. Text stays text, and svg and pdf contain their fonts."""

import io
import re
from collections.abc import Mapping
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from emg_lens.io.files import write_bytes
from emg_lens.plotting.panels import figure_of
from emg_lens.plotting.style import DPI, plot_style
from emg_lens.plotting.svg_fonts import with_fonts
from emg_lens.validation import ArgumentError, checked

LONGEST_NAME = 120
"""Longest file name, in letters."""


@checked
def save_figure(picture: Axes | Figure, path: str | Path) -> Path:
    """Save a picture as svg, pdf or png (200 dpi), by the ending of the file name.

    Text in svg and pdf is text, which can be searched and edited; the files contain the fonts. The same picture gives
    the same bytes.

    Args:
        picture: The axes that a function of `emg_lens.plotting` returned, or a figure.
        path: File to write; its folder is created if necessary.

    Returns:
        The path.

    Raises:
        ArgumentError: Another ending.

    Example:
        >>> import numpy as np
        >>> from emg_lens.plotting import plot_heads, save_figure
        >>> axes = plot_heads(np.array([[0.0, -2.0], [1.0, 3.0]]), label="Change in accuracy (pp)")
        >>> save_figure(axes, "heads.svg").name
        'heads.svg'
    """
    path, figure = Path(path), picture if isinstance(picture, Figure) else figure_of(picture)
    render = {".svg": to_svg, ".png": to_png, ".pdf": to_pdf}.get(path.suffix.lower())
    if render is None:
        raise ArgumentError(f"path={str(path)!r} ends in {path.suffix!r}; expected .svg, .png or .pdf")
    content = render(figure)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, content)
    return path


def save_figures(figures: Mapping[str, Figure], folder: str | Path) -> dict[str, bytes]:
    """Write each figure as `<name>.svg`, `.png` (200 dpi) and `.pdf`; the folder is created if necessary.

    Returns:
        Name -> svg.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    svgs: dict[str, bytes] = {}
    files = [file_name(name) for name in figures]
    for k, (name, figure) in enumerate(figures.items()):
        file = f"{files[k]}-{k + 1}" if files[k].lower() in [f.lower() for f in files[:k]] else files[k]
        engine = figure.get_layout_engine()
        for kind, render in (("svg", to_svg), ("png", to_png), ("pdf", to_pdf)):
            content = render(figure)
            write_bytes(folder / f"{file}.{kind}", content)
            svgs.setdefault(name, content)
            figure.set_layout_engine(None)  # the first layout is reused for the other formats
        figure.set_layout_engine(engine)
    return svgs


def file_name(name: str) -> str:
    """Convert a figure's name to a file name of letters, digits, `_`, `-`, `.`."""
    return re.sub(r"[^A-Za-z0-9_.]+", "-", name).strip("-.")[:LONGEST_NAME]


def to_svg(figure: Figure) -> bytes:
    """Render as svg, with text as text and its font inside; the same figure gives the same bytes."""
    return with_fonts(_rendered(figure, format="svg", metadata={"Date": None}))


def to_pdf(figure: Figure) -> bytes:
    """Render as pdf; the same figure gives the same bytes."""
    return _rendered(figure, format="pdf", metadata={"CreationDate": None})


def to_png(figure: Figure) -> bytes:
    """Render as png, 200 dpi."""
    return _rendered(figure, format="png", dpi=DPI)


def _rendered(figure: Figure, **options: object) -> bytes:
    buffer = io.BytesIO()
    with plot_style():
        figure.savefig(buffer, **options)  # pyright: ignore[reportArgumentType]
    return buffer.getvalue()
