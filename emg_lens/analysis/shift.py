"""How far a condition moves the residual stream from where the unmasked model has it, layer by layer.

A cut that pushes activations far outside of what the model met in training may cost something for that reason alone
(docs/controls.md §8).
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
from emg_lens.hooks.anatomy import resolve_layout
from emg_lens.layout import Stage, TokenLayout
from emg_lens.sweeps.conditions import Condition, with_baseline
from emg_lens.sweeps.settings import check_inputs
from emg_lens.validation import checked

TRIALS_A_FORWARD = 128
MOST_RUN = 1024
"""Trials that activations are compared for; of more, evenly spread ones. All of their tokens' are in memory at once."""
MOST_COMPARED = 512
"""Trials whose pairwise distances a maximum mean discrepancy is made of; of more, evenly spread ones."""

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
    """Compare the residual stream after every block under each condition with that of the unmasked model.

    Args:
        model: A TransformerLens model with `blocks.<layer>.hook_resid_post`, or a post-norm encoder with
            `hook_normalized_resid_post`; run in eval mode and left as it was.
        x: Input `[trial, channel, time]`, as for `sweep`. Of more than 1024 trials, so many evenly spread ones.
        conditions: What is done to it.
        reference: Trials that the model was trained on, treated as `x`: how far `x` itself lies from them is the scale
            of `mmd`. Replaced values come from them too.
        layout: What the positions stand for; default `model.layout`.

    Returns:
        One row a condition, layer and group of tokens (`tokens`: CLS, each modality):

        * `cosine`: between masked and unmasked activations, mean over tokens and trials.
        * `cka`: linear centred kernel alignment of the two, over trials, of activations averaged over the tokens
          (Kornblith et al. 2019): 1 = the same up to rotation and scale. NaN where one of them is constant.
        * `mmd`: maximum mean discrepancy of the two (Gretton et al. 2012, unbiased), Gaussian kernel with the median
          distance of unmasked activations as its width: 0 = the same distribution.
        * `mmd_of_trials`: that between unmasked activations for `x` and for `reference`; NaN without one.

    Raises:
        SweepInputError: No trials, or values that are not finite.
        EdgeError: A model without these hook points, a layout of another size, or conditions that share a name.
    """
    check_inputs(x, reference)
    with_baseline(conditions)
    layout = resolve_layout(model, layout)
    was_training = model.training
    model.eval()
    x = x[_evenly(len(x), MOST_RUN)]
    try:
        with torch.inference_mode():
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
    finally:
        model.train(was_training)
    return pd.DataFrame(rows, columns=[*COLUMNS])


def _residuals(
    model: nn.Module,
    x: Tensor,
    condition: Condition | None,
    layout: TokenLayout,
    reference: Tensor | None,
) -> Groups:
    """Activations after every block, by layer and group of tokens."""
    points = _stream_points(model, layout)
    changes = () if condition is None else condition.interventions
    whole = any(one.needs_all_trials for one in changes)
    contexts = [one.applied(model, layout, reference) for one in changes]
    parts: dict[str, list[Tensor]] = {name: [] for name in points}

    def keep(activation: Tensor, hook: Any) -> None:
        if activation.ndim != 3 or activation.shape[1] != len(points[hook.name][1]):
            expected = len(points[hook.name][1])
            raise EdgeError(f"{hook.name} is {list(activation.shape)}; the layout has {expected} positions")
        parts[hook.name].append(activation.detach().to("cpu", copy=True))

    with ExitStack() as stack:
        for context in contexts:
            stack.enter_context(context)
        # Inside the others, and called itself: what changes the input hangs on the call.
        stack.enter_context(model.hooks(fwd_hooks=[(name, keep) for name in points]))  # pyright: ignore
        n_at_once = max(len(x), 1) if whole else TRIALS_A_FORWARD
        for some in x.split(n_at_once):
            model(some)
    index, groups = torch.tensor(group_index(layout)), defaultdict(list)
    for name, (layer, positions) in points.items():
        own, found = index[positions.start : positions.stop], torch.cat(parts.pop(name))
        for k, group in enumerate(group_names(layout)):
            if (own == k).any():
                groups[layer, group].append(found[:, own == k])
    return {key: torch.cat(found, dim=1) for key, found in sorted(groups.items(), key=lambda item: item[0][0])}


