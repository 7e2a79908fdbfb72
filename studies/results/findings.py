"""The results of a study: scores of all fits, and their comparisons. Views read them."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import pandas as pd

from emg_lens.analysis.simple_reference import REFERENCE
from emg_lens.data.leakage import Leakage
from emg_lens.scoring.metrics import METRICS
from emg_lens.studies.fits.fit_store import TRAIN
from emg_lens.studies.spec.reference import Reference
from emg_lens.studies.spec.study_spec import StudySpec
from emg_lens.studies.statistics.comparison import (
    TAGS,
    by_levels,
    by_subject,
    compare,
    compare_levels,
    is_fraction,
    metric_range,
)
from emg_lens.studies.statistics.spec import StatisticsSpec
from emg_lens.sweeps.conditions import BASELINE


@dataclass(frozen=True, eq=False)
class Cell:
    """The results at one level of every compared factor, with all seeds and folds. One table shows one cell.

    Attributes:
        levels: The levels.
        scores: Rows of the tidy scores.
        tests: Result of `compare` on these rows.
        statistics: Settings of the comparison.
        metric: The compared metric.
        leakage: Leakage report over the fits; None if it is unknown.
        controls: Rows of the tidy scores that are controls: `control` names the kind, `of` the controlled condition.
        analyses: The tables of `Findings.analyses`, with the rows of this cell's fits.
        published: Published values of the metric, by condition.
        channels: Number of channels of each sensor; empty if it is unknown or differs between fits.
    """

    levels: Mapping[str, str]
    scores: pd.DataFrame = field(repr=False)
    tests: pd.DataFrame = field(repr=False)
    statistics: StatisticsSpec = StatisticsSpec()
    metric: str = "accuracy"
    leakage: Leakage | None = None
    controls: pd.DataFrame = field(default_factory=pd.DataFrame, repr=False)
    analyses: Mapping[str, pd.DataFrame] = field(default_factory=dict, repr=False)
    published: Mapping[str, float] = field(default_factory=dict, repr=False)
    channels: Mapping[str, int] = field(default_factory=dict, repr=False)

    @property
    def label(self) -> str:
        """The levels as text; empty if the study compares no factor."""
        return ", ".join(f"{factor}: {level}" for factor, level in self.levels.items())

    @property
    def is_fraction(self) -> bool:
        """Whether the metric is a fraction."""
        return is_fraction(self.metric)

    @property
    def metric_range(self) -> tuple[float, float]:
        """Smallest and largest value of the metric."""
        return metric_range(self.metric)

    @property
    def lower_is_better(self) -> bool:
        """Whether the metric is an error."""
        return self.metric in METRICS and METRICS[self.metric].better == "lower"

    @cached_property
    def values(self) -> pd.DataFrame:
        """The metric, averaged over seeds and folds: one row a subject, one column a condition."""
        return by_subject(self.scores, self.metric)

    @cached_property
    def rows(self) -> dict[str, dict[str, Any]]:
        """The rows of `tests` by condition."""
        return {row["condition"]: row for row in self.tests.to_dict("records")}  # pyright: ignore

    @cached_property
    def outer_layers(self) -> tuple[float, float]:
        """The first and the last layer of the layer and head sweeps; NaN without them."""
        layers = self.tests["layer"] if "layer" in self.tests else pd.Series(dtype=float)
        return layers.min(), layers.max()

    def analysis(self, name: str) -> pd.DataFrame:
        """Return the table of a fit analysis; an empty table if the study did not run it."""
        return self.analyses.get(name, pd.DataFrame())

    @cached_property
    def quality(self) -> pd.DataFrame:
        """The rows of `Findings.quality_table` of this cell's fits."""
        return quality_rows(self.scores, self.metric)

    @property
    def chance(self) -> float | None:
        """Chance level of the metric; None if it is unknown."""
        column = self.scores.get(f"{self.metric}_chance", pd.Series(dtype=float))
        known = (self.tests["chance"] if len(self.tests) else column).dropna()
        return float(known.mean()) if len(known) else None

    @property
    def baseline(self) -> float:
        """Mean of the metric over subjects, for the unmasked models."""
        return float(self.values[BASELINE].mean())


