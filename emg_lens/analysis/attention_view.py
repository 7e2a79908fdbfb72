"""Looking at attention when tokens are channels, patches and groups of them.

`attention_view` turns the attention patterns of any TransformerLens cache into an interactive page that needs no
network (`attention_view.html` and `attention_view.js` beside this file) and into static figures; `modality_mass`
gives the same story in numbers. Text viewers stop where our tokens begin (field survey §2, "Seeing attention when
tokens are not words"). Knows layouts and caches, not models.
"""

import base64
import html
import json
import operator
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib.resources import files
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor
from transformer_lens import ActivationCache

from emg_lens.layout import CLS, TokenLayout

Patterns = ActivationCache | Mapping[str, Tensor] | Tensor | np.ndarray

UNGROUPED = "(ungrouped)"
"""Stands for the tokens outside every group; brackets keep it apart from any group's name."""
SUMMARY = ("uni", "cross", "to_cls", "from_cls")

PATTERN_KEY = re.compile(r"blocks\.(\d+)\.attn\.hook_pattern")
GROUP_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442")
"""Okabe and Ito's colours, told apart with every common kind of colour vision."""
NO_MODALITY_COLOURS = {CLS: "#858c98", UNGROUPED: "#c3c8d0"}
FINE_CELLS = 3_000_000
"""Up to this many cells a page stores 16 bits a value, beyond it 8."""
FILE_BYTES, CELL_BYTES = 64_000_000, 8_000_000
"""Above these sizes a file, or a notebook cell, carries the groups only and says so."""


