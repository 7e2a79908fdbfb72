"""A first run of a model on two trials, so that what does not fit is refused before many conditions run."""

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor, nn

from emg_lens.errors import EmgLensError
from emg_lens.hooks import EdgeError
from emg_lens.hooks.evaluation import evaluating
from emg_lens.hooks.hook_points import PATTERN, attention_paths, class_name, recording
from emg_lens.hooks.model_inputs import reason_of_failure
from emg_lens.layout import TokenLayout
from emg_lens.lens.model_outputs import OutputError, OutputFunction, output_tensor
from emg_lens.models.encoder import HookedBiosignalEncoder
from emg_lens.sweeps.result import check_labels
from emg_lens.sweeps.settings import SweepInputError, device_of

FEW = 2
"""Trials of the first run: with one trial, outputs `[class, trial]` could look like `[trial, class]`."""


def try_model(
    model: nn.Module,
    x: Tensor,
    layout: TokenLayout,
    output: OutputFunction | None,
    labels: Int[np.ndarray, " trial"] | None = None,
    attends: bool = True,
) -> None:
    """Run a model on two trials, and refuse trials, labels and layouts that do not fit it.

    Args:
        model: The model. One of our encoders is only run to check labels.
        x: Input `[trial, ...]`.
        layout: Meaning of the positions.
        output: Function that makes the output tensor, as for `sweep`.
        labels: Class index of each trial `[trial]`, if accuracies are computed.
        attends: Whether the positions and heads of the attention are compared with the layout.

    Raises:
        SweepInputError: The model fails on these trials.
        OutputError: The model returns no tensor with one row per trial.
        EdgeError: The layout has another number of positions, or the number of heads was changed after `adapt`.
        ArgumentError: Labels that do not fit the outputs.
    """
    declared = isinstance(model, HookedBiosignalEncoder)
    if declared and labels is None:
        return
    few = x[:FEW].to(device_of(model))
    names = [f"{path}.{PATTERN}" for path in attention_paths(model).values()] if attends and not declared else []
    with evaluating(model), torch.no_grad(), recording(model, names) as patterns:
        try:
            returned = model(few)
        except EmgLensError:
            raise
        except Exception as error:
            raise failure(model, few, error) from error
    n_positions, n_heads = len(layout), getattr(model.cfg, "n_heads", None)
    for name, pattern in patterns.items():
        if pattern.shape[-2] != n_positions:
            raise EdgeError(
                f"{name} has shape {list(pattern.shape)} (batch, head, dest, src), but the layout has {n_positions}"
                " positions"
            )
        if pattern.shape[1] != n_heads:
            raise EdgeError(
                f"{name} has {pattern.shape[1]} heads, but the model had {n_heads}; do not change heads after adapt, or"
                " call adapt again and use its result"
            )
    try:
        outputs = output_tensor(model, returned, output, len(few))
    except OutputError as error:
        raise OutputError(f"with {len(few)} trials, {error}") from error
    if labels is not None:
        check_labels(labels, tuple(outputs.shape))


def failure(model: nn.Module, x: Tensor, error: Exception) -> SweepInputError:
    """Return one line about a model that fails without any intervention."""
    reason = reason_of_failure(model, x, error)
    return SweepInputError(f"{class_name(model)} fails on x {list(x.shape)}, without any intervention: {reason}")
