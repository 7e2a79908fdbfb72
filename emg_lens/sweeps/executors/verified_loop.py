"""One verified forward for each condition, on any model: slow, and the standard for all other executors."""

import operator
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack
from functools import reduce
from typing import Any

from torch import Tensor, nn

from emg_lens.hooks import cutting, none
from emg_lens.layout import TokenLayout
from emg_lens.sweeps.conditions import Condition
from emg_lens.sweeps.plan import Keep, Root, Rows


class VerifiedLoop:
    """Run conditions one after the other; a row is a condition. One that raises does not stop the others."""

    def __init__(self, model: nn.Module, conditions: Sequence[Condition], layout: TokenLayout) -> None:
        self.model, self.conditions, self.layout = model, conditions, layout

    def run(self, root: Root, x: Tensor, keep: Keep, done: Rows = frozenset()) -> None:
        """Compute the outputs of every condition of a root that is not done, from its input."""
        for row in root.members:
            if row not in done:
                outputs = run_inside(self.model, [x], self.conditions[row], self.layout, None)
                keep({row: outputs if isinstance(outputs, Exception) else outputs[0]})


def run_inside(
    model: nn.Module, xs: Sequence[Tensor], condition: Condition, layout: TokenLayout, reference: Tensor | None
) -> list[Any] | Exception:
    """Run a condition inside the model on batches of its (changed) input; return what it returns, or what was raised.

    The verification follows the last batch, so either all batches count or none.
    """
    inside = condition.in_the_model
    try:
        # Interventions probe the model here, before any of them is in place.
        contexts: list[AbstractContextManager[object]] = [one.applied(model, layout, reference) for one in inside]
        cuts = [one.cut_edges for one in condition.interventions if one not in inside and one.cut_edges != none()]
        with ExitStack() as stack:
            for context in [*([cutting(model, reduce(operator.or_, cuts), layout)] if cuts else []), *contexts]:
                stack.enter_context(context)
            outputs = [model(x) for x in xs]
    except Exception as error:  # noqa: BLE001 - the results of the other conditions are kept in any case
        return error
    return outputs