def _stream_points(model: nn.Module, layout: TokenLayout) -> dict[str, tuple[int, range]]:
    """Hook point behind every block: its layer, and the positions it holds.

    Raises:
        EdgeError: The model has no such points.
    """
    cfg: Any = getattr(model, "cfg", None)
    point = "hook_normalized_resid_post" if getattr(cfg, "norm", None) == "post" else "hook_resid_post"
    stages = layout.stages or (Stage("", range(getattr(cfg, "n_layers", 0)), range(len(layout))),)
    points = {
        f"{f'stages.{stage.name}.' * bool(stage.name)}blocks.{k}.{point}": (layer, stage.positions)
        for stage in stages
        for k, layer in enumerate(stage.layers)
    }
    there = {path for path, _ in model.named_modules()}
    missing = [path for path in points if path not in there]
    if missing or not points:
        name = missing[0] if missing else f"blocks.<layer>.{point}"
        raise EdgeError(f"{type(model).__name__} shows no residual stream: it has no hook point {name}")
    return points


def _distances(clean: Tensor, masked: Tensor, to_clean: "Discrepancy") -> dict[str, float]:
    clean, masked = clean.double(), masked.double()
    cosine = torch.nn.functional.cosine_similarity(clean, masked, dim=-1).mean()
    return {
        "cosine": float(cosine),
        "cka": _cka(clean.mean(1), masked.mean(1)),
        "mmd": to_clean(masked, same_trials=True),
    }


def _cka(a: Float[Tensor, "trial d_model"], b: Float[Tensor, "trial d_model"]) -> float:
    a, b = a - a.mean(0), b - b.mean(0)
    norms = torch.linalg.matrix_norm(a.T @ a) * torch.linalg.matrix_norm(b.T @ b)
    return float((a.T @ b).square().sum() / norms) if norms > 0 else np.nan


class Discrepancy:
    """Maximum mean discrepancy to some activations `[trial, pos, d_model]`, averaged over tokens; in their width.

    The unbiased estimate: nothing in the mean where both are of one distribution, however few trials there are.
    """

    def __init__(self, activations: Float[Tensor, "trial pos d_model"]) -> None:
        self.rows = _some(activations.mean(1))
        pairs = _squared_distances(self.rows, self.rows)[tuple(torch.triu_indices(len(self.rows), len(self.rows), 1))]
        self.width = pairs[pairs > 0].median() if (pairs > 0).any() else torch.ones((), dtype=pairs.dtype)
        self.own = self._likeness(self.rows, self.rows, itself=True)

    def __call__(self, others: Float[Tensor, "trial pos d_model"], same_trials: bool) -> float:
        """To these, of the same trials or of others; 0 where the estimate of the square is negative."""
        rows = _some(others.mean(1))
        theirs, between = self._likeness(rows, rows, itself=True), self._likeness(self.rows, rows, same_trials)
        return float((self.own + theirs - 2 * between).clamp(min=0).sqrt())

    def _likeness(self, a: Float[Tensor, "n d_model"], b: Float[Tensor, "m d_model"], itself: bool = False) -> Tensor:
        """Mean of the kernel; of the same trials, without each one's with itself."""
        kernel = torch.exp(-_squared_distances(a, b) / self.width)
        return kernel.mean() if not itself else (kernel.sum() - kernel.trace()) / max(len(a) * (len(a) - 1), 1)


def _squared_distances(a: Float[Tensor, "n d_model"], b: Float[Tensor, "m d_model"]) -> Float[Tensor, "n m"]:
    return (a.square().sum(1)[:, None] + b.square().sum(1) - 2 * a @ b.T).clamp(min=0)


def _some(rows: Float[Tensor, "trial d_model"]) -> Float[Tensor, "some d_model"]:
    return rows[_evenly(len(rows), MOST_COMPARED)]


def _evenly(n: int, most: int) -> Int[Tensor, " some"]:
    return torch.linspace(0, n - 1, min(n, most)).long()
