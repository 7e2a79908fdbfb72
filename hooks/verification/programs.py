"""Find layers that perform the same operations, so that the full check of one of them is enough.

The operations of a forward are recorded below the level of modules. Two modules have equal programs if they call the
same operations in the same order, with the same settings and shapes, and every operation reads the same earlier
results. They may differ in the values of their weights and inputs.
"""

import sys
import weakref
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import zip_longest
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from emg_lens.hooks.hook_points import TORCH_ATTRIBUTES, probing
from emg_lens.transformer_lens_imports import HookPoint


class _Value(NamedTuple):
    """A tensor: its number in the order of appearance, shape and type."""

    number: int
    shape: tuple[int, ...]
    dtype: Any


class _Operation(NamedTuple):
    """A call: its arguments and results in one flat list, containers as their type and length."""

    function: Any
    arguments: list[Any]


class Programs(TorchDispatchMode):
    """Records the operations inside the context, and which of them belong to the first call of each module."""

    supports_higher_order_operators = True

    def __init__(self) -> None:
        super().__init__()
        self._operations: list[_Operation] = []
        self._numbers: dict[int, tuple[weakref.ref, int]] = {}
        self._n_values = 0
        self._spans: dict[nn.Module, list[int]] = {}

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # otherwise torch imports its compiler, which takes seconds; see `new_programs`

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None) -> Any:
        return self.recorded(func, args, kwargs)

    def recorded(self, func: Any, args: tuple, kwargs: dict[str, Any] | None) -> Any:
        """Run and record an operation."""
        result = func(*args, **(kwargs or {}))
        if probing.get():  # not a forward in another thread
            arguments: list[Any] = []
            for value in (args, kwargs or {}, result):
                self._flatten(value, arguments)
            self._operations.append(_Operation(func, arguments))
        return result

    def _flatten(self, value: Any, into: list[Any]) -> None:
        """Append a value, and the entries of a container one by one (a third of the time of torch's `tree_flatten`)."""
        if isinstance(value, Tensor):
            known = self._numbers.get(id(value))
            if known is None or known[0]() is not value:
                self._n_values += 1
                known = self._numbers[id(value)] = (weakref.ref(value), self._n_values)
            into.append(_Value(known[1], value.shape, value.dtype))
        elif isinstance(value, list | tuple | dict):
            into += (type(value), len(value))
            for key in value:
                if isinstance(value, dict):
                    into.append(key)
                self._flatten(value[key] if isinstance(value, dict) else key, into)
        else:
            into.append(value)

    @contextmanager
    def recording(self, modules: list[nn.Module]) -> Iterator[None]:
        """Record the operations of a forward, and where each module begins and ends."""
        with ExitStack() as stack:
            for module in modules:
                for register in (module.register_forward_pre_hook, module.register_forward_hook):
                    stack.callback(register(self._mark).remove)
            stack.enter_context(self)
            yield

    def _mark(self, module: nn.Module, *_: object) -> None:
        if probing.get():
            self._spans.setdefault(module, []).append(len(self._operations))

    def equal(self, first: nn.Module, second: nn.Module) -> bool:
        """Return whether two modules have the same code and settings, and equal programs."""
        ours, theirs = self._program(first), self._program(second)
        return bool(ours) and ours == theirs and have_equal_settings(first, second)

    def _program(self, module: nn.Module) -> list[_Operation]:
        """Return the operations of the first call, with tensors numbered in the order in which they appear there."""
        start, end, *_ = [*self._spans.get(module, ()), 0, 0]
        numbers: dict[int, int] = {}

        def local(argument: Any) -> Any:
            if not isinstance(argument, _Value):
                return argument
            return argument._replace(number=numbers.setdefault(argument.number, len(numbers)))

        return [one._replace(arguments=[*map(local, one.arguments)]) for one in self._operations[start:end]]


class _UncompiledPrograms(Programs):
    """Programs in a process in which torch's compiler is imported: the compiler ignores the recording."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return True

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None) -> Any:
        return self.recorded(func, args, kwargs)


def new_programs() -> Programs:
    """Return programs without any operation."""
    return _UncompiledPrograms() if "torch._dynamo" in sys.modules else Programs()


def have_equal_settings(first: nn.Module, second: nn.Module) -> bool:
    """Return whether two modules have parts of the same classes, with equal attributes.

    Names, and attributes of type float, such as rates that grow with the layer, may differ: where they matter for a
    forward, its operations differ. Of a hook point only the class is compared, because hooks that have an effect are
    operations.
    """
    for one, other in zip_longest(first.modules(), second.modules()):
        if type(one) is not type(other):
            return False
        if not isinstance(one, HookPoint) and not _equal(_settings(one), _settings(other)):
            return False
    return True


def _settings(part: nn.Module) -> dict[str, Any]:
    own = {key: value for key, value in vars(part).items() if key not in TORCH_ATTRIBUTES and key != "name"}
    return {key: value for key, value in own.items() if not isinstance(value, float) and not _has_tensors(value)}


def _has_tensors(value: Any) -> bool:
    return any(isinstance(leaf, Tensor) for leaf in tree_leaves(value))


def _equal(first: Any, second: Any) -> bool:
    try:
        return bool(first == second)
    except Exception:  # noqa: BLE001  # arrays, for example, are not compared as a whole
        return False
