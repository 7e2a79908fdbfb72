"""Search for the circuit of a decision."""

from collections.abc import Callable, Mapping
from typing import Annotated

import numpy as np
import pandas as pd
from jaxtyping import Float
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from emg_lens.analysis.attribution.edge_groups import Granularity
from emg_lens.analysis.attribution.method import AttributionMethod, ScoreFunction, compute_scores
from emg_lens.analysis.attribution.question import Question
from emg_lens.analysis.attribution.result import Attribution
from emg_lens.analysis.attribution.run import FLOOR, attribute
from emg_lens.analysis.attribution.trial_metrics import TrialMetric, trial_metric
from emg_lens.analysis.circuits.circuit import Circuit
from emg_lens.analysis.circuits.kept_sets import KeptSets
from emg_lens.analysis.circuits.sufficient_sets import Elements, minimal_set, minimal_sets
from emg_lens.hooks import EdgeSet
from emg_lens.layout import TokenLayout
from emg_lens.lens.model_outputs import OutputFunction
from emg_lens.validation import ArgumentError, checked

SMALLEST_RISE = 0.05
"""A negative edge raises the metric by at least this fraction of its range, and by three standard errors."""
MOST_NEGATIVE = 16
"""Number of groups with the lowest scores that are cut alone, to see which of them lower the metric."""


@checked
def find_circuit(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    keep: Annotated[float, Field(gt=0, le=1)] = 0.9,
    by: Granularity | Mapping[str, EdgeSet] | None = None,
    rank: str | AttributionMethod | ScoreFunction | Attribution = "shared_gates",
    all_routes: bool = True,
    limit: PositiveInt = 8,
    metric: str | TrialMetric | None = None,
    floor: EdgeSet | None = None,
    layout: TokenLayout | None = None,
    output: OutputFunction | None = None,
    on_progress: Callable[[float], None] | None = None,
) -> Circuit:
    """Find minimal sets of attention edges that keep the metric when all other candidate edges are cut.

    A set is sufficient if it keeps at least `keep` of the range between the metric of the unmasked model and the metric
    with all candidates cut. The search tests prefixes of a ranking and reduces the first sufficient one until no group
    can be left out. It then leaves out one group of a known set at a time, and searches again, until no further set is
    sufficient. Give training trials here, and test trials to `Circuit.evaluate`.

    Args:
        model: The model, as for `attribute`.
        x: Input `[trial, channel, time]`, standardized as in training.
        y: Class index of each trial, or the targets of another metric.
        keep: Fraction of the range that a sufficient set keeps.
        by: What is kept or cut as one group, as for `attribute`; default `"channel"`.
        rank: The attribution method that ranks the groups, as for `attribute`, or its result (`by`, `metric`, `floor`,
            `layout` and `output` are then those of the result, and need not be given). A better ranking needs fewer
            runs. It also decides which of several sets comes first. All sets are confirmed by cuts.
        all_routes: Whether to search for all minimal sets, or only for one. A trained model can have very many.
        limit: Largest number of sets. `limit_hit` says whether there is a further one.
        metric: The metric, as for `attribute`; default `"margin"`.
        floor: Edges that are never cut; default `self_edges()`.
        layout: Meaning of the token positions; default `model.layout`.
        output: Function of what the model returns that makes class logits `[trial, class]`, as for `sweep`.
        on_progress: Called with the finished fraction of a ranking that cuts edges.

    Returns:
        The circuit.

    Raises:
        ArgumentError: The metric does not fall when all candidates are cut, `keep` is not a fraction, or the ranking
            belongs to another model, or to another `by`, `metric`, `floor`, `layout` or `output` than those
            given.
        EdgeError: Groups, floor or layout do not fit the model.

    Example:
        >>> from emg_lens.analysis import compiled_encoder, find_circuit
        >>> task = compiled_encoder("backup", seed=0)  # two routes, each sufficient
        >>> circuit = find_circuit(task.model, task.x, task.y)
        >>> len(circuit.routes), circuit.limit_hit
        (2, False)
        >>> sorted(circuit.table["edge"])
        ['L2 emg.2 → acc.0', 'L2 emg.4 → emg.6', 'L3 acc.0 → cls', 'L3 emg.6 → cls']
    """
    if isinstance(rank, Attribution):
        _check_same(rank.question, model, by, metric, floor, layout, output)
    else:
        rank = attribute(
            model,
            x,
            y,
            method=rank,
            by="channel" if by is None else by,
            metric="margin" if metric is None else metric,
            floor=FLOOR if floor is None else floor,
            layout=layout,
            output=output,
            on_progress=on_progress,
        )
    question = rank.question.on(x, y)
    scores = rank.table["score"].to_numpy()
    kept = KeptSets(question, keep)

    def ranking(left_out: Elements) -> list[int]:
        """Rank the other groups, in the model without these; another route is often silent before."""
        new = scores
        if left_out:
            closed = question.without(question.groups.mask(question.groups.chosen(left_out)))
            new = compute_scores(rank.method, closed).mean(0).detach().cpu().numpy()
        return [i for i in np.argsort(-new, kind="stable").tolist() if i not in left_out]

    if all_routes:
        members, limit_hit = minimal_sets(kept.enough, frozenset(range(len(scores))), ranking, limit)
    else:
        one = minimal_set(kept.enough, ranking(frozenset()))
        assert one is not None  # all groups together are the unmasked model
        members, limit_hit = [one], True
    return _circuit(kept, members, limit_hit, scores)


