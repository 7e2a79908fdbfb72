"""Electrodes drawn at random: the levels of the factor `draw`.

They come from a seed alone, so that every process, machine and later run draws the same; more draws begin with those of
fewer.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pydantic import Field, PositiveInt, ValidationError, model_validator

from emg_lens.validation import Name, SpecModel, findings

ORDER = "order"
"""What a random order of all electrodes is called, where nothing is said of parts."""


class ElectrodeDraws(SpecModel):
    """How electrodes are drawn.

    Attributes:
        draws: How often.
        of: Number of electrodes.
        into: Parts without a common electrode, and their sizes: `{a: 6, b: 6}`. Default: all of them in a random order,
            called `order`, of which studies take the first few.
        seed: Of the draws.
    """

    draws: int = Field(ge=1, le=1000)
    of: int = Field(ge=1, le=4096)
    into: dict[Name, PositiveInt] = {}
    seed: int = Field(default=0, ge=0, lt=2**53)

    @model_validator(mode="after")
    def _enough(self) -> "ElectrodeDraws":
        wanted = sum(self.into.values())
        if wanted > self.of:
            raise ValueError(f"parts of {wanted} electrodes cannot be drawn of {self.of}")
        if self.draws > self.n_different:
            raise ValueError(f"{self.draws} draws of {self.of} electrodes: there are {self.n_different} different ones")
        return self

    @property
    def n_different(self) -> int:
        """How many draws differ: in what is in which part, or in the order."""
        if not self.into:
            return math.factorial(min(self.of, 20))
        left, found = self.of, 1
        for size in self.into.values():
            found *= math.comb(left, size)
            left -= size
        return found

    def drawn(self) -> list[dict[str, list[int]]]:
        """The electrodes of each part, draw after draw; no two draws are the same."""
        random = np.random.default_rng(self.seed)
        found: list[dict[str, list[int]]] = []
        known: set[tuple] = set()
        while len(found) < self.draws:
            order = random.permutation(self.of).tolist()
            parts, start = {}, 0
            for name, size in (self.into or {ORDER: self.of}).items():
                parts[name], start = order[start : start + size], start + size
            same = tuple(frozenset(part) if self.into else tuple(part) for part in parts.values())
            if same not in known:
                known.add(same)
                found.append(parts)
        return found


def are_all_draws(draws: Sequence[Mapping[str, Sequence[int]]]) -> bool:
    """Whether no other draw could be made of these electrodes.

    Args:
        draws: The electrodes of each part, draw after draw; no two of them the same.
    """
    if not draws or not draws[0]:
        return False
    sizes = {name: len(part) for name, part in draws[0].items()}
    of = len({number for draw in draws for part in draw.values() for number in part})
    into = {} if sizes == {ORDER: of} else sizes
    return len(draws) == ElectrodeDraws.model_construct(draws=1, of=of, into=into).n_different


def levels_of_draws(given: Mapping[str, Any]) -> dict[str, Any]:
    """Levels `01`, `02`, ... of the factor `draw`, each with its own `cohort.electrodes`.

    Args:
        given: Fields of `ElectrodeDraws`.

    Raises:
        ValueError: Draws that there are not.
    """
    try:
        draws = ElectrodeDraws.from_content(dict(given))
    except ValidationError as error:
        raise ValueError(f"draw: {findings(error)}") from None
    digits = max(2, len(str(draws.draws)))
    return {f"{i:0{digits}d}": {"cohort": {"electrodes": parts}} for i, parts in enumerate(draws.drawn(), start=1)}
