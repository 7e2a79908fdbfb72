"""Pack parameters into few vectors.

A step of AdamW then takes few operations, and the models of a cohort are the rows of matrices.
"""

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
"""Kinds of parameters: used for the outputs; used for auxiliary outputs only; not fitted."""

ALIGNED = 16
"""Each parameter starts at a multiple of this number of values, so that it is aligned for vector instructions."""


@dataclass(frozen=True)
class Packing:
    """Name, shape and first value (`starts`) of each parameter in a vector of `size` values.

    `orders` holds the axes of each parameter by memory layout, which is kept: it decides the speed of matrix products.
    """

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    orders: tuple[tuple[int, ...], ...]
    starts: tuple[int, ...]
    size: int

    @classmethod
    def of(cls, parameters: Mapping[str, Tensor]) -> "Packing":
        """Pack these parameters one after the other."""
        starts, end = [], 0
        for parameter in parameters.values():
            starts.append(end)
            end += -(-parameter.numel() // ALIGNED) * ALIGNED
        shapes = tuple(tuple(p.shape) for p in parameters.values())
        orders = tuple(tuple(sorted(range(p.ndim), key=p.stride, reverse=True)) for p in parameters.values())
        return cls(tuple(parameters), shapes, orders, tuple(starts), end)

    def views(self, vector: Float[Tensor, " value"]) -> dict[str, Tensor]:
        """Parameters by name, as views of a vector."""
        views = {}
        for name, shape, order, start in zip(self.names, self.shapes, self.orders, self.starts, strict=True):
            lengths = [shape[axis] for axis in order]
            back = sorted(range(len(order)), key=order.__getitem__)
            views[name] = vector.narrow(0, start, torch.Size(shape).numel()).view(lengths).permute(back)
        return views

    def pack(self, parameters: Mapping[str, Tensor]) -> Float[Tensor, " value"]:
        """Copy these parameters into a new vector."""
        vector = next(iter(parameters.values())).new_zeros(self.size)
        with torch.no_grad():
            for name, view in self.views(vector).items():
                view.copy_(parameters[name])
        return vector


@dataclass(frozen=True)
class Group:
    """Parameters of one kind and one learning rate (a fraction of the recipe's), which one vector holds."""

    kind: str
    lr_scale: float = 1.0

    @property
    def name(self) -> str:
        """Name of the vector in a checkpoint."""
        return self.kind if self.lr_scale == 1 else f"{self.kind} at {self.lr_scale!r} lr"


def parameter_groups(model: Any, recipe: TrainingRecipe | None = None) -> dict[Group, dict[str, nn.Parameter]]:
    """Group the parameters of a model by kind and learning rate; without a recipe, all are fitted with one rate."""
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
    """Pack the fitted parameters and their gradients into one vector per group, for the time of the context.

    Inside, parameters and gradients are views of the vectors, and parameters that the recipe does not fit need no
    gradient. Afterwards each parameter has its own memory again.
    """
    all_groups = parameter_groups(model, recipe)
    groups = {group: parameters for group, parameters in all_groups.items() if group.kind != FROZEN}
    frozen = [parameter for parameter in all_groups.get(Group(FROZEN), {}).values() if parameter.requires_grad]
    vectors = {}
    for parameter in frozen:
        parameter.requires_grad_(False)
    for name, group in groups.items():
        packing = Packing.of(group)
        vectors[name] = vector = nn.Parameter(packing.pack(group))
        vector.grad = torch.zeros_like(vector)
        values, gradients = packing.views(vector.data), packing.views(vector.grad)
        for own_name, parameter in group.items():
            parameter.data, parameter.grad = values[own_name], gradients[own_name]
    try:
        yield vectors
    finally:
        for parameter in (p for group in groups.values() for p in group.values()):
            parameter.data, parameter.grad = parameter.data.clone(), None
        for parameter in frozen:
            parameter.requires_grad_(True)
