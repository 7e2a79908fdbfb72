"""Determine which intervention point works by testing it, once for each model and layer.

One small forward of the model records the arguments of the attention in every layer that is to be cut. All further
tests run on these modules alone (`influence`).
"""

import weakref
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from emg_lens.hooks.adapters import AdaptedModel
from emg_lens.hooks.algebra import EdgeError
from emg_lens.hooks.hook_points import (
    DeadHookError,
    Place,
    StackName,
    at_path,
    attention_paths,
    class_name,
    count_layers,
    hook_state,
    plain_evaluation,
    probing,
)
from emg_lens.hooks.model_inputs import Inputs, call, example_inputs
from emg_lens.hooks.threads import LOCK
from emg_lens.hooks.verification.influence import LayerCheck, LayerFacts, inherited_facts
from emg_lens.hooks.verification.installed_point import NoInfluence, PointName, Refusal
from emg_lens.hooks.verification.joined_tokens import mixed_token
from emg_lens.hooks.verification.module_replay import NoiseForZeros, Replay
from emg_lens.hooks.verification.programs import Programs, new_programs
from emg_lens.hooks.verification.routes import BlockRoutes
from emg_lens.hooks.verification.stream_routes import find_stream_route
from emg_lens.layout import TokenLayout

PointVariant = tuple[PointName, bool]
HOOKS: tuple[PointVariant, ...] = (("scores", False), ("scores", True), ("pattern", False))
"""Intervention points for plain hooks, in order of preference; each with `InterventionPoint.strict`."""
VERIFIED: tuple[PointVariant, ...] = (("scores", False), ("scores", True), ("attention_mask", True))
"""Intervention points for `cutting`. The pattern is not used: its values may underflow, and dropout comes before it."""


@dataclass(frozen=True)
class InterventionPoint:
    """The intervention point of a model, and the facts about its attention.

    Attributes:
        name: `"scores"`: -inf in `hook_attn_scores` works. `"pattern"`: zeroing and renormalising `hook_pattern` works.
            `"attention_mask"`: only a mask inside the attention module works.
        strict: Whether the model gives NaN in rows with every edge cut, so that a hook must set them to zero (bridges
            of GPT-2 and Llama).
        paths: Path of the attention in each layer that has one.
        n_layers: Number of layers of the stack.
        n_heads: Number of query heads.
        facts: Facts about the tested layers.
        routes: For each layer, the module through which tokens influence each other without attention edges, if any.
        outside: In an adapted model, such a module anywhere in the model, if any.
        mixed_token: A token that contains other channels before the first attention, if any; see `joined_tokens`.
    """

    name: PointName
    strict: bool
    paths: Mapping[Place, str]
    n_layers: int
    n_heads: int
    facts: Mapping[Place, LayerFacts]
    routes: Mapping[Place, str]
    outside: str | None = None
    mixed_token: str | None = None


@dataclass(frozen=True)
class _Finding:
    """The result for one layer: facts, or the reason why there are none; and a route around the attention, if any."""

    facts: LayerFacts | None = None
    reason: str = ""
    route: str | None = None


@dataclass
class _Findings:
    """The results for a model in one state; `outside`: see `InterventionPoint`, None also before the search.

    `mixed_token`: for each layout, see `InterventionPoint`.
    """

    layers: dict[Place, _Finding] = field(default_factory=dict)
    outside: str | None = None
    searched: bool = False
    mixed_token: dict[TokenLayout, str | None] = field(default_factory=dict)


@dataclass
class _OfModel:
    """The findings of a model for its present weights, by its hooks, stack and positions."""

    weights: tuple
    findings: dict[tuple, _Findings] = field(default_factory=dict)


_known: "weakref.WeakKeyDictionary[nn.Module, _OfModel]" = weakref.WeakKeyDictionary()


