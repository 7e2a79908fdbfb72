"""The controls of a study, as conditions of the same sweep: random cuts, supersets, the path through CLS closed."""

import operator
import zlib
from collections.abc import Sequence
from functools import reduce

from transformer_lens.HookedRootModule import HookedRootModule

from emg_lens.analysis.controls import random_edges, with_cls_path_closed
from emg_lens.hooks import EdgeError
from emg_lens.studies.spec.condition_spec import CLS_PATH_CLOSED, RANDOM, SUPERSET, ConditionsSpec, Controls
from emg_lens.sweeps.conditions import Condition
from emg_lens.sweeps.engine import audit


def controls_of(spec: ConditionsSpec, model: HookedRootModule, conditions: Sequence[Condition]) -> list[Condition]:
    """Make the controls of a study's conditions for a model.

    Args:
        spec: The `conditions:` of the study.
        model: The model. Its layers, heads and live edges decide what a control cuts.
        conditions: The conditions that `spec` built for this model.

    Returns:
        Conditions with the tags `control` (the kind of control) and `of` (the name of the controlled condition).

    Raises:
        EdgeError: A condition has the name of a control, or layer masks are asked of a model without attention.
    """
    if spec.controls is None:
        return []
    n_layers: int = model.cfg.n_layers  # pyright: ignore
    if spec.layer_masks is not None and not n_layers:
        raise EdgeError(f"{type(model).__name__} has no attention layers to cut; set conditions.layer_masks to null")
    controls = [*_supersets(spec, model), *_random_cuts(spec.controls, model, conditions)]
    taken = {one.name for one in conditions} & {one.name for one in controls}
    if taken:
        raise EdgeError(f"condition {min(taken)!r} has the name of a control (conditions.controls); rename it")
    return controls


def _supersets(spec: ConditionsSpec, model: HookedRootModule) -> list[Condition]:
    """Cut all edge sets of `layer_masks` together, and each one with the path through CLS closed, in every layer."""
    if spec.layer_masks is None or spec.controls is None:
        return []
    edges, controls = spec.layer_masks.edges, []
    if spec.controls.superset and len(edges) > 1:
        together = reduce(operator.or_, edges.values())
        controls.append(Condition(" and ".join(edges), together, {"control": SUPERSET}))
    if spec.controls.cls_path_closed and model.layout.has_cls:  # pyright: ignore
        controls += [
            Condition(f"{name}, CLS path closed", with_cls_path_closed(one), {"control": CLS_PATH_CLOSED, "of": name})
            for name, one in edges.items()
        ]
    return controls


def _random_cuts(controls: Controls, model: HookedRootModule, conditions: Sequence[Condition]) -> list[Condition]:
    """Make random cuts for the cuts of one layer, of every layer, and of `extra`; once for equal cuts."""
    n_layers: int = model.cfg.n_layers  # pyright: ignore
    cuts = [one for one in conditions if _only_cuts(one) and cuts_one_layer_or_all(one, n_layers)]
    if not controls.random_edges or not cuts:
        return []
    audited = audit(model, cuts).set_index("condition")
    random_cuts = []
    for one in cuts:
        if audited.loc[one.name, "structural_null"] or audited.loc[one.name, "equivalent_to"] != one.name:
            continue
        try:
            kind = zlib.crc32(str(one.tags.get("edges", one.name)).encode())  # other edges get other random sets
            edge_sets = random_edges(model, one.edges, controls.random_edges, controls.seed + kind)
        except EdgeError:  # the cut holds every live edge of its layers, so no other set exists
            continue
        for number, edges in enumerate(edge_sets, start=1):
            tags = {"control": RANDOM, "of": one.name, "random_cut": number}
            random_cuts.append(Condition(f"{one.name}, random {number}", edges, tags))
    return random_cuts


def is_random_cut(one: Condition) -> bool:
    """Say whether a condition is a size-matched random cut."""
    return one.tags.get("control") == RANDOM


def _only_cuts(one: Condition) -> bool:
    return bool(one.interventions) and not one.input_changes and not one.in_the_model


def cuts_one_layer_or_all(one: Condition, n_layers: int) -> bool:
    """Say whether a condition cuts one layer or every layer, or belongs to no family over layers."""
    whole = {"from_beginning": n_layers - 1, "from_end": 0, "individual": one.tags.get("layer")}
    mode = one.tags.get("mode")
    return not mode or (mode in whole and one.tags.get("layer") == whole[str(mode)])
