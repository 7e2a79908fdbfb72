"""One architecture of another library: how to build it, tiny and random, and an input for it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn


@dataclass(frozen=True)
class Architecture:
    """A model of a library, tiny.

    Attributes:
        build: Makes the model; weights are drawn again afterwards.
        inputs: Makes a batch: a tensor, a tuple of arguments, or a mapping of keyword arguments.
        stacks: For an encoder-decoder: for each stack, a regular expression of the paths of its attention.
        heads_first: Whether the scores are [head, trial, dest, src], or heads come first in a common axis.
        memory: Number of keys that the model puts before those of the tokens.
    """

    build: Callable[[], nn.Module]
    inputs: Callable[[], Any]
    stacks: dict[str, str] = field(default_factory=dict)
    heads_first: bool = False
    memory: int = 0


def image(size: int = 32, channels: int = 3, batch: int = 2) -> Callable[[], Any]:
    """Make random images."""
    return lambda: torch.randn(batch, channels, size, size, generator=torch.Generator().manual_seed(0))


def normal(*shape: int) -> Callable[[], Any]:
    """Make a random tensor."""
    return lambda: torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def words(length: int = 8, batch: int = 2, n_words: int = 20, **more: Callable[[], Any]) -> Callable[[], Any]:
    """Make random words; `more` are further inputs of a model of transformers."""
    draw = lambda: torch.randint(5, n_words, (batch, length), generator=torch.Generator().manual_seed(0))
    return (lambda: {"input_ids": draw(), **{name: make() for name, make in more.items()}}) if more else draw
