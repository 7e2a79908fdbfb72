"""From an edge set to hooks that cut it, on any TransformerLens model.

`cut` gives plain TransformerLens hooks; `cutting` is a context that works on more models and verifies itself.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from emg_lens.hooks.algebra import EdgeError, EdgeSet
from emg_lens.hooks.anatomy import PATTERN, SCORES, DeadHookError, at_path, listening, resolve_layout
from emg_lens.hooks.deletion import Deletion, cut_layers
from emg_lens.hooks.examples import Inputs
from emg_lens.hooks.kernel import tapping
from emg_lens.hooks.probe import Lever, find_lever
from emg_lens.hooks.report import CutReport, Meter
from emg_lens.layout import TokenLayout

ScoresOrPattern = Float[Tensor, "batch head dest src"]
Hook = tuple[str, Callable[..., Any]]
"""A TransformerLens hook: name of the hook point, `fn(tensor, hook)`."""


def cut(
    model: nn.Module, edges: EdgeSet, layout: TokenLayout | None = None, *, inputs: Inputs | None = None
) -> list[Hook]:
    """Hooks that cut `edges`: `model.run_with_hooks(x, fwd_hooks=cut(model, edges))`.

    A cut edge gets the score -inf before softmax, so the rest of its row shares the attention; where only the
    pattern is within reach (TransformerBridge's native source) it is zeroed and renormalised there, which is
    the same function. A row with every edge cut has a zero attention output.

    Args:
        model: A TransformerLens model whose scores or pattern hook acts. Which one is found out by a small
            forward, once per model.
        edges: What to cut.
        layout: What the positions stand for; default `model.layout`.
        inputs: An input for that small forward, where none can be made from the model's configuration.

    Raises:
        DeadHookError: Neither hook acts on this model; use `cutting`.
        EdgeError: `edges` does not fit the layout or the model, or selects nothing.
    """
    lever, deletions = _prepare(model, edges, layout, inputs)
    if lever.name == "attention_mask":
        raise DeadHookError(
            f"{type(model).__name__} fires {SCORES} and {PATTERN} after attention is computed, so a hook cannot cut its"
            f" edges; use: with cutting(model, edges, layout=layout) as report: model(...)"
        )
    hooks = []
    for layer, deletion in deletions.items():
        path = lever.paths[layer]
        if lever.name == "pattern":
            hooks.append((f"{path}.{PATTERN}", _hook(deletion.pattern)))
            continue
        hooks.append((f"{path}.{SCORES}", _hook(deletion.scores_strict if lever.strict else deletion.scores)))
        if lever.strict:
            hooks.append((f"{path}.{PATTERN}", _hook(deletion.empty_rows)))
    return hooks


@contextmanager
def cutting(
    model: nn.Module, edges: EdgeSet, layout: TokenLayout | None = None, *, inputs: Inputs | None = None
) -> Iterator[CutReport]:
    """Cut `edges` in every forward inside the context, on any TransformerLens model, and verify it on exit.

    ```python
    with cutting(model, cross_modal(), layout=layout) as report:
        logits = model(x)
    report.to_frame()
    ```

    Contexts nest to the union of their edge sets, compose with the model's own hooks and caches, and leave
    nothing behind, also when the body raises (its exception then passes through unverified).

    Args:
        model: Any TransformerLens model; the best lever that acts is used: scores, pattern, or a mask at the
            attention kernel.
        edges: What to cut.
        layout: What the positions stand for; default `model.layout`.
        inputs: An input for the probing forward, where none can be made from the model's configuration.

    Raises:
        DeadHookError: No lever acts; or, on exit: the model was not run, a cut layer was not reached, or a
            cut edge still carried attention.
        EdgeError: `edges` does not fit the layout or the model, or selects nothing.
    """
    lever, deletions = _prepare(model, edges, layout, inputs)
    meters = {layer: Meter(layer, lever.name, lever.n_heads, deletion) for layer, deletion in deletions.items()}
    report = CutReport(str(edges), lever.name, list(meters.values()))
    with ExitStack() as stack:
        for layer, path in lever.paths.items():
            attention = at_path(model, path)
            stack.callback(attention.register_forward_pre_hook(report.count_run).remove)
            if layer in meters:
                _install(stack, model, path, lever, meters[layer])
        yield report
    report.verify()


def _prepare(
    model: nn.Module, edges: EdgeSet, layout: TokenLayout | None, inputs: Inputs | None
) -> tuple[Lever, dict[int, Deletion]]:
    layout = resolve_layout(model, layout)
    lever = find_lever(model, layout, inputs)
    masks = cut_layers(edges, layout, lever.n_layers, lever.n_heads)
    for layer in masks:
        if layer not in lever.paths:
            raise EdgeError(f"layer {layer} has no attention to cut; layers with attention: {list(lever.paths)}")
    point = {"scores": f".{SCORES}", "pattern": f".{PATTERN}", "attention_mask": ""}[lever.name]
    return lever, {layer: Deletion(mask, lever.paths[layer] + point) for layer, mask in masks.items()}


def _hook(edit: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    def cut_edges(tensor: ScoresOrPattern, hook: Any) -> ScoresOrPattern:  # noqa: ARG001
        return edit(tensor)

    return cut_edges


def _install(stack: ExitStack, model: nn.Module, path: str, lever: Lever, meter: Meter) -> None:
    """Put the metered cut of one layer in place."""
    attention = at_path(model, path)
    tap = _MeteredCut(meter, lever.strict)
    stack.callback(attention.register_forward_pre_hook(tap.count_call).remove)
    if lever.name == "attention_mask":
        stack.enter_context(tapping(attention, tap))
        return
    scores, pattern = at_path(model, f"{path}.{SCORES}"), at_path(model, f"{path}.{PATTERN}")
    if lever.name == "scores":
        stack.enter_context(listening(scores, _hook(tap.before)))
        if lever.strict:
            stack.enter_context(listening(pattern, _hook(meter.deletion.empty_rows)))
    else:
        stack.enter_context(listening(pattern, _hook(tap.renormalise)))
    stack.enter_context(listening(pattern, tap.check, last=True))


class _MeteredCut:
    """A deletion with its meter."""

    def __init__(self, meter: Meter, strict: bool) -> None:
        self.meter, self.strict = meter, strict

    def count_call(self, *_: object) -> None:
        self.meter.calls += 1

    def before(self, scores: ScoresOrPattern) -> ScoresOrPattern:
        self.meter.before(scores.detach().softmax(-1))
        deletion = self.meter.deletion
        return deletion.scores_strict(scores) if self.strict else deletion.scores(scores)

    def after(self, pattern: ScoresOrPattern) -> ScoresOrPattern:
        pattern = self.meter.deletion.empty_rows(pattern)
        self.meter.after(pattern)
        return pattern

    def renormalise(self, pattern: ScoresOrPattern) -> ScoresOrPattern:
        self.meter.before(pattern)
        return self.meter.deletion.pattern(pattern)

    def check(self, pattern: ScoresOrPattern, hook: Any) -> None:  # noqa: ARG002
        self.meter.after(pattern)
