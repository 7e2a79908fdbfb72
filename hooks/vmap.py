"""Inside `torch.func` transforms: there a tensor may stand for many, and looks like one of them."""

from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor

_functorch: Any = torch._C._functorch  # pyright: ignore[reportAttributeAccessIssue]


def inside_vmap() -> bool:
    """Whether the code that runs is being mapped by `torch.vmap`, at any level."""
    levels = _functorch.get_interpreter_stack() or ()
    return any(level.key() == _functorch.TransformType.Vmap for level in levels)


def of_all_mapped(seen: Shaped[Tensor, "*shape"]) -> Shaped[Tensor, "mapped *shape"]:
    """A tensor as it is outside all transforms: all that it stands for, one after the other; else a single one."""
    shape, mapped = seen.shape, 0
    while _functorch.is_functorch_wrapped_tensor(seen):
        place = _functorch.maybe_get_bdim(seen)
        seen = _functorch.get_unwrapped(seen)
        if place >= 0:
            seen, mapped = seen.movedim(place, 0), mapped + 1
    return seen.reshape(-1, *shape)
