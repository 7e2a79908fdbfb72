"""A circuit: minimal sets of attention edges that keep the metric, and what they keep on other trials."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from jaxtyping import Float, Shaped
from pydantic import NonNegativeInt
from torch import Tensor

from emg_lens.analysis.attribution.exact_game import ExactGame, every_subset
from emg_lens.analysis.attribution.methods.shapley import MOST_GROUPS
from emg_lens.analysis.attribution.question import Question
from emg_lens.analysis.attribution.trial_metrics import margin, name_of_metric
from emg_lens.analysis.circuits.route_edges import edges_by_route
from emg_lens.analysis.circuits.sufficient_sets import Elements
from emg_lens.hooks import EdgeSet, none
from emg_lens.layout import CLS
from emg_lens.tables import WholeTable
from emg_lens.validation import ArgumentError, checked

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RANDOM_SETS = 20
RANDOM = "random edges"
"""Number and name of the random sets of an evaluation."""


@dataclass(frozen=True, eq=False, repr=False)
class Circuit:
    """Minimal sets of attention edges that keep the metric when all other candidate edges are cut.

    Attributes:
        table: One row per group of edges in a route: `edge`, where it is, its `score` in the ranking, the number of
            `routes` that contain it, and whether it is `necessary` (in every route; missing if `limit_hit`). `layer`
            counts from 0; names count layers from L1.
        runs: Number of sets of edges that the search ran.
        limit_hit: Whether the search stopped at the limit, so that there may be more routes; also with
            `all_routes=False`. If it is false, routes can still be missing where the metric is not monotone
            (docs/attribution.md §5).
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
        """The sets of the search: each keeps the metric alone, and does not without any one of its groups."""
        return tuple(self._edges(one) for one in self.members)

    @property
    def union(self) -> EdgeSet:
        """The edges of all routes together."""
        return self._edges(frozenset().union(*self.members))

    @property
    def necessary(self) -> EdgeSet:
        """The edges in every route of the search.

        Raises:
            ArgumentError: The search stopped at its limit, so that not all routes are known.
        """
        if self.limit_hit:
            raise ArgumentError(
                "the search stopped before all routes were known, so it is unknown which edges are in every route;"
                " search with all_routes=True and a larger limit"
            )
        return self._edges(frozenset.intersection(*self.members))

    @property
    def negative(self) -> EdgeSet:
        """Edges that lower the metric: cutting one of them alone raises it.

        Only the 16 groups with the lowest scores in the ranking are cut. The rise must exceed 5 % of the metric's range
        and three standard errors over the trials of the search.
        """
        return self._edges(self.negative_members)

    @checked
    def evaluate(self, x: Tensor, y: Tensor, *, seed: NonNegativeInt = 0) -> pd.DataFrame:
        """Measure the circuit on other trials, for example test trials.

        Args:
            x: Input `[trial, channel, time]`, standardized as in training.
            y: Targets.
            seed: Seed of the random sets.

        Returns:
            One row per set of kept edges: the unmasked model, every route, all routes together, the model without
            them, random edges (mean of 20 sets), and all candidates cut. A random set has as many groups as route 1 in
            every layer, and as many of them to and from CLS. It may contain groups of the route. Columns:
            `kept`, number of `groups`, `metric` (mean over trials), its `standard_error`, `fraction` (of the range
            between all cut and unmasked; NaN if the metric does not fall), and `accuracy` (NaN if the metric is not
            the margin).
        """
        question = self.question.on(x, y)
        n = len(question.groups)
        union, every = frozenset().union(*self.members), frozenset(range(n))
        rng, first = np.random.default_rng(seed), question.groups.chosen(self.members[0])
        sets = [*self.members, union, every - union]
        kept = [question.groups.chosen(one) for one in sets]
        kept += [self.shuffled(first, rng) for _ in range(RANDOM_SETS)]
        values = np.concatenate([question.bounds, question.with_kept(kept)])
        names = [f"route {number}" for number in range(1, len(self.members) + 1)] + ["all routes", "without the routes"]
        of_random = values[2 + len(names) :]
        rows = [("unmasked model", n, values[0]), *zip(names, map(len, sets), values[2:], strict=False)]
        rows += [(RANDOM, len(self.members[0]), of_random.mean(0)), ("all candidates cut", 0, values[1])]
        table = WholeTable([_row(name, size, metric) for name, size, metric in rows])
        full, all_cut = table["metric"].iloc[0], table["metric"].iloc[-1]
        table["fraction"] = (table["metric"] - all_cut) / (full - all_cut) if full > all_cut else np.nan
        accuracy = (values > 0).mean(1)
        own = [accuracy[0], *accuracy[2 : 2 + len(names)]]
        table["accuracy"] = [*own, (of_random > 0).mean(), accuracy[1]]
        if question.metric is not margin:
            table["accuracy"] = np.nan
        return table

    def shuffled(self, values: Shaped[np.ndarray, " group"], rng: np.random.Generator) -> Shaped[np.ndarray, " group"]:
        """Exchange values of groups at random, within each layer among edges to CLS, from CLS, and others."""
        table, shuffled = self.question.groups.table, values.copy()
        kind = np.zeros(len(table), int)
        if "dest" in table:
            kind = 4 * table["layer"].to_numpy() + 2 * (table["dest"] == CLS) + (table["src"] == CLS)
        for one in np.unique(kind):
            shuffled[kind == one] = rng.permutation(values[kind == one])
        return shuffled

    def interactions(self) -> pd.DataFrame:
        """Compute the interaction of every pair of groups in the routes, with all other candidates cut.

        Returns:
            One row per pair: `a`, `b`, `interaction` (Shapley interaction index, in units of the metric),
            `standard_error`, and `gate`: `"AND"` (more together than separately), `"OR"` (less together than
            separately), or empty if the interaction is not clear (its 95 % interval over trials contains 0, or it is
            small), or if it is negative and one of the two lowers the metric on average.

        Raises:
            ArgumentError: The routes have more than 12 groups.
        """
        union = sorted(frozenset().union(*self.members))
        if len(union) > MOST_GROUPS:
            raise ArgumentError(
                f"the routes have {len(union)} groups; interactions run every subset, so expected at most"
                f" {MOST_GROUPS}; use by='modality', or attribute(method='shapley', by={{name: edges}})"
            )
        subsets = every_subset(len(union))
        kept = np.zeros((len(subsets), len(self.question.groups)), bool)
        kept[:, union] = subsets
        names = tuple(self.question.groups.table["edge"].iloc[union])
        return ExactGame(names, self.question.with_kept(kept)).interactions()

    def to_frame(self) -> pd.DataFrame:
        """Tabulate the edges of all routes and the negative edges, as `plot_circuit` draws them.

        Returns:
            The columns of `table`, and `kind`: `"in the circuit"` (one route), `"in every route"`, `"only in route 1"`,
            `"in some routes"` or `"lowers the metric"`.

        Raises:
            ArgumentError: A circuit of named groups of edges.
        """
        return edges_by_route(self)

    def plot(self, ring: str | None = None) -> "Figure":
        """Draw the circuit: layers from left to right, tokens from top to bottom.

        Args:
            ring: Name of a modality whose electrodes lie on a ring around the arm, in the order of their numbers. Its
                edges are then drawn on the ring, one ring per layer.
        """
        from emg_lens.plotting import plot_circuit, plot_circuit_rings
        from emg_lens.plotting.panels import entitle

        layout, n_layers = self.question.layout, self.question.target.n_layers
        if ring is None:
            return entitle(plot_circuit(self, layout, n_layers=n_layers), str(self))
        return entitle(plot_circuit_rings(self, layout, ring, n_layers=n_layers)[0], str(self))

    def __repr__(self) -> str:
        table, sizes = self.question.groups.table, sorted({len(one) for one in self.members})
        single = int(self.question.candidates.sum()) == len(table)
        noun = "edge" if single else "channel edge" if self._by_channel else "group"
        size = " to ".join(dict.fromkeys([str(sizes[0]), str(sizes[-1])]))
        each = f"{size} {noun}{'s' if sizes[-1] > 1 else ''} of {len(table)} candidates"
        metric = name_of_metric(self.question.metric)
        kept = f"at least {100 * self.keep:.3g} % of the {metric}'s range (0 % = all candidates cut, 100 % = unmasked)"
        more = "; the search stopped, there may be other routes" if self.limit_hit else ""
        n = len(self.question.x)
        where = f"on the {n} trial{'s' if n > 1 else ''} of the search"
        if len(self.members) == 1:
            return f"Circuit of {each}: {where} it alone keeps {kept}{more}"
        return f"{len(self.members)} routes ({each}): {where} each alone keeps {kept}{more}"

    @property
    def _by_channel(self) -> bool:
        """Whether groups connect channels."""
        table, layout = self.question.groups.table, self.question.layout
        channels = {f"{group}.{channel}" for group, channel in zip(layout.group, layout.channel, strict=True)}
        return "dest" in table and not channels.isdisjoint(table["src"])

    def _edges(self, elements: Elements) -> EdgeSet:
        if not elements:
            return none()
        return self.question.groups.edges(self.question.groups.chosen(elements))


def _row(name: str, size: int, metric: Float[np.ndarray, " trial"]) -> dict[str, str | float]:
    error = metric.std(ddof=1) / np.sqrt(len(metric)) if len(metric) > 1 else np.nan
    return {"kept": name, "groups": size, "metric": metric.mean(), "standard_error": error}
