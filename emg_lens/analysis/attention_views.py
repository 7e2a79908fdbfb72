"""Interactive attention maps for tokens that are channels or patches.

`attention_view` makes an interactive page (`attention_view.html` with two scripts, no network needed) and static
figures from the attention patterns of any TransformerLens cache. `modality_mass` gives the numbers.
"""

import base64
import html
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib.resources import files
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.figure import Figure

from emg_lens.analysis.patterns import (
    Patterns,
    group_index,
    group_mass,
    group_names,
    group_summary,
    mass_table,
    modality_mass,
    read_patterns,
    row_notes,
)
from emg_lens.layout import TokenLayout
from emg_lens.plotting import modality_colours, plot_token_map
from emg_lens.plotting.cells import draw_borders, draw_cells, token_owners
from emg_lens.plotting.panels import colour_bar, new_figure, plain_text
from emg_lens.plotting.saving import save_figure
from emg_lens.plotting.style import TITLE
from emg_lens.plotting.words import layer_name
from emg_lens.validation import ArgumentError, check_argument, checked

__all__ = ["AttentionView", "attention_view", "modality_mass"]

FINE_CELLS = 3_000_000
"""Up to this many cells a page stores 16 bits per value; larger pages store 8."""
FILE_BYTES, CELL_BYTES = 64_000_000, 8_000_000
"""A file or notebook cell above this size holds only the attention between groups, with a note."""


