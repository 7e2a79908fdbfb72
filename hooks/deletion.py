"""Renormalising deletion of attention edges: the arithmetic of one layer's cut.

A cut edge gets the score -inf, so the remaining edges of its row share the whole attention. That is the same
function as zeroing the pattern and renormalising it. -inf, never `finfo.min`: a row filled with `finfo.min`
turns into uniform attention, a leak (docs/protocol.md §6.1). A row with every edge cut attends to nothing and
gives a zero output.
"""

from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from emg_lens.hooks.algebra import EdgeError, EdgeSet
from emg_lens.hooks.edges import Nothing
from emg_lens.layout import TokenLayout


def cut_layers(
    edges: EdgeSet, layout: TokenLayout, n_layers: int, n_heads: int
) -> dict[int, Bool[Tensor, "head dest src"]]:
    """The mask of every layer in which something is cut; the head axis has size 1 where all heads agree.

    Raises:
        EdgeError: The set does not fit layout or model, or selects nothing there (only `none()` may be
            empty).
    """
    if not isinstance(edges, EdgeSet):
        given = " ".join(repr(edges).split())
        raise EdgeError(f"edges must be an edge set such as cross_modal(), got {given[:60]}")
    mask = edges.mask(layout, n_layers, n_heads)
    layers = {layer: _share_heads(mask[layer]) for layer in range(n_layers) if mask[layer].any()}
    if not layers and not isinstance(edges, Nothing):
        raise EdgeError(
            f"{edges} selects no edge among {len(layout)} tokens, {n_layers} layers, {n_heads} heads; write none() to"
            " cut nothing"
        )
    return layers


def _share_heads(mask: Bool[Tensor, "head dest src"]) -> Bool[Tensor, "one_or_head dest src"]:
    one = mask[:1]
    return (one if bool((mask == one).all()) else mask).clone()


@dataclass
class Deletion:
    """One layer's cut.

    Attributes:
        mask: True = cut; one head if all heads agree.
        where: Name of the place, for messages.
    """

    mask: Bool[Tensor, "one_or_head dest src"]
    where: str
    _moved: dict[torch.device, Tensor] = field(default_factory=dict, repr=False)

    def on(self, attention: Float[Tensor, "batch head dest src"]) -> Bool[Tensor, "one_or_head dest src"]:
        """The mask on the device of `attention`, whose shape is checked on the way.

        Raises:
            EdgeError: `attention` has another number of positions or heads than the mask.
        """
        n_heads, n_tokens, _ = self.mask.shape
        shape = tuple(attention.shape)
        if len(shape) != 4 or shape[-2:] != (n_tokens, n_tokens) or n_heads not in (1, shape[1]):
            raise EdgeError(
                f"{self.where} has shape {list(shape)} (batch, head, dest, src), but the layout has"
                f" {n_tokens} positions" + (f" and the cut {n_heads} heads" if n_heads > 1 else "")
            )
        if attention.device not in self._moved:
            self._moved[attention.device] = self.mask.to(attention.device)
        return self._moved[attention.device]

    def scores(self, scores: Float[Tensor, "batch head dest src"]) -> Float[Tensor, "batch head dest src"]:
        """Scores with the cut edges at -inf."""
        return scores.masked_fill(self.on(scores), -torch.inf)

    def scores_strict(self, scores: Float[Tensor, "batch head dest src"]) -> Float[Tensor, "batch head dest src"]:
        """The same for models that forbid edges with `finfo.min`: rows left with nothing else become -inf throughout.

        Otherwise such a row would share its attention among the forbidden edges.
        """
        cut = self.on(scores)
        forbidden = scores <= torch.finfo(scores.dtype).min / 2
        empty = (cut | forbidden).all(-1, keepdim=True) & cut.any(-1, keepdim=True)
        return scores.masked_fill(cut | empty, -torch.inf)

    def empty_rows(self, pattern: Float[Tensor, "batch head dest src"]) -> Float[Tensor, "batch head dest src"]:
        """Pattern with zeros where softmax made NaN of a row that this cut emptied."""
        touched = self.on(pattern).any(-1, keepdim=True)
        return pattern.masked_fill(pattern.isnan() & touched, 0.0)

    def pattern(self, pattern: Float[Tensor, "batch head dest src"]) -> Float[Tensor, "batch head dest src"]:
        """Pattern with the cut edges at zero and the touched rows renormalised."""
        cut = self.on(pattern)
        kept = pattern.masked_fill(cut, 0.0)
        total = kept.sum(-1, keepdim=True)
        untouched = ~cut.any(-1, keepdim=True)
        return kept / total.masked_fill(untouched | (total == 0), 1.0)
