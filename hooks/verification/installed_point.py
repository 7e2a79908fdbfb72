"""Install an intervention point at one attention module and record the attention there."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from torch import Tensor, nn

from emg_lens.hooks.attention_kernel import editing_attention
from emg_lens.hooks.deletion import Deletion
from emg_lens.hooks.fused_attention import FusedCall
from emg_lens.hooks.hook_points import PATTERN, SCORES, attached_hook, needs_scores

PointName = Literal["scores", "pattern", "attention_mask"]
"""-inf at `hook_attn_scores`; zero and renormalise at `hook_pattern`; -inf inside the attention module."""


class Refusal(Exception):
    """The reason why an intervention point does not work in a layer."""


class NoInfluence(Refusal):
    """No token influences the output of another token, even without a cut."""


@dataclass
class ObservedAttention:
    """Observes the attention of one module, and applies a deletion, if any.

    Attributes:
        deletion: The edges that are cut.
        fuses: Whether torch's fused attention stays fused.
        keeps: Whether scores (before the deletion), pattern and fused call are kept; they need much memory.
        fired: Whether the module computed attention.
        fused: Whether torch's fused attention ran.
        explicit: Whether attention was computed from scores.
    """

    deletion: Deletion | None = None
    fuses: bool = False
    keeps: bool = False
    fired: bool = False
    fused: bool = False
    explicit: bool = False
    scores: Tensor | None = None
    pattern: Tensor | None = None
    call: FusedCall | None = None

    def before(self, scores: Tensor) -> Tensor:
        """Observe the scores and return the scores to use."""
        self.fired = self.explicit = True
        if self.keeps:
            self.scores, self.call = scores.detach(), None
        return scores if self.deletion is None else self.deletion.scores(scores)

    def after(self, pattern: Tensor) -> Tensor:
        """Observe the pattern."""
        if self.keeps:
            self.pattern = pattern.detach()
        return pattern

    def before_fused(self, call: FusedCall) -> FusedCall:
        """Return the call with the deletion."""
        self.fired = self.fused = True
        if self.keeps:
            self.call, self.scores, self.pattern = call, None, None
        return call if self.deletion is None else self.deletion.fused(call)

    def after_fused(self, call: FusedCall, value: Tensor, output: Tensor) -> None:
        """Do nothing: fused attention has no pattern."""

    def renormalised(self, pattern: Tensor) -> Tensor:
        """Return the pattern with cut edges at zero and the changed rows renormalised."""
        assert self.deletion is not None
        self.fired = True
        return self.deletion.pattern(pattern)

    def empty_rows(self, pattern: Tensor) -> Tensor:
        """Return the pattern with zeros in rows with every edge cut."""
        assert self.deletion is not None
        return self.deletion.empty_rows(pattern)

    def known_scores(self) -> Tensor | None:
        """Return the kept scores; those of a fused call are computed."""
        return self.scores if self.call is None else self.call.scores()


@contextmanager
def installed(
    attention: nn.Module, name: PointName, edit: Any, strict: bool = False, fuses: bool = False
) -> Iterator[Any]:
    """Install `edit` at an intervention point of an attention module.

    Args:
        attention: The attention module.
        name: The intervention point.
        edit: An `ObservedAttention`, or an object with the same methods.
        strict: Whether a hook at `hook_pattern` sets rows with every edge cut to zero.
        fuses: Whether the hook at the scores leaves the place to a mask inside the module, in forwards in which no
            other hook needs scores or pattern.

    Raises:
        Refusal: The module does not have the hook point `name`.
    """

    def hook(point: Any, fn: Callable[[Tensor], Tensor], last: bool = False) -> None:
        def unless_fused(tensor: Tensor, hook: Any) -> Tensor:  # noqa: ARG001
            return tensor if inside is not None and inside.running else fn(tensor)

        stack.enter_context(attached_hook(point, unless_fused, last=last, fuses=fuses))

    with ExitStack() as stack:
        scores, pattern = getattr(attention, SCORES, None), getattr(attention, PATTERN, None)
        inside = None
        if name == "attention_mask":
            stack.enter_context(editing_attention(attention, edit))
        elif scores is None or pattern is None:
            raise Refusal("the module has no such hook point")
        elif name == "pattern":
            hook(pattern, edit.renormalised)
        else:
            if fuses:
                inside = stack.enter_context(editing_attention(attention, edit, partial(needs_scores, attention)))
            hook(scores, edit.before)
            if strict:
                hook(pattern, edit.empty_rows)
            hook(pattern, edit.after, last=True)
        yield edit
