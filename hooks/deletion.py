"""The arithmetic of a cut in one layer: deletion of edges, with renormalisation of the row.

The score of a cut edge is never `finfo.min`: a row filled with `finfo.min` becomes uniform attention, which is not a
cut (docs/cuts.md §6.1).
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from emg_lens.hooks.algebra import EdgeError, EdgeSet
from emg_lens.hooks.edges import none
from emg_lens.hooks.fused_attention import FusedCall, as_bias, has_edge, largest_forbidden
from emg_lens.hooks.hook_points import DeadHookError, Place, StageLayer
from emg_lens.hooks.vmap import is_wrapped, surely
from emg_lens.layout import TokenLayout, where_modalities_meet

CutLayers = dict[Place, Bool[Tensor, "one_or_head dest src"]]
"""The mask of each layer (with stages: of each layer and stage). One head if all heads have the same mask."""


def cut_layers(edges: EdgeSet, layout: TokenLayout, n_layers: int, n_heads: int) -> CutLayers:
    """Return the mask of every layer with a cut edge; the head axis has size 1 where all heads have the same mask."""
    if not isinstance(edges, EdgeSet):
        given = " ".join(repr(edges).split())
        raise EdgeError(f"edges={given[:60]}; expected an edge set such as cross_modal()")
    mask = edges.mask(layout, n_layers, n_heads)
    if not has_edge(mask) and edges != none():
        raise EdgeError(
            f"{edges} selects no edge of {len(layout)} tokens, {n_layers} layers and {n_heads} heads"
            f"{where_modalities_meet(layout)}; write none() to cut nothing"
        )
    masks = by_place(mask, layout, has_edge)
    alike = {place: all(one.equal(own[0]) for one in own[1:]) for place, own in masks.items()}
    return {place: (own[:1] if alike[place] else own).clone() for place, own in masks.items()}


def by_place(
    values: Shaped[Tensor, "layer head dest src"], layout: TokenLayout, wanted: Callable[[Tensor], bool]
) -> dict[Place, Shaped[Tensor, "head dest src"]]:
    """Split values of edges by layer (or by layer and stage), and keep the parts for which `wanted` is true."""
    places: dict[Place, Tensor] = {layer: own for layer, own in enumerate(values)}
    if layout.stages:
        places = {
            StageLayer(layer, stage.name): own
            for stage in layout.stages
            for layer, own in zip(stage.layers, values[stage.edges], strict=True)
        }
    return {place: own for place, own in places.items() if wanted(own)}


@dataclass
class Deletion:
    """The cut of one layer.

    Attributes:
        mask: True = cut; one head if all heads have the same mask.
        where: Name of the hook point or module, for messages.
        n_sinks: Number of extra columns after `src` that are not tokens (attention sinks).
        forbidden: Edges that the model itself never uses, for example future positions; `pattern` may be zero there.
    """

    mask: Bool[Tensor, "one_or_head dest src"]
    where: str
    n_sinks: int = 0
    forbidden: Bool[Tensor, "dest src"] | None = None
    _moved: dict[torch.device, Tensor] = field(default_factory=dict, repr=False)
    _biases: dict[tuple[torch.device, torch.dtype], Tensor] = field(default_factory=dict, repr=False)
    _ones: dict[tuple[int, torch.dtype], Tensor] = field(default_factory=dict, repr=False)

    def on(self, attention: Float[Tensor, "batch head dest src"]) -> Bool[Tensor, "one_or_head dest src"]:
        """Return the mask on the device of `attention`, after a check of its shape; sinks are never cut."""
        return self.fitting(tuple(attention.shape), attention.device)

    def fitting(self, shape: tuple[int, ...], device: torch.device) -> Bool[Tensor, "one_or_head dest src"]:
        """Return the mask on a device, after a check of the shape of the scores; sinks are never cut."""
        n_heads, n_dest, n_src = self.mask.shape
        if len(shape) != 4 or shape[-2:] != (n_dest, n_src + self.n_sinks) or n_heads not in (1, shape[1]):
            raise EdgeError(self._misfit(shape))
        if device not in self._moved:
            self._moved[device] = F.pad(self.mask, (0, self.n_sinks)).to(device)
        return self._moved[device]

    def _misfit(self, shape: tuple[int, ...]) -> str:
        n_heads, n_dest, n_src = self.mask.shape
        positions = f"{n_src} positions" if n_dest == n_src else f"{n_dest} dest and {n_src} src positions"
        text = f"{self.where} has shape {list(shape)} (batch, head, dest, src), but the layout has {positions}"
        if n_heads > 1:
            text += f" and the cut {n_heads} heads"
        if len(shape) == 4 and n_dest == n_src and shape[-2] < shape[-1]:
            text += (
                "; other keys (from a key-value cache, or learned ones) are not positions of the layout: run whole"
                " sequences without a cache (use_cache=False)"
            )
        return text

    def _bias(self, mask: Bool[Tensor, "one_or_head dest src"], dtype: torch.dtype) -> Tensor:
        """Return the mask as scores to add."""
        key = (mask.device, dtype)
        if key not in self._biases:
            self._biases[key] = as_bias(mask, dtype)
        return self._biases[key]

    def is_absent_in(self, pattern: Float[Tensor, "batch head dest src"]) -> bool:
        """Return whether no cut edge has attention, where one matrix product shows it.

        False also where it is unknown: not on a CPU, in half precision, inside transforms, with NaN or negative values.
        """
        known = pattern.device.type == "cpu" and pattern.dtype in (torch.float32, torch.float64)
        if not known or is_wrapped(pattern) or not surely(pattern.amin() >= 0):
            return False
        key = (pattern.shape[-1], pattern.dtype)
        if key not in self._ones:
            self._ones[key] = F.pad(self.mask, (0, key[0] - self.mask.shape[-1])).to(pattern).flatten(1)
        rows, ones = pattern.flatten(2), self._ones[key]
        on_cut = [rows @ ones[0]] if len(ones) == 1 else [rows[:, head] @ own for head, own in enumerate(ones)]
        return all(surely(total == 0) for total in on_cut)

    def scores(self, scores: Float[Tensor, "batch head dest src"]) -> Float[Tensor, "batch head dest src"]:
        """Return the scores with cut edges at -inf, and with -inf in rows that have only forbidden edges left.

        Many models forbid edges (causal, sliding window, padding) with `finfo.min`. A row of only such edges would
        attend to them uniformly.
        """
        cut = self.on(scores)
        if scores.requires_grad or is_wrapped(scores):  # the gradient of a row of -inf is NaN, and does not pass a fill
            kept = scores.masked_fill(cut, -torch.inf)
        else:
            kept = scores + self._bias(cut, scores.dtype)
        largest = kept.detach().amax(-1, keepdim=True)
        only_forbidden = (largest <= largest_forbidden(scores.dtype)) & (largest > -torch.inf)
        if surely(~only_forbidden):
            return kept
        return kept.masked_fill(only_forbidden & cut.any(-1, keepdim=True), -torch.inf)

    def fused(self, call: FusedCall) -> FusedCall:
        """Return a call of torch's fused attention with the edges cut by its mask."""
        cut = self.fitting(call.shape, call.query.device)
        return call.without(cut, self._bias(cut, call.query.dtype))

    def empty_rows(self, pattern: Float[Tensor, "batch head dest src"]) -> Float[Tensor, "batch head dest src"]:
        """Return the pattern with zeros in place of the NaN that softmax gives for a row without edges."""
        touched = self.on(pattern).any(-1, keepdim=True)
        return pattern.masked_fill(pattern.isnan() & touched, 0.0)

    def pattern(self, pattern: Float[Tensor, "batch head dest src"]) -> Float[Tensor, "batch head dest src"]:
        """Return the pattern with cut edges at zero and the changed rows renormalised.

        The result equals -inf in the scores only for a plain softmax without sinks and dropout, and if no remaining
        value has underflowed; otherwise `DeadHookError`.
        """
        cut = self.on(pattern)
        kept = pattern.masked_fill(cut, 0.0)
        total = kept.sum(-1, keepdim=True)
        touched = cut.any(-1, keepdim=True)
        whole = pattern.detach().sum(-1, keepdim=True, dtype=torch.float32)
        precision = torch.finfo(pattern.dtype)
        uneven = touched & (whole != 0) & ((whole - 1).abs() > max(2 * precision.eps, 1e-5))
        if uneven.any():
            raise DeadHookError(
                f"{self.where}: a row sums to {float(whole[uneven][0]):.4g}, expected 1. Dropout or an attention sink"
                " makes renormalising the pattern different from a cut: use cutting, or model.eval()"
            )
        never = cut if self.forbidden is None else cut | self.forbidden.to(cut.device)
        smallest = precision.tiny * precision.eps if pattern.dtype == torch.float16 else precision.tiny
        lost = touched & ~never.all(-1, keepdim=True) & (whole != 0)
        lost = lost & (total.detach() < pattern.shape[-1] * smallest / precision.eps)
        if lost.any():
            raise DeadHookError(
                f"{self.where}: the remaining values of a row have underflowed in {pattern.dtype} (or are padding), so"
                " the row cannot be renormalised; use cutting, or a dtype with a larger range"
            )
        return kept / total.masked_fill(~touched | (total == 0), 1.0)
