"""Figures of circuits: the kept metric by number of edges, and how many subjects share each edge."""

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import StrMethodFormatter

from emg_lens.plotting import plot_flow
from emg_lens.plotting.curves import draw_curve, draw_dots, draw_many
from emg_lens.plotting.panels import figure_of, new_figure, place_legend
from emg_lens.plotting.style import COLUMN, DOTTED, GREY, UNIMODAL
from emg_lens.studies.results.circuit_similarity import CircuitSets, number_of_subjects


def draw_sizes(sizes: pd.DataFrame, circuits: pd.DataFrame, metric: str) -> Figure:
    """Draw the kept fraction by number of edges.

    Args:
        sizes: `subject`, `groups` (number of edges), `fraction`, `random`; one row per subject and number.
        circuits: `groups` and `fraction` of the circuit of each subject.
        metric: Name of the metric.
    """
    with new_figure(COLUMN, 2.9) as figure:
        axes = figure.subplots()
        axes.axhline(100, **DOTTED)
        kept, random = (
            100 * sizes.pivot(index="groups", columns="subject", values=name) for name in ("fraction", "random")
        )
        top = draw_many(axes, kept, UNIMODAL, lw=2)
        lines = {
            "top-ranked edges, each subject": axes.lines[1],
            "top-ranked edges, mean": top,
            "random edges, mean": draw_curve(axes, random.index, random.mean(axis=1), GREY, lw=2),
            "circuit of each subject": draw_dots(axes, circuits["groups"], 100 * circuits["fraction"]),
        }
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.set_xlabel("Edges that are not cut")
        axes.set_ylabel(f"Kept {metric} (% of its range)")
        place_legend(figure, lines, 2)
    return figure


def draw_edge_maps(sets: CircuitSets) -> Figure:
    """Draw in how many subjects an edge is in the circuit, one map per layer: rows attend to columns."""
    edges = sets.edges.assign(subjects=number_of_subjects(sets.members, sets.subjects))
    label = "Subjects with the edge\nin their circuit"
    return figure_of(plot_flow(edges, value="subjects", label=label, limits=(0, sets.n_subjects))[0])
