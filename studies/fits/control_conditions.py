"""The controls of a study, as conditions of the same sweep: random cuts, all cuts together, detours closed."""

import operator
import zlib
from collections.abc import Sequence
from functools import reduce

import pandas as pd
from torch import Tensor
from transformer_lens.HookedRootModule import HookedRootModule

from emg_lens.analysis.controls import random_edges, superset_ablations, with_cls_path_closed
from emg_lens.analysis.shift import COLUMNS, activation_shift
from emg_lens.hooks import EdgeError
from emg_lens.studies.spec.condition_spec import DETOUR, RANDOM, SUPERSET, ConditionsSpec, Controls
from emg_lens.sweeps.conditions import Condition
from emg_lens.sweeps.engine import audit


def controls_of(spec: ConditionsSpec, model: HookedRootModule, conditions: Sequence[Condition]) -> list[Condition]:
    """The controls of a study's conditions on a model; each is tagged `control`, and `of` which condition it is one.

    Args:
        spec: What the study asks for.
        model: The model, for its layers, heads and live edges.
        conditions: Those that `spec` built for it.

    Raises:
        EdgeError: A condition with the name of a control, or layer masks for a model without attention.
    """
    if spec.controls is None:
        return []
    n_layers: int = model.cfg.n_layers  # pyright: ignore
    if spec.layer_masks is not None and not n_layers:
        raise EdgeError(f"{type(model).__name__} has no attention layers to cut; set conditions.layer_masks to null")
    found = [*_larger(spec, model), *_random(spec.controls, model, conditions)]
    taken = {one.name for one in conditions} & {one.name for one in found}
    if taken:
        raise EdgeError(f"condition {min(taken)!r} has the name of a control (conditions.controls); rename it")
    return found


def nested_cuts(model: HookedRootModule, conditions: Sequence[Condition]) -> pd.DataFrame:
    """Which conditions cut all that another one cuts, and more: `superset_ablations`, without the random ones."""
    return superset_ablations(model, [one for one in conditions if not _is_draw(one)])


def shift_of(
    spec: ConditionsSpec, model: HookedRootModule, conditions: Sequence[Condition], x: Tensor, reference: Tensor
) -> pd.DataFrame:
    """`activation_shift` of the conditions that a report speaks of; none where the study does not ask for it.

    Args:
        spec: What the study asks for.
        model: The fitted model.
        conditions: Its conditions and controls.
        x: Tested trials `[trial, channel, time]`, standardised.
        reference: Training trials, likewise.
    """
    n_layers: int = model.cfg.n_layers  # pyright: ignore
    if spec.controls is None or not spec.controls.shift or not n_layers:
        return pd.DataFrame(columns=[*COLUMNS])
    told = [c for c in conditions if c.interventions and _is_single_or_whole(c, n_layers) and not _is_draw(c)]
    told = [c for c in told if c.tags.get("mode") != "individual"]
    alike = audit(model, [c for c in conditions if not _is_draw(c)]).set_index("condition")["equivalent_to"]
    told = list({alike[c.name]: c for c in reversed(told)}.values())[::-1]  # each computation once
    shown = {alike[c.name] for c in told}
    told += [c for c in conditions if c.tags.get("draw") == 1 and alike[c.tags["of"]] in shown]
    return activation_shift(model, x, told, reference=reference)


def _larger(spec: ConditionsSpec, model: HookedRootModule) -> list[Condition]:
    """All edge sets of `layer_masks` together, and each with CLS unread by other tokens; every layer."""
    if spec.layer_masks is None or spec.controls is None:
        return []
    edges = spec.layer_masks.edges
    found = []
    if spec.controls.superset and len(edges) > 1:
        together = reduce(operator.or_, edges.values())
        found.append(Condition(" and ".join(edges), together, {"control": SUPERSET}))
    if spec.controls.cls_path_closed and model.layout.has_cls:  # pyright: ignore
        found += [
            Condition(f"{name}, CLS unread", with_cls_path_closed(one), {"control": DETOUR, "of": name})
            for name, one in edges.items()
        ]
    return found


def _random(controls: Controls, model: HookedRootModule, conditions: Sequence[Condition]) -> list[Condition]:
    """Random cuts for cuts of one layer, of every layer, and of `extra`; once where several cut the same."""
    n_layers: int = model.cfg.n_layers  # pyright: ignore
    cuts = [one for one in conditions if _is_cut(one) and _is_single_or_whole(one, n_layers)]
    if not controls.random_edges or not cuts:
        return []
    audited = audit(model, cuts).set_index("condition")
    found = []
    for one in cuts:
        if audited.loc[one.name, "structural_null"] or audited.loc[one.name, "equivalent_to"] != one.name:
            continue
        try:
            kind = zlib.crc32(str(one.tags.get("edges", one.name)).encode())  # draws of other edges are other draws
            draws = random_edges(model, one.edges, controls.random_edges, controls.seed + kind)
        except EdgeError:  # it cuts every edge there is in its layers: nothing is left to draw instead
            continue
        for draw, edges in enumerate(draws, start=1):
            tags = {"control": RANDOM, "of": one.name, "draw": draw}
            found.append(Condition(f"{one.name}, random {draw}", edges, tags))
    return found


def _is_draw(one: Condition) -> bool:
    return one.tags.get("control") == RANDOM


def _is_cut(one: Condition) -> bool:
    return bool(one.interventions) and not one.input_changes and not one.in_the_model


def _is_single_or_whole(one: Condition, n_layers: int) -> bool:
    """Whether a condition cuts one layer or all of them, or is outside the families; those between need no draws."""
    whole = {"from_beginning": n_layers - 1, "from_end": 0, "individual": one.tags.get("layer")}
    mode = one.tags.get("mode")
    return not mode or (mode in whole and one.tags.get("layer") == whole[str(mode)])
