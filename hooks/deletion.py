"""Renormalising deletion of attention edges: the arithmetic of one layer's cut.

A cut edge gets the score -inf, so the remaining edges of its row share the whole attention. -inf, never
`finfo.min`: a row filled with `finfo.min` turns into uniform attention, a leak (docs/cuts.md §6.1). A row
with every edge cut attends to nothing and gives a zero output.

Zeroing the pattern and renormalising it is the same function only of a plain softmax (no sink shares the row), of
which nothing that is kept has underflowed, before dropout: `Deletion.pattern` holds the pattern to that.
"""

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from emg_lens.hooks.algebra import EdgeError, EdgeSet
from emg_lens.hooks.anatomy import DeadHookError, Place, StageLayer
from emg_lens.hooks.edges import Nothing
from emg_lens.layout import TokenLayout, where_modalities_meet

CutLayers = dict[Place, Bool[Tensor, "one_or_head dest src"]]
"""What is cut, by layer, or by layer and stage, among whose positions; one head where all agree."""


def cut_layers(edges: EdgeSet, layout: TokenLayout, n_layers: int, n_heads: int) -> CutLayers:
    """The mask of every layer in which something is cut; the head axis has size 1 where all heads agree.

    Raises:
        EdgeError: The set does not fit layout or model, or selects nothing there (only `none()` may be
            empty).
    """
    if not isinstance(edges, EdgeSet):
        given = " ".join(repr(edges).split())
        raise EdgeError(f"edges must be an edge set such as cross_modal(), got {given[:60]}")
    mask = edges.mask(layout, n_layers, n_heads)
    layers: CutLayers = {layer: _share_heads(mask[layer]) for layer in range(n_layers) if mask[layer].any()}
    if not layers and not isinstance(edges, Nothing):
        raise EdgeError(
            f"{edges} selects no edge among {len(layout)} tokens, {n_layers} layers, {n_heads} heads"
            f"{where_modalities_meet(layout)}; write none() to cut nothing"
        )
    return _by_stage(mask, layout) if layout.stages else layers


def _by_stage(mask: Bool[Tensor, "layer head dest src"], layout: TokenLayout) -> CutLayers:
    """The same, apart by stage."""
    return {
        StageLayer(layer, stage.name): _share_heads(own)
        for stage in layout.stages
        for layer, own in zip(stage.layers, mask[stage.edges], strict=True)
        if own.any()
    }


def _share_heads(mask: Bool[Tensor, "head dest src"]) -> Bool[Tensor, "one_or_head dest src"]:
    one = mask[:1]
    return (one if bool((mask == one).all()) else mask).clone()


