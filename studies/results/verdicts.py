"""Verdicts: what the ablations of a study show, from their intervals and controls (docs/controls.md §8.1).

`verdicts_of` is the only place where an effect is judged. Report, terminal and README print the same values.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import pandas as pd
from jaxtyping import Float

from emg_lens.studies.results.control_effects import Controlled, controlled_cuts
from emg_lens.studies.results.findings import Cell, Findings
from emg_lens.studies.statistics.intervals import FEWEST
from emg_lens.sweeps.conditions import BASELINE

ENOUGH_RANDOM = 19
"""Size-matched random controls that a verdict needs: with so many, the smallest possible p is .05."""
DECIMALS = 9
"""Standardized effects that agree to so many decimals are equal."""

Word = Literal["shown", "not shown", "no control", "no interval"]
Reason = Literal["subjects", "alike", "zero", "random", "few random", "superset", "superset on average", ""]


@dataclass(frozen=True)
class Verdict:
    """The verdict on one ablation.

    Attributes:
        cut: The ablation with its controls.
        row: Its row of the comparison with the baseline (`compare`).
        verdict: `"shown"`: the interval of the change excludes zero, the ablation hurts more than its random controls
            after correction for the number of ablations screened, and no superset ablation hurts less. `"no interval"`:
            fewer than five subjects, or all changed alike. `"no control"`: fewer than 19 random controls. Else
            `"not shown"`.
        reason: Why the effect is not shown: too few `"subjects"`, all subjects `"alike"`, an interval that includes
            `"zero"`, controls that hurt as much (`"random"`), `"few random"` controls, or a `"superset"` ablation that
            hurts less (clearly, or `"superset on average"`). Empty if it is shown or has no control.
        p_random: Family-wise p of the comparison with the random controls; NaN without enough controls.
        n_screened: Number of ablations in that family.
        changes: The change of each subject in the unit of `row`; positive = the metric became better.
    """

    cut: Controlled
    row: Mapping[str, Any]
    verdict: Word
    reason: Reason
    p_random: float
    n_screened: int
    changes: tuple[float, ...]

    @property
    def drop(self) -> float:
        """Mean drop of the metric (an error: mean increase); positive = the ablation hurts."""
        return -self._better * self.row["difference"]

    @property
    def interval(self) -> tuple[float, float]:
        """Confidence interval of `drop`; NaN if there is none."""
        low, high = sorted((-self._better * self.row["ci_low"], -self._better * self.row["ci_high"]))
        return low, high

    @property
    def n_worse(self) -> int:
        """Number of subjects whose metric became worse."""
        return sum(change < 0 for change in self.changes)

    @property
    def _better(self) -> int:
        return -1 if self.cut.lower_is_better else 1


@lru_cache(maxsize=1)  # the parts of a report ask one after the other
def verdicts_of(findings: Findings) -> list[tuple[Cell, list[Verdict]]]:
    """Judge every distinct ablation of a study; all of them are one family of comparisons with random controls.

    Returns:
        For each cell its verdicts, in the order of the conditions. Structural nulls have none, and conditions that are
        equal by construction have one together.
    """
    cuts = [(cell, controlled_cuts(cell)) for cell in findings.cells]
    screened = [cut for _, of_cell in cuts for cut in of_cell if len(cut.random) >= ENOUGH_RANDOM]
    effects = [np.array([cut.mean, *cut.random]) * (1 if cut.lower_is_better else -1) for cut in screened]
    p_of = dict(zip(map(id, screened), family_wise_p(effects), strict=True))
    judged = []
    for cell, of_cell in cuts:
        rows = {row["condition"]: row for row in cell.tests.to_dict("records")}
        judged.append(
            (cell, [_verdict(cell, cut, rows[cut.condition], p_of.get(id(cut), np.nan), len(p_of)) for cut in of_cell])
        )
    return judged


def family_wise_p(effects: Sequence[Float[np.ndarray, " 1+random"]]) -> list[float]:
    """Compare each ablation with its random controls, and correct for the number of ablations.

    Step-down maximum statistic (Westfall & Young 1993). The effects of an ablation and its controls are standardized.
    Random controls number i of all ablations together are one study in which no ablation is special. The p of an
    ablation is the fraction of such studies, the real one included, whose largest effect is at least as large. If the
    ablations are no more special than random ones, any p is at most α with a probability of at most α.

    Args:
        effects: For each ablation its harm, then the harm of each of its random controls; larger is worse.

    Returns:
        One p per ablation. With n controls it is at least 1 / (n + 1).
    """
    if not effects:
        return []
    table = np.full((len(effects), max(map(len, effects))), np.nan)
    for row, harm in zip(table, effects, strict=True):
        spread = harm.std()
        row[: len(harm)] = np.round((harm - harm.mean()) / spread, DECIMALS) if spread > 1e-12 else 0.0
    order = np.argsort(-table[:, 0], kind="stable")
    largest = np.fmax.accumulate(table[order][::-1], axis=0)[::-1, 1:]  # over this ablation and all with less effect
    p, so_far = np.empty(len(effects)), 0.0
    for place, k in enumerate(order):
        of_own = largest[place, : len(effects[k]) - 1]
        so_far = max(so_far, (1 + (of_own >= table[k, 0]).sum()) / (1 + len(of_own)))
        p[k] = so_far
    return p.tolist()


def _verdict(cell: Cell, cut: Controlled, row: Mapping[str, Any], p_random: float, n_screened: int) -> Verdict:
    scale = (100 if cell.is_fraction else 1) * (-1 if cell.lower_is_better else 1)
    changes = np.round(scale * (cell.values[cut.condition] - cell.values[BASELINE]), DECIMALS)
    word, reason = _judged(cell, cut, row, p_random)
    return Verdict(cut, row, word, reason, p_random, n_screened, tuple(changes))


def _judged(cell: Cell, cut: Controlled, row: Mapping[str, Any], p_random: float) -> tuple[Word, Reason]:
    if pd.isna(row["ci_low"]):
        return "no interval", "subjects" if row["n_subjects"] < FEWEST else "alike"
    if not (row["ci_low"] > 0 if cell.lower_is_better else row["ci_high"] < 0):
        return "not shown", "zero"
    if len(cut.random) < ENOUGH_RANDOM:
        return "no control", "few random" if cut.random else ""
    if p_random > cell.statistics.alpha:
        return "not shown", "random"
    if cut.superset:
        return "not shown", "superset"
    if cut.hurts_more_than_a_superset:
        return "not shown", "superset on average"
    return "shown", ""
