"""Random electrode sets: the levels of the factor `electrode_set`.

The sets depend only on a seed, so that every process, machine and later run gets the same ones. A larger number of sets
begins with the sets of a smaller number.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pydantic import Field, PositiveInt, model_validator

from emg_lens.validation import ArgumentError, Name, SpecModel

ORDER = "order"
"""Name of a random order of all electrodes, if no parts are given."""


class RandomElectrodeSets(SpecModel):
    """Number and size of the random electrode sets.

    Attributes:
        sets: Number of sets.
        of: Number of electrodes to choose from.
        into: Parts without a common electrode, and their sizes: `{a: 6, b: 6}`. Default: one part `order` with all
            electrodes in random order. A study takes the first few of it.
        seed: Seed of the random numbers.
    """

    sets: int = Field(ge=1, le=1000)
    of: int = Field(ge=1, le=4096)
    into: dict[Name, PositiveInt] = {}
    seed: int = Field(default=0, ge=0, lt=2**53)

    @model_validator(mode="after")
    def _check_numbers(self) -> "RandomElectrodeSets":
        wanted = sum(self.into.values())
        if wanted > self.of:
            raise ValueError(f"the parts need {wanted} electrodes, but there are {self.of}; make the parts smaller")
        if self.sets > self.n_different:
            raise ValueError(
                f"{self.sets} sets of {self.of} electrodes, but only {self.n_different} different sets exist; ask for"
                f" at most {self.n_different}"
            )
        return self

    @property
    def n_different(self) -> int:
        """Number of different sets: parts with other electrodes, or other orders."""
        if not self.into:
            return math.factorial(min(self.of, 20))
        left, n_sets = self.of, 1
        for size in self.into.values():
            n_sets *= math.comb(left, size)
            left -= size
        return n_sets

    def electrodes(self) -> list[dict[str, list[int]]]:
        """Return the electrodes of each part, set by set; no two sets are the same."""
        random = np.random.default_rng(self.seed)
        sets: list[dict[str, list[int]]] = []
        known: set[tuple] = set()
        while len(sets) < self.sets:
            order = random.permutation(self.of).tolist()
            parts, start = {}, 0
            for name, size in (self.into or {ORDER: self.of}).items():
                parts[name], start = order[start : start + size], start + size
            content = tuple(frozenset(part) if self.into else tuple(part) for part in parts.values())
            if content not in known:
                known.add(content)
                sets.append(parts)
        return sets


def are_all_sets(sets: Sequence[Mapping[str, Sequence[int]]]) -> bool:
    """Say whether no other set can be made of the electrodes of these sets.

    Args:
        sets: The electrodes of each part, set by set; no two sets are the same.
    """
    if not sets or not sets[0]:
        return False
    sizes = {name: len(part) for name, part in sets[0].items()}
    of = len({number for one in sets for part in one.values() for number in part})
    into = {} if sizes == {ORDER: of} else sizes
    return len(sets) == RandomElectrodeSets.model_construct(sets=1, of=of, into=into).n_different


def levels_of_sets(given: Mapping[str, Any]) -> dict[str, Any]:
    """Make the levels `01`, `02`, ... of the factor `electrode_set`, each with its own `cohort.electrodes`.

    Args:
        given: Fields of `RandomElectrodeSets`.

    Raises:
        ValueError: A field is unknown or invalid.
    """
    try:
        sets = RandomElectrodeSets.from_content(dict(given))
    except ArgumentError as error:
        raise ValueError(f"electrode_set: {error}") from None
    digits = max(2, len(str(sets.sets)))
    return {f"{i:0{digits}d}": {"cohort": {"electrodes": parts}} for i, parts in enumerate(sets.electrodes(), start=1)}
