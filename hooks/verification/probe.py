"""Which lever moves a model's attention: found out by pulling it, once per model and layer.

One small forward of the model, in which every layer that is to be cut keeps what its attention was given; the rest
is done on these modules alone (`trial`).
"""

import weakref
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from emg_lens.hooks.algebra import EdgeError
from emg_lens.hooks.hook_points import (
    DeadHookError,
    Place,
    StackName,
    at_path,
    attention_paths,
    count_layers,
    hook_state,
    plain_evaluation,
    probing,
    resolve_layout,
)
from emg_lens.hooks.model_inputs import Inputs, example_inputs
from emg_lens.hooks.verification.influence import LayerCheck, LayerFacts
from emg_lens.hooks.verification.installed_point import NoInfluence, PointName, Refusal
from emg_lens.hooks.verification.module_replay import Replay, record, without_zeros
from emg_lens.hooks.verification.routes import BlockRoutes
from emg_lens.layout import TokenLayout

PointVariant = tuple[PointName, bool]
HOOKS: tuple[PointVariant, ...] = (("scores", False), ("scores", True), ("pattern", False))
"""Levers that plain hooks pull, in order of preference; each with `InterventionPoint.strict`."""
VERIFIED: tuple[PointVariant, ...] = (("scores", False), ("scores", True), ("attention_mask", True))
"""Levers of `cutting`. Not the pattern: what is kept of it may have underflowed, and dropout comes before the hook."""


@dataclass(frozen=True)
class InterventionPoint:
    """What is known of a model's attention.

    Attributes:
        name: `"scores"`: -inf in `hook_attn_scores` acts. `"pattern"`: zeroing and renormalising
            `hook_pattern` acts. `"attention_mask"`: only a mask at the attention kernel acts.
        strict: The model leaves NaN in rows with every edge cut, so a hook must zero them (bridges of GPT-2,
            Llama).
        paths: Path of the attention of each layer that has one.
        n_layers: Layers of the stack.
        n_heads: Query heads.
        facts: What was found in the layers that were asked for.
        routes: Other ways past attention in them, in words.
    """

    name: PointName
    strict: bool
    paths: Mapping[Place, str]
    n_layers: int
    n_heads: int
    facts: Mapping[Place, LayerFacts]
    routes: Mapping[Place, str]


@dataclass(frozen=True)
class _Finding:
    """One layer: its facts, or why there are none; and another route in its block, if any."""

    facts: LayerFacts | None = None
    reason: str = ""
    route: str | None = None


_known: "weakref.WeakKeyDictionary[nn.Module, dict[tuple, dict[Place, _Finding]]]" = weakref.WeakKeyDictionary()


