"""Benchmark of attribution methods on encoders with known circuits."""

from collections.abc import Iterator, Mapping, Sequence
from typing import get_args

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float
from pydantic import NonNegativeInt
from sklearn.metrics import average_precision_score, roc_auc_score

from emg_lens.analysis.attribution.method import METHODS, AttributionMethod, ScoreFunction
from emg_lens.analysis.attribution.result import Attribution
from emg_lens.analysis.attribution.run import TIE, attribute
from emg_lens.analysis.ground_truth.compiled import CircuitVariant, CompiledTask, Tier, compiled_encoder
from emg_lens.lens.config import Norm
from emg_lens.tables import WholeTable
from emg_lens.validation import ArgumentError, checked, short

Method = str | AttributionMethod | ScoreFunction

SIZES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""Sizes of circuits in the MIB benchmark, as fractions of all candidate edges."""


@checked
def benchmark_attribution(
    methods: Sequence[Method] | Mapping[str, Method] | None = None,
    variants: Sequence[CircuitVariant] | None = None,
    seeds: Sequence[NonNegativeInt] = range(4),
    *,
    norm: Norm = "post",
    tier: Tier = "leaky",
    n_trials: int = 32,
    modalities: Mapping[str, int] | None = None,
    curves: bool = True,
) -> pd.DataFrame:
    """Compare attribution methods on encoders whose circuits are known.

    Every method scores all live edges of single heads, except self-edges, in every compiled encoder. The positive edges
    are `CompiledTask.truth`; edges that lower the margin are not positive. Scores below 1e-4 of the range of the margin
    are set to 0, and equal scores are one threshold: a method that gives all edges the same score has the average
    precision of chance, which is the fraction of positive edges.

    Args:
        methods: Names, method objects, or functions of a `Question` that return scores `[trial, group]`; or a mapping
            from your own names to these. Default: all registered methods except `shapley`, which needs at most 12
            groups. `contexts` runs each model 2,000 times, which takes most of the time.
        variants: Circuits (see `compiled_encoder`); default all eight.
        seeds: Seeds of the encoders.
        norm: `"post"` or `"pre"`.
        tier: `"clean"` or `"leaky"`.
        n_trials: Trials for each encoder, a multiple of 4.
        modalities: Channels of each modality, as for `compiled_encoder`.
        curves: Whether to compute `cpr` and `cmd`, which need 10 more runs for each row.

    Returns:
        One row for each method, variant and seed, with the columns

        * `average_precision`: mean precision over the positive edges, 1 = all of them rank first;
        * `r_precision`: fraction of positive edges among the first R edges, where R is their number; the expected value
          if ties at this rank are put in random order;
        * `auroc`: area under the ROC curve, with ties in the middle. With few positive edges it is close to 1 even if
          dozens of other edges rank before them;
        * `cpr`: area under the kept fraction of the margin's range as more of the highest edges are kept (MIB, arXiv
          2504.13151: sizes .1 % to 100 %, linear trapezoids); larger is better, and it may exceed 1;
        * `cmd`: area between this curve and 1; 0 is best. It hardly sees the order of the first edges: half of the area
          belongs to circuits of 50 % to 100 % of the edges, and sizes below 2 % have a weight of 2 %. It also does not
          see edges that only replace other edges, because the curve never leaves out the first route;
        * `completeness_error`: see `Attribution.audit`; NaN for methods that do not promise a sum;
        * `forward_passes`, `backward_passes` for each trial, and `seconds`, all without the curves.

    Raises:
        UnknownNameError: Unknown method.
        ArgumentError: No methods, variants or seeds, two methods of the same name, or a method that returns no scores.

    Example:
        >>> import torch
        >>> from emg_lens.analysis.ground_truth.benchmark import benchmark_attribution
        >>> def mine(question):  # your method: a score for each trial and group; here, the same score for all
        ...     return torch.ones(len(question.x), len(question.groups))
        >>> methods = {"mine": mine, "gradient": "first_order"}
        >>> table = benchmark_attribution(methods, ["single"], seeds=[0], curves=False)
        >>> table.groupby("method")["average_precision"].min().round(2).to_dict()
        {'gradient': 1.0, 'mine': 0.0}
    """
    chosen = named_methods(methods)
    variants = get_args(CircuitVariant) if variants is None else variants
    if not chosen or not variants or not len(seeds):
        raise ArgumentError("no methods, variants or seeds; expected at least one of each, or None for all")
    tasks = (
        (variant, seed, compiled_encoder(variant, seed, norm, tier=tier, modalities=modalities, n_trials=n_trials))
        for variant in variants
        for seed in seeds
    )
    return WholeTable(
        {"method": name, "variant": variant, "seed": seed} | quality
        for variant, seed, task in tasks
        for name, quality in _qualities(task, chosen, curves)
    )


def named_methods(methods: Sequence[Method] | Mapping[str, Method] | None) -> dict[str, Method]:
    """Return the methods by name."""
    if methods is None:
        return {name: one for name, one in METHODS.items() if name != "shapley"}
    if not isinstance(methods, Mapping):
        names = [one if isinstance(one, str) else getattr(one, "__name__", repr(one)) for one in methods]
        if len(set(names)) < len(names):
            raise ArgumentError(f"methods={short(names)}; two have the same name; expected a mapping from names")
        methods = dict(zip(names, methods, strict=True))
    return {name: METHODS[one] if isinstance(one, str) else one for name, one in methods.items()}


def _qualities(
    task: CompiledTask, methods: Mapping[str, Method], curves: bool
) -> Iterator[tuple[str, dict[str, float]]]:
    """Yield the qualities of each method on one task."""
    for name, method in methods.items():
        result = attribute(task.model, task.x, task.y, method=method, by="head")
        index, cfg = result.question.groups.index, task.model.cfg
        positive = np.zeros(len(result.table), bool)
        positive[index[task.truth.mask(task.layout, cfg.n_layers, cfg.n_heads).numpy()]] = True
        costs = ("completeness_error", "forward_passes", "backward_passes", "seconds")
        kept = kept_curve(result) if curves else {}
        yield name, rank_quality(settled_scores(result), positive) | kept | {key: result.audit[key] for key in costs}


def settled_scores(result: Attribution) -> Float[np.ndarray, " group"]:
    """Return the scores, with 0 in place of scores that are only rounding."""
    scores = result.table["score"].to_numpy()
    return np.where(np.abs(scores) < TIE * abs(result.audit["full"] - result.audit["all_cut"]), 0.0, scores)


def rank_quality(scores: Float[np.ndarray, " group"], positive: Bool[np.ndarray, " group"]) -> dict[str, float]:
    """Compare a ranking with the positive groups; equal scores are one threshold."""
    n_positive = int(positive.sum())
    border = np.sort(scores)[-n_positive]
    above, tied = scores > border, scores == border
    expected = positive[above].sum() + positive[tied].mean() * (n_positive - above.sum())
    return {
        "average_precision": float(average_precision_score(positive, scores)),
        "r_precision": float(expected / n_positive),
        "auroc": float(roc_auc_score(positive, scores)),
    }


def kept_curve(result: Attribution) -> dict[str, float]:
    """Keep more and more of the groups with the highest scores, and integrate the kept fraction of the range."""
    scores = settled_scores(result)
    order = np.lexsort((np.random.default_rng(0).permutation(len(scores)), -scores))  # ties in random order
    rank = np.argsort(order)
    n_kept = [max(1, round(size * len(scores))) for size in SIZES]
    fraction = result.question.fraction_kept([rank < n for n in n_kept])
    return {"cpr": float(np.trapezoid(fraction, SIZES)), "cmd": float(np.trapezoid(abs(1 - fraction), SIZES))}
