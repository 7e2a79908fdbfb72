"""Circuits: edges over the layers of a model, or on the ring of electrodes around an arm."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Circle, FancyArrowPatch
from pydantic import PositiveInt

from emg_lens.layout import CLS, TokenLayout
from emg_lens.plotting.cells import owner_of
from emg_lens.plotting.panels import (
    axes_or_new,
    figure_of,
    in_style,
    legend_below,
    panels_or_new,
    place_legend,
    plain_text,
)
from emg_lens.plotting.style import COLUMN, DARK, GREY, PAGE, SMALL, modality_colours
from emg_lens.plotting.values import chosen, table_of, whole_columns
from emg_lens.plotting.words import EVERY, LOWERS, MOST_ROUTES, ONLY, SOME, layer_name
from emg_lens.validation import ArgumentError, checked, short

QUIET = "#c9cdd3"
_OF_KINDS = {EVERY: (DARK, "-"), ONLY: (DARK, "-"), SOME: ("#CC79A7", "-"), LOWERS: ("#D55E00", (0, (3, 1.5)))}
_OF_ROUTES = ("#0072B2", "#E69F00", "#009E73", "#56B4E9")
MOST_LABELS = 24
RINGS_A_ROW = 3
MOST_HEAD_LABELS = 16
THICKER = "thicker: higher score in the unmasked model"
Spot = tuple[float, float]


@checked
@in_style
def plot_circuit(
    edges: Any, layout: TokenLayout, *, n_layers: PositiveInt | None = None, ax: Axes | None = None
) -> Axes:
    """Draw a circuit: layers from left to right, tokens from top to bottom, one arrow per edge.

    Args:
        edges: Data frame with one row per edge: `layer` (0-based), `dest`, `src` (names of tokens, channels or
            modalities of the layout). Optional columns: `head` (written on the arrow), `score` (a higher absolute value
            makes a thicker arrow), `kind` (legend entry and colour, see `Circuit.to_frame`). Or a `Circuit`.
        layout: Layout of the tokens.
        n_layers: Number of layers of the model; default: up to the last layer with an edge.
        ax: Where to draw; default: a new figure of the width of a column.

    Returns:
        The axes.

    Raises:
        ArgumentError: Lacking columns, names that are not in the layout, a layer that the model does not have.

    Example:
        >>> import pandas as pd
        >>> from emg_lens import TokenLayout
        >>> from emg_lens.plotting import plot_circuit
        >>> layout = TokenLayout.channels({"emg": 4, "acc": 2})
        >>> edges = pd.DataFrame({"layer": [0, 1], "dest": ["emg.1", "cls"], "src": ["acc.0", "emg.1"], "head": [0, 1]})
        >>> axes = plot_circuit(edges, layout)
        >>> [tick.get_text() for tick in axes.get_xticklabels()], len(axes.patches)
        (['input', 'after L1', 'after L2'], 2)
    """
    rows, names, n_layers = _edges_of(edges, layout, n_layers)
    ax = axes_or_new(ax, COLUMN if n_layers <= 3 else PAGE, min(1.4 + 0.16 * len(names), 7.5))  # noqa: PLR2004
    owners = [owner_of(name, layout) for name in names]
    place, colours = {name: -i for i, name in enumerate(names)}, modality_colours(owners)
    drawn = {*rows["dest"], *rows["src"]}
    for name, owner in zip(names, owners, strict=True):
        style = {"color": QUIET, "lw": 0.5, "marker": "o", "ms": 2.2, "zorder": 0}
        ax.plot(range(n_layers + 1), [place[name]] * (n_layers + 1), mfc=colours[owner], mec=colours[owner], **style)
    for edge in rows.to_dict("records"):
        start, stop = (edge["layer"], place[edge["src"]]), (edge["layer"] + 1, place[edge["dest"]])
        _arrow(ax, start, stop, edge, len(rows))
    labelled = [name for name in names if len(names) <= MOST_LABELS or name in drawn]
    ax.set_yticks([place[name] for name in labelled], list(map(plain_text, labelled)))
    for label, name in zip(ax.get_yticklabels(), labelled, strict=True):
        label.set_color("black" if name in drawn else GREY)
    ax.set_xticks(range(n_layers + 1), ["input", *(f"after {layer_name(layer)}" for layer in range(n_layers))])
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    ax.margins(x=0.06, y=0.06)
    legend_below(ax, _legend(rows), 2)
    return ax


@checked
@in_style
def plot_circuit_rings(
    edges: Any,
    layout: TokenLayout,
    ring: str,
    *,
    n_layers: PositiveInt | None = None,
    layer: int | None = None,
    axes: Any = None,
) -> list[Axes]:
    """Draw a circuit on the ring of electrodes around an arm: one ring per layer, clockwise from the top.

    CLS is in the centre, and the tokens of other modalities are below the ring.

    Args:
        edges: As in `plot_circuit`, between channels.
        layout: Layout of the tokens.
        ring: Modality whose electrodes lie on the ring, in the order of their numbers.
        n_layers: Number of layers of the model; default: up to the last layer with an edge.
        layer: The only layer to show, 0-based; default: all.
        axes: The axes of each layer; default: a new figure.

    Returns:
        The axes of each layer.

    Raises:
        ArgumentError: As in `plot_circuit`; an unknown modality, or edges that do not connect channels.

    Example:
        >>> import pandas as pd
        >>> from emg_lens import TokenLayout
        >>> from emg_lens.plotting import plot_circuit_rings
        >>> layout = TokenLayout.channels({"emg": 8, "acc": 3})
        >>> edges = pd.DataFrame({"layer": [0, 1], "dest": ["emg.1", "cls"], "src": ["acc.0", "emg.1"]})
        >>> [panel.get_title("left") for panel in plot_circuit_rings(edges, layout, "emg")]
        ['L1', 'L2']
    """
    rows, names, n_layers = _edges_of(edges, layout, n_layers)
    known = list(layout.modalities)
    if ring not in known:
        raise ArgumentError(f"ring={ring!r}; expected a modality, one of {known}")
    own = [name for name in names if name != ring and owner_of(name, layout) == ring]
    if not own:
        raise ArgumentError("a ring shows edges between channels; search with by='channel' or by='head'")
    layers, given = chosen("layer", layer, range(n_layers)), axes is not None
    across = min(len(layers), RINGS_A_ROW)
    panels = panels_or_new(axes, len(layers), "layer", RINGS_A_ROW, max(2.36, COLUMN / across), 2.6)
    others = [name for name in names if name not in own]
    for panel, one in zip(panels, layers, strict=True):
        panel.axis("off")
        panel.set_title(layer_name(one))
        _on_ring(panel, rows[rows["layer"] == one], own, others, layout)
    if given or len(panels) != len(figure_of(panels[0]).axes):
        legend_below(panels[-1], _legend(rows))
    else:
        place_legend(figure_of(panels[0]), _legend(rows), 3)
    return panels


def _edges_of(edges: Any, layout: TokenLayout, n_layers: int | None) -> tuple[pd.DataFrame, list[str], int]:
    """Return the edges with their kind, width and bend; the names of all tokens in order; and the number of layers."""
    if not isinstance(edges, pd.DataFrame) and hasattr(edges, "to_frame"):
        edges = edges.to_frame()
    rows = table_of("edges", edges, ["layer", "dest", "src"], ["layer"]).reset_index(drop=True)
    rows = whole_columns("edges", rows, ["layer"])
    last = int(rows["layer"].max()) + 1
    n_layers = last if n_layers is None else n_layers
    if last > n_layers:
        raise ArgumentError(f"edges has layers {int(rows['layer'].min())} to {last - 1}; expected 0 to {n_layers - 1}")
    names = _names(rows, layout)
    kinds = rows["kind"] if "kind" in rows else pd.Series(ONLY, rows.index)
    unknown = [kind for kind in kinds.unique() if kind not in _OF_KINDS and not str(kind).startswith("only in route ")]
    if unknown:
        raise ArgumentError(
            f"edges: kind is {short(unknown[0])}; expected one of {', '.join(_OF_KINDS)}, only in route 1"
        )
    size = (rows["score"] if "score" in rows else pd.Series(1.0, rows.index)).abs().fillna(0)
    same, from_here = (rows.groupby(["layer", *ends]).cumcount() for ends in (["dest", "src"], ["src"]))
    width = 0.9 + 1.8 * size / max(size.max(), 1e-12)
    return (
        rows.assign(kind=kinds, width=width, bend=0.08 + 0.16 * same, place=0.3 + 0.15 * (from_here % 4)),
        names,
        n_layers,
    )


def _names(rows: pd.DataFrame, layout: TokenLayout) -> list[str]:
    """Return all tokens, channels or modalities of the layout at the level of the edges, in its order."""
    used = {*rows["dest"], *rows["src"]}
    tokens = list(zip(layout.names, layout.group, layout.channel, strict=True))
    channels = [name if group in (None, CLS) else f"{group}.{channel}" for name, group, channel in tokens]
    for level in (layout.names, channels, [group or name for name, group, _ in tokens]):
        if used <= set(level):
            return list(dict.fromkeys(level))
    wrong = sorted(used - {*layout.names, *channels, *layout.modalities})
    raise ArgumentError(
        f"edges names {short(wrong or sorted(used))}; expected tokens, channels or modalities of the layout"
    )


def _on_ring(ax: Axes, rows: pd.DataFrame, ring: Sequence[str], others: Sequence[str], layout: TokenLayout) -> None:
    """Draw one layer: electrodes on a circle, CLS in the centre, other tokens below."""
    angle = {name: np.pi / 2 - 2 * np.pi * i / len(ring) for i, name in enumerate(ring)}
    at: dict[str, Spot] = {name: (float(np.cos(a)), float(np.sin(a))) for name, a in angle.items()}
    below = [name for name in others if name != CLS]
    at |= {name: (float(x), -1.6) for name, x in zip(below, np.linspace(-1, 1, max(len(below), 2)), strict=False)}
    at[CLS] = (0.0, 0.0)
    drawn, colours = {*rows["dest"], *rows["src"]}, modality_colours(owner_of(name, layout) for name in at)
    ax.add_patch(Circle((0, 0), 1, fill=False, ec=QUIET, lw=0.6))
    for name in [*ring, *others]:
        x, y = at[name]
        colour = colours[owner_of(name, layout)]
        ax.plot(x, y, "o", ms=4 if name in drawn else 2.5, color=colour, alpha=1 if name in drawn else 0.4, zorder=3)
        if name in ring or name == CLS or name in drawn:
            offset = (15 * x, 9 * y) if name in ring else (9, -6) if name == CLS else (0, -8)
            turned = 60 if name in below and len(below) > 6 else 0  # noqa: PLR2004
            ax.annotate(
                plain_text(name), (x, y), offset, textcoords="offset points", ha="center", va="center", fontsize=SMALL,
                color="black" if name in drawn else GREY, rotation=turned,
            )  # fmt: skip
    for edge in rows.to_dict("records"):
        _arrow(ax, at[edge["src"]], at[edge["dest"]], edge, len(rows))
    ax.set_aspect("equal")
    ax.set_xlim(-1.45, 1.45)
    ax.set_ylim(-1.95 if below else -1.45, 1.45)


def _arrow(ax: Axes, start: Spot, stop: Spot, edge: dict[Any, Any], n_edges: int) -> None:
    """Draw an edge, and name its head if there are few edges; edges of several heads bend differently."""
    colour, line = _look(edge["kind"])
    arrow = FancyArrowPatch(
        start, stop, arrowstyle="-|>", mutation_scale=7, shrinkA=3, shrinkB=3, color=colour, lw=edge["width"], ls=line,
        connectionstyle=f"arc3,rad={edge['bend']}", zorder=2,
    )  # fmt: skip
    arrow.set_clip_on(False)
    ax.add_patch(arrow)
    if "head" in edge and n_edges <= MOST_HEAD_LABELS and not pd.isna(edge["head"]):
        place = tuple((1 - edge["place"]) * a + edge["place"] * b for a, b in zip(start, stop, strict=True))
        white = {"fc": "white", "ec": "none", "pad": 0.4}
        ax.annotate(f"H{int(edge['head'])}", place, fontsize=SMALL, ha="center", va="center", bbox=white)


def _look(kind: str) -> tuple[str, Any]:
    """Return the colour and the line style of a kind of edges."""
    if kind.startswith("only in route "):
        return _OF_ROUTES[(int(kind.split()[-1]) - 1) % MOST_ROUTES], "-"
    return _OF_KINDS[kind]


def _legend(rows: pd.DataFrame) -> dict[str, Line2D]:
    kinds = sorted(rows["kind"].unique(), key=lambda kind: (kind == LOWERS, kind))
    lines = {kind: Line2D([], [], color=_look(kind)[0], ls=_look(kind)[1], lw=2) for kind in kinds}
    return lines | ({THICKER: Line2D([], [], lw=0)} if "score" in rows else {})
