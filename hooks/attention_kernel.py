"""Edit the scores and the pattern inside an attention module, where the attention is computed.

Most bridges of TransformerLens fire `hook_attn_scores` and `hook_pattern` after the attention of the wrapped module,
when a change has no effect (docs/transformerlens.md §5). So a function mode intercepts torch's attention functions.
Unlike the argument `attention_mask`, an edit here belongs to one layer (T5 shares its mask between layers), can empty a
row of a single head, and receives attention sinks as the last columns of `src`.
"""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, cast

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from emg_lens.hooks.attention_axes import CANONICAL, ScoreAxes
from emg_lens.hooks.fused_attention import FusedCall
from emg_lens.hooks.multi_head import multi_head_attention
from emg_lens.hooks.threads import LOCK, bound_to_thread
from emg_lens.hooks.vmap import is_wrapped, surely

SOFTMAXES = (F.softmax, torch.softmax, torch.special.softmax, Tensor.softmax)
PRODUCTS = (torch.matmul, Tensor.matmul, Tensor.__matmul__, torch.bmm, Tensor.bmm)


ScoresOrPattern = Float[Tensor, "batch head dest src"]


class AttentionEdit(Protocol):
    """An edit of one module's attention: `before` returns the scores to use, `after` the pattern to use.

    An edit that only cuts edges may also have the attribute `fuses = True`, and then two more methods: `before_fused`
    returns the `FusedCall` to make, and `after_fused(call, value, output)` reads its result. Torch's fused attention
    then stays fused. If an edit alone has the method `instead(scores)`, its result replaces softmax and pattern. Then
    `read(value, n_dest)` returns the product of this pattern and `value`.
    """

    def before(self, scores: ScoresOrPattern) -> ScoresOrPattern: ...  # noqa: D102

    def after(self, pattern: ScoresOrPattern) -> ScoresOrPattern: ...  # noqa: D102


@dataclass(eq=False)
class InstalledEdit:
    """An edit of the attention of one module, for one thread.

    Attributes:
        unless: A function that is called before each forward; if it returns True, the edit is not applied.
        running: Whether a forward with this edit is running.
    """

    edit: AttentionEdit
    in_own_thread: Callable[[], bool]
    unless: Callable[[], bool] | None = None
    running: bool = False

    def is_wanted(self) -> bool:
        """Return whether the edit is to be applied in the forward that begins."""
        return self.in_own_thread() and not (self.unless is not None and self.unless())


@contextmanager
def editing_attention(
    attention: nn.Module, edit: AttentionEdit, unless: Callable[[], bool] | None = None
) -> Iterator[InstalledEdit]:
    """Apply `edit` to the scores and the pattern in every forward of `attention`; several edits run in order."""
    with bound_to_thread() as in_own_thread:
        installed = InstalledEdit(edit, in_own_thread, unless)
        with LOCK:
            edited = attention.__dict__.get("forward")
            if not isinstance(edited, EditedForward):
                edited = attention.__dict__["forward"] = EditedForward(attention)
            edited.edits.append(installed)
        try:
            yield installed
        finally:
            with LOCK:
                edited.edits.remove(installed)
                if not edited.edits:
                    del attention.__dict__["forward"]
                    if edited.previous is not None:
                        attention.__dict__["forward"] = edited.previous


class EditedForward:
    """Replaces the forward of an attention module while `edits` are active."""

    def __init__(self, attention: nn.Module) -> None:
        self.edits: list[InstalledEdit] = []
        self.previous = attention.__dict__.get("forward")
        self.forward: Callable = attention.forward
        self.axes: ScoreAxes = getattr(self.forward, "axes", ScoreAxes())
        functools.update_wrapper(self, self.forward, updated=())

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the module's own forward with the edits of this thread."""
        wanted = [one for one in tuple(self.edits) if one.is_wanted()]
        if not wanted:
            return self.forward(*args, **kwargs)
        try:
            for one in wanted:
                one.running = True
            with KernelMode([one.edit for one in wanted], self.axes):
                return self.forward(*args, **kwargs)
        finally:
            for one in wanted:
                one.running = False