@dataclass(frozen=True, eq=False)
class Findings:
    """All numbers of a study.

    Attributes:
        study: The study.
        scores: Tidy scores, one row a fit, subject and condition. Columns: fit, subject, one for each factor,
            condition, its tags, one for each metric, audit.
        facts: One row a fit: parameters, trials, seconds, notes.
        curves: Training and held-out curves, one row a fit and epoch.
        leakage: Leakage reports of fits, with `fit`.
        metrics: The metrics; the first one is compared.
        tags: Columns of `scores` that describe a condition.
        controls: Scores of the controls, with their kind (`control`) and the controlled condition (`of`).
        analyses: The table of each fit analysis, by its name; the column `fit` names the fit.
    """

    study: StudySpec
    scores: pd.DataFrame = field(repr=False)
    facts: pd.DataFrame = field(repr=False)
    curves: pd.DataFrame = field(repr=False)
    leakage: Sequence[Mapping[str, Any]] = field(default=(), repr=False)
    metrics: tuple[str, ...] = ("accuracy",)
    tags: tuple[str, ...] = TAGS
    controls: pd.DataFrame = field(default_factory=pd.DataFrame, repr=False)
    analyses: Mapping[str, pd.DataFrame] = field(default_factory=dict, repr=False)

    @property
    def metric(self) -> str:
        """The compared metric."""
        return self.metrics[0]

    @property
    def factors(self) -> tuple[str, ...]:
        """Factors with levels that tables compare."""
        return self.study.compared_factors

    @property
    def reference(self) -> Reference | None:
        """Published numbers to show next to these; None if the study gives none."""
        return self.study.reference

    @cached_property
    def quality_table(self) -> pd.DataFrame:
        """The compared metric of the models and of the simple references: one row a fit and test subject.

        Columns: fit, subject, one for each factor, `chance`, `reference`, `reference_<modality>`, `test`, `train`.
        Empty if the scores have no such columns.
        """
        return quality_rows(self.scores, self.metric, tuple(self.study.factors))

    @cached_property
    def tests_table(self) -> pd.DataFrame:
        """Comparison of every condition with the baseline of its cell."""
        return compare(self.scores, self.study.statistics, metric=self.metric, factors=self.factors, tags=self.tags)

    @cached_property
    def level_tests(self) -> pd.DataFrame:
        """Comparisons of levels that the study asks for; empty if it asks for none."""
        tables = [
            compare_levels(self.scores, self.study.statistics, one, metric=self.metric, factors=self.factors)
            for one in self.study.statistics.compare
        ]
        return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()

    @cached_property
    def cells(self) -> tuple[Cell, ...]:
        """One cell for each combination of levels of the compared factors, in the order of the study."""
        cells = []
        for levels, scores in by_levels(self.scores, self.factors):
            chosen = dict(zip(self.factors, map(str, levels), strict=True))
            tests = self.tests_table
            for factor, level in zip(self.factors, levels, strict=True):
                tests = tests[tests[factor] == level]
            tests = tests.drop(columns=list(self.factors)).reset_index(drop=True)
            here = set(scores["fit"]) if "fit" in scores else set()
            controls = self.controls[self.controls["fit"].isin(here)] if len(self.controls) else self.controls
            analyses = {name: table[table["fit"].isin(here)] for name, table in self.analyses.items()}
            leakage, spec = self._leakage_at(chosen), self.study.statistics
            published = {} if self.reference is None else self.reference.by_condition(self.metric, chosen)
            cell = Cell(chosen, scores, tests, spec, self.metric, leakage, controls, analyses, published=published)
            cells.append(replace(cell, channels=self._channels_of(here)))
        return tuple(cells)

    def _channels_of(self, fits: Collection[str]) -> Mapping[str, int]:
        """Return the number of channels of each sensor; empty if fits differ."""
        if "modalities" not in self.facts:
            return {}
        first, *others = self.facts.loc[self.facts["fit"].isin(fits), "modalities"].to_list() or [{}]
        return first if all(one == first for one in others) else {}

    def _leakage_at(self, levels: Mapping[str, str]) -> Leakage | None:
        """Combine the reports over the folds of a cell, or of another cell with the same trials and split."""
        facts = self.facts.set_index("fit")
        alike: dict[str, Leakage] = {}
        own: dict[str, Leakage] = {}
        here = self._divided(levels)
        for entry in self.leakage:
            fit = facts.loc[entry["fit"]]
            there = {name: str(fit[name]) for name in self.study.factors}
            report = Leakage.from_dict({key: value for key, value in entry.items() if key != "fit"})
            if all(there[name] == level for name, level in levels.items()):
                own[fit["fold"]] = report  # seeds share their folds, and each fold counts once
            elif self._divided(there) == here:
                alike[fit["fold"]] = report
        return Leakage.over((own or alike).values()) if own or alike else None

    def n_random_controls(self, cell: Cell) -> int:
        """Number of random controls of each ablation that the study asks for in this cell."""
        controls = self._study_at(cell.levels).conditions.controls
        return 0 if controls is None else controls.random_edges

    def _divided(self, levels: Mapping[str, str]) -> str:
        """Return `StudySpec.division` at these levels."""
        return self._study_at(levels).division

    def _study_at(self, levels: Mapping[str, str]) -> StudySpec:
        """Return the study at these levels, and at the first level of every other factor."""
        rest = {name: next(iter(of)) for name, of in self.study.factors.items() if name not in levels}
        return self.study.at({**levels, **rest})


def quality_columns(scores: pd.DataFrame) -> list[str]:
    """Columns of scores with the metric of the simple references."""
    return [column for column in scores if column == REFERENCE or column.startswith(f"{REFERENCE}_")]


def quality_rows(scores: pd.DataFrame, metric: str, factors: Sequence[str] = ()) -> pd.DataFrame:
    """Rows of the unmasked models with chance, references, test and training score."""
    if TRAIN not in scores:
        return pd.DataFrame()
    rows = scores[scores["condition"] == BASELINE]
    chance = rows.get(f"{metric}_chance", pd.Series(float("nan"), rows.index))
    about = rows[["fit", "subject", *factors]].assign(chance=chance)
    references = quality_columns(scores)
    table = pd.concat([about, rows[references]], axis=1).assign(test=rows[metric], train=rows[TRAIN])
    return table.reset_index(drop=True)
