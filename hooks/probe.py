"""Which lever moves a model's attention: found out by pulling it, once per model.

A hook that fires is not a hook that acts: most TransformerLens bridges fire `hook_attn_scores` and
`hook_pattern` on tensors that are already consumed, or never (docs/transformerlens.md §5). So each lever is
tried on a small forward, layer by layer, and believed only if the attention output of the row that was cut
moves, the other rows do not, the pattern shows the cut, and a row with every edge cut comes out finite and
empty.
"""

import weakref
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from emg_lens.hooks.anatomy import (
    PATTERN,
    SCORES,
    DeadHookError,
    at_path,
    attention_paths,
    count_layers,
    listening,
    quietly,
    resolve_layout,
    switches,
)
from emg_lens.hooks.deletion import Deletion
from emg_lens.hooks.examples import Inputs, call, example_inputs
from emg_lens.hooks.kernel import tapping
from emg_lens.layout import TokenLayout

LeverName = Literal["scores", "pattern", "attention_mask"]
TRIALS: tuple[tuple[LeverName, bool], ...] = (
    ("scores", False),
    ("scores", True),
    ("pattern", False),
    ("attention_mask", True),
)
"""Levers in order of preference, each with whether the hooks look after empty rows (`Lever.strict`)."""


@dataclass(frozen=True)
class Lever:
    """What is known of a model's attention.

    Attributes:
        name: `"scores"`: -inf in `hook_attn_scores` acts. `"pattern"`: zeroing and renormalising
            `hook_pattern` acts. `"attention_mask"`: only a mask at the attention kernel acts.
        strict: The model neither zeroes rows with every edge cut nor forbids edges with -inf, so the hooks
            must (bridges of GPT-2, Llama).
        paths: Path of the attention of each layer that has one.
        n_layers: Layers of the stack.
        n_heads: Query heads.
    """

    name: LeverName
    strict: bool
    paths: Mapping[int, str]
    n_layers: int
    n_heads: int


_known: "weakref.WeakKeyDictionary[nn.Module, dict[tuple, Lever]]" = weakref.WeakKeyDictionary()


def lever(model: nn.Module, layout: TokenLayout | None = None, *, inputs: Inputs | None = None) -> LeverName:
    """The lever with which attention edges of `model` can be cut: `"scores"`, `"pattern"` or `"attention_mask"`.

    Args:
        model: Any TransformerLens model.
        layout: Its token layout; default `model.layout`.
        inputs: A small input to probe with (tensor, tuple of arguments, or mapping of keyword arguments);
            default `model.example_input()`, or one made for the kind of model.

    Raises:
        DeadHookError: No lever acts.
        EdgeError: The model has no attention hook points, or no layout.
        ValueError: No example input can be made for this model; pass `inputs`.
    """
    return find_lever(model, resolve_layout(model, layout), inputs).name


def find_lever(model: nn.Module, layout: TokenLayout, inputs: Inputs | None = None) -> Lever:
    """As `lever`, with everything that is known; remembered until a switch of the model changes."""
    paths = attention_paths(model)
    known = _known.setdefault(model, {})
    state = switches(model)
    if state not in known:
        example = inputs if inputs is not None else example_inputs(model, len(layout))
        with quietly(model):
            known[state] = _Probe(model, paths, example).find()
    return known[state]


@dataclass
class _Seen:
    """One layer's attention in one forward; a tap that reads the pattern at the kernel.

    Attributes:
        cut: What the tap cuts, if anything.
        out: Output of the attention module.
        pattern: The attention that was used.
        fired: Whether the lever was passed.
    """

    cut: Deletion | None = None
    out: Tensor | None = None
    pattern: Tensor | None = None
    fired: bool = False

    def before(self, scores: Tensor) -> Tensor:
        if self.cut is None:
            return scores
        self.fired = True
        return self.cut.scores_strict(scores)

    def after(self, pattern: Tensor) -> Tensor:
        self.pattern = pattern if self.cut is None else self.cut.empty_rows(pattern)
        return self.pattern

    def keep_out(self, module: nn.Module, args: Any, output: Any) -> None:  # noqa: ARG002
        output = output[0] if isinstance(output, tuple) else output
        self.out = output if getattr(module, "batch_first", True) else output.transpose(0, 1)

    def keep_pattern(self, pattern: Tensor, hook: Any) -> None:  # noqa: ARG002
        self.pattern = pattern


