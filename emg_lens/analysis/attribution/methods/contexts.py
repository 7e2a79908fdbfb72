"""Random contexts: one regression of the metric on which groups of edges are kept."""

from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from jaxtyping import Float
from pydantic import Field, NonNegativeInt
from sklearn.linear_model import Ridge, RidgeCV
from torch import Tensor

from emg_lens.analysis.attribution.method import METHODS, AttributionMethod
from emg_lens.analysis.attribution.question import Question
from emg_lens.validation import check_fields

STRENGTHS = np.geomspace(1e-4, 1e3, 15)
"""Ridge strengths that are compared, in units of runs * keep * (1 - keep), the squared length of a column."""


@dataclass(frozen=True)
class RandomContexts(AttributionMethod):
    """Keep a random part of the groups, many times, and regress the metric on which groups were kept.

    The score of a group estimates the mean metric with the group kept minus the mean metric with the group cut, over
    random sets of the other groups (Banzhaf value with probability `keep`). The ridge strength with the smallest
    leave-one-out error of the mean metric is used. The standard error over trials in the table does not include the
    error from the random sets, which is about the standard deviation of the metric over runs / sqrt(runs * keep *
    (1 - keep)) or less.

    Attributes:
        runs: Number of random sets; each needs one forward.
        keep: Probability that a group is kept.
        seed: Seed of the random sets.
    """

    runs: Annotated[int, Field(ge=2, le=1_000_000)] = 2000
    keep: Annotated[float, Field(gt=0, lt=1)] = 0.85
    seed: NonNegativeInt = 0

    quantity = "mean drop of the {} in random contexts"
    cannot_see = (
        "It cannot see small effects, because scores are estimated from random cuts; and an edge of a long route gets"
        " less credit, because the other edges of the route are often cut."
    )

    def __post_init__(self) -> None:
        check_fields(self)

    def scores(self, question: Question) -> Float[Tensor, "trial group"]:
        """Compute the coefficient of every group for every trial."""
        rng = np.random.default_rng(self.seed)
        kept = rng.random((self.runs, len(question.groups)), dtype=np.float32) < self.keep
        values = question.with_kept(kept)
        inputs = kept.astype(np.float32 if kept.size > 2**24 else np.float64)
        strengths = STRENGTHS * self.runs * self.keep * (1 - self.keep)
        best = RidgeCV(strengths, gcv_mode="eigen").fit(inputs, values.mean(1)).alpha_
        return torch.from_numpy(Ridge(float(best), copy_X=False).fit(inputs, values).coef_)


METHODS.add("contexts", RandomContexts())