@dataclass
class Deletion:
    """One layer's cut.

    Attributes:
        mask: True = cut; one head if all heads agree.
        where: Name of the place, for messages.
        n_sinks: Columns after those of `src` that are no tokens, where scores have them (attention sinks).
        forbidden: Edges that the model itself never has (a causal mask); what `pattern` may find at zero.
    """

    mask: Bool[Tensor, "one_or_head dest src"]
    where: str
    n_sinks: int = 0
    forbidden: Bool[Tensor, "dest src"] | None = None
    _moved: dict[torch.device, Tensor] = field(default_factory=dict, repr=False)

    def on(self, attention: Float[Tensor, "batch head dest src"]) -> Bool[Tensor, "one_or_head dest src"]:
        """The mask on the device of `attention`, whose shape is checked on the way; sinks are never cut.

        Raises:
            EdgeError: `attention` has another number of positions or heads than the mask.
        """
        n_heads, n_dest, n_src = self.mask.shape
        shape = tuple(attention.shape)
        if len(shape) != 4 or shape[-2:] != (n_dest, n_src + self.n_sinks) or n_heads not in (1, shape[1]):
            raise EdgeError(self._misfit(shape))
        if attention.device not in self._moved:
            self._moved[attention.device] = F.pad(self.mask, (0, self.n_sinks)).to(attention.device)
        return self._moved[attention.device]

    def _misfit(self, shape: tuple[int, ...]) -> str:
        n_heads, n_dest, n_src = self.mask.shape
        positions = f"{n_src} positions" if n_dest == n_src else f"{n_dest} dest and {n_src} src positions"
        text = f"{self.where} has shape {list(shape)} (batch, head, dest, src), but the layout has {positions}"
        if n_heads > 1:
            text += f" and the cut {n_heads} heads"
        if len(shape) == 4 and n_dest == n_src and shape[-2] < shape[-1]:
            text += (
                "; keys of an earlier forward come from a key-value cache, where rows are not positions of the layout:"
                " run whole sequences without the cache (use_cache=False)"
            )
        return text

    def scores(self, scores: Float[Tensor, "batch head dest src"]) -> Float[Tensor, "batch head dest src"]:
        """Scores with the cut edges at -inf; rows that are left with forbidden edges only, at -inf throughout.

        Many models forbid edges (causal, sliding window, padding) with `finfo.min`. A row with nothing else would share
        its attention among them.
        """
        cut = self.on(scores)
        empty = (cut | ~allowed(scores)).all(-1, keepdim=True) & cut.any(-1, keepdim=True)
        return scores.masked_fill(cut | empty, -torch.inf)

    def empty_rows(self, pattern: Float[Tensor, "batch head dest src"]) -> Float[Tensor, "batch head dest src"]:
        """Pattern with zeros where softmax made NaN of a row that this cut emptied."""
        touched = self.on(pattern).any(-1, keepdim=True)
        return pattern.masked_fill(pattern.isnan() & touched, 0.0)

    def pattern(self, pattern: Float[Tensor, "batch head dest src"]) -> Float[Tensor, "batch head dest src"]:
        """Pattern with the cut edges at zero and the touched rows renormalised.

        Raises:
            DeadHookError: That is not what -inf in the scores would give: a touched row does not sum to one (dropout,
                or an attention sink), or what it keeps has underflowed.
        """
        cut = self.on(pattern)
        kept = pattern.masked_fill(cut, 0.0)
        total = kept.sum(-1, keepdim=True)
        touched = cut.any(-1, keepdim=True)
        self._hold_to_softmax(pattern.detach(), total.detach(), cut, touched)
        return kept / total.masked_fill(~touched | (total == 0), 1.0)

    def _hold_to_softmax(self, pattern: Tensor, total: Tensor, cut: Tensor, touched: Tensor) -> None:
        whole = pattern.sum(-1, keepdim=True, dtype=torch.float32)
        precision = torch.finfo(pattern.dtype)
        uneven = touched & (whole != 0) & ((whole - 1).abs() > max(2 * precision.eps, 1e-5))
        if uneven.any():
            raise DeadHookError(
                f"{self.where}: rows sum to {float(whole[uneven][0]):.4g}, not to 1 (dropout before the hook, or a sink"
                " beside the tokens), so zeroing and renormalising is not the cut; use cutting, or eval()"
            )
        never = cut if self.forbidden is None else cut | self.forbidden.to(cut.device)
        smallest = precision.tiny * precision.eps if pattern.dtype == torch.float16 else precision.tiny
        lost = touched & ~never.all(-1, keepdim=True) & (whole != 0)
        lost = lost & (total < pattern.shape[-1] * smallest / precision.eps)
        if lost.any():
            raise DeadHookError(
                f"{self.where}: what a row keeps has underflowed in {pattern.dtype} (or is padding), so its pattern"
                " cannot be renormalised; use cutting, or a wider dtype"
            )


def allowed(scores: Float[Tensor, "batch head dest src"]) -> Bool[Tensor, "batch head dest src"]:
    """Edges that a model does not forbid, with -inf or with `finfo.min`, which some divide by the root of d_head."""
    return scores > torch.finfo(scores.dtype).min / 32
