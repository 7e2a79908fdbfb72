"""The metric of a model with only some groups of edges kept, with a memory of what was run."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from emg_lens.analysis.attribution.exact_game import ROUNDING
from emg_lens.analysis.attribution.question import Question
from emg_lens.analysis.circuits.sufficient_sets import Elements
from emg_lens.validation import ArgumentError


class NoDropError(ArgumentError):
    """The metric does not fall when all candidate edges are cut."""


class KeptSets:
    """Runs a model with only some groups of candidate edges kept.

    Attributes:
        full: Mean metric of the unmasked model.
        all_cut: Mean metric with all candidates cut.
        runs: Number of different sets that were run.
    """

    def __init__(self, question: Question, keep: float) -> None:
        self.question, self.keep = question, keep
        self.full, self.all_cut = (float(value) for value in question.bounds.mean(1))
        if not self.full - self.all_cut > ROUNDING * float(np.abs(question.bounds).max()):
            raise NoDropError(
                f"the metric is {self.full:.4g} for the unmasked model and {self.all_cut:.4g} with all candidate edges"
                " cut; expected a drop, because a circuit keeps the metric from falling"
            )
        every = frozenset(range(len(question.groups)))
        self._known: dict[Elements, float] = {every: self.full, frozenset(): self.all_cut}
        self.runs = 0

    def fraction(self, sets: Sequence[Elements]) -> Float[np.ndarray, " set"]:
        """Return the kept fraction of the metric's range for each set: 1 = unmasked model, 0 = all cut."""
        new = [one for one in dict.fromkeys(sets) if one not in self._known]
        if new:
            values = self.question.with_kept([self.question.groups.chosen(one) for one in new]).mean(1)
            self._known.update(zip(new, values.tolist(), strict=True))
            self.runs += len(new)
        return (np.array([self._known[one] for one in sets]) - self.all_cut) / (self.full - self.all_cut)

    def enough(self, sets: Sequence[Elements]) -> Sequence[bool]:
        """Say for each set whether it keeps the wanted fraction."""
        return (self.fraction(sets) >= self.keep - ROUNDING).tolist()
