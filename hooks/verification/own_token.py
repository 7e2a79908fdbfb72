"""Cut all edges between different tokens of one attention module, at little cost: each token gets its own value."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from emg_lens.hooks.fused_attention import FusedCall


class _OwnValues(FusedCall):
    """Fused attention in which each token has only the edge to itself: the output is its own value."""

    def output(self, value: Tensor, rows: Any = None) -> Tensor:  # noqa: ARG002
        return value.repeat_interleave(self.query.shape[-3] // value.shape[-3], dim=-3)


class _NoValues(FusedCall):
    """Fused attention without any edge."""

    def output(self, value: Tensor, rows: Any = None) -> Tensor:  # noqa: ARG002
        return value.new_zeros(*self.shape[:-1], value.shape[-1])


class OnlyOwnToken:
    """Cuts all edges between different tokens of one attention module."""

    fuses = True

    def __init__(self, cross: bool, patterns: dict[tuple, Tensor] | None = None) -> None:
        self.cross = cross
        self.patterns = {} if patterns is None else patterns  # equal layers share one

    def instead(self, scores: Tensor) -> Tensor:
        """Return a pattern in which each token attends to itself alone; in cross attention, to nothing."""
        key = (self.cross, scores.shape, scores.dtype, scores.device)
        known = self.patterns.get(key)
        if known is None or known.is_inference() or known._version:  # the module may have changed it in place
            n_dest, n_src = scores.shape[-2:]
            make = torch.eye if not self.cross and n_src >= n_dest else torch.zeros
            one = make(n_dest, n_src, dtype=scores.dtype, device=scores.device)
            known = self.patterns[key] = one.expand(scores.shape).clone()
        return known

    def read(self, value: Float[Tensor, "*batch src d_value"], n_dest: int) -> Float[Tensor, "*batch dest d_value"]:
        """Return the product of the pattern of `instead` and `value`, without computing it."""
        if self.cross or value.shape[-2] < n_dest:
            return value.new_zeros(*value.shape[:-2], n_dest, value.shape[-1])
        return value[..., :n_dest, :].clone(memory_format=torch.contiguous_format)

    def before(self, scores: Tensor) -> Tensor:
        """Return scores of the same pattern, where the module does not call softmax."""
        return self.instead(scores).log()

    def before_fused(self, call: FusedCall) -> FusedCall:
        """Return a call whose output is the value of each token; in cross attention, zero."""
        own = not self.cross and call.shape[-2] == call.shape[-1]
        return (_OwnValues if own else _NoValues)(call.query, call.key)

    def after_fused(self, call: FusedCall, value: Tensor, output: Tensor) -> None:
        """Do nothing."""

    def after(self, pattern: Tensor) -> Tensor:
        """Return the pattern as it is."""
        return pattern
