"""What a study found: scores of all fits, and the comparisons that are made of them. Views read it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import pandas as pd

from emg_lens.studies.spec import StudySpec
from emg_lens.studies.statistics.comparison import TAGS, by_levels, by_subject, compare, compare_levels, is_share
from emg_lens.studies.statistics.spec import StatisticsSpec
from emg_lens.sweeps.conditions import BASELINE
from emg_lens.training.metrics import METRICS


@dataclass(frozen=True, eq=False)
class Cell:
    """The part of a study that one table shows: one level of every compared factor, seeds and folds together.

    Attributes:
        levels: Which levels.
        scores: Its rows of the tidy scores.
        tests: Result of `compare` on them.
        statistics: How they were compared.
        metric: What was compared.
    """

    levels: Mapping[str, str]
    scores: pd.DataFrame = field(repr=False)
    tests: pd.DataFrame = field(repr=False)
    statistics: StatisticsSpec = StatisticsSpec()
    metric: str = "accuracy"

    @property
    def label(self) -> str:
        """The levels in words; empty where the study has no factor to compare."""
        return ", ".join(f"{factor}: {level}" for factor, level in self.levels.items())

    @property
    def is_share(self) -> bool:
        """Whether the metric is a share of trials, 0 to 1."""
        return is_share(self.metric)

    @property
    def lower_is_better(self) -> bool:
        """Whether the metric is an error."""
        return self.metric in METRICS and METRICS[self.metric].better == "lower"

    @cached_property
    def values(self) -> pd.DataFrame:
        """The metric, one row a subject, one column a condition; seeds and folds averaged."""
        return by_subject(self.scores, self.metric)

    @property
    def chance(self) -> float | None:
        """What guessing gives, where it is known."""
        known = self.tests["chance"].dropna()
        return float(known.mean()) if len(known) else None

    @property
    def baseline(self) -> float:
        """The mean metric of the unmasked models."""
        return float(self.values[BASELINE].mean())


@dataclass(frozen=True, eq=False)
class Findings:
    """A study's numbers.

    Attributes:
        study: The study.
        scores: Tidy, one row a fit, subject and condition: fit, subject, one column a factor, condition, its tags, one
            column a metric, audit.
        facts: One row a fit: parameters, trials, seconds, notes.
        curves: Training and held-out curves, one row a fit and epoch.
        leakage: The leakage report of each fit, with `fit`.
        metrics: The metrics; the first is compared.
        tags: Columns of `scores` that describe a condition.
    """

    study: StudySpec
    scores: pd.DataFrame = field(repr=False)
    facts: pd.DataFrame = field(repr=False)
    curves: pd.DataFrame = field(repr=False)
    leakage: Sequence[Mapping[str, Any]] = field(default=(), repr=False)
    metrics: tuple[str, ...] = ("accuracy",)
    tags: tuple[str, ...] = TAGS

    @property
    def metric(self) -> str:
        """What is compared."""
        return self.metrics[0]

    @property
    def factors(self) -> tuple[str, ...]:
        """Factors whose levels are set side by side."""
        return self.study.compared_factors

    @cached_property
    def tests_table(self) -> pd.DataFrame:
        """Every condition against the baseline of its cell."""
        return compare(self.scores, self.study.statistics, metric=self.metric, factors=self.factors, tags=self.tags)

    @cached_property
    def level_tests(self) -> pd.DataFrame:
        """Levels against levels, as the study asks; empty where it does not."""
        asked = self.study.statistics.compare
        found = [
            compare_levels(self.scores, self.study.statistics, one, metric=self.metric, factors=self.factors)
            for one in asked
        ]
        return pd.concat(found, ignore_index=True) if found else pd.DataFrame()

    @cached_property
    def cells(self) -> tuple[Cell, ...]:
        """One a combination of levels of the compared factors, in the study's order."""
        found = []
        for levels, scores in by_levels(self.scores, self.factors):
            chosen = dict(zip(self.factors, map(str, levels), strict=True))
            tests = self.tests_table
            for factor, level in zip(self.factors, levels, strict=True):
                tests = tests[tests[factor] == level]
            tests = tests.drop(columns=list(self.factors)).reset_index(drop=True)
            found.append(Cell(chosen, scores, tests, self.study.statistics, self.metric))
        return tuple(found)
