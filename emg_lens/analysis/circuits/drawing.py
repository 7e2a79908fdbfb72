"""Figures of circuits: over the layers of the model, or on the ring of electrodes around an arm."""

from textwrap import fill
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import FancyArrowPatch

from emg_lens.layout import CLS
from emg_lens.validation import ArgumentError

NECESSARY, IN_SOME, NEGATIVE, QUIET, GREY = "#3b3f46", "#CC79A7", "#D55E00", "#c9cdd3", "#8a8f98"
"""Colours of edges in every route, in some of many routes, and that lower the metric; and of the tokens."""
ROUTES = ("#0072B2", "#E69F00", "#009E73", "#56B4E9")
"""Colours of edges in one of a few routes (Okabe and Ito)."""
EVERY, SOME, ONLY, LOWERS = "in every route", "in some routes", "in the circuit", "lowers the metric"
SIZE = 8
MOST_LABELS = 24
RINGS_A_ROW = 3
MOST_HEAD_LABELS = 16
Points = dict[str, tuple[float, float]]


def draw_circuit(circuit: Any, ring: str | None = None) -> Figure:
    """Draw a `Circuit`; see its method `plot`."""
    edges, names = _drawn_edges(circuit), _names(circuit)
    n_layers = circuit.question.target.n_layers
    if ring is None:
        figure = Figure(figsize=(7.1, min(1.6 + 0.16 * len(names), 7.5)), layout="constrained")
        _over_layers(figure.subplots(), edges, names, n_layers)
    else:
        known = list(circuit.question.layout.modalities)
        own = [name for name in names if name.rpartition(".")[0] == ring in known]
        if not own:
            if ring in known:
                raise ArgumentError("a ring shows edges between channels; search with by='channel' or by='head'")
            raise ArgumentError(f"ring={ring!r}; expected a modality, one of {known}")
        n_rows = -(-n_layers // RINGS_A_ROW)
        n_columns = -(-n_layers // n_rows)
        figure = Figure(figsize=(max(2.37 * n_columns, 4.8), 0.8 + 2.5 * n_rows), layout="constrained")
        panels = figure.subplots(n_rows, n_columns, squeeze=False).ravel()
        for axes in panels:
            axes.axis("off")
        for layer, axes in enumerate(panels):
            if layer < n_layers:
                _on_ring(axes, edges[edges["layer"] == layer], own, [name for name in names if name not in own])
                axes.text(-1.4, 1.35, f"L{layer + 1}", fontsize=SIZE)
    figure.suptitle(fill(str(circuit), 26 * round(figure.get_figwidth() / 1.75)), fontsize=SIZE + 0.5)
    figure.legend(handles=_legend(edges), loc="outside lower center", ncols=3, fontsize=SIZE, frameon=False)
    return figure


def _drawn_edges(circuit: Any) -> pd.DataFrame:
    """Return the edges of all routes and the negative edges, with their kind and line width."""
    table = circuit.question.groups.table
    if "dest" not in table:
        raise ArgumentError("a circuit of named groups of edges has no figure; use by='modality', 'channel' or 'head'")
    negative = table.iloc[sorted(circuit.negative_members.difference(*circuit.members))].assign(
        kind=LOWERS, score=np.nan
    )
    n_routes = len(circuit.members)
    of_route = {name: k for k, one in enumerate(circuit.members) for name in table["edge"].iloc[sorted(one)]}

    def kind(row: dict[Any, Any]) -> str:
        if row["routes"] == n_routes:
            return ONLY if n_routes == 1 else EVERY
        return f"only in route {of_route[row['edge']] + 1}" if row["routes"] == 1 and n_routes <= len(ROUTES) else SOME

    kinds = [kind(row) for row in circuit.table.to_dict("records")]
    routes = circuit.table.assign(kind=kinds)
    edges = pd.concat([routes, negative] if len(negative) else [routes], ignore_index=True)
    size, same = edges["score"].abs().fillna(0), edges.groupby(["layer", "dest", "src"]).cumcount()
    return edges.assign(width=0.9 + 2.4 * size / max(size.max(), 1e-12), bend=0.08 + 0.16 * same, same=same)


def _names(circuit: Any) -> list[str]:
    """Return the tokens, channels or modalities in the order of the layout."""
    table, layout = circuit.question.groups.table, circuit.question.layout
    used = {*table["dest"], *table["src"]}
    channels = [f"{group}.{channel}" for group, channel in zip(layout.group, layout.channel, strict=True)]
    columns = zip(layout.names, channels, layout.group, strict=True)
    return list(dict.fromkeys(name for own in columns for name in own if name in used))  # pyright: ignore


def _over_layers(axes: Axes, edges: pd.DataFrame, names: list[str], n_layers: int) -> None:
    row = {name: -i for i, name in enumerate(names)}
    drawn = {*edges["dest"], *edges["src"]}
    for name in names:
        axes.plot(range(n_layers + 1), [row[name]] * (n_layers + 1), color=QUIET, lw=0.5, marker="o", ms=2, zorder=0)
    for edge in edges.to_dict("records"):
        start, stop = (edge["layer"], row[edge["src"]]), (edge["layer"] + 1, row[edge["dest"]])
        _arrow(axes, start, stop, edge, len(edges))
    labelled = [name for name in names if len(names) <= MOST_LABELS or name in drawn]
    axes.set_yticks([row[name] for name in labelled], labelled, fontsize=SIZE - 0.5)
    for label in axes.get_yticklabels():
        label.set_color("black" if label.get_text() in drawn else GREY)
    axes.set_xticks(
        range(n_layers + 1), ["input", *(f"after L{layer + 1}" for layer in range(n_layers))], fontsize=SIZE
    )
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.margins(x=0.04, y=0.06)


def _on_ring(axes: Axes, edges: pd.DataFrame, ring: list[str], others: list[str]) -> None:
    """Draw one layer: electrodes on a circle, clockwise from the top; CLS in the centre; other tokens below."""
    angle = {name: np.pi / 2 - 2 * np.pi * i / len(ring) for i, name in enumerate(ring)}
    at: Points = {name: (float(np.cos(a)), float(np.sin(a))) for name, a in angle.items()}
    below = [name for name in others if name != CLS]
    at |= {name: (float(x), -1.6) for name, x in zip(below, np.linspace(-1, 1, max(len(below), 2)), strict=False)}
    at[CLS] = (0.0, 0.0)
    drawn = {*edges["dest"], *edges["src"]}
    axes.add_patch(_circle())
    for name in [*ring, *others]:
        x, y = at[name]
        axes.plot(x, y, "o", ms=4 if name in drawn else 2.5, color="#3b3f46" if name in drawn else QUIET, zorder=3)
        if name in ring or name == CLS or name in drawn:
            offset = (15 * x, 9 * y) if name in ring else (9, -6) if name == CLS else (0, -8)
            axes.annotate(name, (x, y), offset, textcoords="offset points", ha="center", va="center",
                          fontsize=SIZE - 1.5, color="black" if name in drawn else GREY,
                          rotation=60 if name in below and len(below) > 6 else 0)  # fmt: skip
    for edge in edges.to_dict("records"):
        _arrow(axes, at[edge["src"]], at[edge["dest"]], edge, len(edges))
    axes.set_aspect("equal")
    axes.set_xlim(-1.45, 1.45)
    axes.set_ylim(-1.95 if below else -1.45, 1.45)


def _circle() -> Any:
    from matplotlib.patches import Circle

    return Circle((0, 0), 1, fill=False, ec=QUIET, lw=0.6)


def _arrow(
    axes: Axes, start: tuple[float, float], stop: tuple[float, float], edge: dict[Any, Any], n_edges: int
) -> None:
    """Draw an edge, and name its head if there are few edges; edges of several heads bend differently."""
    colour, line = _look(edge["kind"])
    arrow = FancyArrowPatch(
        start, stop, arrowstyle="-|>", mutation_scale=7, shrinkA=3, shrinkB=3, color=colour, lw=edge["width"], ls=line,
        connectionstyle=f"arc3,rad={edge['bend']}", zorder=2,
    )  # fmt: skip
    arrow.set_clip_on(False)
    axes.add_patch(arrow)
    if "head" in edge and n_edges <= MOST_HEAD_LABELS and not pd.isna(edge["head"]):
        part = 0.35 + 0.15 * (edge["same"] % 3)
        place = ((1 - part) * start[0] + part * stop[0], (1 - part) * start[1] + part * stop[1])
        axes.annotate(f"H{int(edge['head'])}", place, fontsize=SIZE - 1.5, ha="center", va="center",
                      bbox={"fc": "white", "ec": "none", "pad": 0.4})  # fmt: skip


def _look(kind: str) -> tuple[str, Any]:
    """Return the colour and the line style of a kind of edges."""
    if kind.startswith("only in route "):
        return ROUTES[int(kind.split()[-1]) - 1], "-"
    return {EVERY: (NECESSARY, "-"), ONLY: (NECESSARY, "-"), SOME: (IN_SOME, "-"), LOWERS: (NEGATIVE, (0, (3, 1.5)))}[
        kind
    ]


def _legend(edges: pd.DataFrame) -> list[Line2D]:
    kinds = sorted(edges["kind"].unique(), key=lambda kind: (kind == LOWERS, kind))
    lines = [Line2D([], [], color=_look(kind)[0], ls=_look(kind)[1], lw=2, label=kind) for kind in kinds]
    return [*lines, Line2D([], [], lw=0, label="thicker: higher score in the unmasked model")]