def intervention_point(
    model: nn.Module, layout: TokenLayout | None = None, *, inputs: Inputs | None = None
) -> PointName:
    """The lever with which `cutting` cuts attention edges of `model`: `"scores"` or `"attention_mask"`.

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
    return find_intervention_point(model, resolve_layout(model, layout), inputs).name


def find_intervention_point(
    model: nn.Module,
    layout: TokenLayout,
    inputs: Inputs | None = None,
    *,
    layers: Iterable[Place] | None = None,
    stack: StackName | None = None,
    hooks_only: bool = False,
) -> InterventionPoint:
    """As `lever`, with everything that is known; remembered by number of positions, until a switch changes.

    Args:
        model: As there.
        layout: As there.
        inputs: As there.
        layers: Only these are looked at; default: every layer with attention.
        stack: Of an encoder-decoder.
        hooks_only: Only levers that plain TransformerLens hooks pull: scores, or else the pattern.
    """
    paths = attention_paths(model, stack)
    wanted = sorted(paths if layers is None else layers)
    positions = len(layout) if stack != "cross" else (len(layout), _shapes(inputs))
    known = _known.setdefault(model, {}).setdefault((hook_state(model), stack, positions), {})
    if missing := {layer: paths[layer] for layer in wanted if layer not in known}:
        if inputs is None and stack == "cross":
            raise EdgeError(
                "stack='cross': positions of the encoder and of the decoder cannot be guessed; pass inputs="
            )
        example = inputs if inputs is not None else example_inputs(model, len(layout))
        token = probing.set(True)
        try:
            with plain_evaluation(model):
                known.update(_examine(model, missing, example, cross=stack == "cross"))
        finally:
            probing.reset(token)
    found = {layer: known[layer] for layer in wanted}
    name, strict = _chosen(model, paths, found, HOOKS if hooks_only else VERIFIED)
    facts = {layer: finding.facts for layer, finding in found.items() if finding.facts is not None}
    routes = {layer: finding.route for layer, finding in found.items() if finding.route is not None}
    return InterventionPoint(name, strict, paths, count_layers(model, paths), model.cfg.n_heads, facts, routes)  # pyright: ignore


def _shapes(inputs: Inputs | None) -> tuple:
    """Shapes of the tensors of an input."""
    if isinstance(inputs, Tensor):
        return (inputs.shape,)
    given = inputs.values() if isinstance(inputs, Mapping) else inputs or ()
    return tuple(entry.shape for entry in given if isinstance(entry, Tensor))


def _chosen(
    model: nn.Module, paths: Mapping[Place, str], found: Mapping[Place, _Finding], ways: tuple[PointVariant, ...]
) -> PointVariant:
    """The first way that holds in all layers; one that shows what softmax sees before others.

    Raises:
        DeadHookError: None does.
    """
    for layer, finding in found.items():
        if finding.facts is None:
            raise DeadHookError(
                f"the attention of layer {layer} ({paths[layer]}) of {type(model).__name__} cannot be probed:"
                f" {finding.reason}"
            )
    facts = {layer: finding.facts for layer, finding in found.items() if finding.facts is not None}
    holding = [way for way in ways if all(fact.refusals[way] is None for fact in facts.values())]
    exact = [way for way in holding if way[0] != "scores" or all(fact.plain_softmax for fact in facts.values())]
    if holding:
        return (exact or holding)[0]
    reasons: dict[str, str] = {}  # where rows are looked after, what was said without that says nothing more
    for way in ways:
        layer = next(layer for layer, fact in facts.items() if fact.refusals[way] is not None)
        reasons[way[0]] = f"{way[0]}: in layer {layer} ({paths[layer]}) {facts[layer].refusals[way]}"
    raise DeadHookError(f"no intervention point cuts the attention of {type(model).__name__}. {'. '.join(reasons.values())}")


def _examine(model: nn.Module, paths: Mapping[Place, str], inputs: Inputs, cross: bool) -> dict[Place, _Finding]:
    """Every layer's facts, from one forward of the model."""
    replays = {layer: Replay(at_path(model, path), cross) for layer, path in paths.items()}
    blocks = {layer: BlockRoutes(model, replay) for layer, replay in replays.items()}
    record(model, inputs, [*replays.values(), *(replay for block in blocks.values() for replay in block.candidates)])
    return {layer: _finding(replay, blocks[layer], model.cfg.n_heads) for layer, replay in replays.items()}  # pyright: ignore


def _finding(replay: Replay, block: BlockRoutes, n_heads: int) -> _Finding:
    try:
        return _tried(LayerCheck(replay, n_heads, replay.output), block)
    except NoInfluence as silence:
        reason = silence
    except Refusal as refusal:
        return _Finding(reason=str(refusal))
    with without_zeros(replay.module):
        try:
            return _tried(LayerCheck(replay, n_heads, replay.main_output()), block)
        except Refusal:
            return _Finding(reason=str(reason))


def _tried(trial: LayerCheck, block: BlockRoutes) -> _Finding:
    facts = trial.facts()
    return _Finding(facts, route=block.find(trial, facts))
