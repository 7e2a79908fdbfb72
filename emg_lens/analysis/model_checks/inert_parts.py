"""Checks for parts of the input that do not reach any output."""

from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from emg_lens.analysis.model_checks.check_report import Finding, judged, not_applicable
from emg_lens.analysis.model_checks.probed_model import ProbedModel
from emg_lens.hooks.evaluation import evaluating
from emg_lens.hooks.hook_points import attached_hooks

EMBEDDED = "hook_embed"
"""The hook point of the tokens that enter the first block."""
MOST_PARTS = 256
"""Parts of an axis that are changed one by one, evenly spaced, if gradients say nothing about them."""


def inert_input(probed: ProbedModel) -> Finding:
    """Does every channel and every sample of the input reach an output?"""
    x, time = probed.x, probed.time_axis % probed.x.ndim
    axes = [axis for axis in range(1, x.ndim) if axis == time or x.ndim == 3]
    if not axes:
        return not_applicable(f"x of shape {list(x.shape)} has no axis of time")
    suspects = _without_gradient(probed)
    dead: dict[int, list[int]] = {}
    for axis in axes:
        others = [other for other in range(x.ndim) if other != axis]
        silent = suspects.all(dim=others).nonzero().flatten().tolist()
        dead[axis] = _confirmed(probed, axis, silent)
    n_samples = x.shape[time]
    tail = _tail(dead[time], n_samples, _samples_per_step(probed, n_samples))
    dead[time] = dead[time][: len(dead[time]) - tail]
    number = sum(map(len, dead.values()))
    unused = f"; the last {tail} of {n_samples} samples are less than one step and are not read" if tail else ""
    if not number:
        return judged(True, 0, f"every part reaches an output{unused}")
    words = [
        f"{len(parts)} of {x.shape[axis]} {'samples' if axis == time else 'channels'} ({_listed(parts)})"
        for axis, parts in dead.items()
        if parts
    ]
    return judged(False, number, f"no output changes with {' and '.join(words)}{unused}")


def inert_tokens(probed: ProbedModel) -> Finding:
    """Does every token that enters the first block reach an output?"""
    if EMBEDDED not in probed.hook_points:
        return not_applicable(f"the model has no hook point {EMBEDDED}")
    kept: list[Tensor] = []

    def keep(tokens: Tensor, hook: Any) -> Tensor:  # noqa: ARG001
        kept.append(tokens.detach().requires_grad_())
        return kept[-1]

    with evaluating(probed.model), torch.enable_grad(), torch.backends.cudnn.flags(enabled=False):
        outputs = probed.outputs_of(_with_hook(probed, keep))
        if not kept:
            return not_applicable(f"{EMBEDDED} does not run in a forward")
        (gradient,) = torch.autograd.grad(probed.weighted_sum(outputs), kept[:1], allow_unused=True)
    tokens = kept[0].detach()
    if tokens.ndim != 3:
        return not_applicable(f"{EMBEDDED} has shape {list(tokens.shape)}; expected [batch, pos, d_model]")
    silent = torch.ones(tokens.shape[1], dtype=torch.bool)
    if gradient is not None:
        silent = (gradient == 0).all(2).all(0).cpu()
    inert = []
    for position in silent.nonzero().flatten().tolist():

        def replace(tokens: Tensor, hook: Any, position: int = position) -> Tensor:  # noqa: ARG001
            other = tokens.clone()
            other[:, position] = tokens[:, position].roll(1, -1) + tokens.std()
            return other

        with evaluating(probed.model), torch.no_grad():
            if probed.is_rounding(probed.change(probed.outputs_of(_with_hook(probed, replace)))):
                inert.append(position)
    n = tokens.shape[1]
    if not inert:
        return judged(True, 0, f"each of {n} tokens reaches an output")
    names = getattr(getattr(probed.model, "layout", None), "names", range(n))
    return judged(
        False, len(inert), f"no output changes with {len(inert)} of {n} tokens ({_listed([names[i] for i in inert])})"
    )


def _with_hook(probed: ProbedModel, hook: Any) -> Any:
    with attached_hooks(probed.model, [(EMBEDDED, hook)]):
        return probed.model(probed.fresh_x)


def _without_gradient(probed: ProbedModel) -> Bool[Tensor, "..."]:
    """Return where the gradient of all outputs is exactly zero; everywhere if the input has no gradient."""
    everywhere = torch.ones_like(probed.x, dtype=torch.bool)
    if not probed.x.is_floating_point():
        return everywhere
    x = probed.x.detach().clone().requires_grad_()
    with evaluating(probed.model), torch.enable_grad(), torch.backends.cudnn.flags(enabled=False):
        outputs = probed.outputs_of(probed.model(x.clone()))
        if not outputs.requires_grad:
            return everywhere
        (gradient,) = torch.autograd.grad(probed.weighted_sum(outputs), [x], allow_unused=True)
    return everywhere if gradient is None else gradient == 0


def _confirmed(probed: ProbedModel, axis: int, parts: list[int]) -> list[int]:
    """Return the parts along an axis whose change leaves every output as it is.

    All parts are changed together first. Only if an output moves, their halves are changed, and so on.
    """
    if not parts or _unmoved(probed, axis, parts):
        return parts
    return _confirmed_halves(probed, axis, parts[:: -(-len(parts) // MOST_PARTS)])


def _confirmed_halves(probed: ProbedModel, axis: int, parts: list[int]) -> list[int]:
    if len(parts) == 1:
        return []
    halves = parts[: len(parts) // 2], parts[len(parts) // 2 :]
    return [
        part
        for half in halves
        for part in (half if _unmoved(probed, axis, half) else _confirmed_halves(probed, axis, half))
    ]


def _unmoved(probed: ProbedModel, axis: int, parts: list[int]) -> bool:
    where = torch.zeros(probed.x.shape[axis], dtype=torch.bool)
    where[parts] = True
    shape = [1] * probed.x.ndim
    shape[axis] = -1
    change = probed.change(probed.run(probed.replaced(where.reshape(shape))))
    # Without gradients a small effect is known only from the outputs themselves.
    return probed.is_rounding(change) if probed.x.is_floating_point() else change == 0


def _samples_per_step(probed: ProbedModel, n_samples: int) -> int:
    """Return the distance of two output steps in samples; 1 without steps."""
    if probed.step_grid is not None:
        return probed.step_grid[1]
    steps = n_samples if probed.steps_axis is None else probed.baseline.shape[probed.steps_axis]
    return max(n_samples // max(steps, 1), 1)


def _tail(dead: list[int], n_samples: int, every: int) -> int:
    """Return the number of dead samples at the end, if they are less than one step; otherwise 0."""
    tail = 0
    while tail < len(dead) and dead[-1 - tail] == n_samples - 1 - tail:
        tail += 1
    return tail if tail < every else 0


def _listed(parts: list[Any], shown: int = 6) -> str:
    text = ", ".join(map(str, parts[:shown]))
    return f"{text}, ..." if len(parts) > shown else text
