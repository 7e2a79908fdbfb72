"""Cut edge sets on any TransformerLens model: by plain hooks (`cut`), or in a context that verifies it (`cutting`)."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from emg_lens.hooks.algebra import EdgeError, EdgeSet
from emg_lens.hooks.context_guard import ContextGuard, checkpointed_run
from emg_lens.hooks.cut_report import CutReport, Meter
from emg_lens.hooks.deletion import CutLayers, Deletion, cut_layers
from emg_lens.hooks.evaluation import has_active_dropout, without_compilation
from emg_lens.hooks.hook_points import (
    PATTERN,
    SCORES,
    DeadHookError,
    Place,
    StackName,
    at_path,
    attached_hook,
    attention_paths,
    check_layers,
    class_name,
    count_layers,
    layer_of,
    probing,
    resolve_layout,
)
from emg_lens.hooks.model_inputs import Inputs
from emg_lens.hooks.removed_attention import MOST_BYTES, RemovedAttention
from emg_lens.hooks.threads import bound_to_thread
from emg_lens.hooks.verification.installed_point import installed
from emg_lens.hooks.verification.probe import InterventionPoint, find_intervention_point
from emg_lens.hooks.vmap import inside_vmap
from emg_lens.layout import TokenLayout
from emg_lens.validation import checked

Hook = tuple[str, Callable[..., Any]]
"""A TransformerLens hook: name of the hook point, `fn(tensor, hook)`."""
LONGEST_TEXT = 200
"""Largest number of characters of an edge set in a message."""


@checked
def cut(
    model: nn.Module,
    edges: EdgeSet,
    layout: TokenLayout | None = None,
    *,
    inputs: Inputs | None = None,
    stack: StackName | None = None,
    allow_routes: bool = False,
) -> list[Hook]:
    """Make hooks that cut `edges`.

    A cut edge gets the score -inf before the softmax, so the remaining edges of its row share the attention. A row with
    every edge cut has a zero attention output. Some models only allow a change of the pattern (TransformerBridge's
    native source). There the hook sets the edge to zero and renormalises the row, and it raises an error if the result
    would differ.

    A hook that runs later and writes to the scores or the pattern can undo the cut without an error: put it before
    these hooks, or use `cutting` (docs/cuts.md §6.12).

    Args:
        model: A TransformerLens model on which a hook on the scores or the pattern has an effect. A small forward tests
            this once for each model.
        edges: The edges to cut.
        layout: The layout of the positions; default `model.layout`.
        inputs: An input for the small forward, where none can be made from the model's configuration.
        stack: For an encoder-decoder: `"encoder"` (default), `"decoder"` or `"cross"`, as for `cutting`.
        allow_routes: As for `cutting`.

    Returns:
        Hooks for `model.run_with_hooks(x, fwd_hooks=hooks)`.

    Raises:
        DeadHookError: Neither hook has an effect on this model; use `cutting`. Raised by the hook: the pattern cannot
            be renormalised, or activation checkpointing will run the attention again.
        EdgeError: `edges` does not fit the layout or the model, or selects no edge.

    Example:
        >>> import torch
        >>> from emg_lens import IsoNet, IsoNetConfig, cross_modal, cut
        >>> model = IsoNet(IsoNetConfig(modalities={"emg": 2, "acc": 1}, n_samples=8, n_classes=3, n_layers=1))
        >>> hooks = cut(model, cross_modal())
        >>> [name for name, _ in hooks]
        ['blocks.0.attn.hook_attn_scores']
        >>> model.run_with_hooks(torch.randn(2, 3, 8), fwd_hooks=hooks).shape
        torch.Size([2, 3])
    """
    masks = masks_of(model, edges, layout, stack)
    if not masks:
        return []
    try:
        point = find_intervention_point(
            model, resolve_layout(model, layout), inputs, layers=masks, stack=stack, hooks_only=True
        )
    except DeadHookError as error:
        if inside_vmap():
            raise
        raise DeadHookError(
            f"{error}. Hooks cannot cut here; use: with cutting(model, edges, layout=layout) as report: model(...)"
        ) from None
    _refuse_routes(model, point, allow_routes)
    hooks = []
    for layer, deletion in _deletions(point, masks, edges, stack).items():
        path = point.paths[layer]
        if point.name == "pattern":
            hooks.append((f"{path}.{PATTERN}", edit_hook(deletion.pattern)))
            continue
        hooks.append((f"{path}.{SCORES}", edit_hook(deletion.scores)))
        if point.strict:
            hooks.append((f"{path}.{PATTERN}", edit_hook(deletion.empty_rows)))
    return hooks


@checked
@contextmanager
def cutting(
    model: nn.Module,
    edges: EdgeSet,
    layout: TokenLayout | None = None,
    *,
    inputs: Inputs | None = None,
    stack: StackName | None = None,
    allow_routes: bool = False,
) -> Iterator[CutReport]:
    """Cut `edges` in every forward inside the context, on any TransformerLens model, and verify the cut on exit.

    The result equals the model's own attention with -inf added before its own normalisation, attention sinks included.
    A source token then has no influence on a destination token through the cut edge. Nested contexts cut the union of
    their edge sets. The context works with the model's own hooks and caches and removes all changes on exit. If the
    body raises an exception, the cut is not verified. A compiled model runs without its compiled code inside. Forwards
    that continue from a key-value cache are refused, because their rows are not positions of the layout.

    Args:
        model: Any TransformerLens model, or `adapt(model)` for other models. The context cuts at the scores hook if
            that has an effect, otherwise by a mask inside the attention module.
        edges: The edges to cut.
        layout: The layout of the positions; default `model.layout`.
        inputs: An input for the probing forward, where none can be made from the model's configuration.
        stack: For an encoder-decoder: `"encoder"` (default); `"decoder"`, its attention to itself; `"cross"`, its
            attention to the encoder. For `"cross"` the layout has the encoder's positions first and then the decoder's,
            and `inputs` is needed.
        allow_routes: Whether to cut an adapted model although tokens also influence each other outside the attention
            that `adapt` found. The report names such a route. For sweeps, set `model.allow_routes = True`.

    Yields:
        A `CutReport`; it is complete after the context.

    Raises:
        DeadHookError: No intervention point works, an adapted model has another route between tokens, or the model is
            copied inside. On exit: the model was not run, a cut layer did not run, a cut edge still had attention, or
            activation checkpointing has yet to recompute a layer.
        EdgeError: `edges` does not fit the layout or the model, or selects no edge.

    Example:
        >>> import torch
        >>> from emg_lens import IsoNet, IsoNetConfig, cross_modal, cutting
        >>> model = IsoNet(IsoNetConfig(modalities={"emg": 2, "acc": 1}, n_samples=8, n_classes=3, n_layers=1))
        >>> with cutting(model, cross_modal()) as report:
        ...     logits = model(torch.randn(2, 3, 8))
        >>> report.to_frame()[["layer", "edges_cut", "attention_left"]].to_dict("records")
        [{'layer': 0, 'edges_cut': 32, 'attention_left': 0.0}]
    """
    masks = masks_of(model, edges, layout, stack)
    paths = attention_paths(model, stack)
    with ExitStack() as contexts:
        contexts.enter_context(without_compilation())
        in_own_thread = contexts.enter_context(bound_to_thread())
        text = str(edges)
        short = text if len(text) <= LONGEST_TEXT else f"{text[:LONGEST_TEXT]}…"  # a mask has a long text
        guard = ContextGuard(f"cutting({short})", in_own_thread)
        report = CutReport(text, "none", (), [], guard)
        contexts.callback(setattr, guard, "open", False)
        for path in dict.fromkeys(paths.values()):
            contexts.callback(at_path(model, path).register_forward_pre_hook(guard.enter_attention).remove)

        def note_dropout(*_: object) -> None:
            if in_own_thread() and not (report.dropout or probing.get()):
                report.dropout = has_active_dropout(model)

        first = at_path(model, next(iter(paths.values())))
        contexts.callback(first.register_forward_pre_hook(note_dropout).remove)
        if masks:
            point = find_intervention_point(model, resolve_layout(model, layout), inputs, layers=masks, stack=stack)
            _refuse_routes(model, point, allow_routes)
            report.intervention_point, report.routes = point.name, _routes(point)
            for place, deletion in _deletions(point, masks, edges, stack).items():
                plain = point.name == "attention_mask" or point.facts[place].plain_softmax
                path, layer = paths[place], layer_of(place)
                removed = RemovedAttention(deletion, plain, MOST_BYTES // len(masks))
                fuses = point.facts[place].fuses
                meter = Meter(layer, point.name, path, point.n_heads, deletion, removed, in_own_thread, fuses)
                attention = at_path(model, path)
                contexts.callback(attention.register_forward_pre_hook(meter.count_call).remove)
                contexts.enter_context(installed(attention, point.name, meter, point.strict, fuses))
                if point.name == "attention_mask" and point.facts[place].live_pattern:
                    contexts.enter_context(attached_hook(getattr(attention, PATTERN), meter.check_hook, last=True))
                report._meters.append(meter)
        yield report
    report.verify()


def masks_of(model: nn.Module, edges: EdgeSet, layout: TokenLayout | None, stack: StackName | None = None) -> CutLayers:
    """Return the mask of each layer with a cut edge, after a check that the edges fit the model."""
    layout, paths = resolve_layout(model, layout), attention_paths(model, stack)
    masks = cut_layers(edges, layout, count_layers(model, paths), model.cfg.n_heads)  # pyright: ignore
    check_layers(model, paths, masks)
    return masks


def _deletions(
    point: InterventionPoint, masks: CutLayers, edges: EdgeSet, stack: StackName | None
) -> dict[Place, Deletion]:
    hook_point = {"scores": f".{SCORES}", "pattern": f".{PATTERN}", "attention_mask": ""}[point.name]
    deletions: dict[Place, Deletion] = {}
    for layer, mask in masks.items():
        facts, where = point.facts[layer], point.paths[layer] + hook_point
        if stack == "cross":
            if mask.shape[-1] != facts.n_src + facts.n_dest:
                raise EdgeError(
                    f"the layout has {mask.shape[-1]} positions; expected {facts.n_src + facts.n_dest} for {where}:"
                    f" {facts.n_src} positions of the encoder, then {facts.n_dest} of the decoder"
                )
            mask = mask[:, facts.n_src :, : facts.n_src]  # noqa: PLW2901
            if not mask.any():
                continue
        n_sinks = facts.n_sinks if point.name == "attention_mask" else 0
        made = Deletion(mask, where, n_sinks, facts.forbidden)
        last = next(reversed(deletions.values()), made)
        if last.n_sinks == n_sinks and last.mask.equal(mask):  # neighbours with equal masks share their tensors
            made = replace(last, where=where, forbidden=facts.forbidden)
        deletions[layer] = made
    if not deletions:
        raise EdgeError(f"{edges} selects no edge from a position of the encoder to a position of the decoder")
    return deletions


def _refuse_routes(model: nn.Module, point: InterventionPoint, allow_routes: bool) -> None:
    if point.outside and not (allow_routes or getattr(model, "allow_routes", False)):
        raise DeadHookError(
            f"with all edges cut that adapt found in {class_name(model)}, tokens still influence each other through"
            f" {point.outside}, so the cut would be incomplete; pass allow_routes=True to cut only the attention that"
            " was found; for sweeps and attributions, set .allow_routes = True on the adapted model"
        )


def _routes(point: InterventionPoint) -> tuple[str, ...]:
    """Describe where information passes between tokens outside the attention that is cut."""
    routes = [
        f"layer {layer}: information also passes between tokens outside {point.paths[layer]}, through {name}; this is"
        " not cut"
        for layer, name in point.routes.items()
    ]
    if point.outside:
        routes.insert(0, f"information also passes between tokens through {point.outside}; this is not cut")
    if point.mixed_token:
        routes.insert(
            0,
            f"token {point.mixed_token} contains other channels before the first layer; a cut cannot separate what"
            " is in one token",
        )
    without = [str(layer) for layer in range(point.n_layers) if layer not in map(layer_of, point.paths)]
    if without:
        routes.append(f"layers without attention: {', '.join(without)}; information between tokens there is not cut")
    return tuple(routes)


def edit_hook(edit: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    """Turn a function of a tensor into a hook, which does nothing while the model is probed.

    It refuses activation checkpointing: the backward pass would run the attention without the hook.
    """

    def edit_attention(tensor: Tensor, hook: Any) -> Tensor:  # noqa: ARG001
        if probing.get():
            return tensor
        if checkpointed_run() == "first":
            raise DeadHookError(
                "with activation checkpointing, the backward pass runs the attention again, but this hook may be"
                " removed by then; use cutting(...) and call backward() inside it, or switch checkpointing off"
            )
        return edit(tensor)

    return edit_attention
