"""One module run again, alone, on what it was given in a forward of its model, with some tokens changed.

The attention module is the place to ask what an edge carries: whatever a source token means to a destination in that
layer, it must enter here (docs/transformerlens.md §5).
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from emg_lens.hooks.model_inputs import Inputs, call

FROM_ANOTHER_STACK = ("key_value_states", "encoder_hidden_states", "key_input", "value_input", "key", "value")
"""Arguments in which cross attention gets the tokens that it reads."""


def output_of(result: Any) -> Tensor | None:
    """The main tensor of a module's result: the result itself, or the first tensor of a list, a tuple or a mapping."""
    if isinstance(result, Tensor):
        return result
    if isinstance(result, Mapping):
        result = list(result.values())
    found = [output_of(entry) for entry in result] if isinstance(result, list | tuple) else []
    return next((entry for entry in found if entry is not None), None)


class Replay:
    """A module with the arguments of one forward.

    Attributes:
        module: The module.
        cross: Whether it reads the tokens of another stack.
        stream_only: Whether only its first argument with tokens is changed (a block), not all of them (q, k and v).
        output: What it gave in that forward, None if it did not run.
        n_dest: Positions that it writes.
        n_src: Positions that it reads; others only in cross attention.
        strength: Size of the noise that stands for a changed token, in standard deviations of the tokens.
    """

    strength = 2.0

    def __init__(self, module: nn.Module, cross: bool = False, stream_only: bool = False) -> None:
        self.module = module
        self.cross = cross
        self.stream_only = stream_only
        self.axis = 1 if getattr(module, "batch_first", True) else 0
        self.args: tuple = ()
        self.kwargs: dict[str, Any] = {}
        self.output: Tensor | None = None
        self.n_dest = self.n_src = 0
        self._sources: Sequence[int | str] = ()

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Keep arguments and output of the first call inside."""

        def keep_arguments(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:  # noqa: ARG001
            if not self._sources:
                self.args, self.kwargs = _copied(args), _copied(kwargs)
                self._find_tokens()

        def keep_output(module: nn.Module, args: tuple, result: Any) -> None:  # noqa: ARG001
            if self.output is None:
                found = output_of(result)
                self.output = None if found is None else found.clone()

        with ExitStack() as stack:
            stack.callback(self.module.register_forward_pre_hook(keep_arguments, with_kwargs=True).remove)
            stack.callback(self.module.register_forward_hook(keep_output).remove)
            yield

    def _find_tokens(self) -> None:
        """Which arguments hold tokens: floats [batch, pos, ...], as many positions as the first of them."""
        given = {**dict(enumerate(self.args)), **self.kwargs}
        floats = {key: t for key, t in given.items() if isinstance(t, Tensor) and t.is_floating_point() and t.ndim > 2}
        plain = [key for key, t in floats.items() if t.ndim == 3] or list(floats)  # [batch, pos, head, ...] if split
        if not plain:
            return
        self.n_dest = self.n_src = floats[plain[0]].shape[self.axis]
        others = [key for key in floats if key in FROM_ANOTHER_STACK] or plain[1:]
        if self.cross and others:
            self.n_src = floats[others[0]].shape[self.axis]
            self._sources = others
            return
        n = self.n_dest
        if self.stream_only:
            self._sources = plain[:1]
            return
        self._sources = [
            key
            for key, t in floats.items()
            if t.shape[self.axis] == n
            and key not in FROM_ANOTHER_STACK[:2]
            and not (t.ndim == 4 and t.shape[-2:] == (n, n))  # a mask has as many
        ]

    def run(self, moved: Sequence[int] = ()) -> Float[Tensor, "pos rest"] | None:
        """The module's output, with noise in the place of some source tokens; None if it has no positions."""
        return self.rows(self.main_output(moved))

    def main_output(self, moved: Sequence[int] = ()) -> Tensor | None:
        """The main tensor that the module gives."""
        args, kwargs = list(_copied(self.args)), _copied(self.kwargs)
        for key in self._sources if len(moved) else ():
            holder: Any = args if isinstance(key, int) else kwargs
            holder[key] = self._with_noise(holder[key], moved)
        return output_of(self.module(*args, **kwargs))

    def rows(self, output: Tensor | None) -> Float[Tensor, "pos rest"] | None:
        """A tensor [batch, pos, ...] with positions first and the rest flat."""
        if output is None or output.ndim < 3 or output.shape[self.axis] != self.n_dest:
            return None
        return output.detach().movedim(self.axis, 0).flatten(1)

    def _with_noise(self, tokens: Tensor, moved: Sequence[int]) -> Tensor:
        tokens = tokens.clone()
        there = tokens.movedim(self.axis, 0)
        generator = torch.Generator().manual_seed(0)
        noise = torch.randn(len(moved), *there.shape[1:], generator=generator)
        spread = float(tokens.detach().float().std().nan_to_num()) or 1.0
        there[list(moved)] = (self.strength * spread * noise).to(tokens)
        return tokens


@contextmanager
def without_zeros(module: nn.Module) -> Iterator[None]:
    """Noise in the place of parameters that are zero throughout: a module whose output matrix is zero tells nothing."""
    generator = torch.Generator().manual_seed(0)
    with ExitStack() as stack:
        for parameter in module.parameters():
            if parameter.is_floating_point() and not parameter.any():
                stack.callback(setattr, parameter, "data", parameter.data)
                noise = torch.randn(parameter.shape, generator=generator) * max(parameter.shape[-1:], default=1) ** -0.5
                parameter.data = noise.to(parameter.data)
        yield


def record(model: nn.Module, inputs: Inputs, replays: Sequence[Replay]) -> None:
    """Run the model once, and let every replay keep what its module was given."""
    with ExitStack() as stack:
        for replay in replays:
            stack.enter_context(replay.recording())
        call(model, inputs)


def _copied(value: Any) -> Any:
    """A copy that the module may write into: tensors, containers, caches; modules and functions stay what they are."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, list | tuple):
        entries = [_copied(entry) for entry in value]
        return type(value)(*entries) if hasattr(value, "_fields") else type(value)(entries)
    if isinstance(value, dict):
        return {key: _copied(entry) for key, entry in value.items()}
    if isinstance(value, nn.Module) or callable(value) or value is None:
        return value
    return copy.deepcopy(value)
