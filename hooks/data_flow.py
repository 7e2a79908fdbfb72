"""Follow which tokens a tensor is computed from, while a model runs."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch._ops import HigherOrderOperator
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from emg_lens.hooks.hook_points import DeadHookError, only_while_probing

Sources = frozenset[str]
"""What a tensor is computed from: attention modules by their paths, and inputs of the model."""


class DataFlow(TorchDispatchMode):
    """Records the sources of every tensor that is computed inside the context.

    A result has the sources of all arguments. Views share the storage, so they share the sources.
    """

    supports_higher_order_operators = True

    def __init__(self) -> None:
        super().__init__()
        self._sources: dict[StorageWeakRef, Sources] = {}  # the reference keeps the address from being used again

    def of(self, values: Any) -> Sources:
        """Return the sources of all tensors in a tensor or container."""
        return Sources().union(*(self._sources.get(key, Sources()) for key in _storages(values)))

    def set(self, values: Any, sources: Sources) -> None:
        """Replace the sources of all tensors in a tensor or container."""
        self._sources.update(dict.fromkeys(_storages(values), sources))

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None) -> Any:
        if isinstance(func, HigherOrderOperator):
            raise DeadHookError(f"the model calls torch's {func.name()}, whose scores cannot be edited; use a softmax")
        result = func(*args, **(kwargs or {}))
        if sources := self.of((args, kwargs)):
            for key in _storages(result):
                self._sources[key] = self._sources.get(key, Sources()) | sources
        return result

    @contextmanager
    def replacing_outputs(self, module: nn.Module, path: str) -> Iterator[None]:
        """Give the output of an attention module two sources: itself, and what its first argument has.

        So a residual stream has the sources of its own blocks, and not those of the tokens that its attention reads.
        """

        def replace(module: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any) -> None:  # noqa: ARG001
            self.set(output, self.of(stream_and_others(args, kwargs)[0]) | {path})

        handle = module.register_forward_hook(only_while_probing(replace), with_kwargs=True)
        try:
            yield
        finally:
            handle.remove()


def stream_and_others(args: tuple, kwargs: dict[str, Any]) -> tuple[Tensor | None, list[Tensor]]:
    """Split the arguments of a module into its residual stream (the first one with tokens) and other such tensors."""
    tensors = [t for t in (*args, *kwargs.values()) if isinstance(t, Tensor)]
    tokens = [t for t in tensors if t.ndim > 2 and t.is_floating_point()]
    return (tokens[0], tokens[1:]) if tokens else (None, [])


def _storages(values: Any) -> Iterator[StorageWeakRef]:
    for leaf in tree_leaves(values):
        if isinstance(leaf, Tensor) and leaf.layout == torch.strided:
            yield StorageWeakRef(leaf.untyped_storage())
