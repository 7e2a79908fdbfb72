"""Settings of the statistical comparison: the key `statistics` of a study file."""

from collections.abc import Mapping
from typing import Literal

from pydantic import Field

from emg_lens.errors import EmgLensError
from emg_lens.validation import SpecModel


class StatisticsError(EmgLensError, ValueError):
    """Scores that cannot be compared with these settings."""


class LevelComparison(SpecModel):
    """Comparison of all levels of a factor with one reference level, paired by subject.

    Attributes:
        factor: Name of the factor.
        to: The reference level.
    """

    factor: str
    to: str

    def check(self, factors: Mapping[str, tuple[str, ...]]) -> None:
        """Check that the study has this factor and level.

        Raises:
            ValueError: Unknown factor or level.
        """
        if self.factor not in factors:
            raise ValueError(f"statistics.compare: unknown factor {self.factor!r}; the study has {list(factors)}")
        if self.to not in factors[self.factor]:
            known = ", ".join(factors[self.factor])
            raise ValueError(f"statistics.compare: {self.factor!r} has no level {self.to!r}; it has {known}")


class StatisticsSpec(SpecModel):
    """Settings for comparing conditions with the baseline.

    Attributes:
        test: Test for the stars: `"mann-whitney"` (unpaired, as in the paper), `"wilcoxon"` (signed-rank, paired) or
            `"sign-flip"` (paired permutation test of the mean). The report lists all three.
        correction: Correction for the stars. The report lists all three.
        compare: Comparisons of unmasked models between levels of a factor: `[{factor: sensors, to: both}]`.
        family: Hypotheses that are corrected together: `"mode"`, the conditions of one mask mode (10 in the paper);
            `"all"`, every condition (30); `"distinct"`, without structural nulls, and conditions with the same live
            cut counted once (18).
        confidence: Confidence level of the intervals.
        seed: Seed of the random sign flips (cohorts of more than 32 subjects).
        alpha: Significance level of a corrected p.
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
        """Column of `compare` from which the stars are derived."""
        return f"p_{self.test.replace('-', '_')}_{self.correction}"
