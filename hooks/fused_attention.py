"""A call of torch's fused attention as a value: its scores, its mask, and the same call with edges cut by the mask."""

import math
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from emg_lens.hooks.vmap import surely


@dataclass(frozen=True)
class FusedCall:
    """The arguments of `scaled_dot_product_attention` that determine its scores.

    Attributes:
        emptied: Rows without an edge after a cut, which get a zero output. The mask leaves them their edges, because
            some versions of torch give NaN for a row without any.
    """

    query: Float[Tensor, "batch head dest d_head"]
    key: Float[Tensor, "batch kv_head src d_head"]
    attn_mask: Bool[Tensor, "..."] | Float[Tensor, "..."] | None = None
    is_causal: bool = False
    scale: float | None = None
    enable_gqa: bool = False
    emptied: Bool[Tensor, "#batch #head dest 1"] | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the scores."""
        return (*self.query.shape[:-1], self.key.shape[-2])

    def scores(self, rows: slice | Tensor = slice(None)) -> Float[Tensor, "batch head row src"]:
        """Compute the scores of all or some rows, as in torch's reference implementation."""
        query, key = self.query[..., rows, :], self.key
        if self.enable_gqa:
            key = key.repeat_interleave(query.shape[-3] // key.shape[-3], dim=-3)
        scale = 1 / math.sqrt(query.shape[-1]) if self.scale is None else self.scale
        scores = (query * scale) @ key.transpose(-1, -2)
        for mask in self._masks():
            scores = scores + (mask[..., rows, :] if mask.ndim > 1 and mask.shape[-2] == self.shape[-2] else mask)
        return scores if self.emptied is None else scores.masked_fill(self.emptied[..., rows, :], -torch.inf)

    def output(
        self, value: Float[Tensor, "batch kv_head src d_value"], rows: Tensor | None = None
    ) -> Float[Tensor, "batch head dest d_value"]:
        """Compute the output by torch's function, or the output of some rows from their scores."""
        if rows is not None:
            scores = self.scores(rows)
            pattern = scores.softmax(-1, dtype=torch.promote_types(scores.dtype, torch.float32)).to(value.dtype)
            repeats = self.query.shape[-3] // value.shape[-3]
            out = pattern @ (value.repeat_interleave(repeats, dim=-3) if repeats > 1 else value)
            return out if self.emptied is None else out.masked_fill(self.emptied[..., rows, :], 0.0)
        out = F.scaled_dot_product_attention(
            self.query,
            self.key,
            value,
            attn_mask=self.attn_mask,
            is_causal=self.is_causal,
            scale=self.scale,
            enable_gqa=self.enable_gqa,
        )
        return out if self.emptied is None else out.masked_fill(self.emptied, 0.0)

    def without(self, cut: Bool[Tensor, "#head dest src"], bias: Float[Tensor, "#head dest src"]) -> "FusedCall":
        """Return the call with edges cut; rows that have only forbidden edges left become empty.

        Args:
            cut: True = cut.
            bias: The same as scores to add, `as_bias(cut)`.
        """
        mask = bias[None]
        for own in self._masks():
            mask = mask + own
        emptied = (mask.detach().amax(-1, keepdim=True) <= largest_forbidden(mask.dtype)) & any_edge(cut)[None]
        if surely(~emptied):
            return replace(self, attn_mask=mask, is_causal=False)
        # Not -inf in the whole row, for which some versions of torch give NaN; the output is set to zero.
        mask = torch.maximum(mask, as_bias(~emptied, mask.dtype))
        emptied = emptied if self.emptied is None else emptied | self.emptied
        return replace(self, attn_mask=mask, is_causal=False, emptied=emptied)

    def _masks(self) -> list[Float[Tensor, "..."]]:
        """Return the masks of the call, as scores to add."""
        masks = []
        if self.is_causal:
            future = torch.ones(self.shape[-2:], dtype=torch.bool, device=self.query.device).triu(1)
            masks.append(as_bias(future, self.query.dtype))
        if self.attn_mask is not None:
            is_bool = self.attn_mask.dtype == torch.bool
            masks.append(as_bias(~self.attn_mask, self.query.dtype) if is_bool else self.attn_mask)
        return masks

    @property
    def bytes_of_trial(self) -> int:
        """Memory of one trial."""
        return sum(value.nbytes for value in self._of_trials().values()) // len(self.query)

    def of_trials(self, trials: Tensor) -> "FusedCall":
        """Return a copy of the call for some trials."""
        return replace(self, **{name: value.detach()[trials] for name, value in self._of_trials().items()})

    def _of_trials(self) -> dict[str, Any]:
        """Return the tensors with an axis of trials."""
        values = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        n = len(self.query)
        return {key: t for key, t in values.items() if isinstance(t, Tensor) and t.ndim == 4 and len(t) == n}


def as_bias(cut: Bool[Tensor, "*shape"], dtype: torch.dtype) -> Float[Tensor, "*shape"]:
    """Return -inf where True, otherwise 0: on a CPU, adding it takes a fraction of the time of `masked_fill`."""
    return cut.to(dtype).mul_(torch.finfo(dtype).min).mul_(2)


def any_edge(mask: Bool[Tensor, "*batch dest src"]) -> Bool[Tensor, "*batch dest 1"]:
    """Return which rows have a True; on a CPU in a fraction of the time of `any`."""
    return mask.view(torch.uint8).amax(-1, keepdim=True).bool()


def has_edge(mask: Bool[Tensor, "*shape"]) -> bool:
    """Return whether a mask has a True; as `any_edge`."""
    return bool(mask.view(torch.uint8).amax())


def allowed(scores: Float[Tensor, "batch head dest src"]) -> Bool[Tensor, "batch head dest src"]:
    """Return the edges that a model allows.

    Forbidden edges have the score -inf or `finfo.min`; some models divide `finfo.min` by sqrt(d_head).
    """
    return scores > largest_forbidden(scores.dtype)


def largest_forbidden(dtype: torch.dtype) -> float:
    """Return the largest score of an edge that a model forbids."""
    return torch.finfo(dtype).min / 32