@dataclass(frozen=True, eq=False)
class AttentionView:
    """Attention patterns with their token layout, displayed as an interactive page in a notebook.

    Make one with `attention_view`.

    Attributes:
        pattern: Attention of dest to src, or its difference from a baseline.
        layout: Layout of the tokens.
        labels: Displayed name of each token.
        layers: 0-based number of each layer of `pattern`; displayed as L1, L2, ...
        trials: Description of the displayed trials.
        difference: Whether `pattern` is a difference.
        title: Heading of page and figures.
        notes: Remarks on these patterns, one sentence each.

    Example:
        >>> import torch
        >>> from emg_lens import TokenLayout, attention_view
        >>> layout = TokenLayout.channels({"emg": 4, "acc": 3})
        >>> view = attention_view(torch.rand(2, 3, 8, 8).softmax(-1), layout, title="Example")
        >>> view.layers, view.pattern.shape
        ((0, 1), (2, 3, 8, 8))
        >>> view.save("attention.html").name
        'attention.html'
    """

    pattern: Float[np.ndarray, "layer head dest src"] = field(repr=False)
    layout: TokenLayout = field(repr=False)
    labels: tuple[str, ...] = field(repr=False)
    layers: tuple[int, ...]
    trials: str
    difference: bool = False
    title: str = ""
    notes: tuple[str, ...] = ()

    @cached_property
    def mass(self) -> pd.DataFrame:
        """The table of `modality_mass` for the displayed patterns."""
        return mass_table(self.pattern, self.layout, self.layers)

    @checked
    def figure(self, layer: int | None = None, head: int | None = None) -> Figure:
        """Draw a static figure: an overview of all heads, one layer (mean over heads), or one head.

        Args:
            layer: Layer, 0-based; default: the overview of layers and heads.
            head: Head, 0-based; default: the mean over the layer's heads.
        """
        if layer is None and head is None:
            return self._overview()
        if layer is None or layer not in self.layers:
            raise ArgumentError(f"layer {layer} is not in this view; its layers are {list(self.layers)} (0-based)")
        heads = self.pattern[self.layers.index(layer)]
        if head is not None and not 0 <= head < len(heads):
            raise ArgumentError(f"head {head} does not exist: there are heads 0 to {len(heads) - 1}")
        which = "mean over heads" if head is None else f"head {head}"
        return self._single(heads.mean(0) if head is None else heads[head], f"layer L{layer + 1}, {which}")

    @checked
    def save(self, path: str | Path) -> Path:
        """Save the page (`.html`, one file, no network needed) or the overview (`.png`, `.svg`, `.pdf`)."""
        path = Path(path)
        match path.suffix.lower():
            case ".html":
                path.write_text(self._page(FILE_BYTES), encoding="utf-8")
            case ".png" | ".svg" | ".pdf":
                save_figure(self.figure(), path)
            case other:
                raise ArgumentError(f"cannot save attention as {other or path.name!r}: use .html, .png, .svg or .pdf")
        return path

    def _repr_html_(self) -> str:
        """The page in a sandboxed frame, so that its styles and scripts do not affect the notebook."""
        title, page = html.escape(self.title or "attention"), html.escape(self._page(CELL_BYTES))
        return (
            f'<iframe title="{title}" sandbox="allow-scripts allow-downloads" '
            f'style="width:100%;height:860px;border:0;border-radius:8px" srcdoc="{page}">'
            "</iframe>"
        )

    def _page(self, limit: int) -> str:
        folder = files("emg_lens.analysis")
        text = json.dumps(self._content(limit), separators=(",", ":"), allow_nan=False)
        parts = {
            "title": html.escape(self.title or "Attention"),
            "data": text.replace("<", "\\u003c"),  # no label can close the script element
            "maps_script": (folder / "attention_view_maps.js").read_text("utf-8"),
            "script": (folder / "attention_view.js").read_text("utf-8"),
        }
        template = (folder / "attention_view.html").read_text("utf-8")
        return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], template)

    def _content(self, limit: int) -> dict:
        """Data of the page; token maps are left out if they exceed `limit` bytes."""
        n_layers, n_heads, n_tokens, _ = self.pattern.shape
        groups = group_names(self.layout)
        bits = 16 if self.pattern.size <= FINE_CELLS else 8
        fits = self.pattern.size * bits / 8 * 4 / 3 <= limit
        notes = list(self.notes)
        if not fits:
            notes.append(
                "This page shows groups only, because token maps would make it too large. "
                "Save the view to a file, or cache fewer layers."
            )
        uniform = np.full((1, 1, n_tokens, n_tokens), 1 / n_tokens)
        return {
            "title": self.title,
            "subtitle": f"{n_layers} layers × {n_heads} heads · {n_tokens} tokens · {self.trials}",
            "notes": notes,
            "difference": self.difference,
            "layers": self.layers,
            "heads": n_heads,
            "tokens": self.labels,
            "group": group_index(self.layout),
            "channel": self.layout.channel,
            "groups": groups,
            "colours": list(modality_colours(groups).values()),
            "mass": np.round(group_mass(self.pattern, self.layout), 7).tolist(),
            "summary": _without_nan(group_summary(self.pattern, self.layout)),
            "uniform": _without_nan(group_summary(uniform, self.layout)[0, 0]),
            "maps": _encode(self.pattern, bits, self.difference) if fits else None,
        }

    def _overview(self) -> Figure:
        n_layers, n_heads, *_ = self.pattern.shape
        with new_figure(1.0 + 1.05 * n_heads, 1.0 + 1.1 * n_layers) as figure:
            panels = figure.subplots(n_layers, n_heads, squeeze=False)
            low, high = self._limits(self.pattern)
            for (row, head), ax in np.ndenumerate(panels):
                draw_cells(ax, np.ma.asarray(self.pattern[row, head]), low=low, high=high)
                draw_borders(ax, token_owners(self.layout), 0.4)
                ax.set(xticks=[], yticks=[])
                if row == 0:
                    ax.set_title(f"H{head}", loc="center")
                if head == 0:
                    ax.set_ylabel(layer_name(self.layers[row]), rotation=0, ha="right", va="center")
            colour_bar(panels[0, 0].images[0], list(panels.flat), self._quantity)
            figure.suptitle(plain_text(self.title or f"Attention, {self.trials}"), fontsize=TITLE)
        return figure

    def _single(self, values: Float[np.ndarray, "dest src"], which: str) -> Figure:
        side = float(np.clip(0.17 * len(self.labels), 3.2, 8.5))
        with new_figure(side + 1.0, side) as figure:
            limits, names = self._limits(values), self.labels
            ax = plot_token_map(
                values,
                self.layout,
                label=self._quantity,
                limits=limits,
                names=names,
                most_names=64,
                ax=figure.subplots(),
            )
            ax.set_title(plain_text(": ".join(part for part in (self.title, which) if part)))
        return figure

    @property
    def _quantity(self) -> str:
        return "attention − baseline" if self.difference else "attention"

    def _limits(self, values: np.ndarray) -> tuple[float, float]:
        top = float(np.abs(values).max()) or 1.0
        return (-top if self.difference else 0.0), top


