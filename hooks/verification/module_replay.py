"""Run one module again, alone, with its arguments from a forward of the model and some tokens changed.

All information that an edge carries from a source to a destination in a layer enters the attention module, so this is
the place to test it (docs/transformerlens.md §5).
"""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

from emg_lens.hooks.attention_axes import token_axes_of
from emg_lens.hooks.hook_points import only_while_probing

FROM_ANOTHER_STACK = ("key_value_states", "encoder_hidden_states", "key_input", "value_input", "key", "value")
"""Arguments of cross attention with the tokens that it reads."""


def output_of(result: Any) -> Tensor | None:
    """Return the main tensor of a result: the result itself, or the first tensor of a list, tuple or mapping."""
    if isinstance(result, Tensor):
        return result
    if isinstance(result, Mapping):
        result = list(result.values())
    outputs = [output_of(entry) for entry in result] if isinstance(result, list | tuple) else []
    return next((entry for entry in outputs if entry is not None), None)


class Replay:
    """A module with the arguments of one forward.

    Attributes:
        cross: Whether the module reads the tokens of another stack.
        stream_only: Whether noise replaces tokens only in the first argument with tokens (for a block), or in all
            such arguments (q, k and v).
        output: Output of the module in this forward; None if the module did not run.
        n_dest: Number of positions that the module writes; it reads `n_src`, different only in cross attention.
        strength: Size of the noise that replaces a changed token, in standard deviations of the tokens.
    """

    strength = 2.0

    def __init__(self, module: nn.Module, cross: bool = False, stream_only: bool = False) -> None:
        self.module = module
        self.cross = cross
        self.stream_only = stream_only
        self.axes = token_axes_of(module)
        self.args: tuple = ()
        self.kwargs: dict[str, Any] = {}
        self.output: Tensor | None = None
        self.n_dest = self.n_src = 0
        self._sources: Sequence[int | str] = ()

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Record arguments and output of the first call inside the context."""

        def keep_arguments(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:  # noqa: ARG001
            if not self._sources:
                self.args, self.kwargs = _copied(args), _copied(kwargs)
                self._find_tokens()

        def keep_output(module: nn.Module, args: tuple, result: Any) -> None:  # noqa: ARG001
            if self.output is None:
                self.output = _copied(output_of(result))

        with ExitStack() as stack:
            before, after = only_while_probing(keep_arguments), only_while_probing(keep_output)
            stack.callback(self.module.register_forward_pre_hook(before, with_kwargs=True).remove)
            stack.callback(self.module.register_forward_hook(after).remove)
            yield

    @property
    def tokens(self) -> Tensor | None:
        """The first argument with tokens; None if the module did not run or has no such argument."""
        key = self._sources[0] if self._sources else None
        return self.args[key] if isinstance(key, int) else self.kwargs.get(str(key))

    def _find_tokens(self) -> None:
        """Find the arguments with tokens: floats [batch, pos, ...] with the number of positions of the first one."""
        given = {**dict(enumerate(self.args)), **self.kwargs}
        floats = {key: t for key, t in given.items() if isinstance(t, Tensor) and t.is_floating_point() and t.ndim > 2}
        sizes = {key: self.axes.count(t.shape) for key, t in floats.items() if t.ndim > max(self.axes.positions)}
        plain = [key for key in sizes if self.axes.fit(floats[key])] or list(sizes)  # another axis if heads are split
        if not plain:
            return
        n = self.n_dest = self.n_src = sizes[plain[0]]
        others = [key for key in sizes if key in FROM_ANOTHER_STACK] or plain[1:]
        if self.cross and others:
            self.n_src = sizes[others[0]]
            self._sources = others
        elif self.stream_only:
            self._sources = plain[:1]
        else:
            masks = [key for key, t in floats.items() if t.ndim == 4 and t.shape[-2:] == (n, n)]
            keys = [key for key in sizes if key not in (*masks, *FROM_ANOTHER_STACK[:2])]
            self._sources = [key for key in keys if sizes[key] == n]

    def run(self, moved: Sequence[int] = ()) -> Float[Tensor, "pos rest"] | None:
        """Run the module with noise in place of some source tokens; None if the output has no positions."""
        return self.rows(self.main_output(moved))

    def main_output(self, moved: Sequence[int] = ()) -> Tensor | None:
        """Run the module and return the main tensor of its output."""
        args, kwargs = list(_copied(self.args)), _copied(self.kwargs)
        for key in self._sources if len(moved) else ():
            holder: Any = args if isinstance(key, int) else kwargs
            holder[key] = self._with_noise(holder[key], moved)
        return output_of(self.module(*args, **kwargs))

    def rows(self, output: Tensor | None) -> Float[Tensor, "pos rest"] | None:
        """Return a tensor of tokens with positions first and the other axes flattened."""
        usual = output is not None and output.ndim > max(2, *self.axes.positions)
        if output is None or not usual or self.axes.count(output.shape) != self.n_dest:
            return None
        return self.axes.first(output.detach()).flatten(1)

    def _with_noise(self, tokens: Tensor, moved: Sequence[int]) -> Tensor:
        there = self.axes.first(tokens)
        generator = torch.Generator().manual_seed(0)
        noise = torch.randn(len(moved), *there.shape[1:], generator=generator)
        spread = float(tokens.detach().float().std().nan_to_num()) or 1.0
        return self.axes.replaced(tokens, moved, self.strength * spread * noise)


class NoiseForZeros(TorchFunctionMode):
    """A function mode that replaces parameters that are all zero by noise, in this thread only.

    A module with a zero output matrix has no influence to test.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        zeros = [p for p in module.parameters() if p.is_floating_point() and not p.any()]
        self.noise = {
            id(p): (torch.randn(p.shape, generator=generator) * max(p.shape[-1:], default=1) ** -0.5).to(p.detach())
            for p in zeros
        }

    def __torch_function__(
        self, func: Callable, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given: Any = tree_map(lambda value: self.noise.get(id(value), value), (args, kwargs or {}))
        return func(*given[0], **given[1])


def _copied(value: Any) -> Any:
    """Copy a value that the module may change: tensors, containers, caches; modules and functions are not copied."""
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
