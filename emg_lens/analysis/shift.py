"""Shift of the residual stream: distance between the activations with and without a condition, by layer.

A cut that moves activations far outside the range of the training may hurt for that reason alone (docs/controls.md §8).
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from emg_lens.analysis.patterns import group_index, group_names
from emg_lens.hooks import EdgeError
from emg_lens.hooks.evaluation import evaluating
from emg_lens.hooks.hook_points import attached_hooks, resolve_layout
from emg_lens.layout import Stage, TokenLayout
from emg_lens.sweeps.conditions import Condition, with_baseline
from emg_lens.sweeps.settings import check_inputs, device_of
from emg_lens.tables import WholeTable
from emg_lens.validation import checked

TRIALS_A_FORWARD = 128
MOST_RUN = 1024
"""Largest number of trials for which activations are compared. If there are more, evenly spaced trials are used."""
MOST_COMPARED = 512
"""Largest number of trials for the pairwise distances of a maximum mean discrepancy."""

COLUMNS = ("condition", "layer", "tokens", "cosine", "cka", "mmd", "mmd_of_trials")

Groups = Mapping[tuple[int, str], Float[Tensor, "trial pos d_model"]]


@checked
def activation_shift(
    model: nn.Module,
    x: Tensor,
    conditions: Sequence[Condition],
    *,
    reference: Tensor | None = None,
    layout: TokenLayout | None = None,
) -> pd.DataFrame:
    """Compare the residual streams of the masked and the unmasked model after every block, for each condition.

    Args:
        model: A TransformerLens model with `blocks.<layer>.hook_resid_post`, or a post-norm encoder with
            `hook_normalized_resid_post`. It is run in evaluation mode, and its mode is restored.
        x: Input `[trial, channel, time]`, standardized, as for `sweep`. If there are more than 1024 trials, 1024
            evenly spaced trials are used.
        conditions: The conditions.
        reference: Training trials `[trial, channel, time]`, standardized as `x`. Replaced values come from them, and
            `mmd_of_trials` compares `x` with them.
        layout: Meaning of the token positions; default `model.layout`.

    Returns:
        One row a condition, layer and group of tokens (`tokens`: CLS, or a modality), with the columns

        * `cosine`: cosine similarity of masked and unmasked activations, mean over tokens and trials;
        * `cka`: linear centred kernel alignment of the two over trials, with activations averaged over the tokens
          (Kornblith et al. 2019); 1 = the same up to rotation and scale, NaN if one of them is constant;
        * `mmd`: maximum mean discrepancy of the two (Gretton et al. 2012, unbiased; Gaussian kernel with the median
          distance of unmasked activations as width); 0 = the same distribution;
        * `mmd_of_trials`: the discrepancy of unmasked activations for `x` and for `reference`, as a scale for `mmd`;
          NaN without `reference`.

    Raises:
        SweepInputError: There are no trials, or values that are not finite.
        EdgeError: The model has no such hook points, the layout has another size, or two conditions have the same name.

    Example:
        >>> from emg_lens import Condition, build_model, cross_modal
        >>> from emg_lens.analysis import activation_shift
        >>> model = build_model("isonet", modalities={"emg": 3, "acc": 2}, n_samples=8, n_classes=2,
        ...                     d_model=8, n_heads=2, n_layers=1, d_mlp=8)
        >>> table = activation_shift(model, model.example_input(4), [Condition("no fusion", cross_modal())])
        >>> table["tokens"].tolist()
        ['cls', 'emg', 'acc']
        >>> round(float(table["cosine"][0]), 3)  # this cut leaves the edges of CLS
        1.0
    """
    check_inputs(x, reference)
    with_baseline(conditions)
    layout = resolve_layout(model, layout)
    x = x[_evenly(len(x), MOST_RUN)]
    with evaluating(model), torch.inference_mode():
        clean = _residuals(model, x, None, layout, reference)
        to_clean = {k: Discrepancy(activations.double()) for k, activations in clean.items()}
        of_trials = dict.fromkeys(clean, np.nan)
        if reference is not None:
            some = reference[_evenly(len(reference), MOST_COMPARED)]
            trained = _residuals(model, some, None, layout, None)
            of_trials = {k: to_clean[k](trained[k].double(), same_trials=False) for k in clean}
        rows = []
        for condition in conditions:
            masked = _residuals(model, x, condition, layout, reference)
            rows += [
                {"condition": condition.name, "layer": layer, "tokens": tokens}
                | _distances(before, masked[layer, tokens], to_clean[layer, tokens])
                | {"mmd_of_trials": of_trials[layer, tokens]}
                for (layer, tokens), before in clean.items()
            ]
    return WholeTable(rows, columns=[*COLUMNS])


def _residuals(
    model: nn.Module, x: Tensor, condition: Condition | None, layout: TokenLayout, reference: Tensor | None
) -> Groups:
    """Record the activations after every block, by layer and group of tokens."""
    points = _stream_points(model, layout)
    changes = () if condition is None else condition.interventions
    whole = any(one.needs_all_trials for one in changes)
    contexts = [one.applied(model, layout, reference) for one in changes]
    parts: dict[str, list[Tensor]] = {name: [] for name in points}

    def keep(activation: Tensor, hook: Any) -> None:
        expected = len(points[hook.name][1])
        if activation.ndim != 3 or activation.shape[1] != expected:
            raise EdgeError(
                f"{hook.name} has the shape {list(activation.shape)}; the layout has {expected} positions, so expected"
                f" [trial, {expected}, d_model]"
            )
        parts[hook.name].append(activation.detach().to("cpu", copy=True))

    with ExitStack() as stack:
        for context in contexts:
            stack.enter_context(context)
        # Entered last; the model itself must be called, because some interventions change the input of the call.
        stack.enter_context(attached_hooks(model, [(name, keep) for name in points]))
        for some in x.split(len(x) if whole else TRIALS_A_FORWARD):
            model(some.to(device_of(model)))
    index, groups = torch.tensor(group_index(layout)), defaultdict(list)
    for name, (layer, positions) in points.items():
        own, activations = index[positions.start : positions.stop], torch.cat(parts.pop(name))
        for k, group in enumerate(group_names(layout)):
            if (own == k).any():
                groups[layer, group].append(activations[:, own == k])
    return {key: torch.cat(stages, dim=1) for key, stages in sorted(groups.items(), key=lambda item: item[0][0])}


def _stream_points(model: nn.Module, layout: TokenLayout) -> dict[str, tuple[int, range]]:
    """Find the hook point after every block, and the layer and positions of this block."""
    cfg: Any = getattr(model, "cfg", None)
    point = "hook_normalized_resid_post" if getattr(cfg, "norm", None) == "post" else "hook_resid_post"
    stages = layout.stages or (Stage("", range(getattr(cfg, "n_layers", 0)), range(len(layout))),)
    points = {
        f"{f'stages.{stage.name}.' * bool(stage.name)}blocks.{k}.{point}": (layer, stage.positions)
        for stage in stages
        for k, layer in enumerate(stage.layers)
    }
    known = {path for path, _ in model.named_modules()}
    missing = [path for path in points if path not in known]
    if missing or not points:
        name = missing[0] if missing else f"blocks.<layer>.{point}"
        raise EdgeError(f"{type(model).__name__} has no hook point {name}, which this analysis reads")
    return points


def _distances(clean: Tensor, masked: Tensor, to_clean: "Discrepancy") -> dict[str, float]:
    clean, masked = clean.double(), masked.double()
    cosine = float(torch.nn.functional.cosine_similarity(clean, masked, dim=-1).mean())
    return {"cosine": cosine, "cka": _cka(clean.mean(1), masked.mean(1)), "mmd": to_clean(masked, same_trials=True)}


def _cka(a: Float[Tensor, "trial d_model"], b: Float[Tensor, "trial d_model"]) -> float:
    a, b = a - a.mean(0), b - b.mean(0)
    norms = torch.linalg.matrix_norm(a.T @ a) * torch.linalg.matrix_norm(b.T @ b)
    return float((a.T @ b).square().sum() / norms) if norms > 0 else np.nan


class Discrepancy:
    """Maximum mean discrepancy to some activations `[trial, pos, d_model]`, averaged over tokens.

    The kernel width is the median distance of these activations. The estimate is unbiased: its mean is 0 for samples of
    the same distribution, however few there are.
    """

    def __init__(self, activations: Float[Tensor, "trial pos d_model"]) -> None:
        self.rows = _some(activations.mean(1))
        pairs = _squared_distances(self.rows, self.rows)[tuple(torch.triu_indices(len(self.rows), len(self.rows), 1))]
        self.width = pairs[pairs > 0].median() if (pairs > 0).any() else torch.ones((), dtype=pairs.dtype)
        self.own = self._likeness(self.rows, self.rows, itself=True)

    def __call__(self, others: Float[Tensor, "trial pos d_model"], same_trials: bool) -> float:
        """Compute the discrepancy to other activations; 0 if the estimate of its square is negative."""
        rows = _some(others.mean(1))
        other, between = self._likeness(rows, rows, itself=True), self._likeness(self.rows, rows, same_trials)
        return float((self.own + other - 2 * between).clamp(min=0).sqrt())

    def _likeness(self, a: Float[Tensor, "n d_model"], b: Float[Tensor, "m d_model"], itself: bool = False) -> Tensor:
        """Compute the mean of the kernel; `itself` leaves out the pairs of a trial with itself."""
        kernel = torch.exp(-_squared_distances(a, b) / self.width)
        return kernel.mean() if not itself else (kernel.sum() - kernel.trace()) / max(len(a) * (len(a) - 1), 1)


def _squared_distances(a: Float[Tensor, "n d_model"], b: Float[Tensor, "m d_model"]) -> Float[Tensor, "n m"]:
    return (a.square().sum(1)[:, None] + b.square().sum(1) - 2 * a @ b.T).clamp(min=0)


def _some(rows: Float[Tensor, "trial d_model"]) -> Float[Tensor, "some d_model"]:
    return rows[_evenly(len(rows), MOST_COMPARED)]


def _evenly(n: int, most: int) -> Int[Tensor, " some"]:
    return torch.linspace(0, n - 1, min(n, most)).long()