def attention_view(
    cache: Patterns,
    layout: TokenLayout,
    *,
    trial: int | None = None,
    labels: Sequence[str] | None = None,
    baseline: Patterns | None = None,
    title: str = "",
) -> AttentionView:
    """Make an interactive view of the attention patterns in a cache.

    Args:
        cache: A TransformerLens cache or a dict with `blocks.{l}.attn.hook_pattern`, each
            `[batch, head, dest, src]`; or a tensor `[layer, head, dest, src]` or
            `[layer, batch, head, dest, src]`. Layers that the cache does not contain are not shown.
        layout: Layout of the tokens.
        trial: Element of the batch to show (0-based); default: the mean over the batch.
        labels: Names to show instead of `layout.names`, one per token.
        baseline: A second cache; the view then shows `cache` minus `baseline`, for example cut minus intact.
        title: Heading of page and figures.

    Raises:
        ArgumentError: `cache` or `baseline` has another type or no patterns; patterns do not fit the layout, contain
            NaN or are not attention weights; the trial does not exist; wrong number of labels; `baseline` has another
            shape.

    Example:
        >>> from emg_lens import attention_view, build_model
        >>> model = build_model("isonet", modalities={"emg": 4, "acc": 3}, n_samples=20, n_classes=3)
        >>> _, cache = model.run_with_cache(model.example_input(2))
        >>> view = attention_view(cache, model.layout, trial=0)
        >>> view.trials
        'trial 0'
        >>> view.save("attention.html").suffix
        '.html'
    """
    layers, pattern, trials = read_patterns(cache, layout, trial, "cache")
    check_argument("labels", labels, Iterable | None)
    check_argument("title", title, str)
    names = tuple(str(name) for name in (layout.names if labels is None else labels))
    if len(names) != len(layout):
        raise ArgumentError(f"labels has {len(names)} names for {len(layout)} tokens; give one name per token")
    notes = row_notes(pattern, layers)
    if baseline is not None:
        base_layers, base, _ = read_patterns(baseline, layout, trial, "baseline")
        if base_layers != layers or base.shape != pattern.shape:
            raise ArgumentError(
                f"baseline has layers {list(base_layers)} and {base.shape[1]} heads, cache has layers "
                f"{list(layers)} and {pattern.shape[1]} heads; both must come from the same kind of model"
            )
        pattern = pattern - base
        trials += ", minus the baseline"
    return AttentionView(pattern, layout, names, layers, trials, baseline is not None, title, notes)


# --- data of the page ---------------------------------------------------------------------------------------


def _encode(pattern: Float[np.ndarray, "layer head dest src"], bits: int, signed: bool) -> dict:
    """Encode each map as base64 of little-endian integers q, where value = scale * sign(q) * (|q| / steps) ** 2.

    The square keeps small weights distinguishable: with hundreds of tokens, 8 bits must represent both an edge of 1 and
    weights of 0.001. The error at a value v is at most sqrt(|v| * scale) / steps + scale / (4 * steps ** 2).
    """
    steps = 2 ** (bits - signed) - 1
    kind = np.dtype(f"<{'i' if signed else 'u'}{bits // 8}")
    scale = np.abs(pattern).max(axis=(2, 3)).astype(float)
    data = []
    for values, top in zip(pattern.reshape(-1, *pattern.shape[2:]), scale.ravel(), strict=True):
        root = np.sqrt(np.minimum(np.abs(values) / (top or 1.0), 1.0))
        codes = np.copysign(np.rint(root * steps), values if signed else root).astype(kind)
        data.append(base64.b64encode(codes.tobytes()).decode("ascii"))
    n_heads = pattern.shape[1]
    return {
        "bits": bits,
        "signed": signed,
        "steps": steps,
        "scale": scale.tolist(),
        "top": float(scale.max()),
        "data": [data[i : i + n_heads] for i in range(0, len(data), n_heads)],
    }


def _without_nan(values: np.ndarray) -> list:
    """Nested lists with None for NaN, which JSON cannot represent."""
    rounded = np.round(values, 7).astype(object)
    rounded[np.isnan(values)] = None
    return rounded.tolist()
