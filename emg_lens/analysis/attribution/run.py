"""Run an attribution method on a model."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from torch import Tensor, nn

from emg_lens.analysis.attribution import methods as _methods  # noqa: F401 - registers the methods
from emg_lens.analysis.attribution.edge_groups import Granularity
from emg_lens.analysis.attribution.method import METHODS, AttributionMethod, ScoreFunction, compute_scores
from emg_lens.analysis.attribution.question import ONE_AT_A_TIME, Question, make_question
from emg_lens.analysis.attribution.result import Attribution
from emg_lens.analysis.attribution.trial_metrics import TrialMetric, name_of_metric
from emg_lens.hooks import EdgeSet, self_edges
from emg_lens.layout import TokenLayout
from emg_lens.lens.model_outputs import OutputFunction
from emg_lens.tables import WholeSeries
from emg_lens.validation import ArgumentError, checked, short

TIE = 1e-4
"""Scores below this fraction of the range of the metric are ties with 0 (rounding)."""
FLOOR = self_edges()


@checked
def attribute(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    method: str | AttributionMethod | ScoreFunction = "shared_gates",
    by: Granularity | Mapping[str, EdgeSet] = "channel",
    metric: str | TrialMetric = "margin",
    floor: EdgeSet = FLOOR,
    layout: TokenLayout | None = None,
    output: OutputFunction | None = None,
    on_progress: Callable[[float], None] | None = None,
) -> Attribution:
    """Score how much attention edges contribute to the metric.

    Args:
        model: One of our encoders, a TransformerLens model with working `hook_attn_scores`, or `adapt(model)`. Methods
            that only cut edges work on any model that `sweep` accepts.
        x: Input `[trial, channel, time]`, standardized as in training.
        y: Class index of each trial `[trial]`, or the targets of another metric.
        method: Name of a method (`METHODS.names()`), a method object (`SharedGates(passes=16)`), or your own function
            of a `Question`, which returns scores `[trial, group]`.
        by: What gets one score: `"modality"`, a layer and pair of modalities; `"channel"`, a layer and pair of
            channels; `"head"`, a layer, head and pair of channels. Or your own disjoint groups: edge sets by name.
        metric: `"margin"` (logit of the label minus the largest other logit), `"log_prob"`,
            `"negative_squared_error"`, or a function of outputs and `y` with one number per trial, larger = better.
        floor: Edges that are never cut and get no score. With self-edges, no row of attention is ever empty.
        layout: Meaning of the token positions; default `model.layout`.
        output: Function of what the model returns that makes class logits `[trial, class]`, as for `sweep`.
        on_progress: Called with the finished fraction, by methods that cut edges.

    Returns:
        The scores with their audit. Dead edges, permanently masked edges and the floor get no score.

    Raises:
        UnknownNameError: Unknown method.
        EdgeError: Groups, floor or layout do not fit the model.
        DeadHookError: The method needs gradients of attention weights, and the model has none.
        ArgumentError: Outputs or targets do not fit the metric.

    Example:
        >>> import torch
        >>> from emg_lens import build_model
        >>> from emg_lens.analysis import attribute
        >>> from emg_lens.analysis.attribution.methods.shared_gates import SharedGates
        >>> _ = torch.manual_seed(0)
        >>> model = build_model("isonet", modalities={"emg": 3, "acc": 2}, n_samples=8, n_classes=2,
        ...                     d_model=16, n_heads=2, n_layers=2, d_mlp=8)
        >>> x, y = model.example_input(6), torch.arange(6) % 2
        >>> result = attribute(model, x, y, method=SharedGates(passes=32), by="modality")
        >>> result.table["edge"].tolist()[:4]
        ['L1 emg → cls', 'L1 acc → cls', 'L1 cls → emg', 'L1 emg → emg']
        >>> abs(result.audit["completeness_error"]) < 0.05  # the scores sum to full - all_cut
        True
    """
    chosen = METHODS[method] if isinstance(method, str) else method
    own_name = getattr(chosen, "__name__", type(chosen).__name__)
    registered = [known for known, one in METHODS.items() if type(one) is type(chosen)]
    name = method if isinstance(method, str) else next(iter(registered), own_name)
    with ONE_AT_A_TIME:
        question = make_question(
            model, x, y, by=by, metric=metric, floor=floor, layout=layout, output=output, on_progress=on_progress
        )
        started = time.perf_counter()
        scores = compute_scores(chosen, question)
        return attribution_of(question, name, chosen, scores, time.perf_counter() - started)


def attribution_of(question: Question, name: str, method: Any, scores: Any, seconds: float) -> Attribution:
    """Combine scores with their audit."""
    expected = (len(question.x), len(question.groups))
    if not isinstance(scores, Tensor) or tuple(scores.shape) != expected:
        raise ArgumentError(
            f"method {name!r} returned {short(scores)}; expected a tensor {list(expected)} [trial, group]"
        )
    values = scores.detach().cpu().double().numpy()
    if not np.isfinite(values).all():
        raise ArgumentError(f"method {name!r} returned NaN or infinite scores; check the model's outputs")
    n, passes = len(values), question.passes
    forward, backward = passes.forward / n, passes.backward / n
    full, all_cut = question.bounds.mean(1)
    mean = values.mean(0)
    error = (
        float(mean.sum() / (full - all_cut) - 1) if getattr(method, "complete", False) and full != all_cut else np.nan
    )
    table = question.groups.table.assign(
        score=mean, standard_error=values.std(0, ddof=1) / np.sqrt(n) if n > 1 else np.nan
    )
    audit = WholeSeries(
        {
            "method": name,
            "score_is": getattr(method, "quantity", AttributionMethod.quantity).format(name_of_metric(question.metric)),
            "full": full,
            "all_cut": all_cut,
            "candidates": int(question.candidates.sum()),
            "groups": len(question.groups),
            "completeness_error": error,
            "forward_passes": forward,
            "backward_passes": backward,
            "seconds": seconds,
            "ties": int((np.abs(mean) <= TIE * abs(full - all_cut)).sum()),
            "cannot_see": getattr(method, "cannot_see", "not stated by this method"),
        }
    )
    game = method.game(question) if isinstance(method, AttributionMethod) else None
    return Attribution(table, audit, values, question, method, game)
