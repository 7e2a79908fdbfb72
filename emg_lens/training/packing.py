"""Parameters as parts of few vectors: a step of AdamW is few operations then, and the models of a cohort are rows."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

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


def parameter_groups(model: Any) -> dict[str, dict[str, nn.Parameter]]:
    """The model's parameters by group and name; groups without one are missing."""
    groups: dict[str, dict[str, nn.Parameter]] = defaultdict(dict)
    auxiliary = model.auxiliary_parameters
    for name, parameter in model.named_parameters():
        is_auxiliary = bool(auxiliary) and name.startswith(auxiliary)
        group = AUXILIARY if is_auxiliary else WEIGHTS
        groups[group if parameter.requires_grad else FROZEN][name] = parameter
    return dict(groups)


@contextmanager
def packed(model: Any) -> Iterator[dict[str, nn.Parameter]]:
    """The fitted parameters, as views of one vector a group, each with a gradient; apart again afterwards."""
    groups = {name: group for name, group in parameter_groups(model).items() if name != FROZEN}
    vectors = {}
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
