"""What a study found: scores of all fits, and the comparisons that are made of them. Views read it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import pandas as pd

from emg_lens.data.leakage import Leakage
from emg_lens.scoring.metrics import METRICS
from emg_lens.studies.spec.reference import Reference
from emg_lens.studies.spec.study_spec import StudySpec
from emg_lens.studies.statistics.comparison import TAGS, by_levels, by_subject, compare, compare_levels, is_fraction
from emg_lens.studies.statistics.spec import StatisticsSpec
from emg_lens.sweeps.conditions import BASELINE


@dataclass(frozen=True, eq=False)
class Cell:
    """The part of a study that one table shows: one level of every compared factor, seeds and folds together.

    Attributes:
        levels: Which levels.
        scores: Its rows of the tidy scores.
        tests: Result of `compare` on them.
        statistics: How they were compared.
        metric: What was compared.
        leakage: The leakage report over its fits, where there is one.
        controls: Rows of the tidy scores that are controls: `control` says of which kind, `of` of which condition.
        nested: Pairs of conditions: what `condition` cuts, `larger` cuts too, and more.
        shift: How far conditions move the residual stream: `activation_shift`, of every fit.
        published: By condition, what a paper gives of the metric here.
    """

    levels: Mapping[str, str]
    scores: pd.DataFrame = field(repr=False)
    tests: pd.DataFrame = field(repr=False)
    statistics: StatisticsSpec = StatisticsSpec()
    metric: str = "accuracy"
    leakage: Leakage | None = None
    controls: pd.DataFrame = field(default_factory=pd.DataFrame, repr=False)
    nested: pd.DataFrame = field(default_factory=pd.DataFrame, repr=False)
    shift: pd.DataFrame = field(default_factory=pd.DataFrame, repr=False)
    published: Mapping[str, float] = field(default_factory=dict, repr=False)

    @property
    def label(self) -> str:
        """The levels in words; empty where the study has no factor to compare."""
        return ", ".join(f"{factor}: {level}" for factor, level in self.levels.items())

    @property
    def is_fraction(self) -> bool:
        """Whether the metric is a share of trials, 0 to 1."""
        return is_fraction(self.metric)

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
        controls: As `scores`, of the controls: what kind (`control`), and of which condition (`of`).
        nested: Pairs of conditions with the fit: what `condition` cuts, `larger` cuts too.
        shift: How far conditions move the residual stream, of every fit.
    """

    study: StudySpec
    scores: pd.DataFrame = field(repr=False)
    facts: pd.DataFrame = field(repr=False)
    curves: pd.DataFrame = field(repr=False)
    leakage: Sequence[Mapping[str, Any]] = field(default=(), repr=False)
    metrics: tuple[str, ...] = ("accuracy",)
    tags: tuple[str, ...] = TAGS
    controls: pd.DataFrame = field(default_factory=pd.DataFrame, repr=False)
    nested: pd.DataFrame = field(default_factory=pd.DataFrame, repr=False)
    shift: pd.DataFrame = field(default_factory=pd.DataFrame, repr=False)

    @property
    def metric(self) -> str:
        """What is compared."""
        return self.metrics[0]

    @property
    def factors(self) -> tuple[str, ...]:
        """Factors whose levels are set side by side."""
        return self.study.compared_factors

    @property
    def reference(self) -> Reference | None:
        """Published numbers to show beside these, if the study gives any."""
        return self.study.reference

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
            here = set(scores["fit"]) if "fit" in scores else set()
            parts = [t[t["fit"].isin(here)] if len(t) else t for t in (self.controls, self.nested, self.shift)]
            leakage, spec = self._leakage_at(chosen), self.study.statistics
            published = {} if self.reference is None else self.reference.by_condition(self.metric, chosen)
            found.append(Cell(chosen, scores, tests, spec, self.metric, leakage, *parts, published=published))
        return tuple(found)

    def _leakage_at(self, levels: Mapping[str, str]) -> Leakage | None:
        """One report over the folds of a cell; that of a cell with the same trials and split where it has none."""
        facts = self.facts.set_index("fit")
        alike: dict[str, Leakage] = {}
        own: dict[str, Leakage] = {}
        here = self._divided(levels)
        for entry in self.leakage:
            fit = facts.loc[entry["fit"]]
            there = {name: str(fit[name]) for name in self.study.factors}
            report = Leakage.from_dict({key: value for key, value in entry.items() if key != "fit"})
            if all(there[name] == level for name, level in levels.items()):
                own[fit["fold"]] = report  # seeds share their folds, which count once
            elif self._divided(there) == here:
                alike[fit["fold"]] = report
        return Leakage.over((own or alike).values()) if own or alike else None

    def _divided(self, levels: Mapping[str, str]) -> str:
        """What decides which trials are fitted and which are tested."""
        rest = {name: next(iter(of)) for name, of in self.study.factors.items() if name not in levels}
        return self.study.at({**levels, **rest}).division
