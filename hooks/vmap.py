"""Support for `torch.func` transforms, in which one tensor may represent a whole mapped batch."""

from typing import Any

import torch
from jaxtyping import Bool, Shaped
from torch import Tensor

_functorch: Any = torch._C._functorch  # pyright: ignore[reportAttributeAccessIssue]


def inside_vmap() -> bool:
    """Return whether the running code is inside `torch.vmap`, at any level."""
    levels = _functorch.get_interpreter_stack() or ()
    return any(level.key() == _functorch.TransformType.Vmap for level in levels)


def of_all_mapped(tensor: Shaped[Tensor, "*shape"]) -> Shaped[Tensor, "mapped *shape"]:
    """Remove the wrappers of all transforms from a tensor. The new first axis contains all mapped tensors."""
    shape, mapped = tensor.shape, 0
    while _functorch.is_functorch_wrapped_tensor(tensor):
        place = _functorch.maybe_get_bdim(tensor)
        tensor = _functorch.get_unwrapped(tensor)
        if place >= 0:
            tensor, mapped = tensor.movedim(place, 0), mapped + 1
    return tensor.reshape(-1, *shape)


def is_wrapped(tensor: Tensor) -> bool:
    """Return whether a transform uses a tensor, so that its values are not available."""
    return _functorch.is_functorch_wrapped_tensor(tensor)


def surely(conditions: Bool[Tensor, "..."]) -> bool:
    """Return whether all conditions are known to hold, without waiting for a device: only on a CPU they are known.

    While a model is exported or compiled, values are not known.
    """
    if conditions.device.type != "cpu" or is_wrapped(conditions) or torch.compiler.is_compiling():
        return False
    return bool(conditions.all())
