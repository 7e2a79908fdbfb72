"""Find the attention modules of an unknown model by running it once."""

import functools
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from emg_lens.hooks.algebra import EdgeError
from emg_lens.hooks.attention_kernel import KernelMode
from emg_lens.hooks.evaluation import evaluating
from emg_lens.hooks.hook_points import DeadHookError
from emg_lens.hooks.model_inputs import Inputs, call

CROSS = ("key_value_states", "encoder_hidden_states", "inputs", "context", "memory")
"""Keyword arguments that give an attention module the tokens of another stack."""


@dataclass(frozen=True)
class LocatedAttention:
    """One attention module that ran: its path, heads, positions, and whether it read the tokens of another stack."""

    path: str
    n_heads: int
    n_dest: int
    cross: bool


@dataclass
class _Running:
    """A module that is running: its residual stream, if any, and the numbers of positions of its other arguments."""

    path: str
    module: nn.Module
    stream: Tensor | None
    reads_other_stack: bool
    lengths: set[int]


class _AttentionRecorder:
    """Records which module attends: the innermost running module with a residual stream of the right length."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.running: list[_Running] = []
        self.located: list[LocatedAttention] = []
        self.named_attention: list[_Running] = []

    def before(self, scores: Tensor) -> Tensor:
        n_trials, n_heads, n_dest, n_src = scores.shape
        for entry in reversed(self.running):
            shape = () if entry.stream is None else tuple(entry.stream.shape[:2])
            if shape in ((n_trials, n_dest), (n_dest, n_trials)):
                cross = entry.reads_other_stack or (n_src != n_dest and n_src in entry.lengths)
                self.located.append(LocatedAttention(entry.path, n_heads, n_dest, cross))
                break
        return scores

    def after(self, pattern: Tensor) -> Tensor:
        return pattern

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Keep track of the running modules."""
        with ExitStack() as stack:
            for path, module in self.model.named_modules():
                enter = functools.partial(self._enter, path)
                stack.callback(module.register_forward_pre_hook(enter, with_kwargs=True).remove)
                stack.callback(module.register_forward_hook(self._leave, always_call=True).remove)
            yield

    def _enter(self, path: str, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        tensors = [t for t in (*args, *kwargs.values()) if isinstance(t, Tensor)]
        streams = [t for t in tensors if t.ndim == 3 and t.is_floating_point()]
        stream = streams[0] if streams else None
        lengths = {length for t in streams[1:] for length in t.shape[:2]}
        other = any(kwargs.get(name) is not None for name in CROSS)
        if isinstance(module, nn.MultiheadAttention):
            other = kwargs.get("key", args[1] if len(args) > 1 else None) is not stream
        self.running.append(_Running(path, module, stream, other, lengths))
        if type(module).__name__.endswith("Attention"):
            self.named_attention.append(self.running[-1])

    def _leave(self, *_: object) -> None:
        self.running.pop()


def find_attention(model: nn.Module, inputs: Inputs) -> list[LocatedAttention]:
    """Run the model once and return its attention modules in the order in which they ran."""
    recorder = _AttentionRecorder(model)
    with evaluating(model), torch.no_grad(), recorder.watching(), KernelMode([recorder]):
        call(model, inputs)
    kind, located = type(model).__name__, recorder.located
    if not located:
        raise DeadHookError(
            f"{kind} has no attention that can be edited: no module with input [batch, position, d_model] calls torch's"
            " softmax over [batch, head, dest, src] or its fused attention"
        )
    for entry in recorder.named_attention:
        unrelated = not any(_within(one.path, entry.path) or _within(entry.path, one.path) for one in located)
        if unrelated and entry.stream is not None and {one.n_dest for one in located} & set(entry.stream.shape[:2]):
            raise DeadHookError(
                f"{entry.path} ({type(entry.module).__name__}) of {kind} calls neither torch's softmax over [batch,"
                " head, dest, src] nor its fused attention, so its edges cannot be cut"
            )
    runs = Counter(entry.path for entry in located)
    path, times = runs.most_common(1)[0]
    if times > 1:
        raise EdgeError(
            f"{path or kind} attends {times} times in one forward (shared by layers, or several attentions in one"
            " module), so its layers cannot be distinguished; give each layer its own attention module"
        )
    return located


def _within(path: str, other: str) -> bool:
    return path == other or path.startswith(f"{other}." if other else "")
