"""The `conditions:` of a study file: cuts in every layer or head, removals, single conditions, and controls."""

from collections.abc import Mapping
from typing import Any

from pydantic import ConfigDict, Field, PrivateAttr, model_validator

from emg_lens.hooks.algebra import EdgeError, EdgeSet
from emg_lens.hooks.edges import cross_modal, same_channel, self_edges, unimodal
from emg_lens.hooks.interventions import Intervention, read_interventions
from emg_lens.hooks.parse import EdgeExpression
from emg_lens.layout import NO_INDEX, TokenLayout, where_modalities_meet
from emg_lens.studies.spec.removal_spec import Removals
from emg_lens.sweeps.conditions import MODES, Condition, Mode, head_masks, layer_masks, with_baseline
from emg_lens.validation import Name, SpecModel

RANDOM, CLS_PATH_CLOSED, SUPERSET = "random", "cls_path_closed", "superset"
"""Kinds of controls: values of the tag `control` of a condition."""
HEAD = "head"
"""Value of the tag `mode` of a cut of a single head."""


class LayerMasks(SpecModel):
    """Cuts of every edge set in every layer, in several modes (Table 3 of the IsoNet paper).

    Attributes:
        edges: Edge expressions by the name that tables show; default: within and between sensors; of a single sensor,
            between and within channels (`default_edges`).
        modes: `individual` cuts one layer, `from_beginning` all layers up to it, `from_end` it and all later layers.
    """

    edges: dict[Name, EdgeExpression] | None = Field(default=None, min_length=1)
    modes: tuple[Mode, ...] = Field(default=MODES, min_length=1)


def default_edges(layout: TokenLayout | None) -> dict[str, EdgeSet]:
    """Return the edge sets that are cut by default: within and between sensors; of one sensor, between channels.

    Args:
        layout: Layout of the tokens; None stands for a layout of several sensors. If the tokens of a single sensor
            combine its channels, edges are divided by time instead.
    """
    if layout is None or len(layout.modalities) > 1:
        return {"unimodal": unimodal(), "cross_modal": cross_modal()}
    if max(layout.channel) == NO_INDEX:
        return {"other times": unimodal() - self_edges(), "same time": unimodal() & self_edges()}
    same = same_channel() if max(layout.patch) != NO_INDEX else self_edges()
    return {"other channels": unimodal() - same, "same channel": unimodal() & same}


class HeadMasks(SpecModel):
    """Cuts of every edge set in one head of one layer at a time.

    Attributes:
        edges: Edge expressions by the name that tables show.
    """

    edges: dict[Name, EdgeExpression] = Field(default={"every": "every()"}, validate_default=True, min_length=1)


def head_family(tags: Mapping[str, Any]) -> str:
    """Name the cuts of the same edges in one head of the same layer, which share random cuts: `"every/head/L1"`."""
    return f"{tags['edges']}/{HEAD}/L{int(tags['layer']) + 1}"


class SingleCondition(SpecModel):
    """A single condition: a name, and interventions by their keys.

    `{name: EMG -> CLS, edges: "flow('emg', 'cls')"}` cuts edges, `{name: ACC zeroed, replace: acc, by: zero}` changes
    the input. One condition may do both: `{name: both, replace: acc, edges: unimodal()}`. Several interventions of one
    kind go into a list: `{name: …, all: [{replace: acc}, {replace: emg}]}`.

    Attributes:
        name: Name of the condition in tables.
        sees: Modalities with label information that still reaches the readout. If the data set knows its true
            information (as `simulated` does), the report shows the accuracy that it implies next to the measured one.
        all: Interventions that happen together, each as a mapping of keys.
    """

    model_config = ConfigDict(extra="allow")

    name: Name
    sees: tuple[str, ...] | None = None
    all: tuple[dict[str, Any], ...] = ()
    _interventions: tuple[Intervention, ...] = PrivateAttr(default=())

    @model_validator(mode="after")
    def _read(self) -> "SingleCondition":
        specs: list[Mapping[str, Any]] = [self.model_extra or {}, *self.all]
        self._interventions = tuple(one for spec in specs if spec for one in read_interventions(spec))
        if not self._interventions:
            raise ValueError(
                f"condition {self.name!r} has no intervention; give it edges, replace, shuffle or cut_mlp, for example"
                " edges: cross_modal()"
            )
        return self

    def build(self) -> Condition:
        """Make the condition, with its name as the tag `edges`."""
        return Condition(self.name, self._interventions, {"edges": self.name, "mode": ""})


