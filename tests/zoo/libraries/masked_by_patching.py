"""Cut edges in a plain model of any library, without our code: torch's softmax is replaced while the model runs.

-inf is added to the scores in `Tensor.softmax`, `torch.softmax` and `torch.special.softmax`. Fused attention is
computed step by step. A layer is recognised by the innermost running module.
"""

import math
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from jaxtyping import Bool
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from emg_lens.hooks.model_inputs import Inputs, call

FUSED = F.scaled_dot_product_attention
SOFTMAX = Tensor.softmax

Masks = Mapping[str, Bool[Tensor, "head dest src"]]
"""The edges that are cut, by the path of the attention module."""


@dataclass(frozen=True)
class Softmax:
    """One softmax of a forward: the innermost running module, and the shape of the scores."""

    path: str
    shape: tuple[int, ...]
    dim: int


class Patched:
    """A plain model whose softmaxes are recorded and masked.

    Args:
        model: The model, in evaluation mode; it must not have been adapted.
        heads_first: Whether its scores are [head, trial, dest, src], or heads come first in a common axis.
        memory: Number of keys before those of the tokens.

    Attributes:
        softmaxes: The softmaxes of the last forward, in order.
    """

    def __init__(self, model: nn.Module, heads_first: bool = False, memory: int = 0) -> None:
        self.model, self.heads_first, self.memory = model, heads_first, memory
        self.softmaxes: list[Softmax] = []

    def __call__(self, inputs: Inputs, masks: Masks | None = None) -> list[Tensor]:
        """Run the model with these edges cut; return the floating-point tensors of its result."""
        self.masks, self.softmaxes, self.running = masks or {}, [], [""]
        with ExitStack() as stack, torch.no_grad():
            fast = torch.backends.mha.get_fastpath_enabled()  # torch's encoder then calls no softmax
            torch.backends.mha.set_fastpath_enabled(False)
            stack.callback(torch.backends.mha.set_fastpath_enabled, fast)
            for path, module in self.model.named_modules():
                stack.enter_context(self._running(path, module))
            for place, name in ((Tensor, "softmax"), (torch, "softmax"), (torch.special, "softmax")):
                stack.enter_context(patch.object(place, name, lambda *args, **kwargs: self._softmax(*args, **kwargs)))
            for module in list(sys.modules.values()):
                if getattr(module, "__dict__", {}).get("scaled_dot_product_attention") is FUSED:
                    stack.enter_context(patch.object(module, "scaled_dot_product_attention", self._fused))
            torch.manual_seed(0)
            return tensors(call(self.model, inputs))

    def leaks(self, inputs: Inputs, paths: list[str], masks: Masks) -> bool | None:
        """Whether tokens influence each other between the first and the last attention while `masks` are cut.

        Token 0 is changed at the input of the first attention module. None where the inputs of the two modules are not
        [trial, token, width] (tokens in windows change their positions between layers).
        """
        n_trials = next(leaf for leaf in tree_leaves(inputs) if isinstance(leaf, Tensor)).shape[0]
        streams: list[list[Tensor]] = []
        first, last = (self.model.get_submodule(path) for path in (paths[0], paths[-1]))
        for noise in (0.0, 1.0):
            seen: list[Tensor] = []

            def change(module: nn.Module, args: tuple, noise: float = noise) -> tuple | None:
                if not args or args[0].ndim != 3 or len(args[0]) != n_trials:
                    return None
                return (torch.cat([args[0][:, :1] + noise * args[0][:, :1].flip(-1), args[0][:, 1:]], 1), *args[1:])

            with ExitStack() as stack:
                stack.callback(first.register_forward_pre_hook(change).remove)
                stack.callback(last.register_forward_pre_hook(lambda _, args: seen.extend(args[:1])).remove)
                self(inputs, masks)
            streams.append(seen)
        (before, *_), (after, *_) = (seen or [torch.empty(0)] for seen in streams)
        if (
            before.ndim != 3
            or len(before) != n_trials
            or before.shape[1] != masks[paths[-1]].shape[-1]
            or torch.equal(before, after)
        ):
            return None
        return not torch.allclose(before[:, 1:], after[:, 1:], atol=1e-4)

    @contextmanager
    def _running(self, path: str, module: nn.Module) -> Iterator[None]:
        enter = module.register_forward_pre_hook(lambda *_: self.running.append(path))
        leave = module.register_forward_hook(lambda *_: self.running.__delitem__(-1), always_call=True)
        yield
        enter.remove(), leave.remove()

    def _softmax(self, input: Tensor, dim: int = -1, dtype: Any = None) -> Tensor:  # noqa: A002
        self.softmaxes.append(Softmax(self.running[-1], tuple(input.shape), dim % input.ndim))
        for path, cut in self.masks.items():
            if (self.running[-1] + ".").startswith(path + "."):
                input = self._cut(input, cut, dim % input.ndim)  # noqa: A001
        pattern = SOFTMAX(input, dim, dtype=dtype)
        return pattern.nan_to_num() if self.masks else pattern  # a row with every edge cut attends to nothing

    def _cut(self, scores: Tensor, cut: Tensor, dim: int) -> Tensor:
        """Add -inf at the cut edges; source tokens are on the axis of the softmax."""
        n_heads, n_dest, n_src = cut.shape
        shape, trailing = scores.shape, scores.ndim - 1 - dim
        if trailing == 0 and shape[-2] == n_dest:  # ..., dest, src
            wide = torch.zeros(n_heads, n_dest, shape[-1], dtype=torch.bool)
            wide[..., self.memory : self.memory + n_src] = cut
            if self.heads_first:
                heads = scores.reshape(n_heads, -1, *shape[-2:])
                return heads.masked_fill(wide[:, None], -math.inf).reshape(shape)
            heads = scores.reshape(-1, n_heads, *shape[-2:])
            return heads.masked_fill(wide, -math.inf).reshape(shape)
        if scores.ndim == 4 and dim == 2 and shape[3] == n_dest:  # trial, head, src, dest
            return scores.masked_fill(cut.transpose(1, 2), -math.inf)
        if scores.ndim == 4 and dim == 2 and shape[3] == n_heads:  # trial, dest, src, head
            return scores.masked_fill(cut.permute(1, 2, 0), -math.inf)
        raise ValueError(f"scores of shape {tuple(shape)}, softmax over {dim}: where are {cut.shape}?")

    def _fused(
        self, query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, dropout_p: float = 0.0,
        is_causal: bool = False, scale: float | None = None, enable_gqa: bool = False,
    ) -> Tensor:  # fmt: skip
        if enable_gqa:
            key, value = (t.repeat_interleave(query.shape[-3] // t.shape[-3], -3) for t in (key, value))
        scores = query @ key.mT * (1 / math.sqrt(query.shape[-1]) if scale is None else scale)
        if is_causal:
            scores = scores.masked_fill(~torch.ones(scores.shape[-2:], dtype=torch.bool).tril(), -math.inf)
        if attn_mask is not None:
            scores = scores.masked_fill(~attn_mask, -math.inf) if attn_mask.dtype == torch.bool else scores + attn_mask
        return self._softmax(scores).nan_to_num() @ value


def tensors(result: Any) -> list[Tensor]:
    """Return the floating-point tensors of a model's result."""
    return [leaf.detach() for leaf in tree_leaves(result) if isinstance(leaf, Tensor) and leaf.is_floating_point()]


def drawn(build: Callable[[], nn.Module]) -> nn.Module:
    """Build a model and draw its weights, so that attention is far from uniform and no branch is scaled to zero."""
    torch.manual_seed(0)
    model = build().eval()
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if name.endswith("weight") and not parameter.detach().any():
            nn.init.constant_(parameter, 0.5)  # norms of a branch that starts at zero
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=1.5 / math.sqrt(max(1, parameter.numel() / max(1, len(parameter)))))
        elif parameter.is_floating_point() and parameter.detach().abs().max() < 1e-2 and parameter.detach().any():
            nn.init.constant_(parameter, 0.5)  # scales of a layer that start near zero
    return model
