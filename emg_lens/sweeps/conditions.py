"""Families of conditions: what is done to the model in each run of a sweep, and the names the tables use for it."""

import operator
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from types import MappingProxyType
from typing import Literal, get_args

from emg_lens.hooks import EdgeCut, EdgeError, EdgeSet, none
from emg_lens.hooks.algebra import Size
from emg_lens.hooks.interventions import Intervention, Interventions, as_interventions
from emg_lens.validation import ArgumentError, Name, check_argument, checked, short

BASELINE = "baseline"
Mode = Literal["individual", "from_beginning", "from_end"]
MODES: tuple[Mode, ...] = get_args(Mode)
MOST_CONDITIONS = 100_000
Tags = Mapping[str, str | int | float | bool]


@dataclass(frozen=True)
class Condition:
    """A named intervention, or several together.

    ```python
    Condition("ACC zeroed, unimodal cut", (Replace("acc"), EdgeCut(unimodal())))
    ```

    Attributes:
        name: Unique within a sweep.
        intervention: What is done, as given: an edge set, an intervention, or a tuple of them.
        tags: What the tables group by: `edges` (name of the edge kind), `mode`, `layer` (0-based), or a user's own.
        interventions: The same as a tuple of interventions; empty where nothing is done.
    """

    name: str
    intervention: Interventions = field(default=none(), repr=False, compare=False)
    tags: Tags = field(default_factory=dict, hash=False)
    interventions: tuple[Intervention, ...] = field(init=False)

    def __post_init__(self) -> None:
        if not (isinstance(self.name, str) and self.name):
            raise EdgeError(f"a condition needs a name, Condition('no talk', cross_modal()); got {self.name!r}")
        check_argument("a condition's name", self.name, Name)
        check_argument(f"condition {self.name!r}: tags", self.tags, Tags)
        object.__setattr__(self, "interventions", as_interventions(self.intervention))
        object.__setattr__(self, "tags", MappingProxyType(dict(self.tags)))

    def __reduce__(self) -> tuple:
        return (Condition, (self.name, self.intervention, dict(self.tags)))

    @property
    def edges(self) -> EdgeSet:
        """All attention edges that are cut."""
        cut = [one.cut_edges for one in self.interventions if one.cut_edges != none()]
        return reduce(operator.or_, cut) if cut else none()

    @property
    def input_changes(self) -> tuple[Intervention, ...]:
        """The interventions that change the model's input, in order."""
        return tuple(one for one in self.interventions if one.changes_input)

    @property
    def in_the_model(self) -> tuple[Intervention, ...]:
        """The interventions that are neither edge cuts nor changes of the input: only they themselves can run them."""
        return tuple(one for one in self.interventions if not (one.changes_input or type(one) is EdgeCut))


def baseline() -> Condition:
    """The condition that does nothing; every sweep has it."""
    return Condition(BASELINE)


def layers_of(mode: Mode, layer: int, n_layers: int) -> range:
    """The layers a mode cuts at depth `layer`: the layer alone, all up to it, or it and all after it (paper §4)."""
    match mode:
        case "individual":
            return range(layer, layer + 1)
        case "from_beginning":
            return range(layer + 1)
        case "from_end":
            return range(layer, n_layers)
    raise ArgumentError(f"unknown mode {mode!r}; known: {', '.join(MODES)}")


@checked
def layer_masks(edges: Mapping[str, EdgeSet], n_layers: Size, modes: Sequence[Mode] = MODES) -> list[Condition]:
    """Every edge set × mode × layer, as in Table 3 of the IsoNet paper; named `edges/mode/L<layer + 1>`.

    Args:
        edges: Edge sets by the name that tables show.
        n_layers: Layers of the model, `model.cfg.n_layers`: `"from_end"` cuts up to the last of them.
        modes: `"individual"`, `"from_beginning"` (the paper's RFB), `"from_end"` (RFE).

    Raises:
        ArgumentError: Edge sets or modes that are none, an edge set without a name, or more conditions than make sense.
    """
    _check_family(edges, n_layers * len(modes))
    if not modes or len(set(modes)) < len(modes):
        raise ArgumentError(f"layer_masks: modes={modes!r}; expected different ones of {', '.join(MODES)}")
    return [
        Condition(
            f"{name}/{mode}/L{layer + 1}",
            edge_set.at(layers=layers_of(mode, layer, n_layers)),
            {"edges": name, "mode": mode, "layer": layer},
        )
        for mode in modes
        for layer in range(n_layers)
        for name, edge_set in edges.items()
    ]


@checked
def head_masks(edges: Mapping[str, EdgeSet], n_layers: Size, n_heads: Size) -> list[Condition]:
    """Every edge set × layer × head, one head at a time; named `edges/head/L<layer + 1>H<head>`.

    Raises:
        ArgumentError: Edge sets that are none, one without a name, or more conditions than make sense.
    """
    _check_family(edges, n_layers * n_heads)
    return [
        Condition(
            f"{name}/head/L{layer + 1}H{head}",
            edge_set.at(layers=layer, heads=head),
            {"edges": name, "mode": "head", "layer": layer, "head": head},
        )
        for layer in range(n_layers)
        for head in range(n_heads)
        for name, edge_set in edges.items()
    ]


def _check_family(edges: Mapping[str, EdgeSet], n_places: int) -> None:
    if not edges or not all(name.strip() for name in edges):
        raise ArgumentError(f"masks need edge sets by name, {{'cross_modal': cross_modal()}}; got {dict(edges)}")
    if len(edges) * n_places > MOST_CONDITIONS:
        raise ArgumentError(f"{len(edges) * n_places} conditions; at most {MOST_CONDITIONS}")


def with_baseline(conditions: Sequence[Condition]) -> list[Condition]:
    """The conditions with the baseline in front.

    Raises:
        EdgeError: Something else than a list of conditions, two of one name, or one named `"baseline"` that does
            something.
    """
    if not isinstance(conditions, list | tuple) or not all(isinstance(one, Condition) for one in conditions):
        raise EdgeError(f"expected a list such as [Condition('no talk', cross_modal())], got {short(conditions)}")
    doubled = sorted(name for name, count in Counter(c.name for c in conditions).items() if count > 1)
    if doubled:
        raise EdgeError(f"conditions need different names, these are used twice: {doubled[:5]}")
    if any(c.name == BASELINE and c.interventions for c in conditions):
        raise EdgeError("the name 'baseline' is kept for the condition that does nothing")
    return [baseline(), *(c for c in conditions if c.name != BASELINE)]
