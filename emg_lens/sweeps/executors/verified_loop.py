"""One verified forward a condition, on any model: slow, and what all other executors are compared with."""

import operator
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack
from functools import reduce

from torch import Tensor, nn

from emg_lens.hooks import cutting, none
from emg_lens.layout import TokenLayout
from emg_lens.sweeps.conditions import Condition
from emg_lens.sweeps.plan import Keep, Root, Rows
from emg_lens.sweeps.settings import SweepInputError


class VerifiedLoop:
    """The conditions of a root one after the other; a row is a condition. One that raises does not stop the others."""

    def __init__(self, model: nn.Module, conditions: Sequence[Condition], layout: TokenLayout) -> None:
        self.model, self.conditions, self.layout = model, conditions, layout

    def run(self, root: Root, x: Tensor, keep: Keep, done: Rows = frozenset()) -> None:
        """Logits of every condition of a root that is not done, from its input."""
        for row in root.members:
            if row not in done:
                found = run_inside(self.model, [x], self.conditions[row], self.layout, None)
                keep({row: found if isinstance(found, Exception) else found[0]})


def _output(model: nn.Module, x: Tensor) -> Tensor:
    out = model(x)
    if not isinstance(out, Tensor):
        name = type(model).__name__
        raise SweepInputError(f"{name} gives a {type(out).__name__}; a sweep keeps one tensor [trial, ...]: wrap it")
    return out


def run_inside(
    model: nn.Module, xs: Sequence[Tensor], condition: Condition, layout: TokenLayout, reference: Tensor | None
) -> list[Tensor] | Exception:
    """Logits of what a condition does inside the model, for batches of its (changed) input; or what it raised.

    Everything is verified when the last batch has run, so it counts as a whole or not at all.

    Args:
        model: Any TransformerLens model.
        xs: Batches of the input, changes of the input made; a single one where trials depend on each other.
        condition: What is done.
        layout: What the positions stand for.
        reference: Trials that replaced values come from, on the model's device.
    """
    inside = condition.in_the_model
    try:
        # What interventions must find out about the model, they find out before any other is in place.
        contexts: list[AbstractContextManager[object]] = [one.applied(model, layout, reference) for one in inside]
        cuts = [one.cut_edges for one in condition.interventions if one not in inside and one.cut_edges != none()]
        with ExitStack() as stack:
            for context in [*([cutting(model, reduce(operator.or_, cuts), layout)] if cuts else []), *contexts]:
                stack.enter_context(context)
            outputs = [_output(model, x) for x in xs]
    except Exception as error:  # noqa: BLE001 - whatever it is, the other conditions' results are kept
        return error
    return outputs
