"""A lever in place at one attention module, and what it sees there."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

from emg_lens.hooks.attention_kernel import editing_attention
from emg_lens.hooks.deletion import Deletion
from emg_lens.hooks.hook_points import PATTERN, SCORES, attached_hook

PointName = Literal["scores", "pattern", "attention_mask"]
"""-inf at `hook_attn_scores`; zeroing and renormalising at `hook_pattern`; -inf at the attention kernel."""


class Refusal(Exception):
    """Why a lever is not believed in a layer."""


class NoInfluence(Refusal):
    """No token moves another one's output, cut or not."""


@dataclass(repr=False)  # TransformerLens names a hook by its repr: no tensors in it
class ObservedAttention:
    """What a lever saw while a module ran; as a tap, it writes a deletion at the kernel.

    Attributes:
        deletion: What is cut, if anything.
        strict: Whether rows with every edge cut are looked after.
        scores: The scores as the model made them.
        pattern: The pattern that the model used, or showed last.
        fired: Whether the lever was passed.
    """

    deletion: Deletion | None = None
    strict: bool = True
    scores: Tensor | None = None
    pattern: Tensor | None = None
    fired: bool = False

    def before(self, scores: Tensor) -> Tensor:
        """The scores to use."""
        self.fired = True
        self.scores = scores.detach()
        return scores if self.deletion is None else self.deletion.scores(scores)

    def after(self, pattern: Tensor) -> Tensor:
        """The pattern, as it is."""
        self.pattern = pattern.detach()
        return pattern

    def at_scores(self, scores: Tensor, hook: Any) -> Tensor:  # noqa: ARG002
        """A hook on `hook_attn_scores`."""
        return self.before(scores)

    def at_pattern(self, pattern: Tensor, hook: Any) -> Tensor:  # noqa: ARG002
        """A hook on `hook_pattern` that cuts there."""
        assert self.deletion is not None
        self.fired = True
        return self.deletion.pattern(pattern)

    def empty_rows(self, pattern: Tensor, hook: Any) -> Tensor:  # noqa: ARG002
        """A hook on `hook_pattern` that looks after rows with every edge cut."""
        assert self.deletion is not None
        return self.deletion.empty_rows(pattern)

    def keep_pattern(self, pattern: Tensor, hook: Any) -> None:  # noqa: ARG002
        """A hook on `hook_pattern` that reads it."""
        self.after(pattern)


@contextmanager
def installed(attention: nn.Module, name: PointName, seen: ObservedAttention) -> Iterator[None]:
    """A lever in place at an attention module.

    Raises:
        Refusal: The module has no such hook point.
    """
    with ExitStack() as stack:
        if name == "attention_mask":
            stack.enter_context(editing_attention(attention, seen))
        points = {point: getattr(attention, point, None) for point in (SCORES, PATTERN)}
        if name != "attention_mask" and None in points.values():
            raise Refusal("the module has no such hook point")
        if name == "scores":
            stack.enter_context(attached_hook(points[SCORES], seen.at_scores))
            if seen.strict:
                stack.enter_context(attached_hook(points[PATTERN], seen.empty_rows))
        if name == "pattern":
            stack.enter_context(attached_hook(points[PATTERN], seen.at_pattern))
        elif name == "scores":
            stack.enter_context(attached_hook(points[PATTERN], seen.keep_pattern, last=True))
        yield