def _check_same(
    question: Question,
    model: nn.Module,
    by: Granularity | Mapping[str, EdgeSet] | None,
    metric: str | TrialMetric | None,
    floor: EdgeSet | None,
    layout: TokenLayout | None,
    output: OutputFunction | None,
) -> None:
    """Refuse arguments that differ from those of the ranking."""
    if question.model is not model:
        raise ArgumentError("rank is an attribution of another model; expected one of this model")
    shape = question.candidates.shape[:2]
    others = {
        "by": by is not None and not question.groups.are(by, question.candidates, question.layout),
        "metric": metric is not None and trial_metric(metric) is not question.metric,
        "floor": floor is not None and not np.array_equal(floor.mask(question.layout, *shape), question.floor),
        "layout": layout is not None and layout != question.layout,
        "output": output is not None and output is not question.output,
    }
    for name, differs in others.items():
        if differs:
            raise ArgumentError(
                f"{name} is not that of the attribution in rank; leave {name} out, or make the attribution with it"
            )


def _circuit(kept: KeptSets, members: list[Elements], limit_hit: bool, scores: Float[np.ndarray, " group"]) -> Circuit:
    groups = kept.question.groups
    union = sorted(frozenset().union(*members), key=lambda i: -scores[i])
    n_routes = [sum(i in one for one in members) for i in union]
    table = groups.table.iloc[union].reset_index(drop=True)
    table = table.assign(
        score=scores[union],
        routes=n_routes,
        necessary=pd.array([pd.NA if limit_hit else n == len(members) for n in n_routes], "boolean"),
    )
    negative = _negative(kept, scores)
    return Circuit(table, kept.runs, limit_hit, kept.keep, kept.question, tuple(members), negative)


def _negative(kept: KeptSets, scores: Float[np.ndarray, " group"]) -> Elements:
    """Cut the groups with the lowest scores one by one, and return those that lower the metric."""
    question, smallest = kept.question, SMALLEST_RISE * (kept.full - kept.all_cut)
    lowest = np.argsort(scores, kind="stable")[:MOST_NEGATIVE].tolist()
    rises = question.with_cuts([question.groups.index == i for i in lowest]) - question.bounds[0]
    mean, error = rises.mean(1), rises.std(1, ddof=1) / np.sqrt(rises.shape[1]) if rises.shape[1] > 1 else np.inf
    sure = (mean > smallest) & (mean > 3 * error)
    return frozenset(i for i, is_sure in zip(lowest, sure.tolist(), strict=True) if is_sure)
