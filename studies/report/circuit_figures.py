"""Figures of circuits: the kept metric by number of edges, and how many subjects share each edge."""

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, StrMethodFormatter

from emg_lens.studies.report.figures import DARK, DOTTED, GREY, UNIMODAL, WIDTH, new_figure, place_legend, plain_text
from emg_lens.studies.report.wording import layer_name
from emg_lens.studies.results.circuit_similarity import CircuitSets, number_of_subjects

PER_ROW, N_LABELS = 3, 24
"""Maps in a row; with more tokens than this, only every second or third is named."""
NO_EDGE = "#E4E6EA"


def draw_sizes(sizes: pd.DataFrame, circuits: pd.DataFrame, metric: str) -> Figure:
    """Draw the kept fraction by number of edges.

    Args:
        sizes: `subject`, `groups` (number of edges), `fraction`, `random`; one row per subject and number.
        circuits: `groups` and `fraction` of the circuit of each subject.
        metric: Name of the metric.
    """
    with new_figure(WIDTH / 2, 2.9) as figure:
        axes = figure.subplots()
        axes.axhline(100, **DOTTED)
        lines = {}
        for _, one in sizes.groupby("subject"):
            (lines["top-ranked edges, each subject"],) = axes.plot(
                one["groups"], 100 * one["fraction"], color=UNIMODAL, lw=0.5, alpha=0.45
            )
        means = sizes.groupby("groups")[["fraction", "random"]].mean()
        (lines["top-ranked edges, mean"],) = axes.plot(means.index, 100 * means["fraction"], color=UNIMODAL, lw=2)
        (lines["random edges, mean"],) = axes.plot(means.index, 100 * means["random"], color=GREY, lw=2)
        lines["circuit of each subject"] = axes.scatter(
            circuits["groups"], 100 * circuits["fraction"], s=9, color=DARK, marker="D", linewidths=0, zorder=3
        )
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.set_xlabel("Edges that are not cut")
        axes.set_ylabel(f"Kept {metric} (% of its range)")
        place_legend(figure, lines, 2)
    return figure


def draw_edge_maps(sets: CircuitSets) -> Figure:
    """Draw in how many subjects an edge is in the circuit, one map per layer: rows attend to columns."""
    counts, edges, n = number_of_subjects(sets.members, sets.subjects), sets.edges, sets.n_subjects
    tokens = token_order(edges)
    layers = sorted(edges["layer"].unique())
    across = min(PER_ROW, len(layers))
    down = -(-len(layers) // across)
    side = WIDTH / max(across, 2)
    colours = colormaps["Blues"].with_extremes(bad=NO_EDGE)
    with new_figure(side * across, 0.2 + down * side) as figure:
        panels = list(figure.subplots(down, across, squeeze=False).flat)
        for axes in panels[len(layers) :]:
            axes.set_visible(False)
        step = -(-len(tokens) // N_LABELS)
        for axes, layer in zip(panels, layers, strict=False):
            here = (edges["layer"] == layer).to_numpy()
            grid = np.full((len(tokens), len(tokens)), np.nan)
            at = [[tokens.index(name) for name in edges.loc[here, end]] for end in ("dest", "src")]
            grid[at[0], at[1]] = counts[here]
            axes.imshow(grid, cmap=colours, vmin=0, vmax=n, interpolation="nearest")
            names = [plain_text(name) for name in tokens[::step]]
            size = 6 if len(names) <= 16 else 4.8
            axes.set_xticks(range(0, len(tokens), step), names, rotation=90, fontsize=size)
            axes.set_yticks(range(0, len(tokens), step), names, fontsize=size)
            axes.tick_params(length=0, pad=1.5)
            axes.spines[:].set_visible(False)
            axes.set_title(layer_name(layer))
            axes.set_xlabel("from (source)")
            axes.set_ylabel("to (destination)")
        bar = figure.colorbar(panels[0].images[0], ax=panels, shrink=0.7, pad=0.02, aspect=25)
        bar.set_label("Subjects with the edge\nin their circuit")
        bar.locator = MaxNLocator(integer=True, nbins=5)
        bar.update_ticks()
        bar.outline.set_visible(False)
    return figure


def token_order(edges: pd.DataFrame) -> list[str]:
    """Order tokens as in the layout: CLS first, then modalities and channels in the order of their edges."""
    names = [*dict.fromkeys([*edges["src"], *edges["dest"]])]
    groups = [*dict.fromkeys(name.rpartition(".")[0] or name for name in names)]
    groups.sort(key=lambda group: group != "cls")

    def key(name: str) -> tuple[int, int]:
        group, _, number = name.rpartition(".")
        return groups.index(group or name), int(number) if group and number.isdigit() else 0

    return sorted(names, key=key)
