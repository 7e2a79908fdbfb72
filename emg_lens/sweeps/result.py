"""The result of a sweep: logits and audit."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from emg_lens.errors import EmgLensError, did_you_mean
from emg_lens.registry import UnknownNameError
from emg_lens.sweeps.conditions import BASELINE, Condition
from emg_lens.sweeps.plan import SweepPlan
from emg_lens.tables import WholeTable
from emg_lens.validation import ArgumentError, short

ClassLabels = Tensor | np.ndarray | Sequence[int]
"""One class index for each trial."""
MOST_LINES, LARGEST = 100, 20
"""Of more conditions than the first number, the printed result has those with the largest changes: the second."""
NULL = "cannot change an output"
"""The note on a structural null."""

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True, repr=False)
class SweepResult:
    """Logits and audit of a sweep; printed, one line for each condition.

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
        y: Class index of each trial, if `sweep` got it; then tables, figure and the printed result show accuracies.

    Example:
        >>> import torch
        >>> from emg_lens import IsoNet, IsoNetConfig, cross_modal, layer_masks, sweep
        >>> _ = torch.manual_seed(0)
        >>> model = IsoNet(IsoNetConfig({"emg": 4, "acc": 3}, n_samples=20, n_classes=2, d_model=16, n_layers=2))
        >>> x, y = model.example_input(100), torch.arange(100) % 2
        >>> conditions = layer_masks({"cross_modal": cross_modal()}, n_layers=2, modes=["individual"])
        >>> result = sweep(model, x, conditions, y=y)
        >>> result
        SweepResult(3 conditions of 100 trials, outputs [2], executor 'folded')
          condition                  accuracy  drop (pp)
          baseline                      0.460
          cross_modal/individual/L1     0.460        0.0
          cross_modal/individual/L2     0.460        0.0  cannot change an output
        >>> result.accuracy()[["condition", "layer", "accuracy"]].shape
        (3, 3)
        >>> sorted(result.to_frame().columns[:5])
        ['accuracy', 'condition', 'edges', 'layer', 'mode']
    """

    conditions: tuple[Condition, ...]
    logits: Mapping[str, Float[Tensor, "trial *output"]]
    audit: pd.DataFrame
    executor: str
    y: Int[np.ndarray, " trial"] | None = None

    def __repr__(self) -> str:
        if not self.conditions:
            return "SweepResult(no condition)"
        n, *shape = self.logits[self.conditions[0].name].shape
        head = f"{len(self.conditions)} conditions of {n} trials, outputs {shape}, executor {self.executor!r}"
        return "\n".join([f"SweepResult({head})", *self._lines()])

    def _lines(self) -> list[str]:
        """Write one line for each condition; of very many, those with the largest changes."""
        table = self.to_frame()
        if "accuracy" in table:
            size, titles = -100 * table["accuracy"].sub(_of_baseline(table)), ("accuracy", "drop (pp)")
            values = table["accuracy"].map("{:.3f}".format), (size.round(1) + 0.0).map("{:.1f}".format)
        else:
            size, titles = table["max_abs_delta_logit"], ("edges cut", "largest change of an output")
            values = table["edges_cut"].map(str), size.map("{:.3g}".format)
        shown = size.index if len(table) <= MOST_LINES else size.index[:1].append(size.iloc[1:].nlargest(LARGEST).index)
        rows = [("condition", *titles, "")]
        rows += [
            (
                table["condition"][i],
                values[0][i],
                values[1][i] if i else "",
                NULL if table["structural_null"][i] and i else "",
            )
            for i in shown
        ]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [f"  {a:<{widths[0]}}  {b:>{widths[1]}}  {c:>{widths[2]}}  {d}".rstrip() for a, b, c, d in rows]
        left = len(table) - len(shown)
        more = [f"  and {left} conditions with smaller changes; to_frame() has all"] if left else []
        return [*lines, *more]

    def to_frame(self, y: ClassLabels | None = None) -> pd.DataFrame:
        """Tabulate all conditions: name, tags, the audit, and the accuracy if labels are known.

        Args:
            y: Class index of each trial; default: the labels that `sweep` got. Without labels, there is no accuracy.

        Returns:
            One row a condition, the baseline first.
        """
        labels = self.y if y is None else y
        table = self._tags() if labels is None else self.accuracy(labels)
        return self._audited(table)

    def _audited(self, table: pd.DataFrame) -> pd.DataFrame:
        return table.merge(self.audit, on="condition", validate="one_to_one")

    def _tags(self) -> pd.DataFrame:
        return WholeTable([{"condition": c.name, **c.tags} for c in self.conditions])

    def plot(self, y: ClassLabels | None = None, axes: "Axes | None" = None) -> "Axes":
        """Draw the accuracy of every condition as a bar, and that of the unmasked model as a dashed line.

        Args:
            y: Class index of each trial; default: the labels that `sweep` got.
            axes: Where to draw; default, a new figure.

        Returns:
            The axes, for titles and for saving: `axes.figure.savefig("sweep.svg")`.
        """
        from emg_lens.plotting import plot_bars

        table = self.accuracy(y)
        reference = ("unmasked", float(table["accuracy"].iloc[0]))
        axes = plot_bars(
            table.iloc[1:], name="condition", value="accuracy", label="Accuracy", reference=reference, ax=axes
        )
        axes.set_xlim(0, 1)
        return axes

    def accuracy(self, y: ClassLabels | None = None) -> pd.DataFrame:
        """Tabulate accuracy by condition: name, tags, accuracy in [0, 1], Δ% = 100 (acc − base) / base (paper §2.3).

        Args:
            y: Class index of each trial; default: the labels that `sweep` got.

        Raises:
            ArgumentError: No labels, labels that are not one class index per trial, or outputs that are not class
                logits `[trial, class]`.
        """
        given = self.y if y is None else y
        if given is None:
            raise ArgumentError("accuracy needs labels: accuracy(y), or sweep(..., y=y)")
        shape = tuple(self.logits[self.conditions[0].name].shape)
        labels = class_indices(given, shape[0])
        check_labels(labels, shape)
        correct = [self.logits[c.name].argmax(-1) == torch.as_tensor(labels) for c in self.conditions]
        table = self._tags()
        table["accuracy"] = torch.stack(correct).double().mean(-1).numpy()
        baseline = _of_baseline(table)
        table["delta_percent"] = 100 * (table["accuracy"] - baseline) / baseline
        return table


def _of_baseline(table: pd.DataFrame) -> float:
    """Return the accuracy of the baseline; NaN if the baseline failed."""
    accuracy = table.loc[table["condition"] == BASELINE, "accuracy"]
    return float(accuracy.iloc[0]) if len(accuracy) else np.nan


def class_indices(y: ClassLabels, n_trials: int) -> Int[np.ndarray, " trial"]:
    """Return labels as an array, and refuse labels that are not one class index for each trial."""
    labels = y.cpu().numpy() if isinstance(y, Tensor) else np.asarray(y)
    if labels.shape != (n_trials,) or labels.dtype.kind not in "iu":
        raise ArgumentError(f"y={short(labels)}; expected one class index for each of {n_trials} trials")
    return labels


def check_labels(labels: Int[np.ndarray, " trial"], shape: tuple[int, ...]) -> None:
    """Refuse outputs that are not class logits, and labels without a logit.

    Args:
        labels: Class index of each trial.
        shape: Shape of the outputs.

    Raises:
        ArgumentError: They do not fit; the message says what does.
    """
    if len(shape) != 2:
        raise ArgumentError(
            f"outputs have shape {list(shape)}; accuracy needs class logits [trial, class]; score other outputs with"
            " emg_lens.scoring"
        )
    if labels.min() < 0 or labels.max() >= shape[1]:
        raise ArgumentError(f"y runs from {labels.min()} to {labels.max()}; expected 0 to {shape[1] - 1}")


class _ByCondition(dict[str, Tensor]):
    """Outputs by condition name; a message lists the names."""

    def __missing__(self, name: object) -> Tensor:
        raise UnknownNameError(
            f"no condition {short(name)}; {did_you_mean(name, self)}the result has {short(list(self))}"
        )


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
    y: Int[np.ndarray, " trial"] | None,
) -> SweepResult:
    """Combine logits by condition name with their audit and the labels."""
    audited = WholeTable(planned.audit)
    baseline, names = logits.get(BASELINE), audited["condition"]
    audited.insert(4, "max_abs_delta_logit", [_distance(logits.get(n), baseline) for n in names])
    audited["equivalence_error"] = [
        _distance(logits.get(n), logits.get(e)) for n, e in zip(names, audited["equivalent_to"], strict=True)
    ]
    ran = tuple(c for c in conditions if c.name in logits)
    result = SweepResult(ran, _ByCondition(logits), audited, executor, y)
    if failed:
        raise SweepError(failed, result)
    return result


def _distance(a: Tensor | None, b: Tensor | None) -> float:
    return float("nan") if a is None or b is None else float((a.detach() - b.detach()).abs().max())
