"""The soft form of an edge cut: gates between 0 and 1.

A gate g multiplies the exponential of a score, so log g is added to the score. 1 leaves the edge as it is, and 0 cuts
it. The remaining edges of the row share the attention, as in a cut.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from emg_lens.hooks.algebra import EdgeError, EdgeSet
from emg_lens.hooks.cuts import Hook, edit_hook
from emg_lens.hooks.deletion import Deletion, by_place
from emg_lens.hooks.hook_points import (
    PATTERN,
    SCORES,
    DeadHookError,
    attention_paths,
    check_layers,
    count_layers,
    resolve_layout,
)
from emg_lens.hooks.model_inputs import Inputs
from emg_lens.hooks.verification.probe import find_intervention_point
from emg_lens.hooks.vmap import inside_vmap
from emg_lens.layout import TokenLayout
from emg_lens.validation import checked, short

LARGEST_EXPONENT = 80.0
"""Limit for the relative weight of a closed edge, so that its exponential stays finite in single precision."""


@checked
def gate_edges(
    model: nn.Module, gates: Tensor, layout: TokenLayout | None = None, *, inputs: Inputs | None = None
) -> list[Hook]:
    """Make hooks that multiply attention edges by gates, before the row is normalised.

    The logarithm of the gate is added to the score. A row in which every gate is 0 has a zero attention output.
    Gradients flow to the gates, also to gates that are 0.

    Args:
        model: A TransformerLens model with a working `hook_attn_scores`, or `adapt(model)`.
        gates: Numbers in [0, 1], `[layer, head, dest, src]`; the head axis may have size 1 (the same for all heads).
            1 = unchanged, 0 = cut.
        layout: The layout of the positions; default `model.layout`.
        inputs: A small input for the verification, where none can be made from the model's configuration.

    Returns:
        Hooks for `model.run_with_hooks(x, fwd_hooks=hooks)`.

    Example:
        >>> import torch
        >>> from emg_lens import IsoNet, IsoNetConfig, gate_edges
        >>> model = IsoNet(IsoNetConfig(modalities={"emg": 2, "acc": 1}, n_samples=8, n_classes=3, n_layers=1))
        >>> gates = torch.full((1, 1, 4, 4), 0.5, requires_grad=True)  # [layer, head, dest, src]
        >>> logits = model.run_with_hooks(torch.randn(2, 3, 8), fwd_hooks=gate_edges(model, gates))
        >>> logits[:, 0].sum().backward()
        >>> gates.grad.shape
        torch.Size([1, 1, 4, 4])
    """
    layout, paths = resolve_layout(model, layout), attention_paths(model)
    n_heads: int = model.cfg.n_heads  # pyright: ignore
    _check_gates(gates, (count_layers(model, paths), n_heads, len(layout), len(layout)))
    layers = by_place(gates, layout, lambda own: own.requires_grad or bool((own != 1).any()))
    layers = {place: own for place, own in layers.items() if place in paths or bool((own != 1).any())}
    check_layers(model, paths, layers)
    if not layers:
        return []
    point = find_intervention_point(model, layout, inputs, layers=layers, hooks_only=True)
    if point.name != "scores":
        raise DeadHookError(
            f"hook_attn_scores has no effect on {type(model).__name__}, so its edges cannot be gated. Use the model"
            " without its bridge: adapt(model)"
        )
    hooks: list[Hook] = []
    for place, own in layers.items():
        path = paths[place]
        gated = _GatedAttention(own, f"{path}.{SCORES}", point.facts[place].plain_softmax)
        hooks += [(f"{path}.{SCORES}", edit_hook(gated.scores)), (f"{path}.{PATTERN}", edit_hook(gated.pattern))]
    return hooks


def gates_on(
    model: nn.Module, edges: EdgeSet, gate: float | Tensor, layout: TokenLayout
) -> Float[Tensor, "layer one_or_head dest src"]:
    """Return the gates of a model: `gate` on these edges, 1 elsewhere."""
    n_heads: int = model.cfg.n_heads  # pyright: ignore
    mask = edges.mask(resolve_layout(model, layout), count_layers(model, attention_paths(model)), n_heads)
    if not mask.any():
        raise EdgeError(f"{edges} selects no edge of this model; write none() to cut nothing")
    gate = torch.as_tensor(gate, dtype=None if isinstance(gate, Tensor) else torch.float32)
    try:
        return torch.where(mask.to(gate.device), gate, gate.new_ones(()))
    except RuntimeError:
        raise EdgeError(
            f"gate has shape {list(gate.shape)}; expected {list(mask.shape)} [layer, head, dest, src]"
        ) from None


def _check_gates(gates: Tensor, shape: tuple[int, int, int, int]) -> None:
    given = tuple(gates.shape)
    if len(given) != 4 or given[:1] + given[2:] != shape[:1] + shape[2:] or given[1] not in (1, shape[1]):
        raise EdgeError(f"gates={short(gates)}; expected {list(shape)} [layer, head, dest, src], or one head")
    values = gates.detach()
    if not gates.is_floating_point() or not bool(((values >= 0) & (values <= 1)).all()):
        raise EdgeError(f"gates={short(gates)}; expected floats from 0 (cut) to 1 (unchanged)")


class _GatedAttention:
    """The gates of one layer, as two edits: of the scores and of the pattern."""

    def __init__(self, gates: Float[Tensor, "one_or_head dest src"], where: str, plain_softmax: bool) -> None:
        self.gates, self.where, self.plain_softmax = gates, where, plain_softmax
        self.weights: Tensor | None = None
        self.gated: Any = None

    def _closed(self) -> Deletion:
        return Deletion(self.gates.detach() == 0, self.where)

    def scores(self, scores: Float[Tensor, "batch head dest src"]) -> Float[Tensor, "batch head dest src"]:
        closed = self._closed()
        is_closed = closed.on(scores)
        gated = closed.scores(scores + self.gates.masked_fill(closed.mask, 1.0).log().to(scores))
        self.weights = None
        if self.gates.requires_grad and torch.is_grad_enabled() and bool(closed.mask.any()):
            if not self.plain_softmax:
                raise DeadHookError(
                    f"{self.where}: attention is not a plain softmax of the scores, so the gradient at gate 0 is"
                    " unknown; use gates larger than 0"
                )
            self.gated = gated.detach()
            total = self.gated.logsumexp(-1, keepdim=True)
            exponent = (scores.detach() - total).clamp(max=LARGEST_EXPONENT)
            self.weights = exponent.exp().masked_fill(~is_closed | (total == -torch.inf), 0.0)
        return gated

    def pattern(self, pattern: Float[Tensor, "batch head dest src"]) -> Float[Tensor, "batch head dest src"]:
        closed = self._closed()
        pattern = closed.empty_rows(pattern)
        if self.weights is None:
            return pattern
        allowed = 100 * torch.finfo(pattern.dtype).eps
        if not inside_vmap() and not torch.allclose(
            pattern.detach(), closed.empty_rows(self.gated.softmax(-1)), atol=allowed
        ):
            raise DeadHookError(
                f"{self.where}: another hook (other gates?) changed the scores after these gates, so the gradient at"
                " gate 0 is unknown; multiply all gates into one tensor, or use gates larger than 0"
            )
        # log g has no gradient at g = 0. An edge with gate g has the weight g exp(score) / (sum over the row), which
        # has one. Adding it at g = 0 changes no value, and gives the gates their gradient.
        added = self.gates.masked_fill(~closed.mask, 0.0).to(pattern) * self.weights
        self.weights = self.gated = None
        return (pattern + added) / (1 + added.sum(-1, keepdim=True))
