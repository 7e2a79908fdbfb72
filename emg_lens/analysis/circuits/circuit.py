"""A circuit: the smallest sets of attention edges that keep the metric, and what they keep on other trials."""

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from jaxtyping import Float
from torch import Tensor

from emg_lens.analysis.attribution.exact_game import ExactGame
from emg_lens.analysis.attribution.methods.shapley import MOST_GROUPS
from emg_lens.analysis.attribution.question import Passes, Question
from emg_lens.analysis.circuits.sufficient_sets import Elements
from emg_lens.hooks import EdgeSet, none
from emg_lens.layout import CLS
from emg_lens.validation import ArgumentError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RANDOM_CIRCUITS = 20
"""Number of random circuits of the same size in an evaluation."""


@dataclass(frozen=True, eq=False)
class Circuit:
    """Minimal sets of attention edges that keep the metric when all other candidate edges are cut.

    Attributes:
        table: One row per group of edges in a route: `edge`, where it is, its `score` in the ranking, the number of
            `routes` that contain it, and whether it is `necessary` (in every known route).
        runs: Number of sets of edges that the search ran.
        limit_hit: Whether the search stopped at the limit, so that there may be more routes; also with
            `all_routes=False`.
        keep: Fraction of the metric's range that a route must keep.
    """

    table: pd.DataFrame
    runs: int
    limit_hit: bool
    keep: float
    question: Question = field(repr=False)
    members: tuple[Elements, ...] = field(repr=False)
    negative_members: Elements = field(repr=False)

    @property
    def edges(self) -> EdgeSet:
        """The edges of the first route."""
        return self._edges(self.members[0])

    @property
    def routes(self) -> tuple[EdgeSet, ...]:
        """Every minimal set: each keeps the metric alone, and no part of it does."""
        return tuple(self._edges(one) for one in self.members)

    @property
    def union(self) -> EdgeSet:
        """The edges of all routes together."""
        return self._edges(frozenset().union(*self.members))

    @property
    def necessary(self) -> EdgeSet:
        """The edges that are in every known route. Unless `limit_hit`, the metric is lost without one of them."""
        return self._edges(frozenset.intersection(*self.members))

    @property
    def negative(self) -> EdgeSet:
        """Edges that lower the metric: cutting one of them alone raises it. They are in no route."""
        return self._edges(self.negative_members)

    def on(self, x: Tensor, y: Tensor) -> Question:
        """Return the question of this circuit for other trials."""
        return replace(self.question, x=x, y=y, passes=Passes())

    def evaluate(self, x: Tensor, y: Tensor, *, seed: int = 0) -> pd.DataFrame:
        """Measure the circuit on other trials, for example test trials.

        Args:
            x: Input `[trial, channel, time]`, standardized as in training.
            y: Targets.
            seed: Seed of the random circuits.

        Returns:
            One row per set of kept edges: the unmasked model, every route, all routes together, the model without
            them, random circuits of the same size in the same layers (mean of 20), and all candidates cut. Columns:
            `kept`, number of `groups`, `metric` (mean over trials), its `standard_error`, `fraction` (of the range
            between all cut and unmasked), and `accuracy` if the metric is the margin.
        """
        question = self.on(x, y)
        n = len(question.groups)
        union, every = frozenset().union(*self.members), frozenset(range(n))
        rng = np.random.default_rng(seed)
        random = [self._random(union, rng) for _ in range(RANDOM_CIRCUITS)]
        sets = [*self.members, union, every - union, *random]
        kept = [np.isin(np.arange(n), sorted(one)) for one in sets]
        values = np.concatenate([question.bounds, question.with_kept(kept)])
        n_routes = len(self.members)
        names = [f"route {number}" for number in range(1, n_routes + 1)]
        names += ["all routes", "without the routes"]
        rows = [("unmasked model", n, values[0]), *zip(names, map(len, sets), values[2:], strict=False)]
        rows.append(("random circuits of the same size", len(union), values[2 + len(names) :].mean(0)))
        rows.append(("all candidates cut", 0, values[1]))
        table = pd.DataFrame([_row(name, size, metric) for name, size, metric in rows])
        full, all_cut = table["metric"].iloc[0], table["metric"].iloc[-1]
        table["fraction"] = (table["metric"] - all_cut) / (full - all_cut) if full != all_cut else np.nan
        if question.metric.__name__ == "margin":
            accuracy = (values > 0).mean(1)
            own = [accuracy[0], *accuracy[2 : 2 + len(names)]]
            table["accuracy"] = [*own, accuracy[2 + len(names) :].mean(), accuracy[1]]
        return table

    def interactions(self) -> pd.DataFrame:
        """Compute the interaction of every pair of groups in the routes, with all other candidates cut.

        Returns:
            One row per pair: `a`, `b`, `interaction` (Shapley interaction index, in units of the metric),
            `standard_error`, and `gate`: `"AND"` (both are needed), `"OR"` (they replace each other) or empty.

        Raises:
            ArgumentError: The routes have more than 12 groups.
        """
        union = sorted(frozenset().union(*self.members))
        if len(union) > MOST_GROUPS:
            raise ArgumentError(
                f"the routes have {len(union)} groups; interactions run every subset, so expected at most"
                f" {MOST_GROUPS}; use by='modality', or attribute(method='shapley', by={{name: edges}})"
            )
        subsets = (np.arange(1 << len(union))[:, None] >> np.arange(len(union)) & 1).astype(bool)
        kept = np.zeros((len(subsets), len(self.question.groups)), bool)
        kept[:, union] = subsets
        names = tuple(self.question.groups.table["edge"].iloc[union])
        return ExactGame(names, self.question.with_kept(kept)).interactions()

    def plot(self, ring: str | None = None) -> "Figure":
        """Draw the circuit: layers from left to right, tokens from top to bottom.

        Args:
            ring: Name of a modality whose electrodes lie on a ring around the arm, in the order of their numbers. Its
                edges are then drawn on the ring, one ring per layer.
        """
        from emg_lens.analysis.circuits.drawing import draw_circuit

        return draw_circuit(self, ring)

    def __str__(self) -> str:
        table, sizes = self.question.groups.table, sorted({len(one) for one in self.members})
        noun = "edges" if "head" in table else "channel edges" if self._by_channel else "groups of edges"
        size = f"{sizes[0]}" if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"
        metric = self.question.metric.__name__.replace("_", " ")
        kept = f"at least {100 * self.keep:.3g} % of the {metric} when all other {noun} are cut"
        if len(self.members) == 1:
            return f"{size} of {len(table)} {noun} keep {kept}"
        more = " (or more: the search stopped at its limit)" if self.limit_hit else ""
        return f"Each of {len(self.members)} routes{more} of {size} of {len(table)} {noun} keeps {kept}"

    @property
    def _by_channel(self) -> bool:
        """Whether every group connects two channels."""
        table, layout = self.question.groups.table, self.question.layout
        return "dest" in table and not set(table["dest"]) <= {*layout.modalities, CLS}

    def _edges(self, elements: Elements) -> EdgeSet:
        if not elements:
            return none()
        return self.question.groups.edges(np.isin(np.arange(len(self.question.groups)), sorted(elements)))

    def _random(self, like: Elements, rng: np.random.Generator) -> Elements:
        """Choose as many other groups in each layer."""
        table = self.question.groups.table
        layer = table["layer"].to_numpy() if "layer" in table else np.zeros(len(table), int)
        chosen: set[int] = set()
        for one in set(layer[sorted(like)]):
            n_here = sum(layer[i] == one for i in like)
            chosen |= set(rng.choice(np.flatnonzero(layer == one), n_here, replace=False).tolist())
        return frozenset(chosen)


def _row(name: str, size: int, metric: Float[np.ndarray, " trial"]) -> dict[str, str | float]:
    error = metric.std(ddof=1) / np.sqrt(len(metric)) if len(metric) > 1 else np.nan
    return {"kept": name, "groups": size, "metric": metric.mean(), "standard_error": error}


def check_fraction(keep: float) -> None:
    """Refuse a fraction to keep that is not between 0 and 1."""
    if not 0 < keep <= 1:
        raise ArgumentError(f"keep={keep}; expected a fraction above 0 and at most 1, for example 0.9")
