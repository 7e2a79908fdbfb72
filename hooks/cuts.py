"""From an edge set to hooks that cut it, on any TransformerLens model.

`cut` gives plain TransformerLens hooks; `cutting` is a context that works on more models and verifies itself.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from emg_lens.hooks.algebra import EdgeError, EdgeSet
from emg_lens.hooks.anatomy import (
    PATTERN,
    SCORES,
    DeadHookError,
    Place,
    StackName,
    StageLayer,
    at_path,
    attention_paths,
    count_layers,
    listening,
    probing,
    resolve_layout,
)
from emg_lens.hooks.deletion import CutLayers, Deletion, cut_layers
from emg_lens.hooks.examples import Inputs
from emg_lens.hooks.kernel import tapping
from emg_lens.hooks.mapped import inside_vmap
from emg_lens.hooks.report import CutReport, Meter
from emg_lens.hooks.scope import Scope, checkpointed_run
from emg_lens.hooks.verification.probe import Lever, find_intervention_point
from emg_lens.layout import TokenLayout
from emg_lens.validation import checked

ScoresOrPattern = Float[Tensor, "batch head dest src"]
Hook = tuple[str, Callable[..., Any]]
"""A TransformerLens hook: name of the hook point, `fn(tensor, hook)`."""


@checked
def cut(
    model: nn.Module,
    edges: EdgeSet,
    layout: TokenLayout | None = None,
    *,
    inputs: Inputs | None = None,
    stack: StackName | None = None,
) -> list[Hook]:
    """Hooks that cut `edges`: `model.run_with_hooks(x, fwd_hooks=cut(model, edges))`.

    A cut edge gets the score -inf before softmax, so the rest of its row shares the attention; where only the
    pattern is within reach (TransformerBridge's native source) it is zeroed and renormalised there, and the hook
    raises where that is not the same function. A row with every edge cut has a zero attention output.

    Args:
        model: A TransformerLens model whose scores or pattern hook acts. Which one is found out by a small
            forward, once per model.
        edges: What to cut.
        layout: What the positions stand for; default `model.layout`.
        inputs: An input for that small forward, where none can be made from the model's configuration.
        stack: Of an encoder-decoder: `"encoder"` (default), `"decoder"` or `"cross"`, as for `cutting`.

    Raises:
        DeadHookError: Neither hook acts on this model; use `cutting`. From the hook: the pattern cannot be
            renormalised, or activation checkpointing will run the attention again.
        EdgeError: `edges` does not fit the layout or the model, or selects nothing.
    """
    masks = _masks(model, edges, layout, stack)
    if not masks:
        return []
    try:
        intervention_point = find_intervention_point(
            model, resolve_layout(model, layout), inputs, layers=masks, stack=stack, hooks_only=True
        )
    except DeadHookError as error:
        if inside_vmap():
            raise
        raise DeadHookError(
            f"{error}. Hooks cannot cut here; use: with cutting(model, edges, layout=layout) as report: model(...)"
        ) from None
    hooks = []
    for layer, deletion in _deletions(intervention_point, masks, edges, stack).items():
        path = intervention_point.paths[layer]
        if intervention_point.name == "pattern":
            hooks.append((f"{path}.{PATTERN}", _unrecomputed(deletion.pattern)))
            continue
        hooks.append((f"{path}.{SCORES}", _unrecomputed(deletion.scores)))
        if intervention_point.strict:
            hooks.append((f"{path}.{PATTERN}", _hook(deletion.empty_rows)))
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
) -> Iterator[CutReport]:
    """Cut `edges` in every forward inside the context, on any TransformerLens model, and verify it on exit.

    ```python
    with cutting(model, cross_modal(), layout=layout) as report:
        logits = model(x)
    report.to_frame()
    ```

    What a cut means: the model's own attention with -inf added before its own normalisation (sinks included), so that
    a source no longer moves a destination. Contexts nest to the union of their edge sets, compose with the model's own
    hooks and caches, and leave nothing behind, also when the body raises (its exception then passes through
    unverified). Forwards that continue from a key-value cache are refused: their rows are not positions of the layout.

    Args:
        model: Any TransformerLens model, or `adapt` of any other; the best lever that acts is used: the scores hook, or
            a mask at the attention kernel.
        edges: What to cut.
        layout: What the positions stand for; default `model.layout`.
        inputs: An input for the probing forward, where none can be made from the model's configuration.
        stack: Of an encoder-decoder: `"encoder"` (default); `"decoder"`, its attention to itself; `"cross"`, to the
            encoder: then the layout holds the encoder's positions and after them the decoder's, and `inputs` is needed.

    Raises:
        DeadHookError: No lever acts, or, inside, the model is copied; or, on exit: the model was not run, a cut layer
            was not reached, a cut edge still carried attention, or activation checkpointing has yet to recompute it.
        EdgeError: `edges` does not fit the layout or the model, or selects nothing.
    """
    masks = _masks(model, edges, layout, stack)
    paths = attention_paths(model, stack)
    scope, what = Scope(f"cutting({edges})"), "none"
    meters: dict[Place, Meter] = {}
    routes: tuple[str, ...] = ()
    with ExitStack() as contexts:
        contexts.callback(scope.close)
        for path in dict.fromkeys(paths.values()):
            contexts.callback(at_path(model, path).register_forward_pre_hook(scope.enter_attention).remove)
        if masks:
            intervention_point = find_intervention_point(
                model, resolve_layout(model, layout), inputs, layers=masks, stack=stack
            )
            what, routes = intervention_point.name, _routes(intervention_point)
            for layer, deletion in _deletions(intervention_point, masks, edges, stack).items():
                plain = what == "attention_mask" or intervention_point.facts[layer].plain_softmax
                path = paths[layer]
                depth = layer.layer if isinstance(layer, StageLayer) else layer
                meters[layer] = Meter(depth, what, path, intervention_point.n_heads, deletion, plain_softmax=plain)
                _install(contexts, at_path(model, path), intervention_point, meters[layer])
        report = CutReport(str(edges), what, list(meters.values()), scope, routes)
        yield report
    report.verify()


def _masks(model: nn.Module, edges: EdgeSet, layout: TokenLayout | None, stack: StackName | None) -> CutLayers:
    """What is cut in each layer.

    Raises:
        EdgeError: It does not fit, or a layer has no attention, or shares its attention with a layer that is cut
            otherwise.
    """
    layout, paths = resolve_layout(model, layout), attention_paths(model, stack)
    masks = cut_layers(edges, layout, count_layers(model, paths), model.cfg.n_heads)  # pyright: ignore
    for layer in masks:
        if layer not in paths:
            raise EdgeError(
                f"layer {layer} has no attention to cut; layers with attention: {', '.join(map(str, paths))}"
            )
    for layer, path in paths.items():
        for other in masks:
            same = layer in masks and masks[layer].equal(masks[other])
            if layer != other and not same and at_path(model, path) is at_path(model, paths[other]):
                raise EdgeError(
                    f"layers {other} and {layer} are one attention module ({path}), so they can only be cut alike"
                )
    return masks


def _deletions(
    intervention_point: Lever, masks: CutLayers, edges: EdgeSet, stack: StackName | None
) -> dict[Place, Deletion]:
    point = {"scores": f".{SCORES}", "pattern": f".{PATTERN}", "attention_mask": ""}[intervention_point.name]
    deletions = {}
    for layer, mask in masks.items():
        facts, where = intervention_point.facts[layer], intervention_point.paths[layer] + point
        if stack == "cross":
            if mask.shape[-1] != facts.n_src + facts.n_dest:
                raise EdgeError(
                    f"{where} reads {facts.n_src} positions of the encoder for {facts.n_dest} of the decoder, so the"
                    f" layout must hold {facts.n_src + facts.n_dest}, the encoder's first; it has {mask.shape[-1]}"
                )
            mask = mask[:, facts.n_src :, : facts.n_src]  # noqa: PLW2901
            if not mask.any():
                continue
        n_sinks = facts.n_sinks if intervention_point.name == "attention_mask" else 0
        deletions[layer] = Deletion(mask, where, n_sinks, facts.forbidden)
    if not deletions:
        raise EdgeError(f"{edges} selects no edge from a position of the encoder to one of the decoder")
    return deletions


def _routes(intervention_point: Lever) -> tuple[str, ...]:
    """Where tokens reach each other past the attention that is cut, in words."""
    beside = [
        f"layer {layer}: tokens also reach each other past {intervention_point.paths[layer]}, through {name}, which is not cut"
        for layer, name in intervention_point.routes.items()
    ]
    with_attention = {layer.layer if isinstance(layer, StageLayer) else layer for layer in intervention_point.paths}
    without = [str(layer) for layer in range(intervention_point.n_layers) if layer not in with_attention]
    if without:
        beside.append(f"layers without attention: {', '.join(without)}; what passes between tokens there is not cut")
    return tuple(beside)


def _hook(edit: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    def cut_edges(tensor: ScoresOrPattern, hook: Any) -> ScoresOrPattern:  # noqa: ARG001
        return tensor if probing.get() else edit(tensor)

    return cut_edges


def _unrecomputed(edit: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    """A hook that refuses to run where the backward pass would run the attention again, without it."""

    def cut_edges(tensor: ScoresOrPattern, hook: Any) -> ScoresOrPattern:  # noqa: ARG001
        if probing.get():  # a hook that was added for good stays while another cut is made
            return tensor
        if checkpointed_run() == "first":
            raise DeadHookError(
                "under activation checkpointing the backward pass runs the attention again, when hooks may be gone: use"
                " cutting(...) with backward() inside, or switch checkpointing off"
            )
        return edit(tensor)

    return cut_edges


def _install(contexts: ExitStack, attention: nn.Module, intervention_point: Lever, meter: Meter) -> None:
    """Put the metered cut of one layer in place."""
    tap = _MeteredCut(meter)
    contexts.callback(attention.register_forward_pre_hook(tap.count_call).remove)
    if intervention_point.name == "attention_mask":
        contexts.enter_context(tapping(attention, tap))
        return
    scores, pattern = getattr(attention, SCORES), getattr(attention, PATTERN)
    contexts.enter_context(listening(scores, _hook(tap.before)))
    if intervention_point.strict:
        contexts.enter_context(listening(pattern, _hook(meter.deletion.empty_rows)))
    contexts.enter_context(listening(pattern, tap.check, last=True))


class _MeteredCut:
    """A deletion with its meter."""

    def __init__(self, meter: Meter) -> None:
        self.meter = meter

    def count_call(self, *_: object) -> None:
        if not probing.get():
            self.meter.calls += 1

    def before(self, scores: ScoresOrPattern) -> ScoresOrPattern:
        if probing.get():
            return scores
        self.meter.before(scores)
        return self.meter.deletion.scores(scores)

    def after(self, pattern: ScoresOrPattern) -> ScoresOrPattern:
        if not probing.get():
            self.meter.after(pattern)
        return pattern

    def check(self, pattern: ScoresOrPattern, hook: Any) -> None:  # noqa: ARG002
        self.after(pattern)
