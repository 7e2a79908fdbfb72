"""Find out whether tokens contain other channels before the first attention, for example by a convolution over them.

Half of the input's channels are changed, and then the other half. This is repeated with other halves, until for every
two channels each was changed once while the other one was not. In front of the first attention, only the tokens of
changed channels may change.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from emg_lens.hooks.hook_points import only_while_probing
from emg_lens.hooks.model_inputs import Inputs, call
from emg_lens.hooks.verification.influence import TokenOutputs, largest_change, rounding
from emg_lens.hooks.verification.module_replay import Replay
from emg_lens.layout import NO_INDEX, TokenLayout


class _Reached(Exception):
    """The first attention was reached: the rest of the forward is not needed."""


def mixed_token(model: nn.Module, attention: nn.Module, layout: TokenLayout, inputs: Inputs) -> str | None:
    """Return a token that contains other channels before the first attention; None if there is none, or unknown.

    It is known for layouts with one channel in each token, and inputs with one axis of channels.

    Args:
        model: The model.
        attention: The attention that runs first.
        layout: The layout of the tokens.
        inputs: An input of the model.
    """
    own = [one if one[1] != NO_INDEX else None for one in zip(layout.group, layout.channel, strict=True)]
    channels = list(dict.fromkeys(one for one in own if one is not None))
    key, x = _samples(inputs)
    n = len(channels)
    if n < 2 or x is None or (x.ndim == 3 and x.shape[1] in {len(own), len(own) - own.count(None)} - {n}):
        return None  # unknown; for example, the input is a sequence of tokens already
    places = torch.tensor([channels.index(one) if one is not None else -1 for one in own])
    base = _tokens(model, attention, inputs)
    if base is None or len(base) != len(layout):
        return None
    found: list[str | None] = []
    for axis in (axis for axis in range(1, x.ndim) if x.shape[axis] == n):
        mixed: list[int] = []
        for changed in _halves(n):
            after = _tokens(model, attention, _with(inputs, key, _noisy(x, axis, changed)))
            if after is None or after.shape != base.shape:
                return None
            kept = (places >= 0) & ~torch.isin(places, changed)
            mixed += (kept & (largest_change(after, base).cpu() > rounding(base))).nonzero()[:, 0].tolist()
        found.append(layout.names[mixed[0]] if mixed else None)
    return found[0] if found and None not in found else None


def _halves(n: int) -> Iterator[Tensor]:
    """Yield halves of `n` numbers, so that for every two of them one half has the first and not the second."""
    numbers = torch.arange(n)
    for digit in reversed(range((n - 1).bit_length())):  # first the lower and the upper numbers
        one = (numbers >> digit) % 2 == 1
        yield from (numbers[~one], numbers[one])


def _samples(inputs: Inputs) -> tuple[Any, Tensor | None]:
    """Return the first argument of floats with more than one axis after the trials, and its key."""
    named = inputs.items() if isinstance(inputs, Mapping) else enumerate(inputs if isinstance(inputs, tuple) else ())
    given = [(None, inputs)] if isinstance(inputs, Tensor) else list(named)
    floats = [(key, x) for key, x in given if isinstance(x, Tensor) and x.is_floating_point() and x.ndim > 2]
    return floats[0] if floats else (None, None)


def _with(inputs: Inputs, key: Any, x: Tensor) -> Inputs:
    if isinstance(inputs, Tensor):
        return x
    if isinstance(inputs, Mapping):
        return {**inputs, key: x}
    return (*inputs[:key], x, *inputs[key + 1 :])


def _noisy(x: Tensor, axis: int, places: Tensor) -> Tensor:
    """Return the input with noise in place of some channels."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(x.shape, generator=generator).to(x) * (float(x.std().nan_to_num()) or 1.0)
    return x.index_copy(axis, places.to(x.device), noise.index_select(axis, places.to(x.device)))


def _tokens(model: nn.Module, attention: nn.Module, inputs: Inputs) -> TokenOutputs | None:
    """Return the tokens in front of the attention, positions first."""
    replay = Replay(attention)

    def stop(*_: object) -> None:
        raise _Reached

    with replay.recording():
        handle = attention.register_forward_pre_hook(only_while_probing(stop))
        try:
            call(model, inputs)
        except _Reached:
            pass
        finally:
            handle.remove()
    return None if replay.tokens is None else replay.axes.first(replay.tokens.detach()).flatten(1)
