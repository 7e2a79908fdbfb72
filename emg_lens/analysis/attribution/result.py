"""The result of an attribution: one row per group of edges, and an audit."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from jaxtyping import Float

from emg_lens.analysis.attribution.exact_game import ExactGame
from emg_lens.analysis.attribution.method import AttributionMethod, ScoreFunction
from emg_lens.analysis.attribution.question import Question
from emg_lens.hooks import EdgeSet
from emg_lens.validation import ArgumentError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


SHOWN = 20
"""Groups that a printed attribution lists."""


@dataclass(frozen=True, eq=False, repr=False)
class Attribution:
    """Scores of groups of attention edges; printed, the groups with the highest scores, and the audit in words.

    Attributes:
        table: One row per group of edges: `edge` (its name), `layer`, `head` (with `by="head"`), `dest`, `src`,
            `score` (mean over trials; its unit depends on the method) and `standard_error` over trials. `layer` counts
            from 0; names count layers from L1.
        audit: The method, what its scores are (`score_is`), the metric of the unmasked model (`full`) and with all
            candidates cut (`all_cut`), the number of candidate edges and of groups, `completeness_error` (sum of the
            scores divided by `full - all_cut`, minus 1; NaN for a method that does not promise a sum), forward and
            backward passes over the trials, `ties` (groups with a score near 0, below 1e-4 of the range), and one
            sentence on what the method cannot see.
        trial_scores: Score of every group for every trial.
        question: The question.
        method: The method, or the function, that gave the scores.
        exact_game: See `game`; only with method `shapley`.
    """

    table: pd.DataFrame
    audit: pd.Series
    trial_scores: Float[np.ndarray, "trial group"]
    question: Question
    method: AttributionMethod | ScoreFunction
    exact_game: ExactGame | None = None

    def __repr__(self) -> str:
        audit, n, n_trials = self.audit, len(self.table), len(self.trial_scores)
        largest = self.table.iloc[np.argsort(-self.table["score"].to_numpy(), kind="stable")[:SHOWN]]
        lines = [
            f"Attribution({n} groups of {audit['candidates']} edges on {n_trials} trials, method {audit['method']!r})",
            f"  score: {audit['score_is']}; unmasked model {audit['full']:.3g}, all groups cut {audit['all_cut']:.3g}",
            *(f"  {line}" for line in largest[["edge", "score", "standard_error"]].to_string(index=False).splitlines()),
            *([f"  and {n - SHOWN} groups with lower scores; table has all"] if n > SHOWN else []),
            f"  {audit['cannot_see']}",
        ]
        return "\n".join(lines)

    @property
    def game(self) -> ExactGame:
        """The metric for every set of kept groups: `bool[coalition, group] -> float[coalition]`, as shapiq expects."""
        if self.exact_game is None:
            raise ArgumentError(
                f"method {self.audit['method']!r} does not run all sets of groups; use attribute(method='shapley')"
            )
        return self.exact_game

    @property
    def interactions(self) -> pd.DataFrame:
        """Interaction of every pair of groups: `a`, `b`, `interaction`, `standard_error`, `gate` (AND, OR or empty)."""
        return self.game.interactions()

    def top(self, n: int) -> EdgeSet:
        """Return the edges of the `n` groups with the highest scores."""
        if not 1 <= n <= len(self.table):
            raise ArgumentError(f"n={n}; expected 1 to {len(self.table)}, the number of groups")
        chosen = np.zeros(len(self.table), bool)
        chosen[np.argsort(-self.table["score"].to_numpy(), kind="stable")[:n]] = True
        return self.question.groups.edges(chosen)

    def plot(self, ax: "Axes | None" = None) -> "Figure":
        """Draw the scores: one panel per layer, destinations in rows and sources in columns.

        Args:
            ax: Axes for bars of the 20 scores with the largest absolute values; default: a new figure with one heat map
                per layer, in which the scores of heads are summed.
        """
        from emg_lens.analysis.attribution.figures import plot_attribution

        return plot_attribution(self, ax)
