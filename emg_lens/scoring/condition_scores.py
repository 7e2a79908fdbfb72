"""Scores of one model under several conditions, on the same units (docs/events-and-text.md §1)."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import pandas as pd

from emg_lens.errors import did_you_mean
from emg_lens.scoring.event_matching import ScoreError
from emg_lens.scoring.score_table import ScoreTable, paired_bootstrap


@dataclass(frozen=True)
class ConditionScores:
    """One table of counts for several conditions that were scored on the same units.

    Attributes:
        table: One unit for each condition and unit, condition by condition, as `unit_names` names them.
        conditions: Names of the conditions.
        units: Names of users, sessions or utterances.
        baseline: Name of the condition that the others are compared with.

    Raises:
        ScoreError: The baseline is no condition, or the table has other units.

    Example:
        >>> from emg_lens.scoring import ConditionScores, word_errors
        >>> said = ["go left", "stop"]
        >>> table = word_errors(said * 2, [*said, "go", "stop it"], ["intact/u1", "intact/u2", "cut/u1", "cut/u2"])
        >>> scores = ConditionScores(table, ("intact", "cut"), ("u1", "u2"), baseline="intact")
        >>> scores.to_frame()["word_error_rate"].round(3).to_dict()
        {'intact': 0.0, 'cut': 0.667}
    """

    table: ScoreTable
    conditions: tuple[str, ...]
    units: tuple[str, ...]
    baseline: str

    def __post_init__(self) -> None:
        check_baseline(self.baseline, self.conditions)
        if self.table.units != unit_names(self.conditions, self.units):
            raise ScoreError(
                f"the table has {len(self.table.units)} units; expected the {len(self.units)} units of each of"
                f" {len(self.conditions)} conditions, named 'condition/unit'"
            )

    def of(self, condition: str) -> ScoreTable:
        """Return the counts of one condition."""
        check_baseline(condition, self.conditions, "condition")
        start = len(self.units) * self.conditions.index(condition)
        counts = {key: values[start : start + len(self.units)] for key, values in self.table.counts.items()}
        return ScoreTable(self.units, counts, self.table.scores, self.table.classes)

    def to_frame(self) -> pd.DataFrame:
        """Return one row a condition with every pooled score; NaN where a score is undefined."""
        rows = {name: self.of(name).pooled() for name in self.conditions}
        return pd.DataFrame.from_dict(rows, orient="index").rename_axis("condition")

    def differences(
        self, over: Literal["pooled", "units"] = "pooled", n_resamples: int = 2000, seed: int = 0
    ) -> pd.DataFrame:
        """Compare each condition with the baseline.

        Args:
            over: `"pooled"`: score of the summed counts; `"units"`: mean of the scores of the units.
            n_resamples: Number of resamples.
            seed: Seed of the random numbers.

        Returns:
            The rows of `paired_bootstrap` for each condition except the baseline; its column `condition` is named
            `value` here, and the column `condition` has the name of the condition.

        Raises:
            ScoreError: There is one condition, or one unit.
        """
        others = [name for name in self.conditions if name != self.baseline]
        if not others:
            raise ScoreError(f"there is no condition except {self.baseline!r}; score at least two")
        intact = self.of(self.baseline)
        parts = [
            paired_bootstrap(intact, self.of(name), over, n_resamples, seed)
            .rename(columns={"condition": "value"})
            .assign(condition=name)
            for name in others
        ]
        table = pd.concat(parts, ignore_index=True)
        return table[["condition", *(name for name in table if name != "condition")]]


def unit_names(conditions: Iterable[str], units: Iterable[str]) -> tuple[str, ...]:
    """Name the units of a table of several conditions: `"cut/user1"`."""
    units = tuple(units)
    return tuple(f"{condition}/{unit}" for condition in conditions for unit in units)


def check_baseline(name: str, conditions: Iterable[str], what: str = "baseline") -> None:
    """Refuse a name that is no condition."""
    if name not in (known := list(conditions)):
        raise ScoreError(f"unknown {what} {name!r}; {did_you_mean(name, known)}conditions: {', '.join(known)}")
