"""Metrics of single trials that an attribution explains; all have gradients."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from emg_lens.validation import ArgumentError, short

INTEGERS = (torch.int64, torch.int32)
TrialMetric = Callable[[Tensor, Tensor], Float[Tensor, " trial"]]
"""Computes one number for each trial from outputs `[trial, ...]` and targets `[trial, ...]`; larger is better."""


def margin(outputs: Float[Tensor, "trial class"], y: Tensor) -> Float[Tensor, " trial"]:
    """Compute the logit of the label minus the largest other logit."""
    own = torch.nn.functional.one_hot(y.long(), outputs.shape[-1]).bool()
    return outputs[own] - outputs.masked_fill(own, -torch.inf).amax(-1)


def log_prob(outputs: Float[Tensor, "trial class"], y: Tensor) -> Float[Tensor, " trial"]:
    """Compute the log-probability of the label."""
    return outputs.log_softmax(-1).gather(-1, y[:, None].long())[:, 0]


def negative_squared_error(outputs: Float[Tensor, "trial *target"], y: Tensor) -> Float[Tensor, " trial"]:
    """Compute the negative squared error, mean over targets."""
    return -(outputs.reshape(y.shape) - y).square().reshape(len(y), -1).mean(1)


TRIAL_METRICS: dict[str, TrialMetric] = {
    "margin": margin,
    "log_prob": log_prob,
    "negative_squared_error": negative_squared_error,
}


def trial_metric(metric: str | TrialMetric) -> TrialMetric:
    """Return the metric with this name, or the function itself."""
    if callable(metric):
        return metric
    if metric not in TRIAL_METRICS:
        raise ArgumentError(f"metric={short(metric)}; expected one of {', '.join(TRIAL_METRICS)}, or a function")
    return TRIAL_METRICS[metric]


def evaluated(metric: TrialMetric, outputs: Any, y: Tensor) -> Float[Tensor, " trial"]:
    """Compute the metric, and refuse outputs or values that do not belong to the trials."""
    if not y.ndim:
        raise ArgumentError(f"y={y.item()} is a single number; expected one target per trial: [trial, ...]")
    if not isinstance(outputs, Tensor) or not outputs.ndim or len(outputs) != len(y):
        raise ArgumentError(
            f"the model returned {short(outputs)} for {len(y)} trials; expected one tensor [trial, ...]; wrap the model"
        )
    if metric in (margin, log_prob):
        is_logits, is_label = outputs.ndim == 2 and outputs.shape[1] > 1, y.ndim == 1 and y.dtype in INTEGERS
        if not is_logits or not is_label or int(y.min()) < 0 or int(y.max()) >= outputs.shape[1]:
            raise ArgumentError(
                f"outputs {list(outputs.shape)} and y {short(y)}; expected logits [trial, class] of two or more classes"
                " and a class index for each trial, or metric='negative_squared_error' for a regression"
            )
    if metric is negative_squared_error and (outputs.numel() != y.numel() or not y.is_floating_point()):
        raise ArgumentError(
            f"outputs {list(outputs.shape)} and y {short(y)}; metric='negative_squared_error' expects floats of equal"
            " shapes"
        )
    values = metric(outputs, y)
    if not isinstance(values, Tensor) or values.shape != (len(y),):
        raise ArgumentError(f"the metric returned {short(values)}; expected a tensor [{len(y)}], one number per trial")
    if not bool(values.isfinite().all()):
        raise ArgumentError("the metric is NaN or infinite for some trials; check the model's outputs and y")
    return values


def name_of_metric(metric: TrialMetric) -> str:
    """Return the name of a metric for sentences and figures."""
    return getattr(metric, "__name__", type(metric).__name__).replace("_", " ")
