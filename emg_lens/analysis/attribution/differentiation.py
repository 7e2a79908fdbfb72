"""Derivatives of a metric with respect to every attention weight, and forwards with edited attention weights."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from emg_lens.analysis.attribution.question import ONE_AT_A_TIME, Question
from emg_lens.hooks import DeadHookError, cut, edges_from_mask, none
from emg_lens.hooks.cuts import Hook
from emg_lens.hooks.evaluation import evaluating
from emg_lens.hooks.hook_points import PATTERN, SCORES, Place, attached_hooks, attention_paths, recording
from emg_lens.hooks.verification.probe import find_intervention_point
from emg_lens.validation import ArgumentError

Edit = Callable[[Place, Tensor, Tensor], Tensor]
"""Computes the attention weights that the model uses, from a place, its scores and its own weights."""


@dataclass(frozen=True)
class Derivatives:
    """Attention of one forward, and the gradient of the metric (summed over trials).

    Attributes:
        metric: The metric of each trial.
        scores: Attention scores of each layer.
        pattern: Attention weights of each layer, before an edit.
        gradient: Total derivative of the metric with respect to the attention weights that the model used.
    """

    metric: Float[Tensor, " trial"]
    scores: dict[Place, Float[Tensor, "trial head dest src"]]
    pattern: dict[Place, Float[Tensor, "trial head dest src"]]
    gradient: dict[Place, Float[Tensor, "trial head dest src"]]


def differentiate(
    question: Question, x: Tensor, y: Tensor, *, edit: Edit | None = None, hooks: Sequence[Hook] = ()
) -> Derivatives:
    """Run the model on some trials and differentiate the metric.

    Args:
        question: The question.
        x: Input `[trial, channel, time]`.
        y: Targets.
        edit: Function that changes the attention weights.
        hooks: Further hooks of this forward.
    """
    paths = checked_paths(question)
    scores, patterns, taps = {}, {}, {}

    def keep_scores(place: Place) -> Callable[..., None]:
        def keep(tensor: Tensor, hook: Any) -> None:  # noqa: ARG001
            scores[place] = tensor

        return keep

    def use_pattern(place: Place) -> Callable[..., Tensor]:
        def use(tensor: Tensor, hook: Any) -> Tensor:  # noqa: ARG001
            patterns[place] = tensor
            used = tensor if edit is None else edit(place, scores[place], tensor)
            taps[place] = torch.zeros_like(used, requires_grad=True)
            return used + taps[place]

        return use

    own = [] if question.closed is None else cut(question.model, edges_from_mask(question.closed), question.layout)
    own += [(f"{path}.{SCORES}", keep_scores(place)) for place, path in paths.items()]
    own += [(f"{path}.{PATTERN}", use_pattern(place)) for place, path in paths.items()]
    model: Any = question.model
    with ONE_AT_A_TIME, evaluating(model), frozen(model), torch.inference_mode(False), torch.enable_grad():
        with attached_hooks(model, [*hooks, *own]):
            metric = question.metric_of(question.outputs(x), y)
        if not metric.requires_grad:
            raise ArgumentError(
                "the metric has no gradient with respect to attention weights; use a metric of torch operations such as"
                " 'margin', or a method that only cuts edges (cut, contexts, shapley)"
            )
        gradients = torch.autograd.grad(metric.sum(), list(taps.values()), allow_unused=True)
    question.passes.forward += len(x)
    question.passes.backward += len(x)
    gradient = {
        place: torch.zeros_like(tap) if one is None else one
        for (place, tap), one in zip(taps.items(), gradients, strict=True)
    }
    return Derivatives(metric.detach(), _detached(scores), _detached(patterns), gradient)


def _detached(values: dict[Place, Tensor]) -> dict[Place, Tensor]:
    return {place: one.detach() for place, one in values.items()}


def record(question: Question, x: Tensor, names: Sequence[str] = ()) -> dict[str, Tensor]:
    """Run the model on some trials and return its attention patterns and other activations, by hook name."""
    paths = checked_paths(question)
    wanted = [f"{path}.{name}" for path in paths.values() for name in (PATTERN, *names)]
    model = question.model
    hooks = cut(model, none() if question.closed is None else edges_from_mask(question.closed), question.layout)
    with (
        ONE_AT_A_TIME,
        evaluating(model),
        torch.no_grad(),
        attached_hooks(model, hooks),
        recording(model, wanted) as kept,
    ):
        model(x)
    question.passes.forward += len(x)
    return kept


def checked_paths(question: Question) -> dict[Place, str]:
    """Return the path of the attention in every layer, after a check that hooks on the scores have an effect.

    Checked are the layers that have candidates. The others are returned too, because attention passes through them.
    """
    scored = [place for place, mask in question.split(question.candidates).items() if mask.any()]
    point = find_intervention_point(question.model, question.layout, question.x[:1], layers=scored, hooks_only=True)
    plain = all(facts.plain_softmax for facts in point.facts.values())
    if point.name != "scores" or not plain:
        reason = "hook_attn_scores has no effect" if plain else "its attention is not a plain softmax of the scores"
        raise DeadHookError(
            f"{type(question.model).__name__} has no attention weights with gradients: {reason}. Use the methods that"
            " only cut edges (cut, contexts, shapley), or the model without its bridge: adapt(model)"
        )
    return attention_paths(question.model)


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Switch the gradients of all parameters off, because only attention weights are differentiated."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
