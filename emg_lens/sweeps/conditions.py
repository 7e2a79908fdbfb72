"""Conditions: what a sweep does to the model in each run, and the names that tables use."""

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

    Attributes:
        name: Name, unique within a sweep.
        intervention: An edge set, an intervention, or a tuple of them, as given.
        tags: Values that tables group by: `edges` (name of the edge kind), `mode`, `layer` (0-based), or your own.
        interventions: The same as a tuple of interventions; empty if nothing is done.

    Raises:
        EdgeError: No name, or something that is not an intervention.

    Example:
        >>> from emg_lens import Condition, EdgeCut, Replace, unimodal
        >>> both = Condition("ACC zeroed, unimodal cut", (Replace("acc"), EdgeCut(unimodal())), tags={"kind": "both"})
        >>> both.interventions
        (Replace('acc'), unimodal())
        >>> both.edges
        EdgeSet(unimodal())
    """

    name: str
    intervention: Interventions = field(default=none(), repr=False, compare=False)
    tags: Tags = field(default_factory=dict, hash=False)
    interventions: tuple[Intervention, ...] = field(init=False)

    def __post_init__(self) -> None:
        if not (isinstance(self.name, str) and self.name):
            raise EdgeError(f"condition name {self.name!r}; expected a text, as in Condition('cut', cross_modal())")
        check_argument("a condition's name", self.name, Name)
        check_argument(f"condition {self.name!r}: tags", self.tags, Tags)
        object.__setattr__(self, "interventions", as_interventions(self.intervention))
        object.__setattr__(self, "tags", MappingProxyType(dict(self.tags)))

    def __reduce__(self) -> tuple:
        return (Condition, (self.name, self.intervention, dict(self.tags)))

    @property
    def edges(self) -> EdgeSet:
        """The union of all attention edges that are cut."""
        cut = [one.cut_edges for one in self.interventions if one.cut_edges != none()]
        return reduce(operator.or_, cut) if cut else none()

    @property
    def input_changes(self) -> tuple[Intervention, ...]:
        """The interventions that change the model's input, in order."""
        return tuple(one for one in self.interventions if one.changes_input)

    @property
    def in_the_model(self) -> tuple[Intervention, ...]:
        """The interventions that are neither edge cuts nor changes of the input; the sweep cannot plan them."""
        return tuple(one for one in self.interventions if not (one.changes_input or type(one) is EdgeCut))


@checked
def layer_masks(edges: Mapping[str, EdgeSet], n_layers: Size, modes: Sequence[Mode] = MODES) -> list[Condition]:
    """Make one condition for each edge set, mode and layer, as in Table 3 of the IsoNet paper.

    They are named `edges/mode/L<layer + 1>`.

    Args:
        edges: Edge sets by the name that tables show.
        n_layers: Layers of the model, `model.cfg.n_layers`: `"from_end"` cuts up to the last of them.
        modes: `"individual"`, `"from_beginning"` (the paper's RFB), `"from_end"` (RFE).

    Returns:
        The conditions; their tags are `edges`, `mode` and `layer`.

    Raises:
        ArgumentError: No edge sets or no modes, an edge set without a name, or more than 100,000 conditions.

    Example:
        >>> from emg_lens import cross_modal, layer_masks
        >>> conditions = layer_masks({"cross_modal": cross_modal()}, n_layers=2)
        >>> [condition.name for condition in conditions[:3]]
        ['cross_modal/individual/L1', 'cross_modal/individual/L2', 'cross_modal/from_beginning/L1']
        >>> conditions[2].edges
        EdgeSet(cross_modal().at(layers=[0]))
    """
    _check_family(edges, n_layers * len(modes))
    if not modes or len(set(modes)) < len(modes):
        raise ArgumentError(f"layer_masks: modes={modes!r}; expected different ones of {', '.join(MODES)}")
    layers_of = {
        "individual": lambda layer: layer,
        "from_beginning": lambda layer: range(layer + 1),
        "from_end": lambda layer: range(layer, n_layers),
    }
    return [
        Condition(
            f"{name}/{mode}/L{layer + 1}",
            edge_set.at(layers=layers_of[mode](layer)),
            {"edges": name, "mode": mode, "layer": layer},
        )
        for mode in modes
        for layer in range(n_layers)
        for name, edge_set in edges.items()
    ]


@checked
def head_masks(edges: Mapping[str, EdgeSet], n_layers: Size, n_heads: Size) -> list[Condition]:
    """Make one condition for each edge set, layer and head: one head is cut at a time.

    They are named `edges/head/L<layer + 1>H<head>`.

    Args:
        edges: Edge sets by the name that tables show.
        n_layers: Layers of the model.
        n_heads: Heads of each layer.

    Returns:
        The conditions; their tags are `edges`, `mode`, `layer` and `head`.

    Raises:
        ArgumentError: No edge sets, an edge set without a name, or more than 100,000 conditions.

    Example:
        >>> from emg_lens import head_masks, unimodal
        >>> [condition.name for condition in head_masks({"unimodal": unimodal()}, n_layers=1, n_heads=2)]
        ['unimodal/head/L1H0', 'unimodal/head/L1H1']
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
        raise ArgumentError(f"edges={dict(edges)}; expected edge sets by name, {{'cross_modal': cross_modal()}}")
    if len(edges) * n_places > MOST_CONDITIONS:
        raise ArgumentError(f"{len(edges) * n_places} conditions; at most {MOST_CONDITIONS}")


def with_baseline(conditions: Sequence[Condition]) -> list[Condition]:
    """Return the conditions with the baseline in front."""
    if not isinstance(conditions, list | tuple) or not all(isinstance(one, Condition) for one in conditions):
        raise EdgeError(
            f"conditions={short(conditions)}; expected a list of conditions, [Condition('cut', cross_modal())]"
        )
    doubled = sorted(name for name, count in Counter(c.name for c in conditions).items() if count > 1)
    if doubled:
        raise EdgeError(f"several conditions are named {doubled[:5]}; expected different names")
    if any(c.name == BASELINE and c.interventions for c in conditions):
        raise EdgeError("the name 'baseline' is for the condition without interventions; rename the other condition")
    return [Condition(BASELINE), *(c for c in conditions if c.name != BASELINE)]
