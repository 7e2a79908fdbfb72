"""What the controls of a study say of its cuts: beside each cut, what comparable ones cost (docs/controls.md §8)."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from emg_lens.studies.results.findings import Cell
from emg_lens.studies.spec.condition_spec import DETOUR, RANDOM
from emg_lens.studies.statistics.comparison import by_subject
from emg_lens.studies.statistics.intervals import FEWEST, mean_interval
from emg_lens.sweeps.conditions import BASELINE

DECIMALS = 12
"""To which means are told apart."""


@dataclass(frozen=True)
class Controlled:
    """A cut beside its controls; values are means of the metric over subjects.

    Attributes:
        condition: The cut.
        alike: It, and the conditions that are equal to it by construction.
        mean: With it.
        random: With each matched random cut; empty where there is none.
        n_larger: How many conditions and controls that cut all that this one cuts, and more, were compared with it: all
            of them, if this one costs anything and there are subjects enough for an interval.
        larger: Of the larger cuts whose price is lower beyond chance, the one that costs least: the interval of the
            difference lies above zero, at the study's confidence, divided among the larger cuts that were looked at.
        larger_mean: With that.
        larger_best: The best that any of the larger cuts reaches on the mean, beyond chance or not; NaN without one.
        detour: With the same edges cut in every layer and CLS unread by other tokens; NaN where that was not run.
        lower_is_better: Whether the metric is an error.
    """

    condition: str
    mean: float
    alike: tuple[str, ...] = ()
    random: tuple[float, ...] = ()
    n_larger: int = 0
    larger: str | None = None
    larger_mean: float = np.nan
    cls_path_closed: float = np.nan
    lower_is_better: bool = False
    larger_best: float = np.nan

    @property
    def costs_more_than_a_larger(self) -> bool:
        """Whether one of the larger cuts costs less on the mean, beyond chance or not."""
        gain = self.mean - self.larger_best if self.lower_is_better else self.larger_best - self.mean
        return gain > 10.0**-DECIMALS  # which NaN is not

    @property
    def n_cheaper(self) -> int:
        """How many of the random cuts cost less."""
        # Shares that are equal are, in whatever order they were summed.
        gains = np.round(np.subtract(self.random, self.mean), DECIMALS)
        return int((gains < 0 if self.lower_is_better else gains > 0).sum())


def controlled_cuts(cell: Cell) -> list[Controlled]:
    """Every cut of a cell that has controls, in order; structural nulls have none.

    Conditions that are equal by construction are one cut, under the name of the one that cuts every layer, if any does.
    """
    if not len(cell.controls) and not len(cell.nested):
        return []
    values = _all_values(cell)
    better = -1 if cell.lower_is_better else 1
    classes = []
    for _, alike in cell.tests[~cell.tests["structural_null"]].groupby("equivalent_to", sort=False):
        rows = alike.to_dict("records")
        classes.append((next((one for one in rows if is_everywhere(cell, one)), rows[0]), list(alike["condition"])))
    name_of = {name: row["condition"] for row, alike in classes for name in alike}
    name_of |= {control: name_of[same] for control, same in _equal_conditions(cell) if same in name_of}
    found = []
    for row, alike in classes:
        name, cut = row["condition"], values[row["condition"]]
        draws = [draw for same in alike for draw in _of(cell, RANDOM, same)]
        larger = list(dict.fromkeys(name_of.get(other, other) for other in _larger(cell, name) if other in values))
        level = 1 - (1 - cell.statistics.confidence) / max(len(larger), 1)
        costs = np.round((better * (cut - values[BASELINE])).mean(), DECIMALS) < 0 and len(cut) >= FEWEST
        gains = {other: (better * (values[other] - cut)).to_numpy() for other in larger if costs}
        cheaper = [other for other, gain in gains.items() if mean_interval(gain, level)[0] > 0]
        cheapest = max(cheaper, key=lambda other: better * values[other].mean(), default=None)
        detours = _of(cell, DETOUR, str(row.get("edges", ""))) if is_everywhere(cell, row) else []
        if not draws and not larger and not detours:
            continue
        found.append(
            Controlled(
                name,
                float(cut.mean()),
                tuple(alike),
                tuple(float(values[draw].mean()) for draw in draws),
                len(gains),
                cheapest,
                float(values[cheapest].mean()) if cheapest else np.nan,
                float(values[detours[0]].mean()) if detours else np.nan,
                cell.lower_is_better,
                better * max((better * float(values[other].mean()) for other in gains), default=np.nan),
            )
        )
    return found


def _equal_conditions(cell: Cell) -> Iterable[tuple[str, str]]:
    """Controls, and the condition that each is equivalent to."""
    if "equivalent_to" not in cell.controls:
        return ()
    rows = cell.controls.drop_duplicates("condition")
    return zip(rows["condition"], rows["equivalent_to"], strict=True)


def _all_values(cell: Cell) -> pd.DataFrame:
    """The metric of every subject under conditions and controls."""
    if not len(cell.controls):
        return cell.values
    unmasked = cell.scores[cell.scores["condition"] == BASELINE]
    controls = by_subject(pd.concat([unmasked, cell.controls], ignore_index=True), cell.metric)
    return cell.values.join(controls.drop(columns=BASELINE))


def _of(cell: Cell, kind: str, name: str) -> list[str]:
    """Names of the controls of a kind of a condition."""
    if not len(cell.controls):
        return []
    rows = cell.controls[(cell.controls["control"] == kind) & (cell.controls["of"] == name)]
    return rows["condition"].unique().tolist()


def _larger(cell: Cell, name: str) -> list[str]:
    return cell.nested.loc[cell.nested["condition"] == name, "larger"].unique().tolist() if len(cell.nested) else []


def is_everywhere(cell: Cell, row: Mapping[str, Any]) -> bool:
    """Whether a condition cuts its edges in every layer."""
    layers = cell.tests["layer"].dropna() if "layer" in cell.tests else pd.Series(dtype=float)
    if not len(layers):
        return False
    ends = {"from_beginning": layers.max(), "from_end": layers.min()}
    return row.get("mode") in ends and row["layer"] == ends[row["mode"]]


def whole_cuts(cell: Cell) -> list[str]:
    """Conditions that cut an edge type in every layer, the first of each type."""
    rows = [row for row in cell.tests.to_dict("records") if is_everywhere(cell, row)]
    return list({row["edges"]: row["condition"] for row in reversed(rows)}.values())[::-1]
