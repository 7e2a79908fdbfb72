"""The attention kernel as a lever: -inf written to the scores where a module computes its attention.

Most TransformerLens bridges hand attention to the module they wrap and fire `hook_attn_scores` and
`hook_pattern` afterwards, when nothing can change any more (docs/transformerlens.md §5). Every such module
ends in one of two torch functions, `softmax` or `scaled_dot_product_attention`. While a cut is active, the
call is caught there: the mask joins the scores, rows with every edge cut become zero, and what is measured is
the tensor that is used. Masking at the kernel rather than through the module's `attention_mask` argument
keeps layers apart (T5 shares its position bias, and with it the mask, among layers) and allows single heads
to lose whole rows. Columns that are no tokens (attention sinks) are part of what softmax normalises, so a tap
sees them too: the last ones of `src`.

Nothing here needs TransformerLens: `with editing_attention(module, tap): ...` works on any `nn.Module` whose attention
ends in one of the two functions or in torch's `multi_head_attention_forward`.
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

from emg_lens.hooks.multi_head import multi_head_attention

SOFTMAXES = (F.softmax, torch.softmax, Tensor.softmax)


class AttentionEdit(Protocol):
    """What is done to the attention of one module."""

    def before(self, scores: Float[Tensor, "batch head dest src"]) -> Float[Tensor, "batch head dest src"]:
        """Called with the scores; returns those to use."""
        ...

    def after(self, pattern: Float[Tensor, "batch head dest src"]) -> Float[Tensor, "batch head dest src"]:
        """Called with the pattern; returns the one to use."""
        ...


@contextmanager
def editing_attention(attention: nn.Module, tap: AttentionEdit) -> Iterator[None]:
    """Pass the scores and pattern of every forward of `attention` through `tap`; several taps add up in order."""
    tapped = attention.__dict__.get("forward")
    if not isinstance(tapped, EditedForward):
        tapped = attention.__dict__["forward"] = EditedForward(attention)
    tapped.taps.append(tap)
    try:
        yield
    finally:
        tapped.taps[:] = [kept for kept in tapped.taps if kept is not tap]
        if not tapped.taps:
            tapped.remove(attention)


class EditedForward:
    """Stands in for the forward of an attention module while taps are on it.

    Attributes:
        previous: What stood there before on the object itself, if anything.
    """

    def __init__(self, attention: nn.Module) -> None:
        self.taps: list[AttentionEdit] = []
        self.previous = attention.__dict__.get("forward")
        self.forward: Callable = attention.forward
        functools.update_wrapper(self, self.forward, updated=())

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The module's own forward, tapped."""
        with KernelMode(self.taps):
            return self.forward(*args, **kwargs)

    def remove(self, attention: nn.Module) -> None:
        """Give the module its forward back."""
        if self.previous is None:
            del attention.__dict__["forward"]
        else:
            attention.__dict__["forward"] = self.previous


class KernelMode(TorchFunctionMode):
    """Catches the two torch functions in which attention happens, and passes what they see through `taps`."""

    def __init__(self, taps: list[AttentionEdit]) -> None:
        super().__init__()
        self.taps = taps

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
            if scores.ndim == 4 and (args[1] if len(args) > 1 else kwargs.get("dim")) in (-1, 3):
                rest = {key: value for key, value in kwargs.items() if key != "input"}
                tapped = self._before(scores)
                # A row that the model itself leaves with nothing is the model's business.
                return self._normalised(tapped, _empty(tapped) & ~_empty(scores), lambda s: func(s, *args[1:], **rest))
        return func(*args, **kwargs)

    def _before(self, scores: Tensor) -> Tensor:
        for tap in self.taps:
            scores = tap.before(scores)
        return scores

    def _normalised(self, scores: Tensor, empty: Tensor, softmax: Callable[[Tensor], Tensor]) -> Tensor:
        """The pattern of scores, zero in rows with nothing to attend to: softmax would make NaN of them."""
        pattern = softmax(scores.masked_fill(empty, 0.0)).masked_fill(empty, 0.0)
        for tap in self.taps:
            pattern = tap.after(pattern)
        return pattern

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
        """`scaled_dot_product_attention`, step by step (torch's documented reference semantics)."""
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
