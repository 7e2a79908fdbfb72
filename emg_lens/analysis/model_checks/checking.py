"""`check_model`: all checks of a model, one line each."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor, nn

from emg_lens.analysis.model_checks import causality, edge_masks, inert_parts, parameters_in_training, repeated_runs
from emg_lens.analysis.model_checks.check_report import CheckReport, Finding, judged, not_applicable
from emg_lens.analysis.model_checks.probed_model import Loss, ProbedModel, unchanged
from emg_lens.data.windowing import OutputSteps
from emg_lens.errors import printable
from emg_lens.lens.model_outputs import OutputError, OutputFunction
from emg_lens.lens.signals import SignalModel
from emg_lens.registry import Registry
from emg_lens.validation import ArgumentError, checked


@dataclass(frozen=True)
class ModelCheck:
    """A check of a model.

    Attributes:
        run: Function of a `ProbedModel` that returns what it found. The model is restored afterwards.
        needs_finite: Whether it compares outputs, which must be finite for that.
    """

    run: Callable[[ProbedModel], Finding]
    needs_finite: bool = True


MODEL_CHECKS: Registry[ModelCheck] = Registry("model check", "emg_lens.model_checks", ModelCheck)
for _name, _check in {
    "finite": ModelCheck(repeated_runs.finite, needs_finite=False),
    "repeatable": ModelCheck(repeated_runs.repeatable),
    "input matters": ModelCheck(repeated_runs.input_matters),
    "batch size": ModelCheck(repeated_runs.batch_size),
    "trial order": ModelCheck(repeated_runs.trial_order),
    "call order": ModelCheck(repeated_runs.call_order),
    "causal": ModelCheck(causality.blind_to_the_future),
    "inert input": ModelCheck(inert_parts.inert_input),
    "inert tokens": ModelCheck(inert_parts.inert_tokens),
    "trained parameters": ModelCheck(parameters_in_training.trained_parameters, needs_finite=False),
    "masked edges": ModelCheck(edge_masks.masked_edges, needs_finite=False),
    "empty rows": ModelCheck(edge_masks.empty_rows, needs_finite=False),
}.items():
    MODEL_CHECKS.add(_name, _check)


@checked
def check_model(
    model: nn.Module,
    x: Tensor | np.ndarray,
    y: Any = None,
    *,
    loss: Loss | None = None,
    causal: bool | None = None,
    steps: OutputSteps | None = None,
    time_axis: int = -1,
    step_axis: int | None = None,
    masked: Bool[Tensor, "..."] | None = None,
    checks: Sequence[str] | None = None,
    output: OutputFunction | None = None,
) -> CheckReport:
    """Check a model for faults that change results without an error, before a study (docs/model-checks.md).

    Works for our models, models of TransformerLens, and any torch module that takes one tensor and returns a tensor of
    floats (or several; `logits` count, or the first one). The model is not changed.

    Args:
        model: The model.
        x: A few trials `[batch, ...]` as the model takes them; four are enough.
        y: Targets of the loss; default: a sum of the outputs with random weights is differentiated.
        loss: Function of outputs and `y`; default: cross-entropy for whole numbers, mean squared error for floats.
        causal: Whether outputs may not depend on later input; default: only our models with `attention_dir="causal"`
            and recurrent models claim it.
        steps: Samples of the output steps (`OutputSteps`); default: as in docs/model-checks.md §1.
        time_axis: Axis of time in `x`.
        step_axis: Axis of steps in the outputs; default: 1 in outputs `[batch, step, ...]` of three axes or more.
        masked: Edges that are masked on purpose, `[dest, src]`, `[head, dest, src]` or `[layer, head, dest, src]`, as
            from `EdgeSet.mask`. Edges that our models declare (`masked_edges`, a causal mask) need not be given.
        checks: Names of checks (`MODEL_CHECKS`); default: all.
        output: Function of what the model returns that makes the tensor `[batch, ...]` to check, as for `sweep`.

    Returns:
        A report with `.passed`, `.failed` and `.table`; printed, it has one line for each check. A difference counts as
        rounding up to 100 units in the last place of the largest output (1.2e-5 of it in float32).

    Raises:
        ArgumentError: The model does not run on `x`, or `y` does not fit its outputs.
        UnknownNameError: An unknown check.

    Example:
        >>> import torch
        >>> from emg_lens.analysis import check_model
        >>> class MeanOfBatch(torch.nn.Linear):
        ...     def forward(self, x):  # normalises over trials instead of channels
        ...         return super().forward(x.flatten(1) - x.flatten(1).mean(0))
        >>> report = check_model(MeanOfBatch(8, 2), torch.randn(4, 2, 4))
        >>> report.passed, report.failed
        (False, ['batch size'])
    """
    x = torch.as_tensor(x)
    if x.ndim < 2 or not len(x):
        raise ArgumentError(f"x has shape {list(x.shape)}; expected at least one trial: [batch, ...]")
    _check_axis("time_axis", time_axis, x)
    # Bridges of TransformerLens say "causal" also for models that are not, so only our models are believed.
    default = "causal" if hasattr(model, "stream") else "bidirectional"
    own = isinstance(model, SignalModel) and getattr(model.cfg, "attention_dir", default) == "causal"
    claimed = own if causal is None else causal
    probed = ProbedModel(model, x, y, loss, claimed, steps, time_axis, step_axis, masked, output)
    kind = type(model).__name__
    try:
        with unchanged(model):
            finite = bool(probed.baseline.isfinite().all())
    except OutputError:
        raise
    except Exception as error:
        raise ArgumentError(f"{kind} does not run on x of shape {list(x.shape)}: {error}") from error
    if step_axis is not None:
        _check_axis("step_axis", step_axis, probed.baseline)
    if y is not None:
        probed.objective(probed.baseline)  # refuses targets that do not fit
    chosen = {name: MODEL_CHECKS[name] for name in (MODEL_CHECKS.names() if checks is None else checks)}
    findings = {name: _found(check, probed, finite) for name, check in chosen.items()}
    return CheckReport(f"{kind}, x {list(x.shape)}", findings)


def _check_axis(name: str, axis: int, tensor: Tensor) -> None:
    if not -tensor.ndim <= axis < tensor.ndim or axis % tensor.ndim == 0:
        raise ArgumentError(
            f"{name}={axis} for a tensor of shape {list(tensor.shape)}; expected 1 to {tensor.ndim - 1}, or negative"
        )


def _found(check: ModelCheck, probed: ProbedModel, finite: bool) -> Finding:
    if check.needs_finite and not finite:
        return not_applicable("the outputs are not finite")
    try:
        with unchanged(probed.model):
            return check.run(probed)
    except Exception as error:  # noqa: BLE001 - a model that does not run on other trials
        return judged(False, np.nan, f"the model raises {type(error).__name__}: {printable(str(error))}")
