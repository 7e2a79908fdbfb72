"""The model under check: how it runs, what its outputs are, and which differences are rounding."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from emg_lens.data.windowing import OutputSteps
from emg_lens.hooks.evaluation import evaluating
from emg_lens.lens.model_outputs import OutputFunction, logits_in, output_tensor
from emg_lens.validation import ArgumentError, short

ULPS = 100
"""Differences up to this many units in the last place of the largest output count as rounding: 1.2e-5 of it in float32.
Another batch size or order changes the order of additions. docs/model-checks.md §2 has the measured effect: up to 7
units."""
MOST_ROUNDING = 0.05
"""The same limit for dtypes of lower precision, as a fraction of the largest output: 100 units would be more."""

SEED = 7_346_201_905
"""Not a seed that example inputs are made with: the noise would be that input."""

IGNORED = -100
"""A class that cross-entropy ignores, as in torch."""

Loss = Callable[[Tensor, Any], Tensor]


def outputs_of(returned: Any) -> Tensor:
    """Return the outputs of a model: its tensor or logits, or the first tensor of floats in what it returned."""
    if (logits := logits_in(returned)) is not None and logits.is_floating_point():
        return logits
    leaves = [leaf for leaf in tree_leaves(returned) if isinstance(leaf, Tensor) and leaf.is_floating_point()]
    if not leaves:
        raise ArgumentError(
            f"the model returns {type(returned).__name__}; expected a tensor of floats, or one inside,"
            " or a function of it that makes one: output="
        )
    return leaves[0]


@dataclass(eq=False)
class ProbedModel:
    """A model, its input, and what is known about both. Checks read these fields and run the model with `run`.

    Attributes:
        model: The model. It runs in evaluation mode.
        x: Its input `[batch, ...]`.
        y: Targets of the loss, or None.
        loss: Function of outputs and `y`, or None for the usual one.
        causal: Whether causality is claimed.
        steps: Samples of the output steps, or None for those that the model declares.
        time_axis: Axis of time in `x`.
        step_axis: Axis of steps in the outputs; None = axis 1 of three or more.
        masked: Edges that are masked on purpose, `[..., dest, src]`, or None.
        output: Function that makes the outputs from what the model returns; None = `outputs_of`.
    """

    model: nn.Module
    x: Tensor
    y: Any = None
    loss: Loss | None = None
    causal: bool = False
    steps: OutputSteps | None = None
    time_axis: int = -1
    step_axis: int | None = None
    masked: Bool[Tensor, "..."] | None = None
    output: OutputFunction | None = None

    @cached_property
    def baseline(self) -> Tensor:
        """The outputs for `x`."""
        return self.run(self.x)

    @property
    def fresh_x(self) -> Tensor:
        """A copy of `x` for one forward: a model may change its input in place."""
        return self.x.clone()

    @property
    def steps_axis(self) -> int | None:
        """Axis of steps in the outputs; None if there is one output per trial."""
        if self.step_axis is not None:
            return self.step_axis
        return 1 if self.baseline.ndim > 2 else None

    @cached_property
    def tolerance(self) -> float:
        """The largest difference that counts as rounding, as a fraction of the largest output."""
        return min(ULPS * torch.finfo(self.baseline.dtype).eps, MOST_ROUNDING)

    def outputs_of(self, returned: Any) -> Tensor:
        """Return the outputs in what the model returned."""
        if self.output is None:
            return outputs_of(returned)
        return output_tensor(self.model, returned, self.output, None)

    def run(self, x: Tensor) -> Tensor:
        """Run the model in evaluation mode, without gradients."""
        cudnn = torch.backends.cudnn
        with evaluating(self.model), torch.no_grad(), cudnn.flags(enabled=cudnn.enabled, allow_tf32=False):
            return self.outputs_of(self.model(x.clone())).clone()

    def change(self, outputs: Tensor, expected: Tensor | None = None) -> float:
        """Return max |Δ| between outputs and the baseline (or `expected`), divided by the largest |output|.

        Outputs of another shape, and NaN, are a change of NaN.
        """
        expected = self.baseline if expected is None else expected
        if outputs.shape != expected.shape:
            return float("nan")
        return float((outputs - expected).abs().amax() / self.largest)

    @cached_property
    def largest(self) -> float:
        """The largest |output|; 1 if all are zero."""
        return float(self.baseline.abs().amax()) or 1.0

    def is_rounding(self, change: float) -> bool:
        """Return whether a change can be rounding; NaN cannot."""
        return change <= self.tolerance

    @cached_property
    def noise(self) -> Tensor:
        """Other input: noise with the scale of `x`, or values of `x` in random order if they are whole numbers."""
        generator = torch.Generator().manual_seed(SEED)
        if self.x.is_floating_point():
            scale = self.x.float().std(correction=0).nan_to_num().cpu() or 1.0
            return (torch.randn(self.x.shape, generator=generator) * scale).to(self.x)
        values = self.x.flatten()
        order = torch.randint(len(values), self.x.shape, generator=generator).to(self.x.device)
        return values[order]

    def replaced(self, where: Bool[Tensor, "..."]) -> Tensor:
        """Return `x` with `noise` where this mask (which is expanded to the shape of `x`) is True."""
        return torch.where(where.to(self.x.device), self.noise, self.x)

    def along_time(self, values: Tensor) -> Tensor:
        """Reshape one value for each sample so that it is expanded along the time axis of `x`."""
        shape = [1] * self.x.ndim
        shape[self.time_axis] = -1
        return values.reshape(shape)

    def weighted_sum(self, outputs: Tensor) -> Float[Tensor, ""]:
        """Sum all outputs with random weights, so that the gradients of two outputs do not cancel."""
        generator = torch.Generator().manual_seed(SEED)
        return (outputs * torch.randn(outputs.shape, generator=generator).to(outputs)).sum()

    def objective(self, outputs: Tensor) -> Float[Tensor, ""]:
        """Compute the loss; without targets, a sum of all outputs with random weights."""
        if self.y is None:
            return self.weighted_sum(outputs)
        if self.loss is not None:
            return self.loss(outputs, self.y)
        try:
            y = torch.as_tensor(self.y, device=outputs.device)
        except (TypeError, ValueError, RuntimeError):
            raise ArgumentError(f"y={short(self.y)}; expected whole numbers or floats, one row per trial") from None
        if y.shape == outputs.shape and y.is_floating_point():
            return F.mse_loss(outputs, y.to(outputs.dtype))
        if y.shape == outputs.shape[:-1] and not y.is_floating_point():
            n_classes, classes = outputs.shape[-1], y[y != IGNORED]
            if bool(((classes < 0) | (classes >= n_classes)).any()):
                raise ArgumentError(
                    f"y has classes from {int(classes.min())} to {int(classes.max())}, and the model {n_classes}"
                    f" outputs; expected classes from 0 to {n_classes - 1}, or {IGNORED} for no class"
                )
            return F.cross_entropy(outputs.flatten(0, -2), y.flatten().long(), ignore_index=IGNORED)
        raise ArgumentError(
            f"y has shape {list(y.shape)} ({y.dtype}) for outputs of shape {list(outputs.shape)}; expected classes"
            f" {list(outputs.shape[:-1])} of whole numbers, values {list(outputs.shape)} of floats, or loss="
        )

    def training_loss(self) -> Float[Tensor, ""]:
        """Compute the loss in the model's present mode, with all parts that only training uses."""
        options: dict[str, Any] = {}
        if getattr(self.model, "auxiliary_parameters", ""):  # a second head
            options["return_type"] = "both"
        if getattr(self.config, "mask_token", False) is True:  # a vector in place of hidden tokens
            n_tokens = self.config.n_tokens
            options["masked"] = torch.arange(n_tokens, device=self.x.device).expand(len(self.x), -1) % 2 == 0
        returned = self.model(self.fresh_x, **options)
        heads = returned if "return_type" in options else (self.outputs_of(returned),)
        return torch.stack([self.objective(outputs) for outputs in heads]).sum()

    @property
    def config(self) -> Any:
        """The configuration of the model, or None."""
        return getattr(self.model, "cfg", None)

    @property
    def step_grid(self) -> tuple[int, int] | None:
        """Last sample that the first output step reads, and samples from one step to the next; None if not known.

        It is that of the given `steps`, or what our models declare as steps or patches.
        """
        if self.steps is not None:
            return self.steps.first, self.steps.every
        grid, length = getattr(self.config, "step_grid", None), getattr(self.config, "patch_samples", None)
        return (length - 1, length) if grid is None and length else grid

    @property
    def hook_points(self) -> Mapping[str, Any]:
        """The hook points of a TransformerLens model, by name."""
        return getattr(self.model, "hook_dict", {})


@contextmanager
def unchanged(model: nn.Module) -> Iterator[None]:
    """Restore parameters, gradients, buffers, modes and random numbers of a model on exit."""
    tensors = [*model.parameters(), *model.buffers()]
    with torch.no_grad():
        kept = [(one, one.detach().clone(), one.grad if one.is_leaf else None) for one in tensors]
    modes = [(part, part.training) for part in model.modules()]
    places = [
        (part, name, value)
        for part in model.modules()
        for name, value in [*part._buffers.items(), *part._parameters.items()]
    ]
    for parameter in model.parameters():
        parameter.grad = None
    try:
        with torch.random.fork_rng(devices={one.device for one in tensors if one.is_cuda}):
            yield
    finally:
        with torch.no_grad():
            for part, name, value in places:  # a forward may put another tensor there
                if getattr(part, name, None) is not value:
                    setattr(part, name, value)
            for tensor, values, gradient in kept:
                if not tensor.is_leaf:  # a buffer that a forward with gradients computed
                    tensor.detach_()
                if not torch.equal(tensor, values):  # copying into an expanded buffer is an error
                    tensor.copy_(values)
                tensor.grad = gradient
        for part, training in modes:
            part.training = training