class _Probe:
    """Tries levers on one model."""

    def __init__(self, model: nn.Module, paths: Mapping[int, str], inputs: Inputs) -> None:
        self.model, self.paths, self.inputs = model, paths, inputs
        self.base = self._untouched()
        self.causal = not any(seen.pattern.triu(1).any() for seen in self.base.values())  # pyright: ignore

    def find(self) -> Lever:
        for name, strict in TRIALS:
            if all(self._acts(layer, name, strict) for layer in self.paths):
                n_layers = count_layers(self.model, self.paths)
                return Lever(name, strict, self.paths, n_layers, self.model.cfg.n_heads)  # pyright: ignore
        raise DeadHookError(
            f"no lever acts on the attention of {type(self.model).__name__}: not {SCORES}, not {PATTERN}, not a mask"
            " at the kernel"
        )

    def _untouched(self) -> dict[int, _Seen]:
        """Attention as it is; the pattern is the one at the hook if that fires, else the one at the kernel."""
        base = {layer: _Seen() for layer in self.paths}
        with ExitStack() as stack:
            for layer, path in self.paths.items():
                stack.enter_context(tapping(at_path(self.model, path), base[layer]))
                self._watch(stack, path, base[layer])
            call(self.model, self.inputs)
        for layer, seen in base.items():
            if seen.out is None or seen.pattern is None:
                raise DeadHookError(
                    f"{self.paths[layer]} of {type(self.model).__name__} shows no attention pattern to cut"
                )
        return base

    def _watch(self, stack: ExitStack, path: str, seen: _Seen) -> None:
        stack.callback(at_path(self.model, path).register_forward_hook(seen.keep_out).remove)
        stack.enter_context(listening(at_path(self.model, f"{path}.{PATTERN}"), seen.keep_pattern, last=True))

    def _acts(self, layer: int, name: LeverName, strict: bool) -> bool:
        """Whether this lever, pulled in this layer alone, does what it should."""
        path, base = self.paths[layer], self.base[layer]
        deletion = Deletion(_trial_cut(base.pattern, self.causal), path)
        seen = _Seen()
        with ExitStack() as stack:
            self._pull(stack, path, deletion, name, strict, seen)
            self._watch(stack, path, seen)
            call(self.model, self.inputs)
        return seen.fired and _is_cut(base, seen, deletion)

    def _pull(
        self, stack: ExitStack, path: str, deletion: Deletion, name: LeverName, strict: bool, seen: _Seen
    ) -> None:
        def at_scores(scores: Tensor, hook: Any) -> Tensor:  # noqa: ARG001
            seen.fired = True
            return deletion.scores_strict(scores) if strict else deletion.scores(scores)

        def at_pattern(pattern: Tensor, hook: Any) -> Tensor:  # noqa: ARG001
            seen.fired = True
            return deletion.pattern(pattern) if name == "pattern" else deletion.empty_rows(pattern)

        if name == "attention_mask":
            seen.cut = deletion
            stack.enter_context(tapping(at_path(self.model, path), seen))
        if name == "scores":
            stack.enter_context(listening(at_path(self.model, f"{path}.{SCORES}"), at_scores))
        if name == "pattern" or (name == "scores" and strict):
            stack.enter_context(listening(at_path(self.model, f"{path}.{PATTERN}"), at_pattern))


def _trial_cut(pattern: Tensor | None, causal: bool) -> Tensor:
    """The strongest edge of the last row in every head, and every edge that the first row may have."""
    assert pattern is not None
    cut = torch.zeros(pattern.shape[1:], dtype=torch.bool, device=pattern.device)
    cut[:, -1].scatter_(-1, pattern[0, :, -1].argmax(-1, keepdim=True), True)
    cut[:, 0, : 1 if causal else None] = True
    return cut


def _is_cut(base: _Seen, seen: _Seen, deletion: Deletion) -> bool:
    if seen.out is None or seen.pattern is None or base.out is None or base.pattern is None:
        return False
    cut = deletion.on(seen.pattern)
    noise = 16 * torch.finfo(base.out.dtype).eps * base.out.abs().max()
    moved = (seen.out - base.out).abs().flatten(2).amax((0, 2))
    held = base.pattern.masked_fill(cut, 0.0).sum(-1, keepdim=True)  # too little of it cannot be renormalised
    expected = deletion.pattern(base.pattern).where(held > 1e-3, seen.pattern)
    return bool(
        seen.out.isfinite().all()
        and moved[0] > noise
        and moved[-1] > noise
        and (moved[1:-1] <= noise).all()
        and (seen.pattern[:, cut] == 0).all()
        and (seen.pattern[:, :, 0] == 0).all()
        and torch.allclose(seen.pattern, expected, atol=torch.finfo(seen.pattern.dtype).eps ** 0.5)
    )
