"""The result of an attribution: one row per group of edges, and an audit."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from emg_lens.analysis.attribution.question import Question
from emg_lens.hooks import EdgeSet
from emg_lens.validation import ArgumentError

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True, eq=False)
class Attribution:
    """Scores of groups of attention edges.

    Attributes:
        table: One row per group of edges: `edge` (its name), `layer`, `head` (with `by="head"`), `dest`, `src`,
            `score` (mean over trials, in units of the metric) and `standard_error` over trials.
        audit: The method, the metric of the unmasked model (`full`) and with all candidates cut (`all_cut`), the number
            of candidate edges and of groups, `completeness_error` (sum of the scores divided by `full - all_cut`, minus
            1; NaN for a method that does not promise a sum), forward and backward passes over the trials, `ties`
            (groups with a score below 1e-4 of the range), and one sentence on what the method cannot see.
        trial_scores: Score of every group for every trial.
        extras: Further results of some methods: `interactions` (pairs of groups), `game` (for shapiq).
    """

    table: pd.DataFrame
    audit: pd.Series
    trial_scores: Float[np.ndarray, "trial group"] = field(repr=False)
    question: Question = field(repr=False)
    extras: dict[str, Any] = field(default_factory=dict, repr=False)

    def top(self, n: int) -> EdgeSet:
        """Return the edges of the `n` groups with the highest scores."""
        if not 1 <= n <= len(self.table):
            raise ArgumentError(f"n={n}; expected 1 to {len(self.table)}, the number of groups")
        chosen = np.zeros(len(self.table), bool)
        chosen[np.argsort(-self.table["score"].to_numpy(), kind="stable")[:n]] = True
        return self.question.groups.edges(chosen)

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """Draw the scores: one panel per layer, destinations in rows and sources in columns.

        Args:
            ax: Axes for a bar chart of the 20 largest scores; default: a new figure with one heat map per layer.
        """
        from emg_lens.analysis.attribution.figures import plot_attribution

        return plot_attribution(self, ax)
