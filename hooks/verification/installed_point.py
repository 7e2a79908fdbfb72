"""Install an intervention point at one attention module and record the attention there."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

from emg_lens.hooks.attention_kernel import editing_attention
from emg_lens.hooks.deletion import Deletion
from emg_lens.hooks.hook_points import PATTERN, SCORES, attached_hook

PointName = Literal["scores", "pattern", "attention_mask"]
"""-inf at `hook_attn_scores`; zero and renormalise at `hook_pattern`; -inf inside the attention module."""


class Refusal(Exception):
    """The reason why an intervention point does not work in a layer."""


class NoInfluence(Refusal):
    """No token influences the output of another token, even without a cut."""


@dataclass(repr=False)  # TransformerLens names a hook by its repr: no tensors in it
class ObservedAttention:
    """The attention of one module while it ran; it also applies a deletion.

    Attributes:
        deletion: The edges to cut, if any.
        strict: Whether rows with every edge cut are set to zero.
        scores: The scores before the deletion.
        pattern: The last pattern of the model.
        fired: Whether the intervention point was reached.
    """

    deletion: Deletion | None = None
    strict: bool = True
    scores: Tensor | None = None
    pattern: Tensor | None = None
    fired: bool = False

    def before(self, scores: Tensor) -> Tensor:
        """Record the scores and return the scores to use."""
        self.fired = True
        self.scores = scores.detach()
        return scores if self.deletion is None else self.deletion.scores(scores)

    def after(self, pattern: Tensor) -> Tensor:
        """Record the pattern."""
        self.pattern = pattern.detach()
        return pattern

    def at_scores(self, scores: Tensor, hook: Any) -> Tensor:  # noqa: ARG002
        """Hook function for `hook_attn_scores`: record the scores and cut the edges of `deletion`."""
        return self.before(scores)

    def at_pattern(self, pattern: Tensor, hook: Any) -> Tensor:  # noqa: ARG002
        """Hook function for `hook_pattern`: cut the edges of `deletion` in the pattern and renormalise its rows."""
        assert self.deletion is not None
        self.fired = True
        return self.deletion.pattern(pattern)

    def empty_rows(self, pattern: Tensor, hook: Any) -> Tensor:  # noqa: ARG002
        """Hook function for `hook_pattern`: set rows with every edge cut to zero."""
        assert self.deletion is not None
        return self.deletion.empty_rows(pattern)

    def keep_pattern(self, pattern: Tensor, hook: Any) -> None:  # noqa: ARG002
        """Hook function for `hook_pattern`: record the pattern."""
        self.after(pattern)


@contextmanager
def installed(attention: nn.Module, name: PointName, observed: ObservedAttention) -> Iterator[None]:
    """Install an intervention point at an attention module.

    Raises:
        Refusal: The module does not have the hook point `name`.
    """
    with ExitStack() as stack:
        if name == "attention_mask":
            stack.enter_context(editing_attention(attention, observed))
        points = {point: getattr(attention, point, None) for point in (SCORES, PATTERN)}
        if name != "attention_mask" and None in points.values():
            raise Refusal("the module has no such hook point")
        if name == "scores":
            stack.enter_context(attached_hook(points[SCORES], observed.at_scores))
            if observed.strict:
                stack.enter_context(attached_hook(points[PATTERN], observed.empty_rows))
        if name == "pattern":
            stack.enter_context(attached_hook(points[PATTERN], observed.at_pattern))
        elif name == "scores":
            stack.enter_context(attached_hook(points[PATTERN], observed.keep_pattern, last=True))
        yield