class KernelMode(TorchFunctionMode):
    """A function mode that intercepts torch's attention functions and applies `edits`.

    `axes`: the axes of the scores; None for edits that receive the scores of any softmax with their own axes.
    """

    def __init__(self, edits: list[AttentionEdit], axes: ScoreAxes | None) -> None:
        super().__init__()
        self.edits, self.axes = edits, axes
        self._pattern: Tensor | None = None  # the result of `instead`

    def __torch_function__(
        self, func: Callable, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            return self._attend(*args, **kwargs)
        if func is F.multi_head_attention_forward:
            with self:
                return multi_head_attention(*args, **kwargs)
        if func in SOFTMAXES:
            scores = args[0] if args else kwargs["input"]
            fits = scores.ndim > 2 if self.axes is None else self.axes.fit(scores)
            if fits and (args[1] if len(args) > 1 else kwargs.get("dim")) in (-1, scores.ndim - 1):
                rest = {key: value for key, value in kwargs.items() if key != "input"}
                if len(self.edits) == 1 and hasattr(self.edits[0], "instead"):
                    return self._instead(scores, rest.get("dtype") or next(iter(args[2:]), None))
                edited = self._before(scores)
                empty = _empty(edited)
                if empty is not None:  # rows that the model itself leaves without edges are not changed
                    empty = empty & (scores.detach().amax(-1, keepdim=True) != -torch.inf)
                return self._normalised(edited, empty, lambda s: func(s, *args[1:], **rest))
        if func in PRODUCTS and len(args) == 2 and not kwargs and args[0] is self._pattern and self._can_read(args[1]):
            return cast("Any", self.edits[0]).read(args[1], args[0].shape[-2])
        return func(*args, **kwargs)

    def _before(self, scores: Tensor) -> Tensor:
        axes, shape = self.axes or ScoreAxes(), scores.shape
        scores = axes.to_canonical(scores)
        for edit in self.edits:
            scores = edit.before(scores)
        return axes.from_canonical(scores, shape)

    def _instead(self, scores: Tensor, dtype: torch.dtype | None) -> Tensor:
        axes, edit = self.axes or ScoreAxes(), cast("Any", self.edits[0])
        pattern = axes.from_canonical(edit.instead(axes.to_canonical(scores)), scores.shape)
        self._pattern = pattern.to(dtype or scores.dtype)
        return self._pattern

    def _can_read(self, value: Tensor) -> bool:
        """Return whether the pattern of `instead` is unchanged, and `value` has one vector for each of its columns."""
        pattern = self._pattern
        if pattern is None or pattern.is_inference() or pattern._version:
            return False
        same = (value.dtype, value.device, value.shape[:-1])
        return same == (pattern.dtype, pattern.device, (*pattern.shape[:-2], pattern.shape[-1]))

    def _normalised(self, scores: Tensor, empty: Tensor | None, softmax: Callable[[Tensor], Tensor]) -> Tensor:
        """Return the pattern, with zeros in rows without edges, for which softmax gives NaN."""
        axes = self.axes or ScoreAxes()
        pattern = softmax(scores if empty is None else scores.masked_fill(empty, 0.0))
        if empty is not None:
            in_place = not (scores.requires_grad or is_wrapped(scores))
            pattern = (pattern.masked_fill_ if in_place else pattern.masked_fill)(empty, 0.0)
        pattern = axes.to_canonical(pattern)
        for edit in self.edits:
            pattern = edit.after(pattern)
        return axes.from_canonical(pattern, scores.shape)

    def _attend(
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
        """Compute `scaled_dot_product_attention`: fused if every edit only cuts edges, otherwise from the scores."""
        call = FusedCall(query, key, attn_mask, is_causal, scale, enable_gqa)
        plain = query.ndim == 4 and not dropout_p and self.axes is not None and self.axes.given == CANONICAL
        if plain and self.edits and all(getattr(edit, "fuses", False) for edit in self.edits) and not is_wrapped(query):
            edits: list[Any] = self.edits
            for edit in edits:
                call = edit.before_fused(call)
            out = call.output(value)
            for edit in edits:
                edit.after_fused(call, value, out)
            return out
        if enable_gqa:
            value = value.repeat_interleave(query.shape[-3] // value.shape[-3], dim=-3)
        scores = self._before(call.scores())
        wide = torch.float32 if query.dtype in (torch.float16, torch.bfloat16) else None
        pattern = self._normalised(scores, _empty(scores), lambda s: s.softmax(-1, dtype=wide).to(query.dtype))
        return F.dropout(pattern, dropout_p) @ value


def _empty(scores: Float[Tensor, "*batch dest src"]) -> Bool[Tensor, "*batch dest 1"] | None:
    """Return which rows have only scores of -inf; None if it is known that no row has."""
    has_edges = scores.detach().amax(-1, keepdim=True) != -torch.inf
    return None if surely(has_edges) else ~has_edges
