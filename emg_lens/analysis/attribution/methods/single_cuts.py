"""Single cuts: the drop of the metric when one group of edges is cut."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from emg_lens.analysis.attribution.method import METHODS, AttributionMethod
from emg_lens.analysis.attribution.question import Question


class SingleCuts(AttributionMethod):
    """Cut each group alone, in one sweep."""

    quantity = "drop of the {}"
    cannot_see = (
        "It cannot see an edge that another route can replace (OR, backup, stand-by): the cut of one route changes"
        " little."
    )

    def scores(self, question: Question) -> Float[Tensor, "trial group"]:
        """Compute the metric of the unmasked model minus the metric with the cut."""
        others = ~np.eye(len(question.groups), dtype=bool)
        dropped = question.bounds[0] - question.with_kept(others)
        return torch.from_numpy(np.ascontiguousarray(dropped.T))


METHODS.add("cut", SingleCuts())
