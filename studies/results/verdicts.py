"""Verdicts: what the ablations of a study show, from their intervals and controls (docs/controls.md §8.1).

`verdicts_of` is the only place where an effect is judged. Report, terminal and README print the same values.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import pandas as pd
import scipy
from jaxtyping import Bool, Float

from emg_lens.studies.results.control_effects import (
    Controlled,
    controlled_cuts,
    cuts_every_layer,
    removes_most_channels,
)
from emg_lens.studies.results.findings import Cell, Findings
from emg_lens.studies.spec.removal_spec import REMOVAL
from emg_lens.studies.statistics.corrections import adjust
from emg_lens.studies.statistics.intervals import FEWEST
from emg_lens.sweeps.conditions import BASELINE

ENOUGH_RANDOM = 19
"""Size-matched random controls that a verdict needs: with so many, the smallest possible p is .05."""
MARGIN = 0.1
"""A superset ablation that is better on average, but not clearly, counts if it saves this fraction of the drop."""
DECIMALS = 9
"""Standardized effects that agree to so many decimals are equal."""

Word = Literal["shown", "not shown", "no control", "no interval"]
NoControl = Literal["not requested", "most channels", "mean", "several layers", "single", "few random"]
Reason = Literal["subjects", "alike", "zero", "random", "superset", "superset on average", "", NoControl]


@dataclass(frozen=True)
class Verdict:
    """The verdict on one ablation.

    Attributes:
        cut: The ablation with its controls.
        row: Its row of the comparison with the baseline (`compare`).
        verdict: `"shown"`: the interval of the change excludes zero, the ablation hurts more than its random controls
            after correction for the number of ablations screened, and no superset ablation hurts less (clearly, or on
            average by at least `MARGIN`). `"no interval"`: fewer than five subjects, or all changed alike.
            `"no control"`: fewer than 19 random controls (more for an α below .05). Else `"not shown"`.
        reason: Why the effect is not shown: too few `"subjects"`, all subjects `"alike"`, an interval that includes
            `"zero"`, controls that hurt as much (`"random"`), or a `"superset"` ablation that hurts less (clearly, or
            `"superset on average"`). Or why there is no control: the study did not ask for enough (`"not requested"`),
            `"most channels"` are removed, a removal by the `"mean"`, a cut of `"several layers"`, a `"single"`
            condition, or too few other sets of this size (`"few random"`). Empty if the effect is shown.
        p_random: Family-wise p of the comparison with the random controls; NaN without enough controls, or if the
            interval of the drop does not exclude zero.
        is_screened: Whether the ablation has enough random controls, and so belongs to that family.
        n_screened: Number of ablations in that family. Cuts of single heads, which share random cuts, are another one.
        changes: The change of each subject in the unit of `row`; positive = the metric became better.
    """

    cut: Controlled
    row: Mapping[str, Any]
    verdict: Word
    reason: Reason
    p_random: float
    is_screened: bool
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
    """Judge every distinct ablation of a study.

    All ablations with random controls of their own are one family of comparisons; all cuts of single heads, which share
    random cuts by layer, are another.

    Returns:
        For each cell its verdicts, in the order of the conditions. Structural nulls have none, and conditions that are
        equal by construction have one together.
    """
    cuts = [(cell, controlled_cuts(cell)) for cell in findings.cells]
    enough = enough_random(findings.study.statistics.alpha)
    are_requested = {id(cell): findings.n_random_controls(cell) >= enough for cell in findings.cells}
    screened = [(cell, cut) for cell, of_cell in cuts for cut in of_cell if len(cut.random) >= enough]
    of_family: dict[int, tuple[float, int]] = {}
    for shares, family_p in ((False, family_wise_p), (True, shared_controls_p)):
        family = [(cell, cut) for cell, cut in screened if cut.shares_random == shares]
        effects = [np.array([cut.mean, *cut.random]) * (1 if cut.lower_is_better else -1) for _, cut in family]
        is_clear = [np.array([_is_clear(cell, cut.condition), *cut.random_is_clear]) for cell, cut in family]
        p = zip(family, family_p(effects, is_clear), strict=True)
        of_family |= {id(cut): (p_random, len(family)) for (_, cut), p_random in p}
    judged = []
    for cell, of_cell in cuts:
        judged.append((cell, [_verdict(cell, cut, of_family, are_requested[id(cell)]) for cut in of_cell]))
    return judged


def family_wise_p(
    effects: Sequence[Float[np.ndarray, " 1+random"]], is_clear: Sequence[Bool[np.ndarray, " 1+random"]]
) -> list[float]:
    """Compare each ablation with its random controls, and correct for the number of ablations.

    Step-down maximum statistic (Westfall & Young 1993). The effects of an ablation and its controls are standardized.
    Random controls number i of all ablations together are one study in which no ablation is special. The p of an
    ablation is the fraction of such studies, the real one included, whose largest clear effect is at least as large. If
    the ablations are no more special than random ones, any p is at most α with a probability of at most α.

    Args:
        effects: For each ablation its harm, then the harm of each of its random controls; larger is worse. Of the
            controls, the smallest number that any ablation has is used.
        is_clear: Whether each of these is clear of zero. Without this, one trial that changes in an ablation without
            effect would stand far from its own controls, which change no trial.

    Returns:
        One p per ablation; NaN if its effect is not clear. With n controls it is at least 1 / (n + 1).
    """
    if not effects:
        return []
    n = min(map(len, effects))
    table = np.array([harm[:n] for harm in effects])
    spread = table.std(axis=1, keepdims=True)
    table = np.round((table - table.mean(axis=1, keepdims=True)) / np.where(spread > 1e-12, spread, np.inf), DECIMALS)
    table[~np.array([clear[:n] for clear in is_clear])] = -np.inf
    order = np.argsort(-table[:, 0], kind="stable")
    largest = np.maximum.accumulate(table[order][::-1], axis=0)[::-1, 1:]  # over this ablation and all with less effect
    p = np.empty(len(effects))
    p[order] = np.maximum.accumulate((1 + (largest >= table[order, :1]).sum(axis=1)) / n)
    p[table[:, 0] == -np.inf] = np.nan
    return p.tolist()


def shared_controls_p(
    effects: Sequence[Float[np.ndarray, " 1+random"]], is_clear: Sequence[Bool[np.ndarray, " 1+random"]]
) -> list[float]:
    """Compare ablations with random controls that several of them share, and correct for the number of ablations.

    The p of an ablation is the probability that one more random control hurts as much: the tail of Student's t
    distribution, with the mean and the standard deviation of its controls. Its rank among the controls is a lower limit
    of p if any control hurts as much, or if all controls are equal. Then Holm's correction follows. Ranks alone cannot
    correct for the number of ablations here: that needs 19 separate controls for each ablation.

    Args:
        effects: For each ablation its harm, then the harm of each of its random controls; larger is worse.
        is_clear: Whether each of these is clear of zero.

    Returns:
        One p per ablation; NaN if its effect is not clear.
    """
    p = np.empty(len(effects))
    for number, (ablation, *random) in enumerate(np.round(one, DECIMALS) for one in effects):
        n, n_as_bad = len(random), np.count_nonzero(np.array(random) >= ablation)
        spread = np.ptp(random) and np.std(random, ddof=1) * math.sqrt(1 + 1 / n)
        tail = scipy.special.stdtr(n - 1, (np.mean(random) - ablation) / spread) if spread else 0.0
        p[number] = max(tail, (1 + n_as_bad) / (1 + n)) if n_as_bad or not spread else tail
    return np.where([one[0] for one in is_clear], adjust(p, "holm"), np.nan).tolist()


def enough_random(alpha: float) -> int:
    """Return the number of random controls that a verdict needs at a significance level."""
    return max(ENOUGH_RANDOM, math.ceil(1 / alpha - 1e-9) - 1)


def _verdict(cell: Cell, cut: Controlled, of_family: Mapping[int, tuple[float, int]], are_requested: bool) -> Verdict:
    row, is_screened = cell.rows[cut.condition], id(cut) in of_family
    p_random, n_screened = of_family.get(id(cut), (np.nan, 0))
    scale = (100 if cell.is_fraction else 1) * (-1 if cell.lower_is_better else 1)
    changes = np.round(scale * (cell.values[cut.condition] - cell.values[BASELINE]), DECIMALS)
    word, reason = _judged(cell, cut, row, is_screened, p_random)
    if word == "no control":
        reason = _why_no_control(cell, row, are_requested)
    return Verdict(cut, row, word, reason, p_random, is_screened, n_screened, tuple(changes))


def _judged(
    cell: Cell, cut: Controlled, row: Mapping[str, Any], is_screened: bool, p_random: float
) -> tuple[Word, Reason]:
    if pd.isna(row["ci_low"]):
        return "no interval", "subjects" if row["n_subjects"] < FEWEST else "alike"
    if not _is_clear(cell, cut.condition):
        return "not shown", "zero"
    if not is_screened:
        return "no control", ""
    if p_random > cell.statistics.alpha:
        return "not shown", "random"
    if cut.superset:
        return "not shown", "superset"
    saved, drop = abs(cut.best_superset_mean - cut.mean), abs(row["mean"] - row["baseline_mean"])
    if cut.hurts_more_than_a_superset and saved >= MARGIN * drop:
        return "not shown", "superset on average"
    return "shown", ""


def _why_no_control(cell: Cell, row: Mapping[str, Any], are_requested: bool) -> NoControl:
    """Say why an ablation has too few random controls."""
    mode = row.get("mode") or ""
    if mode == REMOVAL and row.get("by") == "mean":
        return "mean"
    if removes_most_channels(cell, row):
        return "most channels"
    if mode in ("from_beginning", "from_end") and not cuts_every_layer(cell, row):
        return "several layers"
    if not are_requested:
        return "not requested"
    return "few random" if mode else "single"


def _is_clear(cell: Cell, condition: str) -> bool:
    """Whether the interval of a condition's change lies on the worse side of zero."""
    row = cell.rows[condition]
    return bool(row["ci_low"] > 0 if cell.lower_is_better else row["ci_high"] < 0)
