"""The base of all interventions, and the registry through which study files find them.

A new kind is a frozen dataclass derived from `Intervention`. Register it with the key that study files use: the value
of the key becomes its first field, and its other fields are further keys.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import fields
from typing import TYPE_CHECKING, Any, ClassVar

from emg_lens.hooks.algebra import EdgeSet
from emg_lens.hooks.edges import none
from emg_lens.layout import TokenLayout
from emg_lens.registry import Registry

if TYPE_CHECKING:  # a study can be read without torch
    from jaxtyping import Bool
    from torch import Tensor, nn

Context = AbstractContextManager[object]


class Intervention(ABC):
    """A change of a model while it runs: an immutable, hashable value that prints as Python."""

    needs_all_trials: ClassVar[bool] = True
    """Whether the result for one trial depends on the other trials of the batch; then the batch is never split."""

    @property
    def cut_edges(self) -> EdgeSet:
        """The attention edges that the intervention cuts; by default none."""
        return none()

    @property
    def changes_input(self) -> bool:
        """Whether `on_input` and `cut_edges` describe everything that the intervention does."""
        return False

    def on_input(self, x: "Tensor", layout: TokenLayout, reference: "Tensor | None") -> "Tensor":  # noqa: ARG002
        """Change the input `[trial, channel, time]`: all trials of the sweep.

        `reference`: trials for means and resampled values, where the intervention needs them.
        """
        return x

    def writes(self, layout: TokenLayout, n_layers: int, n_heads: int) -> "Bool[Tensor, 'layer pos'] | None":  # noqa: ARG002
        """Return the layer outputs that the intervention changes; None if it may change anything.

        If none of these outputs has a path to the readout, the intervention has no effect, and the sweep skips it.
        """
        return None

    @abstractmethod
    def applied(self, model: "nn.Module", layout: TokenLayout, reference: "Tensor | None" = None) -> Context:
        """Return a context in which `model` runs with the intervention; its exit verifies that this happened.

        The call itself probes the model. The context only installs the hooks, so that several interventions can be
        probed first and entered together.
        """

    def __repr__(self) -> str:
        return str(self)

    def __str__(self) -> str:
        first, *others = fields(self)  # pyright: ignore[reportArgumentType]
        value = getattr(self, first.name)
        text = str(value) if isinstance(value, EdgeSet) else repr(value)
        options = [f", {f.name}={getattr(self, f.name)!r}" for f in others if getattr(self, f.name) != f.default]
        return f"{type(self).__name__}({text}{''.join(options)})"


INTERVENTIONS: Registry[type[Intervention]] = Registry("intervention", "emg_lens.interventions", type[Intervention])
"""All kinds of interventions, by the key that study files use."""


@contextmanager
def verified_hooks(model: Any, hooks: list, what: str) -> Iterator[None]:
    """Install hooks, and verify on exit that each of them ran."""
    from emg_lens.hooks.hook_points import DeadHookError, attached_hook

    runs = {name: 0 for name, _ in hooks}

    def counting(name: str, fn: Any) -> Any:
        def run(tensor: Any, hook: Any) -> Any:
            runs[name] += 1
            return fn(tensor, hook)

        return run

    with ExitStack() as stack:
        for name, fn in hooks:
            stack.enter_context(attached_hook(model.hook_dict[name], counting(name, fn)))
        yield
    silent = [name for name, count in runs.items() if not count]
    if silent:
        raise DeadHookError(f"{what} had no effect: the hook on {silent[0]} did not run; call the model in the context")
