"""Attention edges that softmax in whole numbers removes: integer attention is an edge cut (docs/deployment.md §3)."""

from typing import Any

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor, nn

from emg_lens.analysis.quantisation.quantised_model import Quantisation
from emg_lens.hooks.evaluation import evaluating
from emg_lens.hooks.hook_points import PATTERN, SCORES, StageLayer, attention_paths, layer_of, recording
from emg_lens.memory import trials_not_finite
from emg_lens.tables import WholeTable
from emg_lens.validation import ArgumentError, checked

SCORES_AT_ONCE = 2**22
"""Scores of one layer in a forward."""


@checked
def quantised_edges(model: nn.Module, x: Tensor) -> pd.DataFrame:
    """Count the attention edges that integer softmax rounds to zero, per layer, and the attention that is lost.

    Hooks on scores act first: an edge with score -inf is cut already, and is not counted.

    Args:
        model: A copy from `quantised(..., softmax="integer")`.
        x: Trials `[trial, channel, time]`, standardised as in training.

    Returns:
        One row per layer (and stage, column `stage`, if the model has stages), over trials, heads and rows:

        * `edges`: edges of one trial that are not cut.
        * `rounded_to_zero`: fraction of these edges whose attention is zero after rounding. They are cut.
        * `attention_lost`: mean of 1 - Σ attention of a row, over rows with an edge.
        * `rows_emptied`: fraction of these rows without any attention.
        * `distance`: total variation distance between the attention and softmax of the same scores, mean over rows:
          0 = equal, 1 = no attention in common.
        * `rounding_distance`: the same to softmax(sharpness · scores): what rounding alone changes.

    Raises:
        ArgumentError: The model has no integer softmax, or `x` is not trials of finite values.

    Example:
        >>> from emg_lens import build_model
        >>> from emg_lens.analysis import quantised, quantised_edges
        >>> model = build_model("isonet", modalities={"emg": 4}, n_samples=50, n_classes=3, d_model=64, n_layers=2)
        >>> table = quantised_edges(quantised(model, softmax="integer"), model.example_input(8))
        >>> table[["layer", "edges"]].to_dict("list")
        {'layer': [0, 1], 'edges': [200, 200]}
    """
    spec: Quantisation | None = getattr(model, "quantisation", None)
    if not isinstance(spec, Quantisation) or spec.softmax is None:
        raise ArgumentError(
            f"this {type(model).__name__} has no integer softmax; expected a copy from"
            " quantised(model, softmax='integer')"
        )
    if x.ndim < 2:
        raise ArgumentError(f"x has shape {list(x.shape)}; expected trials [trial, channel, time]")
    if bad := trials_not_finite(x):
        raise ArgumentError(f"x has NaN or infinite values in {len(bad)} trials, the first is trial {bad[0]}")
    places = attention_paths(model)
    wanted = {f"{path}.{point}" for path in places.values() for point in (SCORES, PATTERN)}
    runner: Any = model
    names = {name for name in runner.hook_dict if name in wanted}
    sums: dict[Any, Tensor] = {}
    size = max(1, SCORES_AT_ONCE // max(1, runner.cfg.n_heads * runner.cfg.n_ctx**2))
    with evaluating(model), torch.inference_mode():
        for some in x.split(size):
            with recording(model, names) as cache:
                model(some)
            for place, path in places.items():
                counts = _counts(cache[f"{path}.{SCORES}"], cache[f"{path}.{PATTERN}"], spec.softmax.sharpness)
                sums[place] = sums.get(place, torch.zeros_like(counts)) + counts
    rows = []
    for place, counts in sums.items():
        edges, zero, n_rows, lost, emptied, distance, rounding = counts.tolist()
        row: dict[str, Any] = {"layer": layer_of(place)}
        row |= {"stage": place.stage} if isinstance(place, StageLayer) else {}
        fractions = {"attention_lost": lost, "rows_emptied": emptied, "distance": distance}
        row |= {"edges": round(edges / len(x)), "rounded_to_zero": zero / edges if edges else 0.0}
        rows.append(row | {k: v / max(n_rows, 1) for k, v in (fractions | {"rounding_distance": rounding}).items()})
    return WholeTable(rows)


def _counts(
    scores: Float[Tensor, "batch head dest src"], pattern: Float[Tensor, "batch head dest src"], sharpness: float
) -> Float[Tensor, " count"]:
    """Return edges, edges rounded to zero, rows with an edge, and sums over these rows."""
    is_edge = scores > -torch.inf
    has_edge = is_edge.any(-1)
    mass = pattern.sum(-1)
    distances = [
        ((pattern - (factor * scores).softmax(-1)).abs().sum(-1) / 2 + (1 - mass).abs() / 2)[has_edge].sum()
        for factor in (1.0, sharpness)
    ]
    counts = [
        is_edge.sum(),
        (is_edge & (pattern == 0)).sum(),
        has_edge.sum(),
        (1 - mass)[has_edge].sum(),
        (has_edge & (mass == 0)).sum(),
        *distances,
    ]
    return torch.stack([one.double() for one in counts])
