"""How a study's numbers are compared: the `statistics:` of its file."""

from collections.abc import Mapping
from typing import Literal

from pydantic import Field

from emg_lens.errors import EmgLensError
from emg_lens.validation import SpecModel


class StatisticsError(EmgLensError, ValueError):
    """Scores that cannot be compared as asked."""


class LevelComparison(SpecModel):
    """Every other level of a factor against one of them, subject by subject.

    Attributes:
        factor: Which factor.
        to: The level that the others are compared with.
    """

    factor: str
    to: str

    def check(self, factors: Mapping[str, tuple[str, ...]]) -> None:
        """Refuse a factor or level that the study does not have.

        Raises:
            ValueError: It has other ones.
        """
        if self.factor not in factors:
            raise ValueError(f"statistics.compare names the factor {self.factor!r}; the study has {list(factors)}")
        if self.to not in factors[self.factor]:
            known = ", ".join(factors[self.factor])
            raise ValueError(f"statistics.compare names the level {self.to!r} of {self.factor!r}; it has {known}")


class StatisticsSpec(SpecModel):
    """How conditions are compared with the baseline.

    Attributes:
        test: The test that sets the stars; all are always reported. `"mann-whitney"` (unpaired, the paper's),
            `"wilcoxon"` (signed-rank, paired) or `"sign-flip"` (paired permutation test of the mean).
        correction: The correction that sets the stars; all three are always reported.
        compare: Levels of factors set against one level, under the baseline: `[{factor: sensors, to: both}]`.
        family: Which hypotheses are corrected together: `"mode"`, those of one mask mode (the paper's 10);
            `"all"`, every condition (30); `"distinct"`, those that can matter and differ (18): structural
            nulls are left out, conditions with the same live cut count once.
        confidence: Level of the intervals.
        seed: Seed of the random sign flips (cohorts of more than 32 subjects).
        alpha: Level at which a corrected p counts as significant.
    """

    test: Literal["mann-whitney", "wilcoxon", "sign-flip"] = "mann-whitney"
    correction: Literal["bonferroni", "holm", "fdr_bh"] = "bonferroni"
    family: Literal["mode", "all", "distinct"] = "mode"
    compare: tuple[LevelComparison, ...] = ()
    confidence: float = Field(default=0.95, gt=0, lt=1)
    seed: int = Field(default=0, ge=0)
    alpha: float = Field(default=0.05, gt=0, lt=1)

    @property
    def p_column(self) -> str:
        """Column of the result of `compare` that sets the stars."""
        return f"p_{self.test.replace('-', '_')}_{self.correction}"