@dataclass(frozen=True, eq=False)
class AttentionView:
    """Attention patterns with the meaning of their tokens. Made by `attention_view`; shows itself in a notebook.

    Attributes:
        pattern: Attention of dest to src, or its difference from a baseline.
        layout: What each token stands for.
        labels: Name of each token as it is shown.
        layers: 0-based number of each layer of `pattern`; shown as L1, L2, ...
        trials: Which trials are shown, in words.
        difference: Whether `pattern` is a difference.
        title: Heading of page and figures.
        notes: What a reader should know about these patterns, one sentence each.
    """

    pattern: Float[np.ndarray, "layer head dest src"] = field(repr=False)
    layout: TokenLayout = field(repr=False)
    labels: tuple[str, ...] = field(repr=False)
    layers: tuple[int, ...]
    trials: str
    difference: bool = False
    title: str = ""
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        n_layers, _, n_dest, n_src = self.pattern.shape
        lengths = {n_dest, n_src, len(self.layout), len(self.labels)}
        if len(lengths) != 1 or n_layers != len(self.layers):
            raise ValueError(
                f"pattern {self.pattern.shape} does not fit {len(self.layers)} layers, a layout of "
                f"{len(self.layout)} tokens and {len(self.labels)} labels"
            )

    @cached_property
    def mass(self) -> pd.DataFrame:
        """The table of `modality_mass` for what is shown."""
        return _mass_table(self.pattern, self.layout, self.layers)

    def figure(self, layer: int | None = None, head: int | None = None) -> Figure:
        """A static figure: every head as a small map, one layer (mean over heads), or one head.

        Args:
            layer: Layer, 0-based; without it the figure is the layer-by-head overview.
            head: Head, 0-based; without it the mean over the layer's heads.

        Raises:
            ValueError: A layer or head that is not there, or a head without a layer.
        """
        if layer is None and head is not None:
            raise ValueError(f"figure(head={head}) needs a layer too; the layers are {list(self.layers)}")
        if layer is None:
            return self._overview()
        if layer not in self.layers:
            raise ValueError(f"layer {layer} is not in this view; its layers are {list(self.layers)} (0-based)")
        heads = self.pattern[self.layers.index(layer)]
        if head is not None and not 0 <= head < len(heads):
            raise ValueError(f"head {head} does not exist: there are heads 0 to {len(heads) - 1}")
        which = "mean over heads" if head is None else f"head {head}"
        return self._single(heads.mean(0) if head is None else heads[head], f"layer L{layer + 1}, {which}")

    def save(self, path: str | Path) -> Path:
        """Write the page (`.html`, one file, no network needed) or the overview (`.png`, `.svg`, `.pdf`).

        Raises:
            ValueError: Another ending.
        """
        path = Path(path)
        match path.suffix.lower():
            case ".html":
                path.write_text(self._page(FILE_BYTES), encoding="utf-8")
            case ".png" | ".svg" | ".pdf":
                self.figure().savefig(path, dpi=200)
            case other:
                raise ValueError(f"cannot save attention as {other or path.name!r}: use .html, .png, .svg or .pdf")
        return path

    def _repr_html_(self) -> str:
        """The page in a sandboxed frame: its styles cannot leak into the notebook, nor its scripts reach out."""
        return (
            f'<iframe title="{html.escape(self.title or "attention")}" sandbox="allow-scripts allow-downloads" '
            f'style="width:100%;height:860px;border:0;border-radius:8px" srcdoc="{html.escape(self._page(CELL_BYTES))}">'
            "</iframe>"
        )

    def _page(self, limit: int) -> str:
        folder = files("emg_lens.analysis")
        text = json.dumps(self._content(limit), separators=(",", ":"), allow_nan=False)
        parts = {
            "title": html.escape(self.title or "Attention"),
            "data": text.replace("<", "\\u003c"),  # so that no label can close the script element
            "script": (folder / "attention_view.js").read_text("utf-8"),
        }
        template = (folder / "attention_view.html").read_text("utf-8")
        return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], template)

    def _content(self, limit: int) -> dict:
        """Everything the page shows; token maps only if they fit into `limit` bytes."""
        n_layers, n_heads, n_tokens, _ = self.pattern.shape
        groups = _groups(self.layout)
        bits = 16 if self.pattern.size <= FINE_CELLS else 8
        fits = self.pattern.size * bits / 8 * 4 / 3 <= limit
        notes = list(self.notes)
        if not fits:
            notes.append(
                "This page holds groups only: the token maps would make it too large. "
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
            "group": [groups.index(_group(g)) for g in self.layout.group],
            "channel": self.layout.channel,
            "groups": groups,
            "colours": _colours(groups),
            "mass": np.round(_group_mass(self.pattern, self.layout), 7).tolist(),
            "summary": _without_nan(_summary(self.pattern, self.layout)),
            "uniform": _without_nan(_summary(uniform, self.layout)[0, 0]),
            "maps": _encode(self.pattern, bits, self.difference) if fits else None,
        }

    def _overview(self) -> Figure:
        n_layers, n_heads, *_ = self.pattern.shape
        figure = Figure(figsize=(1.0 + 1.05 * n_heads, 1.0 + 1.1 * n_layers), layout="constrained")
        axes = figure.subplots(n_layers, n_heads, squeeze=False)
        shades = self._shades(self.pattern)
        for (row, head), ax in np.ndenumerate(axes):
            image = ax.imshow(self.pattern[row, head], interpolation="nearest", rasterized=True, **shades)
            ax.set(xticks=[], yticks=[])
            self._separate(ax, 0.4)
            if row == 0:
                ax.set_title(f"H{head}", fontsize=8)
            if head == 0:
                ax.set_ylabel(f"L{self.layers[row] + 1}", fontsize=8, rotation=0, ha="right", va="center")
        bar = figure.colorbar(image, ax=axes, fraction=0.03, pad=0.02)
        bar.ax.tick_params(labelsize=7)
        bar.set_label(self._quantity, fontsize=8)
        figure.suptitle(self.title or f"Attention, {self.trials}", fontsize=10)
        return figure

    def _single(self, values: Float[np.ndarray, "dest src"], which: str) -> Figure:
        n_tokens = len(self.labels)
        side = float(np.clip(0.17 * n_tokens, 3.2, 8.5))
        figure = Figure(figsize=(side + 1.9, side + 1.0), layout="constrained")
        ax = figure.subplots()
        image = ax.imshow(values, interpolation="nearest", rasterized=n_tokens > 100, **self._shades(values))
        self._separate(ax, 0.6)
        groups = _groups(self.layout)
        colour = dict(zip(groups, _colours(groups), strict=True))
        starts = _starts(self.layout)
        if n_tokens <= 64:
            ticks, names = list(range(n_tokens)), list(self.labels)
        else:
            ends = [*starts[1:], n_tokens]
            ticks = [(a + b - 1) / 2 for a, b in zip(starts, ends, strict=True)]
            names = [_group(self.layout.group[a]) for a in starts]
        owners = [_group(self.layout.group[round(t)]) for t in ticks]
        ax.set_xticks(ticks, names, rotation=90, fontsize=7)
        ax.set_yticks(ticks, names, fontsize=7)
        for labels in (ax.get_xticklabels(), ax.get_yticklabels()):
            for label, owner in zip(labels, owners, strict=True):
                label.set_bbox({"boxstyle": "round,pad=0.15", "fc": colour[owner], "ec": "none", "alpha": 0.25})
        ax.tick_params(length=0)
        ax.set(xlabel="src (is read)", ylabel="dest (reads)")
        ax.set_title(": ".join(part for part in (self.title, which) if part), fontsize=10)
        figure.colorbar(image, ax=ax, fraction=0.045, label=self._quantity).ax.tick_params(labelsize=7)
        return figure

    @property
    def _quantity(self) -> str:
        return "attention − baseline" if self.difference else "attention"

    def _shades(self, values: np.ndarray) -> dict:
        top = float(np.abs(values).max()) or 1.0
        if self.difference:
            return {"cmap": "PuOr_r", "vmin": -top, "vmax": top}
        return {"cmap": "Blues", "vmin": 0.0, "vmax": top}

    def _separate(self, ax: Axes, width: float) -> None:
        """Thin lines between groups."""
        for start in _starts(self.layout)[1:]:
            ax.axhline(start - 0.5, color="0.35", linewidth=width)
            ax.axvline(start - 0.5, color="0.35", linewidth=width)


