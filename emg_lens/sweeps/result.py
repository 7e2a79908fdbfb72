"""The result of a sweep: logits and audit."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from emg_lens.errors import EmgLensError
from emg_lens.sweeps.conditions import BASELINE, Condition
from emg_lens.sweeps.plan import SweepPlan
from emg_lens.validation import ArgumentError, short

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True, repr=False)
class SweepResult:
    """Logits and audit of a sweep.

    Attributes:
        conditions: The conditions in order, the baseline first.
        logits: Condition name -> `[trial, class]`, on the CPU. With `scratch`, they are mapped from its file. With
            `gradients`, they are part of the autograd graph.
        audit: One row for each condition: edges cut, live edges cut, rows fully cut, largest change of a logit against
            the baseline, whether the condition is a structural null, the first condition with the same input that cuts
            the same live edges, and the largest difference between these two (rounding, unless something is wrong). A
            condition that acts inside the model is equivalent only to itself, unless no changed position is read.
        executor: What ran the planned conditions: `"folded"` (a tree with folded weights), `"tree"` (a tree through the
            model's own blocks) or `"loop"` (one forward for each condition). All others always run in a loop.

    Example:
        >>> import torch
        >>> from emg_lens import IsoNet, IsoNetConfig, cross_modal, layer_masks, sweep
        >>> _ = torch.manual_seed(0)
        >>> model = IsoNet(IsoNetConfig({"emg": 4, "acc": 3}, n_samples=20, n_classes=2, d_model=16, n_layers=2))
        >>> x, y = model.example_input(100), torch.arange(100) % 2
        >>> result = sweep(model, x, layer_masks({"cross_modal": cross_modal()}, n_layers=2, modes=["individual"]))
        >>> result
        SweepResult(3 conditions of 100 trials, outputs [2], executor 'folded')
        >>> result.accuracy(y)[["condition", "layer", "accuracy"]].shape
        (3, 3)
        >>> sorted(result.to_frame(y).columns[:5])
        ['accuracy', 'condition', 'edges', 'layer', 'mode']
    """

    conditions: tuple[Condition, ...]
    logits: Mapping[str, Float[Tensor, "trial *output"]]
    audit: pd.DataFrame
    executor: str

    def __repr__(self) -> str:
        n, *shape = self.logits[self.conditions[0].name].shape
        return (
            f"SweepResult({len(self.conditions)} conditions of {n} trials, outputs {shape}, executor {self.executor!r})"
        )

    def to_frame(self, y: Int[Tensor, " trial"] | None = None) -> pd.DataFrame:
        """Tabulate all conditions: name, tags, the audit, and with `y` the accuracy.

        Args:
            y: Class index of each trial; None for models that do not predict classes.

        Returns:
            One row a condition, the baseline first.
        """
        tags = pd.DataFrame([{"condition": c.name, **c.tags} for c in self.conditions])
        table = tags if y is None else self.accuracy(y)
        return table.merge(self.audit, on="condition", validate="one_to_one")

    def plot(self, y: Int[Tensor, " trial"], axes: "Axes | None" = None) -> "Axes":
        """Draw the accuracy of every condition as a bar, and that of the unmasked model as a dashed line.

        Args:
            y: Class index of each trial.
            axes: Where to draw; default, a new figure.

        Returns:
            The axes, for titles and for saving: `axes.figure.savefig("sweep.svg")`.
        """
        table = self.accuracy(y)
        if axes is None:
            from matplotlib.figure import Figure

            axes = Figure(figsize=(6.0, 0.8 + 0.22 * len(table)), layout="constrained").subplots()
        cut = table.iloc[1:]
        axes.barh(cut["condition"], cut["accuracy"], color="#0072B2", height=0.7)
        baseline = float(table["accuracy"].iloc[0])
        axes.axvline(baseline, color="#3b3f46", linestyle="--", linewidth=0.8, label=f"unmasked, {baseline:.3f}")
        axes.invert_yaxis()
        axes.set_xlim(0, 1)
        axes.set_xlabel("Accuracy")
        axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1))
        return axes

    def accuracy(self, y: Int[Tensor, " trial"]) -> pd.DataFrame:
        """Tabulate accuracy by condition: name, tags, accuracy in [0, 1], Δ% = 100 (acc − base) / base (paper §2.3).

        Args:
            y: Class index of each trial.

        Raises:
            ArgumentError: The outputs are not class logits `[trial, class]`, or `y` is not one class index per trial.
        """
        labels, shape = np.asarray(y), tuple(self.logits[self.conditions[0].name].shape)
        if len(shape) != 2:
            raise ArgumentError(
                f"outputs have shape {list(shape)}; accuracy needs class logits [trial, class];"
                " score other outputs with emg_lens.scoring"
            )
        if labels.shape != shape[:1] or labels.dtype.kind not in "iu":
            raise ArgumentError(f"y={short(labels)}; expected one class index for each of {shape[0]} trials")
        if labels.min() < 0 or labels.max() >= shape[1]:
            raise ArgumentError(f"y runs from {labels.min()} to {labels.max()}; expected 0 to {shape[1] - 1}")
        correct = [self.logits[c.name].argmax(-1) == torch.as_tensor(labels) for c in self.conditions]
        table = pd.DataFrame([{"condition": c.name, **c.tags} for c in self.conditions])
        table["accuracy"] = torch.stack(correct).double().mean(-1).numpy()
        table["delta_percent"] = 100 * (table["accuracy"] - table["accuracy"].iloc[0]) / table["accuracy"].iloc[0]
        return table


class SweepError(EmgLensError, RuntimeError):
    """Some conditions raised while running. `result` holds the others, `errors` the exception of each."""

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
    """Combine logits by condition name with their audit."""
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
    return float("nan") if a is None or b is None else float((a.detach() - b.detach()).abs().max())
