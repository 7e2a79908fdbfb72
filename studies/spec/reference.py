"""The `reference:` of a study file: published numbers, shown beside those of the study and used for nothing else."""

from collections.abc import Mapping, Sequence
from typing import Literal

from pydantic import Field, field_validator

from emg_lens.scoring.metrics import METRICS
from emg_lens.sweeps.conditions import BASELINE
from emg_lens.validation import Name, SpecModel

Stars = Literal["ns", "*", "**", "***", "****"]


class Published(SpecModel):
    """One published number.

    Attributes:
        value: The number, in the metric's own unit: shares of trials from 0 to 1.
        condition: What was done to the fitted model; the name of a condition of the study, or `baseline`.
        at: The level of every factor that the study compares.
        stars: The significance that was printed beside it.
        source: Where it was printed; default that of all.
    """

    value: float
    condition: Name = BASELINE
    at: dict[str, str] = {}
    stars: Stars | None = None
    source: str = ""

    @field_validator("at", mode="before")
    @classmethod
    def _as_text(cls, given: object) -> object:
        """Levels are named as text: `at: {channels: 4}`."""
        if not isinstance(given, Mapping):
            return given
        return {str(factor): str(level) for factor, level in given.items()}

    @property
    def where(self) -> str:
        """Condition and levels in words."""
        return ", ".join([*(f"{factor} {level}" for factor, level in self.at.items()), self.condition])


class Reference(SpecModel):
    """Published numbers of one metric.

    Attributes:
        source: Where they were printed: `"Tyacke et al. 2025, Table 3"`.
        metric: What they are.
        rows: The numbers.
    """

    source: str = Field(min_length=1)
    metric: str = "accuracy"
    rows: tuple[Published, ...] = Field(min_length=1)

    def check(self, factors: Mapping[str, Sequence[str]]) -> None:
        """Refuse what the study file alone shows to be in no table of the study.

        Args:
            factors: Levels of the factors that the study compares.

        Raises:
            ValueError: A metric, factor or level that there is not, or a number that is there twice.
        """
        if self.metric not in METRICS:
            raise ValueError(f"reference.metric {self.metric!r} is not known; known: {', '.join(METRICS.names())}")
        for row in self.rows:
            if METRICS[self.metric].unit == "fraction" and not 0 <= row.value <= 1:
                raise ValueError(f"reference ({row.where}): {self.metric} is a share from 0 to 1, got {row.value:g}")
            if set(row.at) != set(factors):
                raise ValueError(
                    f"reference ({row.where}): 'at' must name a level of each of {list(factors)}, got {list(row.at)}"
                )
            for factor, level in row.at.items():
                if level not in factors[factor]:
                    known = ", ".join(factors[factor])
                    raise ValueError(f"reference names the level {level!r} of {factor!r}; it has {known}")
        places = [row.where for row in self.rows]
        doubled = [place for i, place in enumerate(places) if place in places[:i]]
        if doubled:
            raise ValueError(f"reference has {doubled[0]} twice")

    def check_conditions(self, at: Mapping[str, str], conditions: Sequence[str]) -> None:
        """Refuse a condition that the study does not have at some levels.

        Args:
            at: The levels.
            conditions: Names of the conditions there, but for the baseline.

        Raises:
            ValueError: Another name.
        """
        for row in self.at(at):
            if row.condition not in (BASELINE, *conditions):
                known = ", ".join(conditions[:8])
                raise ValueError(f"reference ({row.where}): no such condition; there are {BASELINE}, {known}, ...")

    def by_condition(self, metric: str, levels: Mapping[str, str]) -> dict[str, float]:
        """The numbers of a metric at some levels, by condition; none where they are of another metric."""
        return {row.condition: row.value for row in self.at(levels)} if metric == self.metric else {}

    def at(self, levels: Mapping[str, str]) -> list[Published]:
        """The numbers at some levels of the compared factors."""
        return [row for row in self.rows if row.at == dict(levels)]

    def source_of(self, row: Published) -> str:
        """Where a number was printed."""
        return row.source or self.source
