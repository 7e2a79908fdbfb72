"""Figures of attributions: a map of scores for each layer, or bars of the largest scores."""

from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from emg_lens.plotting import plot_bars, plot_flow
from emg_lens.plotting.panels import entitle, figure_of, plain_text
from emg_lens.plotting.style import TITLE
from emg_lens.validation import checked

N_BARS = 20
"""Most bars."""


@checked
def plot_attribution(result: Any, ax: Axes | None = None) -> Figure:
    """Draw the scores of an attribution.

    Args:
        result: The attribution.
        ax: Axes for bars of the 20 scores with the largest absolute values, with standard errors over trials. Default:
            a new figure with one map per layer, destinations in rows and sources in columns. In grey cells there is
            no edge with a score. Scores of heads are summed. Named groups always give bars.

    Example:
        >>> import torch
        >>> from emg_lens import build_model
        >>> from emg_lens.analysis.attribution.figures import plot_attribution
        >>> from emg_lens.analysis.attribution.run import attribute
        >>> model = build_model("isonet", modalities={"emg": 3, "acc": 2}, n_samples=8, n_classes=2,
        ...                     d_model=16, n_heads=2, n_layers=2, d_mlp=8)
        >>> result = attribute(model, model.example_input(6), torch.arange(6) % 2, by="channel")
        >>> [axes.get_title("left") for axes in plot_attribution(result).axes[:2]]
        ['L1', 'L2']
    """
    if ax is None and "layer" in result.table:
        heads = ", sum over heads" if "head" in result.table else ""
        panels = plot_flow(result.table, label=result.audit["score_is"] + heads, layout=result.question.layout)
        return entitle(panels[0], f"{result.audit['method']}, mean over {len(result.question.x)} trials")
    largest = result.table["score"].abs().sort_values(ascending=False, kind="stable").index[:N_BARS]
    label = f"{result.audit['score_is']} (mean ± standard error)"
    ax = plot_bars(result.table.loc[largest], error="standard_error", label=label, ax=ax)
    shown = f"{len(largest)} of {len(result.table)} scores, {len(result.question.x)} trials"
    ax.set_title(plain_text(f"{result.audit['method']}: {shown}"), fontsize=TITLE)
    return figure_of(ax)
