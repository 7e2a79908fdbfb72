"""What a sweep gives: logits and audit."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from emg_lens.errors import EmgLensError
from emg_lens.sweeps.conditions import BASELINE, Condition
from emg_lens.sweeps.plan import SweepPlan
from emg_lens.validation import ArgumentError, short


@dataclass(frozen=True)
class SweepResult:
    """Logits and audit of a sweep.

    Attributes:
        conditions: The conditions in order, the baseline first.
        logits: Condition name -> `[trial, class]`, on the CPU; with `scratch`, read from its file at every look.
        audit: One row a condition: edges cut, live edges cut, rows fully cut, largest change of a logit against the
            baseline, whether the condition is a structural null, the first condition with the same input that cuts the
            same live edges, and the largest difference between the two (rounding, unless something is wrong).
            Conditions that act inside the model are equivalent to themselves alone, unless what they do there ends in
            positions that nobody reads.
        executor: What ran the conditions that could be planned: `"folded"` (the plan as a tree, from the parts of an
            encoder whose arithmetic is known exactly), `"stacked"` (the same level by level), `"tree"` (the plan as a
            tree, through the model's own blocks) or `"loop"` (a forward a condition). The others always run in a loop.
    """

    conditions: tuple[Condition, ...]
    logits: Mapping[str, Float[Tensor, "trial *output"]]
    audit: pd.DataFrame
    executor: str

    def accuracy(self, y: Int[Tensor, " trial"]) -> pd.DataFrame:
        """One row a condition: name, tags, accuracy in [0, 1], and the paper's Δ% = 100 (acc − base) / base (§2.3).

        Raises:
            ArgumentError: Something else than one class index a trial.
        """
        given = np.asarray(y)
        logits = torch.stack([self.logits[c.name] for c in self.conditions])
        if given.shape != logits.shape[1:2] or given.dtype.kind not in "iu":
            raise ArgumentError(f"y={short(given)}; expected class indices of {logits.shape[1]} trials")
        if given.min() < 0 or given.max() >= logits.shape[2]:
            raise ArgumentError(f"y runs from {given.min()} to {given.max()}; there are {logits.shape[2]} classes")
        y = torch.as_tensor(given)
        accuracy = (logits.argmax(-1) == y).double().mean(-1)
        table = pd.DataFrame([{"condition": c.name, **c.tags} for c in self.conditions])
        table["accuracy"] = accuracy.numpy()
        table["delta_percent"] = 100 * (table["accuracy"] - table["accuracy"].iloc[0]) / table["accuracy"].iloc[0]
        return table


class SweepError(EmgLensError, RuntimeError):
    """Some conditions raised while running. `result` holds the others, `errors` what each one raised."""

    def __init__(self, errors: Mapping[str, Exception], result: SweepResult) -> None:
        name, error = next(iter(errors.items()))
        super().__init__(
            f"{len(errors)} of {len(errors) + len(result.logits)} conditions failed, the first is {name!r}:"
            f" {type(error).__name__}: {error}; the others are in .result"
        )
        self.errors, self.result = dict(errors), result


def sweep_result(
    conditions: Sequence[Condition],
    planned: SweepPlan,
    logits: Mapping[str, Tensor],
    failed: Mapping[str, Exception],
    executor: str,
) -> SweepResult:
    """Logits by condition name, with the audit that belongs to them.

    Raises:
        SweepError: Some conditions raised.
    """
    audited = planned.audit.copy()
    baseline, names = logits.get(BASELINE), audited["condition"]
    audited.insert(4, "max_abs_delta_logit", [_distance(logits.get(n), baseline) for n in names])
    audited["equivalence_error"] = [
        _distance(logits.get(n), logits.get(e)) for n, e in zip(names, audited["equivalent_to"], strict=True)
    ]
    result = SweepResult(tuple(c for c in conditions if c.name in logits), logits, audited, executor)
    if failed:
        raise SweepError(failed, result)
    return result


def _distance(a: Tensor | None, b: Tensor | None) -> float:
    return float("nan") if a is None or b is None else float((a - b).abs().max())
