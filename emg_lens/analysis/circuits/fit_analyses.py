"""Analyses of fitted models for studies: the circuit, the flow between modalities, and the roles of heads."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool
from torch import Tensor

from emg_lens.analysis.attribution.fit_trials import evaluation_trials, metric_for, search_trials, second_search_trials
from emg_lens.analysis.attribution.result import Attribution
from emg_lens.analysis.attribution.run import attribute
from emg_lens.analysis.circuits.circuit import Circuit
from emg_lens.analysis.circuits.kept_sets import NoDropError
from emg_lens.analysis.circuits.search import find_circuit
from emg_lens.analysis.fit_analysis import FitAnalysis
from emg_lens.data.batch import Batch
from emg_lens.layout import CLS
from emg_lens.sweeps.conditions import Condition

SIZES = (1, 2, 5)
"""Numbers of top-ranked edges in the size curve, times powers of ten."""
RANDOM_ORDERS = 5
"""Number of random orders of the edges in the size curve."""


class CircuitAnalysis(FitAnalysis):
    """`find_circuit` between channels on 64 training trials, and its evaluation on test trials.

    The table has three parts (column `part`):

    * `edge`: one row per candidate edge: `edge`, `layer`, `dest`, `src`, `score`, `in_circuit`, and
      `in_second_circuit`: that of a search on 64 other training trials (missing if there are fewer than 128);
    * `kept`: the rows of `Circuit.evaluate` on test trials: `kept`, `groups`, `metric`, `standard_error`,
      `fraction`, `accuracy`;
    * `size`: the fraction of the metric that the `groups` top-ranked edges keep on test trials: `groups`, `fraction`,
      and `random`, the mean fraction that random sets keep, with as many edges in every layer and to and from CLS.

    It has no rows if the metric does not fall when all candidate edges are cut.
    """

    def run(self, model: Any, batch: Batch, conditions: Sequence[Condition]) -> pd.DataFrame:  # noqa: ARG002
        """Return the table."""
        x, y = search_trials(batch)
        metric = metric_for(y)
        columns = ["part", "edge", "layer", "dest", "src", "score", "in_circuit", "in_second_circuit"]
        try:
            ranking = attribute(model, x, y, by="channel", metric=metric)
            circuit = find_circuit(model, x, y, rank=ranking, all_routes=False)
        except NoDropError:
            return pd.DataFrame(columns=columns)
        tested = evaluation_trials(batch)
        in_circuit = circuit.question.groups.chosen(circuit.members[0])
        second = _second_circuit(model, batch, metric)
        edges = ranking.table.assign(part="edge", in_circuit=in_circuit, in_second_circuit=second)[columns]
        kept = circuit.evaluate(*tested).assign(part="kept")
        return pd.concat([edges, kept, _sizes(ranking, circuit, *tested)], ignore_index=True)


class FlowAnalysis(FitAnalysis):
    """Scores of the edges between modalities in each layer, on test trials (integrated gradients of shared gates).

    Columns: `layer`, `dest`, `src`, `score`, `standard_error` over trials, and the audit of the model: `full`,
    `all_cut`, `completeness_error`.
    """

    def run(self, model: Any, batch: Batch, conditions: Sequence[Condition]) -> pd.DataFrame:  # noqa: ARG002
        """Return the table."""
        result = _attribution(model, batch, "modality")
        audit = {name: result.audit[name] for name in ("full", "all_cut", "completeness_error")}
        return result.table.drop(columns="edge").assign(**audit)


class HeadRolesAnalysis(FitAnalysis):
    """Scores of every head by kind of edge, on test trials: which heads combine modalities, and which do not.

    Columns: `layer`, `head`, `kind` (`unimodal`, `cross_modal`, or `cls` for edges of CLS), `score` (sum over the edges
    of this kind, mean over trials), `first_half` and `second_half` (the same for every second trial).
    """

    def run(self, model: Any, batch: Batch, conditions: Sequence[Condition]) -> pd.DataFrame:  # noqa: ARG002
        """Return the table."""
        result = _attribution(model, batch, "head")
        table, layout = result.table, result.question.layout
        of = {f"{g}.{c}": g for g, c in zip(layout.group, layout.channel, strict=True)} | dict(
            zip(layout.names, layout.group, strict=True)
        )
        dest, src = table["dest"].map(of), table["src"].map(of)
        kind = np.where((dest == CLS) | (src == CLS), CLS, np.where(dest == src, "unimodal", "cross_modal"))
        values = {
            "score": result.trial_scores.mean(0),
            "first_half": result.trial_scores[::2].mean(0),
            "second_half": result.trial_scores[1::2].mean(0) if len(result.trial_scores) > 1 else np.nan,
        }
        rows = table[["layer", "head"]].assign(kind=kind, **values)
        return rows.groupby(["layer", "head", "kind"], as_index=False).sum(min_count=1)


def _attribution(model: Any, batch: Batch, by: Any) -> Attribution:
    x, y = evaluation_trials(batch)
    return attribute(model, x, y, by=by, metric=metric_for(y))


def _second_circuit(model: Any, batch: Batch, metric: str) -> Bool[np.ndarray, " group"] | None:
    """Search once more, on other training trials: how much of a circuit depends on the trials of its search."""
    trials = second_search_trials(batch)
    if trials is None:
        return None
    try:
        circuit = find_circuit(model, *trials, metric=metric, all_routes=False)
    except NoDropError:
        return None
    return circuit.question.groups.chosen(circuit.members[0])


def _sizes(ranking: Attribution, circuit: Circuit, x: Tensor, y: Tensor) -> pd.DataFrame:
    """Keep only the top-ranked edges, for several numbers of edges; and random sets (`Circuit.shuffled`)."""
    n = len(ranking.table)
    sizes = sorted({size * 10**power for size in SIZES for power in range(len(str(n))) if size * 10**power < n})
    rank = np.argsort(np.argsort(-ranking.table["score"].to_numpy(), kind="stable"))
    rng = np.random.default_rng(0)
    ranks = [rank, *(circuit.shuffled(rank, rng) for _ in range(RANDOM_ORDERS))]
    fractions = circuit.question.on(x, y).fraction_kept([one < size for one in ranks for size in sizes])
    ranked, *random = fractions.reshape(len(ranks), len(sizes))
    return pd.DataFrame({"part": "size", "groups": sizes, "fraction": ranked, "random": np.mean(random, axis=0)})


CIRCUIT = CircuitAnalysis()
FLOW = FlowAnalysis()
HEAD_ROLES = HeadRolesAnalysis()
