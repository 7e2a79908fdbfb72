"""Parameters as parts of few vectors: a step of AdamW is few operations then, and the models of a cohort are rows."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from emg_lens.training.layers import lr_scales, names_of_head
from emg_lens.training.recipe import TrainingRecipe

WEIGHTS, AUXILIARY, FROZEN = "weights", "auxiliary", "frozen"
"""Groups of parameters: what the outputs are computed with, what auxiliary outputs alone need, what is not fitted."""

ALIGNED = 16
"""Each parameter begins at a multiple of so many values: where a vector register may begin."""


@dataclass(frozen=True)
class Packing:
    """Where each parameter stands in a vector.

    Attributes:
        names: Of the parameters.
        shapes: Their shapes.
        orders: Their axes in the order of their memory, which is kept: matrix products read it as it lies.
        starts: Where each begins.
        size: Length of the vector.
    """

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    orders: tuple[tuple[int, ...], ...]
    starts: tuple[int, ...]
    size: int

    @classmethod
    def of(cls, parameters: Mapping[str, Tensor]) -> "Packing":
        """The packing of these parameters, one after the other."""
        starts, end = [], 0
        for parameter in parameters.values():
            starts.append(end)
            end += -(-parameter.numel() // ALIGNED) * ALIGNED
        shapes = tuple(tuple(p.shape) for p in parameters.values())
        orders = tuple(tuple(sorted(range(p.ndim), key=p.stride, reverse=True)) for p in parameters.values())
        return cls(tuple(parameters), shapes, orders, tuple(starts), end)

    def views(self, vector: Float[Tensor, " value"]) -> dict[str, Tensor]:
        """The parameters by name, as views of a vector."""
        found = {}
        for name, shape, order, start in zip(self.names, self.shapes, self.orders, self.starts, strict=True):
            lengths = [shape[axis] for axis in order]
            back = sorted(range(len(order)), key=order.__getitem__)
            found[name] = vector.narrow(0, start, torch.Size(shape).numel()).view(lengths).permute(back)
        return found

    def pack(self, parameters: Mapping[str, Tensor]) -> Float[Tensor, " value"]:
        """A new vector that holds a copy of these parameters."""
        vector = next(iter(parameters.values())).new_zeros(self.size)
        with torch.no_grad():
            for name, view in self.views(vector).items():
                view.copy_(parameters[name])
        return vector


@dataclass(frozen=True)
class Group:
    """What a vector holds.

    Attributes:
        kind: One of `WEIGHTS`, `AUXILIARY`, `FROZEN`.
        lr_scale: Its learning rate, as a share of the recipe's.
    """

    kind: str
    lr_scale: float = 1.0

    @property
    def name(self) -> str:
        """What its vector is called."""
        return self.kind if self.lr_scale == 1 else f"{self.kind} at {self.lr_scale!r} lr"


def parameter_groups(model: Any, recipe: TrainingRecipe | None = None) -> dict[Group, dict[str, nn.Parameter]]:
    """The model's parameters by group and name; groups without one are missing.

    Args:
        model: The model.
        recipe: Which of them it fits, and with which learning rates; `None` = all, with one.

    Raises:
        FitError: The recipe asks for a head, or for learning rates by layer, of a model that does not say which of its
            parameters those are.
    """
    groups: dict[Group, dict[str, nn.Parameter]] = defaultdict(dict)
    scales = lr_scales(model, 1.0 if recipe is None else recipe.layer_decay)
    fitted = set(scales) if recipe is None or recipe.fitted == "all" else names_of_head(model)
    auxiliary = model.auxiliary_parameters
    for name, parameter in model.named_parameters():
        is_auxiliary = bool(auxiliary) and name.startswith(auxiliary)
        group = Group(AUXILIARY if is_auxiliary else WEIGHTS, scales[name])
        groups[group if parameter.requires_grad and name in fitted else Group(FROZEN)][name] = parameter
    return dict(groups)


@contextmanager
def packed(model: Any, recipe: TrainingRecipe) -> Iterator[dict[Group, nn.Parameter]]:
    """The fitted parameters, as views of one vector a group, each with a gradient; apart again afterwards.

    What the recipe does not fit needs no gradient meanwhile.
    """
    every = parameter_groups(model, recipe)
    groups = {group: parameters for group, parameters in every.items() if group.kind != FROZEN}
    idle = [parameter for parameter in every.get(Group(FROZEN), {}).values() if parameter.requires_grad]
    vectors = {}
    for parameter in idle:
        parameter.requires_grad_(False)
    for name, group in groups.items():
        packing = Packing.of(group)
        vectors[name] = vector = nn.Parameter(packing.pack(group))
        vector.grad = torch.zeros_like(vector)
        values, slopes = packing.views(vector.data), packing.views(vector.grad)
        for own_name, parameter in group.items():
            parameter.data, parameter.grad = values[own_name], slopes[own_name]
    try:
        yield vectors
    finally:
        for parameter in (p for group in groups.values() for p in group.values()):
            parameter.data, parameter.grad = parameter.data.clone(), None
        for parameter in idle:
            parameter.requires_grad_(True)
