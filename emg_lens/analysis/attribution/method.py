"""The base class and the registry of attribution methods."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from emg_lens.analysis.attribution.exact_game import ExactGame
from emg_lens.analysis.attribution.question import PerPlace, Question
from emg_lens.registry import Registry


class AttributionMethod(ABC):
    """A method that gives every group of edges a score: how much the group contributes to the metric.

    Attributes:
        complete: Whether the scores sum to the metric of the unmasked model minus the metric with all candidates cut.
        quantity: What a score is, with `{}` for the name of the metric, for figures and the audit.
        cannot_see: One sentence: which edges get a wrong score.
    """

    complete: ClassVar[bool] = False
    quantity: ClassVar[str] = "score ({})"
    cannot_see: ClassVar[str]

    @abstractmethod
    def scores(self, question: Question) -> Float[Tensor, "trial group"]:
        """Compute the score of every group for every trial."""

    def game(self, question: Question) -> ExactGame | None:  # noqa: ARG002
        """Return the metric for every set of groups, if the method computes them; called after `scores`."""
        return None


class EdgeMethod(AttributionMethod):
    """A method that scores single edges of single heads; the score of a group is their sum."""

    def scores(self, question: Question) -> Float[Tensor, "trial group"]:
        """Compute the score of every group for every trial."""
        return torch.cat([question.by_group(self.edge_scores(question, x, y)) for x, y in question.batches()])

    @abstractmethod
    def edge_scores(self, question: Question, x: Tensor, y: Tensor) -> PerPlace:
        """Compute the score of every edge for some trials, by layer (or by layer and stage)."""


ScoreFunction = Callable[[Question], Float[Tensor, "trial group"]]
"""A method as one function."""


def compute_scores(method: AttributionMethod | ScoreFunction, question: Question) -> Float[Tensor, "trial group"]:
    """Run a method, or a function that stands for one."""
    with torch.inference_mode(False):
        return method.scores(question) if isinstance(method, AttributionMethod) else method(question)


METHODS: Registry[AttributionMethod] = Registry("attribution method", "emg_lens.attribution_methods", AttributionMethod)
"""Methods by name. `METHODS.add("mine", Mine())` adds one."""
