"""The controls of a study, as conditions of the same sweep: random cuts and removals, supersets, CLS path closed."""

import itertools
import operator
import zlib
from collections.abc import Sequence
from dataclasses import replace
from functools import reduce
from math import comb

import numpy as np

from emg_lens.analysis.controls import random_edges, with_cls_path_closed
from emg_lens.hooks import EdgeError, EdgeSet, Intervention, Replace
from emg_lens.hooks.values import input_mask
from emg_lens.layout import TokenLayout
from emg_lens.studies.spec.condition_spec import (
    CLS_PATH_CLOSED,
    HEAD,
    RANDOM,
    SUPERSET,
    ConditionsSpec,
    Controls,
    head_family,
)
from emg_lens.studies.spec.removal_spec import REMOVAL, are_most_channels, input_channels
from emg_lens.sweeps.conditions import Condition
from emg_lens.sweeps.engine import audit
from emg_lens.sweeps.live_edges import reach
from emg_lens.sweeps.target import target_of
from emg_lens.transformer_lens_imports import HookedRootModule


def controls_of(spec: ConditionsSpec, model: HookedRootModule, conditions: Sequence[Condition]) -> list[Condition]:
    """Make the controls of a study's conditions for a model.

    Args:
        spec: The `conditions:` of the study.
        model: The model. Its layers, heads and live edges decide what a control cuts.
        conditions: The conditions that `spec` built for this model.

    Returns:
        Conditions with the tags `control` (the kind of control) and `of` (the name of the controlled condition, or the
        `head_family` of the controlled conditions).

    Raises:
        EdgeError: A condition has the name of a control.
    """
    if spec.controls is None:
        return []
    controls = [
        *_supersets(spec, model),
        *_random_cuts(spec.controls, model, conditions),
        *_random_removals(spec.controls, model.layout, conditions),  # pyright: ignore
    ]
    taken = {one.name for one in conditions} & {one.name for one in controls}
    if taken:
        raise EdgeError(f"condition {min(taken)!r} has the name of a control (conditions.controls); rename it")
    return controls


def _supersets(spec: ConditionsSpec, model: HookedRootModule) -> list[Condition]:
    """Cut all edge sets of `layer_masks` together, and each one with the path through CLS closed, in every layer."""
    assert spec.controls is not None
    cfg, layout = model.cfg, model.layout  # pyright: ignore
    edges, controls = spec.layer_edges(cfg.n_layers, cfg.n_heads, layout), []  # pyright: ignore
    if spec.controls.superset and len(edges) > 1:
        together = reduce(operator.or_, edges.values())
        controls.append(Condition(" and ".join(edges), together, {"control": SUPERSET}))
    if spec.controls.cls_path_closed and layout.has_cls:  # pyright: ignore
        controls += [
            Condition(f"{name}, CLS path closed", with_cls_path_closed(one), {"control": CLS_PATH_CLOSED, "of": name})
            for name, one in edges.items()
        ]
    return controls


def _random_cuts(controls: Controls, model: HookedRootModule, conditions: Sequence[Condition]) -> list[Condition]:
    """Make random cuts for the cuts of one layer, of every layer, of single heads, and of `extra`.

    Equal cuts have one set of random cuts, and so have the heads of one layer.
    """
    n_layers: int = model.cfg.n_layers  # pyright: ignore
    cuts = [one for one in conditions if _only_cuts(one) and (_of_head(one) or cuts_one_layer_or_all(one, n_layers))]
    if not controls.random_edges or not cuts:
        return []
    audited = audit(model, cuts).set_index("condition")
    is_own = ~audited["structural_null"] & (audited["equivalent_to"] == audited.index)
    random_cuts = []
    for of, one in _controlled(model, [one for one in cuts if is_own[one.name]]).items():
        seed, heads = (_seed(controls, of), "any") if _of_head(one) else (_seed(controls, _what(one)), "own")
        try:
            edge_sets = random_edges(model, one.edges, controls.random_edges, seed, heads=heads)
        except EdgeError:  # the cut holds every live edge of its layers, so no other set exists
            continue
        random_cuts += [_random(of, number, edges) for number, edges in enumerate(edge_sets, start=1)]
    return random_cuts


def _controlled(model: HookedRootModule, cuts: Sequence[Condition]) -> dict[str, Condition]:
    """Name what random cuts control: a cut, or the heads of a layer that lose the same live edges, by one of them."""
    target, controlled = target_of(model), {}
    live: dict[str, set[bytes]] = {}
    for one in filter(_of_head, cuts):
        mask = one.edges.mask(target.layout, target.n_layers, target.n_heads)
        in_head = reach(mask, target.readout, target.permanent_mask).live_cut[
            int(one.tags["layer"]), int(one.tags["head"])
        ]
        live.setdefault(head_family(one.tags), set()).add(in_head.numpy().tobytes())
    for one in cuts:
        shares = _of_head(one) and len(live[head_family(one.tags)]) == 1
        controlled.setdefault(head_family(one.tags) if shares else one.name, one)
    return controlled


def _random_removals(controls: Controls, layout: TokenLayout, conditions: Sequence[Condition]) -> list[Condition]:
    """Make removals of as many random channels for each removal that uses the signals of another trial.

    A removal of more than half of the channels has none: they would take most of the same channels.
    """
    channels, made = input_channels(layout), []
    for one in conditions:
        if one.tags.get("mode") != REMOVAL or one.tags["by"] != "resample":
            continue
        (removal,) = one.interventions
        assert isinstance(removal, Replace)
        samples = input_mask(layout, removal.tokens, (len(channels), 1))[:, 0]
        removed = tuple(channel for channel, gone in zip(channels, samples.tolist(), strict=True) if gone)
        if are_most_channels(len(removed), len(channels)):
            continue
        others: dict[tuple[str, ...], None] = {}
        wanted, numbers = min(controls.random_edges, comb(len(channels), len(removed)) - 1), itertools.count()
        while len(others) < wanted:
            order = np.random.default_rng([_seed(controls, _what(one)), next(numbers)]).permutation(len(channels))
            drawn = tuple(channels[i] for i in sorted(order[: len(removed)]))
            if drawn != removed:
                others[drawn] = None
        made += [
            _random(one.name, number, replace(removal, tokens=drawn)) for number, drawn in enumerate(others, start=1)
        ]
    return made


def _seed(controls: Controls, what: str) -> int:
    """Return the seed of random controls; other edges, sensors or heads get other random sets."""
    return controls.seed + zlib.crc32(what.encode())


def _what(one: Condition) -> str:
    return str(one.tags.get("edges", one.name))


def _random(of: str, number: int, intervention: Intervention | EdgeSet) -> Condition:
    """Make a random control of a condition, or of the heads of a layer."""
    return Condition(f"{of}, random {number}", intervention, {"control": RANDOM, "of": of, "random_cut": number})


def is_random_cut(one: Condition) -> bool:
    """Say whether a condition is a size-matched random cut or removal."""
    return one.tags.get("control") == RANDOM


def _of_head(one: Condition) -> bool:
    return one.tags.get("mode") == HEAD


def _only_cuts(one: Condition) -> bool:
    return bool(one.interventions) and not one.input_changes and not one.in_the_model


def cuts_one_layer_or_all(one: Condition, n_layers: int) -> bool:
    """Say whether a condition cuts one layer or every layer, or belongs to no family over layers."""
    whole = {"from_beginning": n_layers - 1, "from_end": 0, "individual": one.tags.get("layer")}
    mode = one.tags.get("mode")
    return not mode or (mode in whole and one.tags.get("layer") == whole[str(mode)])