def find_intervention_point(
    model: nn.Module,
    layout: TokenLayout,
    inputs: Inputs | None = None,
    *,
    layers: Iterable[Place] | None = None,
    stack: StackName | None = None,
    hooks_only: bool = False,
) -> InterventionPoint:
    """Return the intervention point with all facts; results are cached until weights or settings of the model change.

    Args:
        model: Any TransformerLens model.
        layout: The layout of its positions.
        inputs: A small input for the test (tensor, tuple of arguments, or mapping of keyword arguments); default
            `model.example_input()`, or one made for the kind of model.
        layers: The layers to test; default: every layer with attention.
        stack: For an encoder-decoder: which attention.
        hooks_only: Whether only plain TransformerLens hooks are allowed: scores, otherwise the pattern.
    """
    adapted = adapted_in(model)
    if adapted is not None:
        adapted.check_layers()
    paths = attention_paths(model, stack)
    wanted = sorted(paths if layers is None else layers)
    positions = len(layout) if stack != "cross" else (len(layout), _shapes(inputs))
    with LOCK:
        of_model, weights = _known.get(model), _weights_state(model)
        if of_model is None or of_model.weights != weights:  # another weight may open a route
            of_model = _known[model] = _OfModel(weights)
        known = of_model.findings.setdefault((hook_state(model), stack, positions), _Findings())
        missing = {layer: paths[layer] for layer in wanted if known.layers.get(layer, _Finding()).facts is None}
        own_layout = layout if stack in (None, "encoder") else None
        if missing or not (known.searched or adapted is None) or own_layout not in {None, *known.mixed_token}:
            if inputs is None and stack == "cross":
                raise EdgeError(
                    "stack='cross': the positions of encoder and decoder are unknown; pass inputs=<a small batch>"
                )
            example = inputs if inputs is not None else example_inputs(model, len(layout))
            token = probing.set(True)
            try:
                with plain_evaluation(model):
                    replays = _replays(model, missing.values(), stack == "cross")
                    if missing or not (known.searched or adapted is None):
                        _examine(model, missing, wanted, replays, example, known)
                    if own_layout is not None:
                        first = _first_attention(model, paths)
                        known.mixed_token[own_layout] = mixed_token(model, first, own_layout, example)
            finally:
                probing.reset(token)
    findings = {layer: known.layers[layer] for layer in wanted}
    name, strict = _chosen(model, paths, findings, HOOKS if hooks_only else VERIFIED)
    facts = {layer: finding.facts for layer, finding in findings.items() if finding.facts is not None}
    routes = {layer: finding.route for layer, finding in findings.items() if finding.route is not None}
    n_heads: Any = model.cfg.n_heads  # pyright: ignore
    n_layers = count_layers(model, paths)
    mixed = known.mixed_token.get(layout)
    return InterventionPoint(name, strict, paths, n_layers, n_heads, facts, routes, known.outside, mixed)


def _weights_state(model: nn.Module) -> tuple:
    """Return a value that changes with every weight and buffer that is replaced or edited in place."""
    tensors = (*model.parameters(), *model.buffers())
    return tuple((id(one), one.dtype, 0 if one.is_inference() else one._version) for one in tensors)


def _first_attention(model: nn.Module, paths: Mapping[Place, str]) -> nn.Module:
    """Return the attention that runs first."""
    adapted = adapted_in(model)
    if adapted is None:
        return at_path(model, paths[min(paths)])
    return adapted.original_model.get_submodule(next(iter(adapted.attention.values())))


def adapted_in(model: nn.Module) -> AdaptedModel | None:
    """Return the model if it is adapted, or the adapted model that it holds as `adapted`."""
    inner = getattr(model, "adapted", model)
    return inner if isinstance(inner, AdaptedModel) else None


def _shapes(inputs: Inputs | None) -> tuple:
    """Return the shapes of the tensors of an input."""
    if isinstance(inputs, Tensor):
        return (inputs.shape,)
    given = inputs.values() if isinstance(inputs, Mapping) else inputs or ()
    return tuple(entry.shape for entry in given if isinstance(entry, Tensor))


def _chosen(
    model: nn.Module, paths: Mapping[Place, str], findings: Mapping[Place, _Finding], variants: tuple[PointVariant, ...]
) -> PointVariant:
    """Return the first variant that works in all layers; variants that edit the input of the softmax come first."""
    for layer, finding in findings.items():
        if finding.facts is None:
            raise DeadHookError(
                f"the attention of layer {layer} ({paths[layer]}) of {class_name(model)} cannot be probed:"
                f" {finding.reason}"
            )
    facts = {layer: finding.facts for layer, finding in findings.items() if finding.facts is not None}
    holding = [way for way in variants if all(fact.refusals[way] is None for fact in facts.values())]
    exact = [way for way in holding if way[0] != "scores" or all(fact.plain_softmax for fact in facts.values())]
    if holding:
        return (exact or holding)[0]
    reasons: dict[str, str] = {}  # the reason of the strict variant replaces the other one
    for way in variants:
        layer = next(layer for layer, fact in facts.items() if fact.refusals[way] is not None)
        reasons[way[0]] = f"in layer {layer} ({paths[layer]}) {facts[layer].refusals[way]}"
    ways: dict[str, list[str]] = {}
    for point, reason in reasons.items():
        ways.setdefault(reason, []).append(point)
    listed = ". ".join(f"{' and '.join(points)}: {reason}" for reason, points in ways.items())
    raise DeadHookError(f"no intervention point cuts the attention of {class_name(model)}. {listed}")


