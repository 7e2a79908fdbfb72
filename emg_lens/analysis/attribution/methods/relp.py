"""Layer-wise relevance coefficients in place of gradients (RelP: arXiv 2508.21258)."""

import re
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from emg_lens.analysis.attribution.differentiation import checked_paths, differentiate, frozen
from emg_lens.analysis.attribution.method import METHODS, AttributionMethod
from emg_lens.analysis.attribution.methods.first_order import predicted_drops
from emg_lens.analysis.attribution.question import Question
from emg_lens.hooks import DeadHookError
from emg_lens.hooks.cuts import Hook
from emg_lens.hooks.evaluation import evaluating
from emg_lens.hooks.hook_points import attached_hooks

IN_A_BLOCK = ("ln1.hook_scale", "ln2.hook_scale", "mlp.hook_pre", "mlp.hook_post")


class RelevancePatching(AttributionMethod):
    """Predict the drop of a cut from the coefficients of a linear model that equals the encoder on this trial.

    Three parts of the encoder are held constant in the backward pass: the scale of every LayerNorm, the ratio of output
    to input of every activation function, and the attention weights. The drop is then predicted as in `FirstOrder`.
    """

    quantity = "predicted drop of the {}"
    cannot_see = (
        "It cannot see an edge that works by changing later attention weights or by switching a neuron, because both"
        " are held constant, and it cannot see that another route can replace an edge."
    )

    def scores(self, question: Question) -> Float[Tensor, "trial group"]:
        """Compute the predicted drop of every group."""
        drops = []
        for x, y in question.batches():
            derivatives = differentiate(question, x, y, edit=constant_attention, hooks=linear_hooks(question))
            drops.append(predicted_drops(question, derivatives))
        return torch.cat(drops)


def constant_attention(place: Any, scores: Tensor, pattern: Tensor) -> Tensor:  # noqa: ARG001
    """Hold the attention weights constant."""
    return pattern.detach()


def linear_hooks(question: Question) -> list[Hook]:
    """Make hooks that hold the scales of LayerNorms and the ratios of activation functions constant."""
    names: Any = question.model.hook_dict
    blocks = [path.rpartition(".")[0] for path in checked_paths(question).values()]
    missing = [f"{block}.{name}" for block in blocks for name in IN_A_BLOCK if f"{block}.{name}" not in names]
    if missing:
        raise DeadHookError(
            f"{type(question.model).__name__} has no {', '.join(missing[:4])}, so relp does not know its linear parts;"
            " use a method that only needs attention weights, for example first_order"
        )
    if gated := [name for name in names if name.endswith("mlp.hook_pre_linear")]:
        raise DeadHookError(f"{gated[0]} belongs to an MLP with gates, for which relp has no rule; use first_order")
    scales = [name for name in names if name.endswith(".hook_scale")]
    mlps = [match[1] for name in names if (match := re.fullmatch(r"(.+\.mlp)\.hook_pre", name))]
    if dead := without_effect(
        question, [*scales, *(f"{mlp}.{name}" for mlp in mlps for name in ("hook_pre", "hook_post"))]
    ):
        raise DeadHookError(f"{dead[0]} has no effect on {type(question.model).__name__}; use first_order")
    hooks: list[Hook] = [(name, _constant) for name in scales]
    for mlp in mlps:
        ratio = _ConstantRatio()
        hooks += [(f"{mlp}.hook_pre", ratio.before), (f"{mlp}.hook_post", ratio.after)]
    return hooks


def without_effect(question: Question, names: Sequence[str]) -> list[str]:
    """Return the hook points whose values the metric of the first trial does not depend on."""
    taps: dict[str, Tensor] = {}

    def add_zero(tensor: Tensor, hook: Any) -> Tensor:
        taps[hook.name] = torch.zeros_like(tensor, requires_grad=True)
        return tensor + taps[hook.name]

    model: Any = question.model
    with evaluating(model), frozen(model), torch.inference_mode(False), torch.enable_grad():
        with attached_hooks(model, [(name, add_zero) for name in names]):
            metric = question.metric_of(question.outputs(question.x[:1]), question.y[:1])
        gradients = torch.autograd.grad(metric.sum(), list(taps.values()), allow_unused=True)
    live = {name for name, gradient in zip(taps, gradients, strict=True) if gradient is not None}
    return [name for name in names if name not in live]


def _constant(tensor: Tensor, hook: Any) -> Tensor:  # noqa: ARG001
    return tensor.detach()


class _ConstantRatio:
    """Keep the value of an activation function, with the derivative output / input."""

    before_activation: Tensor

    def before(self, tensor: Tensor, hook: Any) -> None:  # noqa: ARG002
        self.before_activation = tensor

    def after(self, tensor: Tensor, hook: Any) -> Tensor:  # noqa: ARG002
        pre, post = self.before_activation, tensor.detach()
        ratio = torch.where(pre.detach() == 0, 0.0, post / pre.detach())
        return post + ratio * (pre - pre.detach())


METHODS.add("relp", RelevancePatching())
