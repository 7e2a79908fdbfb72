"""Record the attention of an unknown model while it runs."""

import functools
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from emg_lens.hooks.attention_axes import ScoreAxes, TokenAxes
from emg_lens.hooks.attention_kernel import KernelMode
from emg_lens.hooks.data_flow import Sources, stream_and_others
from emg_lens.hooks.hook_points import only_while_probing


@dataclass(frozen=True)
class LocatedAttention:
    """One attention module that ran.

    Attributes:
        path: Its path in the model.
        n_heads: Number of heads.
        n_dest: Number of positions that it writes; it reads `n_src`.
        score_axes: The axes of its scores; `token_axes`: the axes of its input.
        sources: The attention modules (and inputs of the model) in whose residual stream it is.
        cross: Whether it reads the tokens of another stream.
    """

    path: str
    n_heads: int
    n_dest: int
    n_src: int
    score_axes: ScoreAxes
    token_axes: TokenAxes
    sources: Sources = Sources()
    cross: bool = False


@dataclass
class RunningModule:
    """A module that is running, its residual stream, if any, and the shapes of its other arguments with tokens."""

    path: str
    module: nn.Module
    stream: tuple[int, ...] | None
    others: list[tuple[int, ...]]


@dataclass
class AttentionCall:
    """One computation of attention: its scores, and the modules that were running, the innermost one first."""

    scores: Tensor
    running: list[RunningModule]


class AttentionRecorder:
    """Records every softmax over scores and every fused attention, with the running modules."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.running: list[RunningModule] = []
        self.calls: list[AttentionCall] = []
        self.named_attention: list[RunningModule] = []

    def before(self, scores: Tensor) -> Tensor:
        """Record scores."""
        # The values are only needed where heads and trials share an axis.
        kept = scores.detach() if scores.ndim == 3 else scores.detach().to("meta")
        self.calls.append(AttentionCall(kept, self.running[::-1]))
        return scores

    def after(self, pattern: Tensor) -> Tensor:
        """Do nothing."""
        return pattern

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Record what runs in the context."""
        leave = only_while_probing(self._leave)
        with ExitStack() as stack:
            for path, module in self.model.named_modules():
                enter = only_while_probing(functools.partial(self._enter, path))
                stack.callback(module.register_forward_pre_hook(enter, with_kwargs=True).remove)
                stack.callback(module.register_forward_hook(leave, always_call=True).remove)
            stack.enter_context(KernelMode([self], axes=None))
            yield

    def _enter(self, path: str, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        stream, others = stream_and_others(args, kwargs)
        shape = None if stream is None else tuple(stream.shape)
        self.running.append(RunningModule(path, module, shape, [tuple(other.shape) for other in others]))
        if type(module).__name__.endswith("Attention"):
            self.named_attention.append(self.running[-1])

    def _leave(self, *_: object) -> None:
        self.running.pop()