def _examine(
    model: nn.Module,
    paths: Mapping[Place, str],
    wanted: list[Place],
    replays: Mapping[nn.Module, Replay],
    inputs: Inputs,
    known: _Findings,
) -> None:
    """Add the facts of the layers in `paths`, from one forward of the model; layers with equal programs share them.

    In an adapted model, a search for routes outside the attention follows if all `wanted` layers can be cut. A layer
    that it has reached is not tested again.
    """
    adapted = adapted_in(model)
    layers = {layer: replays[at_path(model, path)] for layer, path in paths.items()}
    blocks = {} if adapted else {layer: BlockRoutes(model, replay) for layer, replay in layers.items()}
    programs = _record(
        [*replays.values(), *(one for block in blocks.values() for one in block.candidates)], model, inputs
    )
    n_heads: Any = model.cfg.n_heads  # pyright: ignore
    checked: list[Place] = []
    twins: dict[Place, LayerFacts] = {}
    for layer, replay in layers.items():
        block = blocks.get(layer)
        alike = (one for one in checked if _are_alike(programs, (layers[one], blocks.get(one)), (replay, block)))
        twin = known.layers[one].facts if (one := next(alike, None)) is not None else None
        if twin is not None:
            twins[layer] = twin
            continue
        known.layers[layer] = finding = _finding(replay, block, n_heads)
        if finding.facts is not None and finding.route is None:
            checked.append(layer)
    reached: set[nn.Module] = set()
    examined = [known.layers[layer] for layer in wanted if layer not in twins]
    if adapted is not None and all(finding.facts for finding in examined):
        known.outside, reached = _route_outside(adapted, replays, inputs)
        known.searched = True
    for layer, facts in twins.items():
        replay = layers[layer]
        own = inherited_facts(replay, facts, replay.module in reached)
        known.layers[layer] = _finding(replay, blocks.get(layer), n_heads) if own is None else _Finding(own)
        known.searched = known.searched and known.layers[layer].facts is not None


def _record(replays: list[Replay], model: nn.Module, inputs: Inputs) -> Programs:
    """Record the arguments and the programs of modules in one forward of the model."""
    programs = new_programs()
    with ExitStack() as stack:
        for replay in replays:
            stack.enter_context(replay.recording())
        stack.enter_context(programs.recording([replay.module for replay in replays]))
        call(model, inputs)
    return programs


def _are_alike(programs: Programs, *layers: tuple[Replay, BlockRoutes | None]) -> bool:
    """Return whether attention and block of two layers perform the same operations."""
    (first, own_block), (second, other_block) = layers
    if not programs.equal(first.module, second.module) or not _have_equal_buffers(first.module, second.module):
        return False
    if own_block is None or other_block is None:
        return own_block is other_block
    ours, theirs = own_block.block, other_block.block
    if ours is None or theirs is None:
        return ours is theirs
    return programs.equal(ours.module, theirs.module)


def _have_equal_buffers(*modules: nn.Module) -> bool:
    """Return whether constants of two modules agree, such as an order of tokens."""
    first, second = (dict(module.named_buffers()) for module in modules)
    return first.keys() == second.keys() and all(
        one.shape == second[name].shape and one.dtype == second[name].dtype and torch.equal(one, second[name])
        for name, one in first.items()
    )


def _replays(model: nn.Module, paths: Iterable[str], cross: bool) -> dict[nn.Module, Replay]:
    """Return the attention of the given layers, in an adapted model of all layers, by its module."""
    adapted = adapted_in(model)
    if adapted is None:
        return {module: Replay(module, cross) for module in (at_path(model, path) for path in paths)}
    modules = {name: adapted.original_model.get_submodule(path) for name, path in adapted.attention.items()}
    return {module: Replay(module, name.endswith(".cross_attn")) for name, module in modules.items()}


def _route_outside(
    model: AdaptedModel, replays: Mapping[nn.Module, Replay], inputs: Inputs
) -> tuple[str | None, set[nn.Module]]:
    """Search a module through which tokens influence each other outside all attention that `adapt` found.

    Returns:
        The module, if any; and the attention modules of which the search has shown that their cut is complete.
    """
    stacks: dict[str, dict[str, Replay]] = {}
    for name, path in model.attention.items():
        stacks.setdefault(name.split(".")[0], {})[path] = replays[model.original_model.get_submodule(path)]
    route, reached = find_stream_route(model.original_model, stacks, inputs)
    return route, {model.original_model.get_submodule(path) for path in reached}


def _finding(replay: Replay, block: BlockRoutes | None, n_heads: int) -> _Finding:
    try:
        return _checked_layer(LayerCheck(replay, n_heads, replay.output), block)
    except NoInfluence as no_influence:
        reason = no_influence
    except Refusal as refusal:
        return _Finding(reason=str(refusal))
    with NoiseForZeros(replay.module):
        try:
            return _checked_layer(LayerCheck(replay, n_heads, replay.main_output()), block)
        except Refusal:
            return _Finding(reason=str(reason))


def _checked_layer(check: LayerCheck, block: BlockRoutes | None) -> _Finding:
    facts = check.facts()
    return _Finding(facts, route=block.find(check, facts) if block else None)