def attention_view(
    cache: Patterns,
    layout: TokenLayout,
    *,
    trial: int | None = None,
    labels: Sequence[str] | None = None,
    baseline: Patterns | None = None,
    title: str = "",
) -> AttentionView:
    """Look at attention: `attention_view(model.run_with_cache(x)[1], model.layout).save("attention.html")`.

    Args:
        cache: A TransformerLens cache or a dict with `blocks.{l}.attn.hook_pattern`, each `[batch, head, dest, src]`;
            or a tensor `[layer, head, dest, src]` or `[layer, batch, head, dest, src]`. A cache of some layers only
            shows these, under their own numbers.
        layout: What each token stands for.
        trial: Which element of the batch to show (0-based); default: the mean over the batch.
        labels: Names to show instead of `layout.names`, one a token.
        baseline: A second cache; the view then shows `cache` minus `baseline`, say cut minus intact.
        title: Heading of page and figures.

    Raises:
        ValueError: No patterns, patterns that are not square, do not fit the layout, hold NaN or are no attention
            weights; a trial that is not there; a wrong number of labels; a baseline of another shape.
        TypeError: `cache` or `baseline` is neither cache nor tensor.
    """
    layers, pattern, trials = _read(cache, layout, trial, "cache")
    names = tuple(str(name) for name in (layout.names if labels is None else labels))
    if len(names) != len(layout):
        raise ValueError(f"labels has {len(names)} names for {len(layout)} tokens; give one name a token")
    notes = _notes(pattern, layers)
    if baseline is not None:
        base_layers, base, _ = _read(baseline, layout, trial, "baseline")
        if base_layers != layers or base.shape != pattern.shape:
            raise ValueError(
                f"baseline has layers {list(base_layers)} and {base.shape[1]} heads, cache has layers "
                f"{list(layers)} and {pattern.shape[1]} heads; both must come from the same kind of model"
            )
        pattern = pattern - base
        trials += ", minus the baseline"
    return AttentionView(pattern, layout, names, layers, trials, baseline is not None, title, notes)


def modality_mass(cache: Patterns, layout: TokenLayout, *, trial: int | None = None) -> pd.DataFrame:
    """How much attention each group pays to each other, per head; arguments and errors as in `attention_view`.

    Returns:
        One row a (layer, head, dest, src) where dest and src are groups ("cls" is one, tokens outside every group are
        "(ungrouped)"). `mass` is the mean over dest's tokens of the attention they pay to all of src's tokens, so the
        masses of one dest sum to 1. Four summaries of the head repeat in its rows: of what the tokens of modalities
        read, `uni` is the share from their own modality (self-edges included), `cross` from other modalities,
        `from_cls` from CLS; `to_cls` is the share of what CLS reads that comes from modalities. NaN where no such
        token exists. `uni` and `cross` follow the edge classes `unimodal()` and `cross_modal()`.
    """
    layers, pattern, _ = _read(cache, layout, trial, "cache")
    return _mass_table(pattern, layout, layers)


# --- reading caches ---------------------------------------------------------------------------------------