class Controls(SpecModel):
    """Controls of cuts and removals, which the same sweep runs (docs/controls.md §8).

    Attributes:
        random_edges: Number of size-matched random cuts for each cut of one layer, of every layer, and of `extra`; for
            all cuts of the same edges in one head of a layer; and of removals of random channels for each removal by
            resampling.
        superset: Cut all edge sets of `layer_masks` together, in every layer.
        cls_path_closed: Cut each edge set of `layer_masks` with the path through CLS closed, in every layer: no other
            token reads CLS either.
        seed: Seed of the random cuts and removals.
    """

    random_edges: int = Field(default=20, ge=0, le=1000)
    superset: bool = True
    cls_path_closed: bool = True
    seed: int = Field(default=0, ge=0)


class ConditionsSpec(SpecModel):
    """The conditions that every fitted model runs under, in addition to the baseline.

    Attributes:
        layer_masks: Cuts in every layer; null for none. A model without attention has none by default.
        head_masks: Cuts in every head; default none.
        removals: Sensors, or groups of channels, removed from the input; null for none.
        extra: Single conditions. A removal with the name and the intervention of one of them takes its place.
        controls: Controls of the cuts; null for none.
    """

    layer_masks: LayerMasks | None = LayerMasks()
    head_masks: HeadMasks | None = None
    removals: Removals | None = Removals()
    extra: tuple[SingleCondition, ...] = ()
    controls: Controls | None = Controls()

    def layer_edges(self, n_layers: int, n_heads: int, layout: TokenLayout | None = None) -> dict[str, EdgeSet]:
        """Return the edge sets of `layer_masks` by name; by default, those of `default_edges` that the model has.

        Raises:
            EdgeError: The study names layer masks, and the model has no attention.
        """
        if self.layer_masks is None or (not n_layers and self.layer_masks == LayerMasks()):
            return {}
        if not n_layers:
            raise EdgeError("the model has no attention layers to cut; set conditions.layer_masks to null")
        if self.layer_masks.edges is not None:
            return dict(self.layer_masks.edges)
        edges = default_edges(layout).items()
        return {name: e for name, e in edges if layout is None or bool(e.mask(layout, n_layers, n_heads).any())}

    def build(self, n_layers: int, n_heads: int, layout: TokenLayout | None = None) -> list[Condition]:
        """Make the conditions for one model, with the baseline first.

        Args:
            n_layers: Number of attention layers.
            n_heads: Number of heads in a layer.
            layout: Layout of the tokens. Without it, there are no removals. If some layers keep modalities apart, a
                family has no condition for edges that do not exist there.

        Raises:
            EdgeError: Two conditions have the same name, or an edge set of a family exists in no layer.
        """
        conditions: list[Condition] = []
        edges = self.layer_edges(n_layers, n_heads, layout)
        if self.layer_masks is not None and edges:
            conditions += layer_masks(edges, n_layers, self.layer_masks.modes)
        if self.head_masks is not None:
            conditions += head_masks(self.head_masks.edges, n_layers, n_heads)
        if layout is not None and layout.stages:
            existing = [one for one in conditions if bool(one.edges.mask(layout, n_layers, n_heads).any())]
            missing = {str(one.tags["edges"]) for one in conditions} - {str(one.tags["edges"]) for one in existing}
            if missing:
                raise EdgeError(f"{min(missing)} exists in no layer of this model{where_modalities_meet(layout)}")
            conditions = existing
        extra = [single.build() for single in self.extra]
        removals = [] if self.removals is None or layout is None else self.removals.build(layout)
        for removal in removals:
            same_name = [one for one in extra if one.name == removal.name]
            if any(one.interventions != removal.interventions for one in same_name):
                raise EdgeError(
                    f"condition {removal.name!r} has the name of a removal (conditions.removals); rename it, or set"
                    " conditions.removals to null"
                )
            extra = [one for one in extra if one not in same_name]
        return with_baseline([*conditions, *extra, *removals])
