"""Which axes of an attention module's tensors are trials, heads and positions."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Shaped
from torch import Tensor, nn

CANONICAL = "b h i j"


@dataclass(frozen=True)
class ScoreAxes:
    """The axes of a module's scores, as einops patterns: b trial, h head, i dest, j src.

    Attributes:
        given: The axes as the module computes them: g and r are heads in groups, t are rows of trials.
        canonical: The same axes as `[batch, head, dest, src]`.
        n_heads: Number of heads.
    """

    given: str = CANONICAL
    canonical: str = CANONICAL
    n_heads: int | None = None

    def fit(self, scores: Shaped[Tensor, "..."]) -> bool:
        """Return whether the scores have the expected number of axes."""
        return scores.ndim == self.given.count(" ") + 1 - ("(" in self.given)

    def to_canonical(self, scores: Shaped[Tensor, "..."]) -> Shaped[Tensor, "batch head dest src"]:
        """Return scores or a pattern as `[batch, head, dest, src]`."""
        if self.given == CANONICAL:
            return scores
        return rearrange(scores, f"{self.given} -> {self.canonical}", **self._sizes(scores.shape))

    def from_canonical(
        self, attention: Shaped[Tensor, "batch head dest src"], shape: Sequence[int]
    ) -> Shaped[Tensor, "..."]:
        """Return scores or a pattern with the axes of the module, whose own scores have this `shape`."""
        if self.given == CANONICAL:
            return attention
        return rearrange(attention, f"{self.canonical} -> {self.given}", **self._sizes(shape))

    def _sizes(self, shape: Sequence[int]) -> dict[str, int]:
        if "(" in self.given:
            return {"h": self.n_heads or 1}
        return {name: size for name, size in zip(self.given.split(), shape, strict=True) if name in "gt"}


@dataclass(frozen=True)
class TokenAxes:
    """The axes of a module's input and output that are trials and positions.

    Attributes:
        trials: Axes of trials.
        positions: Neighbouring axes of positions.
    """

    trials: tuple[int, ...] = (0,)
    positions: tuple[int, ...] = (1,)

    def fit(self, tokens: Shaped[Tensor, "..."]) -> bool:
        """Return whether a tensor has these axes, and one of features."""
        return tokens.ndim == len(self.trials) + len(self.positions) + 1

    def count(self, shape: Sequence[int]) -> int:
        """Return the number of positions."""
        return math.prod(shape[axis] for axis in self.positions)

    def count_trials(self, shape: Sequence[int]) -> int:
        """Return the number of trials."""
        return math.prod(shape[axis] for axis in self.trials)

    def first(self, tokens: Shaped[Tensor, "..."]) -> Shaped[Tensor, "pos ..."]:
        """Return the tensor with one axis of positions, which is the first."""
        n = len(self.positions)
        return tokens.movedim(self.positions, tuple(range(n))).flatten(0, n - 1)

    def replaced(
        self, tokens: Shaped[Tensor, "..."], moved: Sequence[int], new: Shaped[Tensor, "moved ..."]
    ) -> Shaped[Tensor, "..."]:
        """Return a copy of `tokens` with new values at the positions `moved`, given as in `first`."""
        first = self.first(tokens).clone()
        first[list(moved)] = new.to(first)
        sizes = [tokens.shape[axis] for axis in self.positions]
        return first.unflatten(0, sizes).movedim(tuple(range(len(sizes))), self.positions).contiguous()


def token_axes_of(module: nn.Module) -> TokenAxes:
    """Return the axes of positions of an attention module: those that `adapt` found, or torch's."""
    forward: Any = module.forward
    while forward is not None:  # the forward of an edit contains the one of `adapt`
        if axes := getattr(forward, "token_axes", None):
            return axes
        forward = getattr(forward, "forward", None)
    return TokenAxes() if getattr(module, "batch_first", True) else TokenAxes((1,), (0,))


TOKEN_AXES: dict[int, tuple[TokenAxes, ...]] = {
    3: (TokenAxes(), TokenAxes((1,), (0,)), TokenAxes((0,), (2,))),
    4: (TokenAxes((0,), (1, 2)), TokenAxes((0,), (2, 3)), TokenAxes((0, 1), (2,))),
    5: (TokenAxes((0,), (1, 2, 3)), TokenAxes((0,), (2, 3, 4))),
}
"""For each number of axes of an input: the possible axes of positions, the usual ones first."""


def possible_score_axes(shapes: Sequence[Sequence[int]], trials: Sequence[int], rows: int) -> Iterator[ScoreAxes]:
    """Generate the meanings of the axes of scores that fit several forwards with different numbers of trials.

    Args:
        shapes: The shape of the scores in each forward.
        trials: The number of trials in each forward.
        rows: The number of rows of trials, if the module's input has two axes of trials; otherwise 1.
    """
    first, *_ = shapes

    def fits(given: str, canonical: str, n_heads: int) -> bool:
        made = ScoreAxes(given, canonical, n_heads)
        for shape, n_trials in zip(shapes, trials, strict=True):
            try:
                canonical_shape = made.to_canonical(torch.empty(shape, device="meta")).shape
            except Exception:  # noqa: BLE001  # einops: an axis is not divisible
                return False
            if tuple(canonical_shape[:2]) != (n_trials, n_heads):
                return False
        return True

    if len(first) == 3:
        n_heads = first[0] // trials[0]
        options = [("b i j", "b 1 i j", 1)] if n_heads == 1 else []
        options += [(given, CANONICAL, n_heads) for given in ("(b h) i j", "(h b) i j") if n_heads > 1]
    elif len(first) == 4:
        options = [(CANONICAL, CANONICAL, first[1]), ("h b i j", CANONICAL, first[0])]
    elif len(first) == 5 and rows > 1:
        options = [("b t h i j", "(b t) h i j", first[2]), ("b h t i j", "(b t) h i j", first[1])]
    elif len(first) == 5:
        options = [("b g r i j", "b (g r) i j", first[1] * first[2])]
    else:
        options = []
    for given, canonical, n_heads in options:
        if fits(given, canonical, n_heads):
            yield ScoreAxes(given, canonical, n_heads)
