"""Edit the scores and the pattern inside an attention module, where the attention is computed.

Most bridges of TransformerLens fire `hook_attn_scores` and `hook_pattern` after the attention of the wrapped module,
when a change has no effect (docs/transformerlens.md §5). So a function mode intercepts torch's attention functions.
Unlike the argument `attention_mask`, an edit here belongs to one layer (T5 shares its mask between layers), can empty a
row of a single head, and receives attention sinks as the last columns of `src`.
"""

import functools
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from emg_lens.hooks.attention_axes import ScoreAxes
from emg_lens.hooks.multi_head import multi_head_attention
from emg_lens.hooks.threads import LOCK, bound_to_thread

SOFTMAXES = (F.softmax, torch.softmax, torch.special.softmax, Tensor.softmax)


ScoresOrPattern = Float[Tensor, "batch head dest src"]


class AttentionEdit(Protocol):
    """An edit of one module's attention: `before` returns the scores to use, `after` the pattern to use."""

    def before(self, scores: ScoresOrPattern) -> ScoresOrPattern: ...  # noqa: D102

    def after(self, pattern: ScoresOrPattern) -> ScoresOrPattern: ...  # noqa: D102


@contextmanager
def editing_attention(attention: nn.Module, edit: AttentionEdit) -> Iterator[None]:
    """Apply `edit` to the scores and the pattern in every forward of `attention`; several edits run in order."""
    with bound_to_thread() as in_own_thread:
        with LOCK:
            edited = attention.__dict__.get("forward")
            if not isinstance(edited, EditedForward):
                edited = attention.__dict__["forward"] = EditedForward(attention)
            edited.edits.append((in_own_thread, edit))
        try:
            yield
        finally:
            with LOCK:
                edited.edits[:] = [kept for kept in edited.edits if kept[1] is not edit]
                if not edited.edits:
                    del attention.__dict__["forward"]
                    if edited.previous is not None:
                        attention.__dict__["forward"] = edited.previous


class EditedForward:
    """Replaces the forward of an attention module while `edits` are active."""

    def __init__(self, attention: nn.Module) -> None:
        self.edits: list[tuple[Callable[[], bool], AttentionEdit]] = []
        self.previous = attention.__dict__.get("forward")
        self.forward: Callable = attention.forward
        self.axes: ScoreAxes = getattr(self.forward, "axes", ScoreAxes())
        functools.update_wrapper(self, self.forward, updated=())

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the module's own forward with the edits of this thread."""
        edits = [edit for in_own_thread, edit in tuple(self.edits) if in_own_thread()]
        if not edits:
            return self.forward(*args, **kwargs)
        with KernelMode(edits, self.axes):
            return self.forward(*args, **kwargs)


class KernelMode(TorchFunctionMode):
    """A function mode that intercepts torch's attention functions and applies `edits`.

    `axes`: the axes of the scores; None for edits that receive the scores of any softmax with their own axes.
    """

    def __init__(self, edits: list[AttentionEdit], axes: ScoreAxes | None) -> None:
        super().__init__()
        self.edits, self.axes = edits, axes

    def __torch_function__(
        self, func: Callable, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            return self._explicit(*args, **kwargs)
        if func is F.multi_head_attention_forward:
            with self:
                return multi_head_attention(*args, **kwargs)
        if func in SOFTMAXES:
            scores = args[0] if args else kwargs["input"]
            fits = scores.ndim > 2 if self.axes is None else self.axes.fit(scores)
            if fits and (args[1] if len(args) > 1 else kwargs.get("dim")) in (-1, scores.ndim - 1):
                rest = {key: value for key, value in kwargs.items() if key != "input"}
                edited = self._before(scores)
                # Rows that the model itself leaves without edges are not changed.
                return self._normalised(edited, _empty(edited) & ~_empty(scores), lambda s: func(s, *args[1:], **rest))
        return func(*args, **kwargs)

    def _before(self, scores: Tensor) -> Tensor:
        axes, shape = self.axes or ScoreAxes(), scores.shape
        scores = axes.to_canonical(scores)
        for edit in self.edits:
            scores = edit.before(scores)
        return axes.from_canonical(scores, shape)

    def _normalised(self, scores: Tensor, empty: Tensor, softmax: Callable[[Tensor], Tensor]) -> Tensor:
        """Return the pattern, with zeros in rows without edges, for which softmax gives NaN."""
        axes, pattern = self.axes or ScoreAxes(), softmax(scores.masked_fill(empty, 0.0)).masked_fill(empty, 0.0)
        pattern = axes.to_canonical(pattern)
        for edit in self.edits:
            pattern = edit.after(pattern)
        return axes.from_canonical(pattern, scores.shape)

    def _explicit(
        self,
        query: Float[Tensor, "batch head dest d_head"],
        key: Float[Tensor, "batch kv_head src d_head"],
        value: Float[Tensor, "batch kv_head src d_value"],
        attn_mask: Bool[Tensor, "..."] | Float[Tensor, "..."] | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Float[Tensor, "batch head dest d_value"]:
        """Compute `scaled_dot_product_attention` step by step, as in torch's reference implementation."""
        if enable_gqa:
            repeats = query.shape[-3] // key.shape[-3]
            key, value = (t.repeat_interleave(repeats, dim=-3) for t in (key, value))
        scores = query @ key.transpose(-1, -2) * (scale if scale is not None else 1 / math.sqrt(query.shape[-1]))
        if is_causal:
            future = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
            scores = scores.masked_fill(future, -torch.inf)
        if attn_mask is not None and attn_mask.dtype == torch.bool:
            scores = scores.masked_fill(~attn_mask, -torch.inf)
        elif attn_mask is not None:
            scores = scores + attn_mask
        scores = self._before(scores)
        wide = torch.float32 if query.dtype in (torch.float16, torch.bfloat16) else None
        pattern = self._normalised(scores, _empty(scores), lambda s: s.softmax(-1, dtype=wide).to(query.dtype))
        return F.dropout(pattern, dropout_p) @ value


def _empty(scores: Float[Tensor, "batch head dest src"]) -> Bool[Tensor, "batch head dest 1"]:
    return (scores == -torch.inf).all(-1, keepdim=True)
