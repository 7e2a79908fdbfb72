"""The same attention edges under three ablations: deletion, mean values, and values of another trial.

What an ablation replaces an edge by is part of the question (docs/cuts.md §6.7): the three may disagree.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from torch import Tensor, nn

from emg_lens.analysis.attribution.trial_metrics import TrialMetric, evaluated, trial_metric
from emg_lens.hooks import EdgeCut, EdgeError, EdgeSet, Intervention, MeanEdges, ResampleEdges
from emg_lens.hooks.replacement_options import Seed
from emg_lens.layout import TokenLayout
from emg_lens.lens.model_outputs import OutputFunction
from emg_lens.sweeps.conditions import BASELINE, Condition
from emg_lens.sweeps.engine import sweep
from emg_lens.tables import WholeTable
from emg_lens.validation import checked

COLUMNS = ("edges", "ablation", "metric", "change", "standard_error", "structural_null")


@checked
def compare_ablations(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    edges: Mapping[str, EdgeSet],
    reference: Tensor,
    *,
    metric: str | TrialMetric = "margin",
    layout: TokenLayout | None = None,
    output: OutputFunction | None = None,
    seed: Seed = 0,
) -> pd.DataFrame:
    """Ablate each edge set in three ways, and compare the changes of a metric.

    * `"deletion"` (`EdgeCut`): what happens without these edges? The other edges of a row share their attention, so
      the change includes what this extra attention does.
    * `"mean"` (`MeanEdges`): what happens if these edges carry nothing about the trial? Attention weights stay, and a
      destination reads mean values. A constant that the edges carry stays.
    * `"resample"` (`ResampleEdges`): what happens if these edges carry another trial? Attention weights stay, and a
      destination reads values of a random reference trial. This also adds evidence for the class of that trial.

    If only the deletion hurts, the drop may come from a constant or from the extra attention. It then does not show
    that the edges carry information about the trial.

    Args:
        model: A TransformerLens model with working `hook_v`, `hook_pattern` and `hook_z`.
        x: Input `[trial, channel, time]`, standardized, as for `sweep`.
        y: Class index of each trial, or the targets that `metric` takes.
        edges: Edge sets by name.
        reference: Training trials `[trial, channel, time]`, standardized as `x`. Their values at every layer are kept
            in memory.
        metric: Name of a metric of single trials (`"margin"`, the logit of the label minus the largest other logit;
            `"log_prob"`; `"negative_squared_error"`), or a function of outputs and targets that returns one number for
            each trial.
        layout: Meaning of the positions; default `model.layout`.
        output: Function of what the model returns that makes class logits `[trial, class]`, as for `sweep`.
        seed: Random seed of the reference trials in `"resample"`.

    Returns:
        One row for each edge set and ablation, with the columns

        * `edges`: the name; `ablation`: `"deletion"`, `"mean"` or `"resample"`;
        * `metric`: mean over trials under the ablation; `change`: the same minus the metric of the unablated model;
        * `standard_error`: of the change, over trials. Trials of one repetition are not independent, so it is too
          small if a repetition has several trials. NaN for a single trial;
        * `structural_null`: whether the edges have no path to the readout, so that no ablation can change the output.

    Raises:
        EdgeError: No edge sets, or edges that do not fit the model.
        ArgumentError: An unknown metric, or outputs and targets that the metric cannot compare.
        SweepInputError: No trials, or values that are not finite.
        SweepError: An ablation failed, for example because the model has no `hook_v`.

    Example:
        >>> import torch
        >>> from emg_lens import build_model, cross_modal, flow
        >>> from emg_lens.analysis import compare_ablations
        >>> model = build_model("isonet", modalities={"emg": 3, "acc": 2}, n_samples=8, n_classes=2,
        ...                     d_model=8, n_heads=2, n_layers=2, d_mlp=8)
        >>> x, y = model.example_input(6), torch.tensor([0, 1, 0, 1, 0, 1])
        >>> edges = {"fusion": cross_modal(), "CLS to EMG, L1": flow("cls", "emg").at(layers=0)}
        >>> table = compare_ablations(model, x, y, edges, reference=model.example_input(20))
        >>> table["ablation"].tolist()
        ['deletion', 'mean', 'resample', 'deletion', 'mean', 'resample']
        >>> (table["change"].abs() < 1e-5).tolist()[-2:]  # in the first layer CLS is the same in all trials
        [True, True]
    """
    if not edges:
        raise EdgeError("edges is empty; expected edge sets by name: {'fusion': cross_modal()}")
    score = trial_metric(metric)
    conditions = [
        Condition(f"{name}/{ablation}", intervention, {"edges": name, "ablation": ablation})
        for name, own in edges.items()
        for ablation, intervention in _ablations(own, seed).items()
    ]
    result = sweep(model, x, conditions, layout=layout, output=output, reference=reference)
    nulls = result.audit.set_index("condition")["structural_null"]
    targets = y.cpu()
    baseline = evaluated(score, result.logits[BASELINE], targets).double().numpy()
    rows = []
    for condition in conditions:
        values = evaluated(score, result.logits[condition.name], targets).double().numpy()
        change = values - baseline
        error = change.std(ddof=1) / np.sqrt(len(change)) if len(change) > 1 else np.nan
        rows.append(
            {**condition.tags, "metric": values.mean(), "change": change.mean(), "standard_error": error}
            | {"structural_null": bool(nulls[condition.name])}
        )
    return WholeTable(rows, columns=[*COLUMNS])


def _ablations(edges: EdgeSet, seed: int) -> dict[str, Intervention]:
    return {"deletion": EdgeCut(edges), "mean": MeanEdges(edges), "resample": ResampleEdges(edges, seed)}
