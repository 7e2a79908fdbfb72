"""The `reference:` of a study file: published numbers, which are only shown next to the results of the study."""

from collections.abc import Mapping, Sequence
from typing import Literal

from pydantic import Field, field_validator

from emg_lens.errors import did_you_mean
from emg_lens.scoring.metrics import METRICS
from emg_lens.sweeps.conditions import BASELINE
from emg_lens.validation import Name, SpecModel

Stars = Literal["ns", "*", "**", "***", "****"]


class Published(SpecModel):
    """One published number.

    Attributes:
        value: The number in the unit of the metric; fractions of trials lie between 0 and 1.
        condition: Name of a condition of the study, or `baseline`.
        at: The level of every factor that the study compares.
        stars: The published significance.
        source: Where the number was published; default the source of all numbers.
    """

    value: float
    condition: Name = BASELINE
    at: dict[str, str] = {}
    stars: Stars | None = None
    source: str = ""

    @field_validator("at", mode="before")
    @classmethod
    def _as_text(cls, given: object) -> object:
        """Read levels as text, so that `at: {channels: 4}` needs no quotes."""
        if not isinstance(given, Mapping):
            return given
        return {str(factor): str(level) for factor, level in given.items()}

    @property
    def where(self) -> str:
        """Levels and condition as text."""
        return ", ".join([*(f"{factor} {level}" for factor, level in self.at.items()), self.condition])


class Reference(SpecModel):
    """Published numbers of one metric.

    Attributes:
        source: Where the numbers were published: `"Tyacke et al. 2025, Table 3"`.
        metric: Name of the metric.
        rows: The numbers.
    """

    source: str = Field(min_length=1)
    metric: str = "accuracy"
    rows: tuple[Published, ...] = Field(min_length=1)

    def check(self, factors: Mapping[str, Sequence[str]]) -> None:
        """Refuse numbers that no table of the study could show, as far as the study file alone decides it.

        Args:
            factors: Levels of the factors that the study compares.

        Raises:
            ValueError: A metric, factor or level is unknown, a value is impossible, or a number is listed twice.
        """
        if self.metric not in METRICS:
            raise ValueError(f"reference.metric={self.metric!r} is unknown; known: {', '.join(METRICS.names())}")
        for row in self.rows:
            if METRICS[self.metric].unit == "fraction" and not 0 <= row.value <= 1:
                raise ValueError(
                    f"reference ({row.where}): {self.metric}={row.value:g}; expected a fraction from 0 to 1, such as"
                    " 0.724 for 72.4 %"
                )
            if set(row.at) != set(factors):
                raise ValueError(
                    f"reference ({row.where}): at names levels of {list(row.at)}; expected one level of each of"
                    f" {list(factors)}"
                )
            for factor, level in row.at.items():
                if level not in factors[factor]:
                    known = ", ".join(factors[factor])
                    raise ValueError(
                        f"reference ({row.where}): factor {factor!r} has no level {level!r}; known: {known}"
                    )
        places = [row.where for row in self.rows]
        repeated = [place for i, place in enumerate(places) if place in places[:i]]
        if repeated:
            raise ValueError(f"reference lists {repeated[0]} twice; list it once")

    def check_conditions(self, at: Mapping[str, str], conditions: Sequence[str]) -> None:
        """Refuse numbers of conditions that the study does not have.

        Args:
            at: Levels of the compared factors.
            conditions: Names of the conditions at these levels, without the baseline.

        Raises:
            ValueError: A number belongs to another condition.
        """
        for row in self.at(at):
            if row.condition not in (BASELINE, *conditions):
                hint, known = did_you_mean(row.condition, conditions), ", ".join(conditions[:8])
                raise ValueError(
                    f"reference ({row.where}): the study has no condition {row.condition!r}; {hint}known: {BASELINE},"
                    f" {known}, ..."
                )

    def by_condition(self, metric: str, levels: Mapping[str, str]) -> dict[str, float]:
        """Return the numbers at some levels by condition; empty for another metric."""
        return {row.condition: row.value for row in self.at(levels)} if metric == self.metric else {}

    def at(self, levels: Mapping[str, str]) -> list[Published]:
        """Return the numbers at some levels of the compared factors."""
        return [row for row in self.rows if row.at == dict(levels)]

    def source_of(self, row: Published) -> str:
        """Return the source of a number."""
        return row.source or self.source
