"""Interventions on attention edges: cut them, weaken them, or replace the values that they carry."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from emg_lens.hooks.algebra import EdgeError, EdgeSet
from emg_lens.hooks.edges import none
from emg_lens.hooks.intervention_base import INTERVENTIONS, Context, Intervention, verified_hooks
from emg_lens.hooks.parse import parse_edges
from emg_lens.hooks.replacement_options import Seed
from emg_lens.layout import TokenLayout
from emg_lens.validation import check_fields, short

if TYPE_CHECKING:  # a study can be read without torch
    from jaxtyping import Bool
    from torch import Tensor, nn


class _OnEdges(Intervention):
    """An intervention with an edge set, given as a value or as text, in its first field."""

    needs_all_trials: ClassVar[bool] = False
    edges: EdgeSet

    def __post_init__(self) -> None:
        if isinstance(self.edges, str):
            object.__setattr__(self, "edges", parse_edges(self.edges))
        if not isinstance(self.edges, EdgeSet):
            name = type(self).__name__
            raise EdgeError(f"{name} needs an edge set, got {short(self.edges)}; for example {name}(cross_modal())")

    def writes(self, layout: TokenLayout, n_layers: int, n_heads: int) -> "Bool[Tensor, 'layer pos'] | None":
        """The attention output of the destinations, in the layers of the edges."""
        return self.edges.mask(layout, n_layers, n_heads).any(-1).any(1)


@INTERVENTIONS.named("edges")
@dataclass(frozen=True, repr=False)
class EdgeCut(_OnEdges):
    """Cut attention edges: their scores become -inf before the softmax.

    Attributes:
        edges: The edges; an edge set or its text.

    Example:
        >>> from emg_lens import EdgeCut, cross_modal
        >>> EdgeCut(cross_modal().at(layers=1))
        cross_modal().at(layers=[1])
        >>> EdgeCut("cross_modal().at(layers=[1])") == EdgeCut(cross_modal().at(layers=1))
        True
    """

    edges: EdgeSet

    @property
    def cut_edges(self) -> EdgeSet:
        """The attention edges that the intervention cuts."""
        return self.edges

    def applied(self, model: "nn.Module", layout: TokenLayout, reference: "Tensor | None" = None) -> Context:  # noqa: ARG002
        """Return `cutting(model, edges, layout)`."""
        from emg_lens.hooks.cuts import cutting

        return cutting(model, self.edges, layout)

    def __str__(self) -> str:
        return str(self.edges)


@INTERVENTIONS.named("gate_edges")
@dataclass(frozen=True, repr=False, eq=False)
class EdgeGate(_OnEdges):
    """Weaken attention edges: the logarithm of a gate is added to their scores (`emg_lens.hooks.gate_edges`).

    Attributes:
        edges: The edges; an edge set or its text.
        gate: A number from 0 (cut) to 1 (unchanged), the same for all these edges. Or a tensor `[layer, head, dest,
            src]` (axes may have size 1), to which gradients flow; its values elsewhere are ignored.

    Example:
        >>> from emg_lens import Condition, EdgeGate, cross_modal
        >>> EdgeGate(cross_modal(), gate=0.25)
        EdgeGate(cross_modal(), gate=0.25)
        >>> Condition("half of the fusion", EdgeGate("cross_modal()")).interventions
        (EdgeGate(cross_modal()),)
    """

    edges: EdgeSet
    gate: "float | Tensor" = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not hasattr(self.gate, "shape") and (
            isinstance(self.gate, bool) or not isinstance(self.gate, int | float) or not 0 <= self.gate <= 1
        ):
            raise EdgeError(f"gate={short(self.gate)}; expected a number from 0 (cut) to 1 (unchanged), or a tensor")

    @property
    def cut_edges(self) -> EdgeSet:
        """The edges that the intervention cuts: all of `edges` if the gate is the number 0, otherwise none."""
        return self.edges if isinstance(self.gate, int | float) and self.gate == 0 else none()

    def applied(self, model: "nn.Module", layout: TokenLayout, reference: "Tensor | None" = None) -> Context:  # noqa: ARG002
        """Return a context in which every forward uses the gates."""
        from emg_lens.hooks.soft_edges import gate_edges, gates_on

        return verified_hooks(
            model, gate_edges(model, gates_on(model, self.edges, self.gate, layout), layout), str(self)
        )

    def _key(self) -> tuple[Any, ...]:  # tensors are compared by identity
        return (self.edges, self.gate if isinstance(self.gate, int | float) else id(self.gate))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, EdgeGate) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def __str__(self) -> str:
        if isinstance(self.gate, int | float):
            return super().__str__()
        return f"EdgeGate({self.edges}, gate=<tensor {list(self.gate.shape)}>)"


class _FromOtherTrials(_OnEdges):
    """An intervention that replaces the values that edges carry by values of reference trials."""

    def applied(self, model: "nn.Module", layout: TokenLayout, reference: "Tensor | None" = None) -> Context:
        """Return a context in which every forward reads values of reference trials over these edges."""
        if reference is None or not len(reference):
            raise EdgeError(f"{self} takes values from other trials: give reference=<training trials>")
        return verified_hooks(model, self._hooks(model, layout, reference), str(self))

    @abstractmethod
    def _hooks(self, model: "nn.Module", layout: TokenLayout, reference: "Tensor") -> list: ...


@INTERVENTIONS.named("mean_edges")
@dataclass(frozen=True, repr=False)
class MeanEdges(_FromOtherTrials):
    """Replace the values that edges carry by their mean over reference trials; attention weights stay as they are.

    Each destination reads the mean value vector of the source position instead of the trial's own
    (`emg_lens.hooks.mean_edges`). It needs reference trials: `sweep(..., reference=training_trials)`.

    Attributes:
        edges: The edges; an edge set or its text.

    Example:
        >>> from emg_lens import MeanEdges, flow
        >>> MeanEdges(flow("emg", "cls"))
        MeanEdges(flow('emg', 'cls'))
    """

    edges: EdgeSet

    def _hooks(self, model: "nn.Module", layout: TokenLayout, reference: "Tensor") -> list:
        from emg_lens.hooks.carried_values import mean_edges

        return mean_edges(model, self.edges, layout, reference=reference)


@INTERVENTIONS.named("resample_edges")
@dataclass(frozen=True, repr=False)
class ResampleEdges(_FromOtherTrials):
    """Replace the values that edges carry by those of a random reference trial; attention weights stay as they are.

    Each destination reads the value vector that the reference trial has at the source position
    (`emg_lens.hooks.resample_edges`). A trial reads the same reference trial over all these edges, in all layers. It
    needs reference trials: `sweep(..., reference=training_trials)`.

    Attributes:
        edges: The edges; an edge set or its text.
        seed: Random seed of the choice of reference trials.

    Example:
        >>> from emg_lens import cross_modal
        >>> from emg_lens.hooks import ResampleEdges
        >>> ResampleEdges(cross_modal(), seed=1)
        ResampleEdges(cross_modal(), seed=1)
    """

    needs_all_trials: ClassVar[bool] = True
    edges: EdgeSet
    seed: Seed = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_fields(self)

    def _hooks(self, model: "nn.Module", layout: TokenLayout, reference: "Tensor") -> list:
        from emg_lens.hooks.carried_values import resample_edges

        return resample_edges(model, self.edges, layout, reference=reference, seed=self.seed)
