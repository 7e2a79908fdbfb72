"""Figures of attributions: a map of scores for each layer, and bars of the largest scores.

The functions return matplotlib `Figure` objects and do not use pyplot.
"""

from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from emg_lens.layout import TokenLayout
from emg_lens.validation import checked

N_BARS, N_LABELS, N_NUMBERS, PER_ROW = 20, 20, 6, 5
"""Most bars; most named rows of a map (with more, only modalities are named); most rows with numbers; maps in a row."""
COLOURS, POSITIVE, NEGATIVE, NO_EDGE = "PuOr_r", "#B35806", "#542788", "#D3D6DB"


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
        >>> [axes.get_title() for axes in plot_attribution(result).axes[:2]]
        ['Layer 1', 'Layer 2']
    """
    if ax is None and "layer" in result.table:
        return _maps(result)
    if ax is None:
        rows = min(N_BARS, len(result.table))
        ax = Figure(figsize=(5.0, 0.9 + 0.2 * rows), layout="constrained").subplots()
    assert ax is not None
    _bars(result, ax)
    figure: Any = ax.figure
    return figure


def _bars(result: Any, ax: Axes) -> None:
    largest = result.table["score"].abs().sort_values(ascending=False, kind="stable").index[:N_BARS]
    rows = result.table.loc[largest]
    score, error = rows["score"].to_numpy(), rows["standard_error"].to_numpy()
    ax.barh(
        np.arange(len(rows)), score, height=0.7, color=[POSITIVE if one >= 0 else NEGATIVE for one in score],
        xerr=None if np.isnan(error).any() else error, error_kw={"elinewidth": 0.8, "ecolor": "0.25"},
    )  # fmt: skip
    ax.axvline(0, color="0.25", linewidth=0.8)
    ax.set_yticks(range(len(rows)), rows["edge"].tolist(), fontsize=8)
    ax.invert_yaxis()
    ax.margins(y=0.02)
    ax.tick_params(axis="y", length=0)
    ax.tick_params(axis="x", labelsize=8)
    ax.spines[["top", "right", "left"]].set_visible(False)
    ax.set_xlabel(f"{result.audit['score_is']} (mean ± standard error)", fontsize=9)
    ax.set_title(_title(result), fontsize=10)


def _title(result: Any) -> str:
    shown = min(N_BARS, len(result.table))
    return f"{result.audit['method']}: {shown} of {len(result.table)} scores, {len(result.question.x)} trials"


def _maps(result: Any) -> Figure:
    table, layout = result.table, result.question.layout
    names = _in_order(table, layout)
    layers = sorted(table["layer"].unique())
    per_row = min(len(layers), PER_ROW if len(names) <= N_LABELS else 3)
    n_rows = -(-len(layers) // per_row)
    side = max(1.3, 0.42 * len(names)) if len(names) <= N_NUMBERS else float(np.clip(0.15 * len(names), 1.8, 2.5))
    figure = Figure(figsize=(1.6 + per_row * (side + 0.15), 0.8 + n_rows * (side + 0.45)), layout="constrained")
    panels: list[Any] = list(figure.subplots(n_rows, per_row, squeeze=False, sharex=True, sharey=True).flat)
    grids = {layer: _grid(table[table["layer"] == layer], names) for layer in layers}
    most = max(float(np.nanmax(np.abs(grid))) for grid in grids.values()) or 1.0
    image = None
    for panel, layer in zip(panels, layers, strict=False):
        image = panel.imshow(grids[layer], cmap=COLOURS, vmin=-most, vmax=most, interpolation="nearest")
        panel.set_facecolor(NO_EDGE)
        panel.set_title(f"Layer {layer + 1}", fontsize=9)
        if len(names) <= N_NUMBERS:
            _numbers(panel, grids[layer], most)
        _label(panel, names, layout)
    for number in range(len(layers), len(panels)):
        panels[number].remove()
        panels[number - per_row].tick_params(labelbottom=True)
    assert image is not None
    bar = figure.colorbar(image, ax=panels[: len(layers)], fraction=0.03, pad=0.02)
    bar.outline.set_visible(False)  # pyright: ignore
    bar.ax.tick_params(labelsize=7)
    bar.set_label(result.audit["score_is"] + (", sum over heads" if "head" in table else ""), fontsize=8)
    figure.suptitle(f"{result.audit['method']}, mean over {len(result.question.x)} trials", fontsize=9)
    figure.supxlabel("source (is read); grey: no score", fontsize=9)
    figure.supylabel("destination (reads)", fontsize=9)
    return figure


def _grid(rows: pd.DataFrame, names: list[str]) -> Float[np.ndarray, "dest src"]:
    """Return the scores of one layer; NaN where there is no score."""
    grid = rows.groupby(["dest", "src"])["score"].sum().unstack()
    return grid.reindex(index=names, columns=names).to_numpy(float)


def _in_order(table: pd.DataFrame, layout: TokenLayout) -> list[str]:
    """Return the names of destinations and sources in the order of their first tokens."""
    names = set(table["dest"]) | set(table["src"])
    return sorted(names, key=lambda name: _first_token(layout, name))


def _first_token(layout: TokenLayout, name: str) -> int:
    """Return the first token of a modality, of a channel, or with this name."""
    tokens = zip(layout.names, layout.group, layout.channel, strict=True)
    return next(i for i, (own, group, c) in enumerate(tokens) if name in (own, group, f"{group}.{c}"))


def _label(panel: Axes, names: list[str], layout: TokenLayout) -> None:
    """Name the rows and columns, or only the modalities; draw lines between modalities."""
    owners = [layout.group[_first_token(layout, name)] or name for name in names]
    starts = [i for i, owner in enumerate(owners) if i == 0 or owner != owners[i - 1]]
    for start in starts[1:]:
        panel.axhline(start - 0.5, color="0.35", linewidth=0.6)
        panel.axvline(start - 0.5, color="0.35", linewidth=0.6)
    ticks, labels = list(range(len(names))), names
    if len(names) > N_LABELS:
        ticks = [(a + b - 1) / 2 for a, b in zip(starts, [*starts[1:], len(names)], strict=True)]
        labels = [owners[start] for start in starts]
    panel.set_xticks(ticks, labels, rotation=90, fontsize=7)
    panel.set_yticks(ticks, labels, fontsize=7)
    panel.tick_params(length=0)
    panel.spines[:].set_visible(False)


def _numbers(panel: Axes, grid: Float[np.ndarray, "dest src"], most: float) -> None:
    decimals = max(0, 1 - int(np.floor(np.log10(most))))
    for (dest, src), value in np.ndenumerate(grid):
        if np.isfinite(value):
            colour = "white" if abs(value) > 0.65 * most else "black"
            text = f"{round(value, decimals) + 0:.{decimals}f}"  # + 0 turns -0 into 0
            panel.text(src, dest, text, ha="center", va="center", fontsize=7, color=colour)
