"""The `conditions:` of a study file: families over layers and heads, and single conditions of any intervention."""

from collections.abc import Mapping
from typing import Any

from pydantic import ConfigDict, Field, PrivateAttr, model_validator

from emg_lens.hooks.algebra import EdgeError
from emg_lens.hooks.interventions import Intervention, read_interventions
from emg_lens.hooks.parse import EdgeExpression
from emg_lens.layout import TokenLayout, where_modalities_meet
from emg_lens.sweeps.conditions import MODES, Condition, Mode, head_masks, layer_masks, with_baseline
from emg_lens.validation import Name, SpecModel

RANDOM, DETOUR, SUPERSET = "random", "cls_path_closed", "superset"
"""Kinds of controls, as the tag `control` of a condition says it."""


class LayerMasks(SpecModel):
    """Every edge set × mode × layer (Table 3 of the IsoNet paper).

    Attributes:
        edges: Edge expressions by the name that tables show.
        modes: Any of `individual`, `from_beginning`, `from_end`.
    """

    edges: dict[Name, EdgeExpression] = Field(
        default={"unimodal": "unimodal()", "cross_modal": "cross_modal()"}, validate_default=True, min_length=1
    )
    modes: tuple[Mode, ...] = Field(default=MODES, min_length=1)


class HeadMasks(SpecModel):
    """Every edge set × layer × head, one head at a time.

    Attributes:
        edges: Edge expressions by the name that tables show.
    """

    edges: dict[Name, EdgeExpression] = Field(default={"every": "every()"}, validate_default=True, min_length=1)


class SingleCondition(SpecModel):
    """One more condition: a name, and interventions by their keys.

    `{name: EMG -> CLS, edges: "flow('emg', 'cls')"}`, `{name: ACC zeroed, replace: acc, by: zero}`, or several in one:
    `{name: both, replace: acc, edges: unimodal()}`; several of one kind: `{name: …, all: [{replace: acc}, …]}`.

    Attributes:
        name: Its name in tables.
        sees: For simulated cohorts: the modalities whose label information still reaches the readout. The report then
            puts the accuracy that the simulation implies beside the measured one.
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
            raise ValueError(f"condition {self.name!r} does nothing; give it edges, replace, shuffle or cut_mlp")
        return self

    def build(self) -> Condition:
        """The condition, tagged by its name."""
        return Condition(self.name, self._interventions, {"edges": self.name, "mode": ""})


class Controls(SpecModel):
    """What says how much the cost of an edge cut is worth (docs/controls.md §8).

    Attributes:
        random_edges: For each cut of one layer, of every layer, and of `extra`, so many random cuts of as many live
            edges.
        superset: For several edge sets of `layer_masks`, all of them cut together, in every layer.
        detour: For each edge set of `layer_masks`, the same with CLS unread by other tokens, in every layer.
        shift: Whether it is measured how far the residual stream is moved by cuts of every layer, single conditions and
            the controls above, beside one random cut of each.
        seed: Of the random cuts.
    """

    random_edges: int = Field(default=20, ge=0, le=1000)
    superset: bool = True
    cls_path_closed: bool = True
    shift: bool = True
    seed: int = Field(default=0, ge=0)


class ConditionsSpec(SpecModel):
    """What is done to every fitted model, beside the baseline.

    Attributes:
        layer_masks: Null leaves them out.
        head_masks: Default none.
        extra: Single conditions.
        controls: What stands beside them; null leaves it out.
    """

    layer_masks: LayerMasks | None = LayerMasks()
    head_masks: HeadMasks | None = None
    extra: tuple[SingleCondition, ...] = ()
    controls: Controls | None = Controls()

    def build(self, n_layers: int, n_heads: int, layout: TokenLayout | None = None) -> list[Condition]:
        """The conditions for a model of these layers, heads and tokens, baseline first.

        Where stages keep modalities apart in some layers, a family has no condition for edges that do not exist there.

        Raises:
            EdgeError: Two conditions of one name, or an edge set of a family that exists in no layer.
        """
        found: list[Condition] = []
        if self.layer_masks is not None:
            found += layer_masks(self.layer_masks.edges, n_layers, self.layer_masks.modes)
        if self.head_masks is not None:
            found += head_masks(self.head_masks.edges, n_layers, n_heads)
        if layout is not None and layout.stages:
            there = [one for one in found if bool(one.edges.mask(layout, n_layers, n_heads).any())]
            if gone := {str(one.tags["edges"]) for one in found} - {str(one.tags["edges"]) for one in there}:
                raise EdgeError(f"{min(gone)} exists in no layer of this model{where_modalities_meet(layout)}")
            found = there
        return with_baseline([*found, *(single.build() for single in self.extra)])