def _read(
    cache: Patterns, layout: TokenLayout, trial: int | None, name: str
) -> tuple[tuple[int, ...], Float[np.ndarray, "layer head dest src"], str]:
    """Layer numbers, patterns of one trial or the mean of all, and which of the two, in words."""
    if isinstance(cache, Tensor | np.ndarray):
        stacked = torch.as_tensor(cache)
        if stacked.ndim not in (4, 5):
            raise ValueError(
                f"{name} is a tensor of shape {tuple(stacked.shape)}; expected [layer, head, dest, src] or "
                "[layer, batch, head, dest, src]"
            )
        found = dict(enumerate(stacked))
    elif hasattr(cache, "keys"):
        keys = {key: PATTERN_KEY.fullmatch(str(key)) for key in cache.keys()}  # noqa: SIM118 (ActivationCache)
        found = {int(match[1]): cache[key] for key, match in keys.items() if match}
        found = dict(sorted(found.items()))
    else:
        raise TypeError(f"{name} must be an ActivationCache, a dict or a tensor, got {type(cache).__name__}")
    if not found:
        raise ValueError(
            f"{name} holds no attention pattern: expected 'blocks.{{layer}}.attn.hook_pattern'; cache it with "
            "run_with_cache(x), or name it in names_filter"
        )
    chosen = {layer: _one_layer(torch.as_tensor(p), layer, layout, trial, name) for layer, p in found.items()}
    heads = {layer: len(pattern) for layer, (pattern, _) in chosen.items()}
    if len(set(heads.values())) > 1:
        raise ValueError(f"{name} has layers with different numbers of heads: {heads}")
    trials = next(iter(chosen.values()))[1]
    return tuple(chosen), np.stack([pattern for pattern, _ in chosen.values()]), trials


def _one_layer(
    pattern: Tensor, layer: int, layout: TokenLayout, trial: int | None, name: str
) -> tuple[Float[np.ndarray, "head dest src"], str]:
    where = f"{name}, layer {layer}"
    shape = tuple(pattern.shape)
    if len(shape) not in (3, 4) or 0 in shape:
        raise ValueError(f"{where}: pattern has shape {shape}; expected [batch, head, dest, src]")
    if shape[-2:] != (len(layout), len(layout)):
        raise ValueError(
            f"{where}: pattern is {shape[-2]} x {shape[-1]} tokens but the layout has {len(layout)}; "
            "pass the layout of the model that made the cache"
        )
    pattern = pattern.detach().float().cpu()
    if len(shape) == 3:
        if trial is not None:
            raise ValueError(f"{where}: trial={trial} was asked, but the pattern has no batch axis; leave trial out")
        chosen, trials = pattern, "one trial"
    elif trial is None:
        chosen, trials = pattern.mean(0), f"mean over {shape[0]} trials" if shape[0] > 1 else "one trial"
    else:
        index = operator.index(trial)
        if not 0 <= index < shape[0]:
            raise ValueError(f"{where}: trial {index} does not exist; the batch has trials 0 to {shape[0] - 1}")
        chosen, trials = pattern[index], f"trial {index}"
    values = chosen.numpy()
    bad = ~np.isfinite(values).all(axis=(1, 2))
    if bad.any():
        raise ValueError(f"{where}: heads {np.flatnonzero(bad).tolist()} hold NaN or infinity; attention is finite")
    if values.min() < -1e-3 or values.max() > 1 + 1e-3:
        raise ValueError(
            f"{where}: values go from {values.min():.3g} to {values.max():.3g}, attention from 0 to 1; "
            "pass hook_pattern, not hook_attn_scores"
        )
    return values, trials


def _notes(pattern: Float[np.ndarray, "layer head dest src"], layers: tuple[int, ...]) -> tuple[str, ...]:
    """What is odd about the rows: fully cut ones, and ones that are no distribution."""
    sums = pattern.sum(-1)
    empty = sums < 1e-6
    notes = []
    if empty.any():
        where = ", ".join(f"L{layers[i] + 1}" for i in np.flatnonzero(empty.any(axis=(1, 2))))
        notes.append(f"{empty.sum()} rows carry no attention, as if all their edges were cut ({where}).")
    if (odd := ~empty & (np.abs(sums - 1) > 0.02)).any():
        low, high = sums[odd].min(), sums[odd].max()
        notes.append(f"{odd.sum()} rows do not sum to 1 ({low:.2f} to {high:.2f}): dropout, or an edited pattern.")
    return tuple(notes)
