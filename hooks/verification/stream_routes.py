"""Find a route between tokens that passes outside the attention that `adapt` found.

All edges between different tokens are cut, in all attention that was found. Then a few tokens are changed where the
residual stream begins, and in another forward half of the other tokens. A module that changes more tokens than these,
although only these changed in its input, is a route. A route from a single token to a single one may not be found.
"""

import math
import weakref
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from emg_lens.hooks.hook_points import only_while_probing
from emg_lens.hooks.model_inputs import Inputs, call
from emg_lens.hooks.verification.influence import largest_change
from emg_lens.hooks.verification.installed_point import installed
from emg_lens.hooks.verification.module_replay import FROM_ANOTHER_STACK, Replay, output_of
from emg_lens.hooks.verification.own_token import OnlyOwnToken

FEW = 4
"""Tokens of which only one is changed, so that most remain."""


class TokenVectors(NamedTuple):
    """The token vectors of a tensor in a few random directions, and how often it contains the stream."""

    values: Float[Tensor, "vector direction"]
    eps: float
    copies: int


class ResidualStream(NamedTuple):
    """The residual stream of a stack: number of vectors (positions of all trials), d_model, outermost module."""

    n_vectors: int
    n_tokens: int
    d_model: int
    inside: str

    @property
    def changed(self) -> list[list[int]]:
        """The tokens of the first trial that are changed in one forward: few ones, then a random half without these.

        The few are the first, the middle and the last token, or one of few. They show that tokens are merged into fewer
        ones; the half shows what reaches these tokens, such as a mean that joins CLS.
        """
        n, middle = self.n_tokens, (self.n_tokens - 1) // 2
        few = [0, middle, n - 1] if n > FEW else [middle]
        order = torch.randperm(n, generator=torch.Generator().manual_seed(0)).tolist()
        half = [token for token in order if token not in few][: max(n // 2, 1)]
        return [few, half] if half else [few]


def find_stream_route(
    model: nn.Module, stacks: Mapping[str, Mapping[str, Replay]], inputs: Inputs
) -> tuple[str | None, set[str]]:
    """Search a module through which a token changes others although all edges are cut.

    Args:
        model: The model.
        stacks: For each stack, its attention by path in the order in which it runs; each has run on `inputs`.
        inputs: The input of the model.

    Returns:
        The module, or None if there is none; and then the attention in which some tokens changed, and no others did.
    """
    reached: set[str] = set()
    patterns: dict[tuple, Tensor] = {}
    attention = {path: replay for layers in stacks.values() for path, replay in layers.items()}
    modules = {
        path: module
        for path, module in model.named_modules()
        if not any(path.startswith(f"{inner}.") for inner in attention)
    }
    for stream in _streams(stacks):
        before, *after = [_Run(stream, changed) for changed in ([], *stream.changed)]
        for run in (before, *after):
            with ExitStack() as stack:
                for replay in attention.values():
                    edit = OnlyOwnToken(replay.cross, patterns)
                    stack.enter_context(installed(replay.module, "attention_mask", edit))
                stack.enter_context(torch.random.fork_rng(devices=[]))
                torch.manual_seed(0)
                stack.enter_context(run.recording(modules))
                call(model, inputs)
        for run in after:
            if route := _first_route(before, run, type(model).__name__):
                return route, set()
            reached |= {path for path in attention if _has_changed(before, run, path)}
    return None, reached


def _streams(stacks: Mapping[str, Mapping[str, Replay]]) -> Iterator[ResidualStream]:
    for name, layers in stacks.items():
        others = [path for other, paths in stacks.items() if other != name for path in paths]
        for path, replay in layers.items():
            if replay.cross or replay.tokens is None:
                continue
            parts = path.split(".")
            outer = [".".join(parts[:n]) for n in range(len(parts) + 1)]
            inside = next(module for module in outer if not any(_within(other, module) for other in others))
            d_model = replay.tokens.shape[-1]
            yield ResidualStream(replay.tokens.numel() // d_model, replay.n_dest, d_model, inside)
            break


class _Run:
    """One forward: the token vectors in the inputs and the output of every call of a module, the inner ones first."""

    def __init__(self, stream: ResidualStream, changed: list[int]) -> None:
        self.stream, self.changed = stream, changed
        self.started = False
        self.calls: Counter[str] = Counter()
        self.inputs: dict[tuple[str, int], list[list[TokenVectors]]] = {}
        self.outputs: dict[tuple[str, int], list[TokenVectors]] = {}
        self._known: dict[int, tuple[weakref.ref, int, list[TokenVectors]]] = {}
        generator = torch.Generator().manual_seed(0)
        self.directions = torch.randn(4, stream.d_model, generator=generator)
        self.noise = 2 * torch.randn(stream.d_model, generator=generator)

    @contextmanager
    def recording(self, modules: Mapping[str, nn.Module]) -> Iterator[None]:
        """Record the calls of modules, and change the tokens `changed` where the stream begins."""
        with ExitStack() as stack:
            for path, module in modules.items():
                open_calls: list[int] = []
                enter, leave = partial(self._enter, path, open_calls), partial(self._leave, path, open_calls)
                stack.callback(module.register_forward_pre_hook(only_while_probing(enter), with_kwargs=True).remove)
                stack.callback(module.register_forward_hook(only_while_probing(leave)).remove)
            yield

    def _enter(self, path: str, open_calls: list[int], module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> Any:  # noqa: ARG002
        args, kwargs = list(args), dict(kwargs)  # pyright: ignore
        for holder, key in [*((args, i) for i in range(len(args))), *((kwargs, name) for name in kwargs)]:
            if key not in FROM_ANOTHER_STACK:
                holder[key] = self._with_change(path, holder[key])
        self.calls[path] += 1
        open_calls.append(self.calls[path])
        given = [self._vectors(value) for value in (*args, *kwargs.values())]
        self.inputs[path, self.calls[path]] = [vectors for vectors in given if vectors]
        return tuple(args), kwargs

    def _leave(self, path: str, open_calls: list[int], module: nn.Module, args: tuple, output: Any) -> Any:  # noqa: ARG002
        if not open_calls:
            return None
        output = self._with_change(path, output)
        self.outputs[path, open_calls.pop()] = self._vectors(output_of(output))
        return output

    def _with_change(self, path: str, tokens: Any) -> Any:
        """Return the first tensor of the stream with another vector at some tokens of the first trial."""
        axes = self._axes(tokens)
        if self.started or not axes or not _within(path, self.stream.inside):
            return tokens
        if tokens.numel() != self.stream.n_vectors * self.stream.d_model:
            return tokens
        self.started = True
        if not self.changed:
            return tokens
        vectors = tokens.movedim(axes[-1], -1)
        shape = vectors.shape
        vectors = vectors.reshape(-1, shape[-1]).clone()
        spread = float(tokens.detach().float().std()) or 1.0
        vectors[self.changed] = (spread * self.noise).to(tokens)
        return vectors.view(shape).movedim(-1, axes[-1]).contiguous()

    def _vectors(self, value: Any) -> list[TokenVectors]:
        """Return the vectors of a tensor, once for each axis that may be d_model."""
        axes, made = self._axes(value), []
        state = value._version if axes and not value.is_inference() else None
        known = self._known.get(id(value))  # most tensors leave one module and enter the next one
        if known is not None and state is not None and known[0]() is value and known[1] == state:
            return known[2]
        for axis in axes:
            wide = value.detach().movedim(axis, -1).to(torch.promote_types(value.dtype, torch.float32))
            values = F.linear(wide.reshape(-1, wide.shape[-1]), self.directions.to(wide))  # `@` is four times slower
            copies = value.numel() // (self.stream.n_vectors * self.stream.d_model)
            made.append(TokenVectors(values, torch.finfo(value.dtype).eps, max(copies, 1)))
        if state is not None:
            self._known[id(value)] = (weakref.ref(value), state, made)
        return made

    def _axes(self, value: Any) -> list[int]:
        """Return the axes of a tensor that may be d_model; none if it is no tensor with tokens."""
        if not isinstance(value, Tensor) or value.ndim < 3 or not value.is_floating_point():
            return []
        alike = [axis for axis in range(1, value.ndim) if value.shape[axis] == self.stream.d_model]
        is_stream = value.numel() == self.stream.n_vectors * self.stream.d_model  # it may be [batch, d_model, pos]
        return alike if is_stream or alike[-1:] == [value.ndim - 1] else []


def _first_route(before: _Run, after: _Run, kind: str) -> str | None:
    """Return the first and innermost module that changes more tokens than were changed, although its input has not."""
    most = len(after.changed)
    read = {
        key: [_count(*pair) for pair in zip(before.inputs.get(key, ()), given, strict=False)]
        for key, given in after.inputs.items()
    }
    changed = {key: _count(before.outputs.get(key, []), vectors) for key, vectors in after.outputs.items()}
    mixed_inputs = [key for key, counts in read.items() if max(counts, default=0) > most]
    mixed_outputs = [key for key, count in changed.items() if count > most]
    for key in mixed_outputs:
        if read[key] and key not in mixed_inputs:
            return key[0] or kind
    # A module may read all tokens into one vector that joins the tokens later, with a small factor (class attention).
    keys = list(changed)
    for place, key in enumerate(keys):
        changed_inputs = [vectors for vectors, n in zip(after.inputs[key], read[key], strict=False) if n]
        sizes = [len(one.values) for vectors in changed_inputs for one in vectors]  # not of the tokens of another stack
        pools = changed[key] and sizes and max(sizes) > len(after.outputs[key][0].values)
        later = keys[place + 1 :] if pools else []
        if any(_count(before.outputs.get(one, []), after.outputs[one], exact=True) > most for one in later):
            return key[0] or kind
    for path, _ in [*mixed_inputs, *mixed_outputs]:
        return f"the code of {kind} before {path}" if path else f"the code of {kind}"
    return None


def _has_changed(before: _Run, after: _Run, path: str) -> bool:
    """Return whether the output of every call of a module was compared, and had changes."""
    calls = [(path, number + 1) for number in range(after.calls[path])]
    return bool(calls) and all(_count(before.outputs.get(key, []), after.outputs.get(key, [])) for key in calls)


def _count(before: list[TokenVectors], after: list[TokenVectors], exact: bool = False) -> int:
    """Return how many tokens changed by more than their rounding, for the best choice of the axis d_model."""
    counts = []
    for old, new in zip(before, after, strict=False):
        if old.values.shape != new.values.shape:
            return 0
        rounding = (16 if old.eps < 1e-4 else 1) * old.eps * old.values.abs().amax(1)
        n = int((largest_change(new.values, old.values) > rounding * (not exact)).sum())
        counts.append(math.ceil(n / old.copies))
    return min(counts, default=0)


def _within(path: str, outer: str) -> bool:
    return not outer or path == outer or path.startswith(f"{outer}.")
