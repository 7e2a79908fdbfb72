"""The study file: a validated, immutable description of a whole ablation study.

Unknown keys and invalid edge expressions are errors when the file is read. What depends on the model or on the data
(settings, layers, classes) is checked before the first fit.
"""

import re
from functools import cached_property
from typing import Any, Self

from pydantic import Field, field_validator, model_validator

from emg_lens.analysis.fit_analysis import FIT_ANALYSES
from emg_lens.data.registry import DATASETS, describe_dataset
from emg_lens.data.splits import SplitSpec
from emg_lens.errors import EmgLensError, did_you_mean
from emg_lens.io.spec_file import SpecFile
from emg_lens.models.spec import ModelSpec
from emg_lens.studies.spec.cohort import Cohort
from emg_lens.studies.spec.condition_spec import ConditionsSpec
from emg_lens.studies.spec.errors import StudyError
from emg_lens.studies.spec.factors import AVERAGED, Factors, Levels, combinations, override, read_factors
from emg_lens.studies.spec.reference import Reference
from emg_lens.studies.statistics.spec import StatisticsSpec
from emg_lens.training.recipe import TrainingRecipe
from emg_lens.validation import ArgumentError, short

AFTERWARDS = ("metrics", "statistics", "reference", "views")
"""Keys that change only what is computed from the saved outputs of finished fits."""
SHIFT, SUPERSETS = "shift", "superset-ablations"
"""The fit analyses of a study that names none."""


class StudySpec(SpecFile):
    """A whole study, as its file describes it.

    Attributes:
        name: Short name, also the name of the folder of its runs.
        title: Title of the report, one line.
        question: The question of the study, in a few sentences.
        cohort: Recordings that are used, and channels that the model receives.
        split: Division into training and test trials: `{by: repetition, …}`, by subject, or by block.
        model: Architecture and settings.
        objective: What the model is fitted for; default the objective of the architecture.
        training: Training recipe.
        factors: What varies between fits. A level of a factor overrides parts of the study.
        conditions: What is done to each fitted model.
        analyses: Fit analyses that are run on each fitted model (`emg_lens.analysis.fit_analysis`); default `shift` and
            `superset-ablations`, without controls only the latter.
        metrics: Metrics of each condition. The first one is compared; default the metrics of the objective.
        statistics: Tests, intervals and comparisons.
        reference: Published numbers, shown next to the results of the study.
        views: Tables and figures of the report; default all that the study has results for.
    """

    KIND = "study"
    KEYS = ("name", "cohort", "model")
    OTHER_KIND = ("corpus", "describes a pre-training, not a study; run it with emg-lens pretrain")
    PACKAGE = "emg_lens.studies"
    ERROR = StudyError
    NO_NUMBER = ("title", "question", *AFTERWARDS)

    name: str = Field(max_length=100)
    title: str
    question: str = ""
    cohort: Cohort
    split: SplitSpec
    model: ModelSpec = ModelSpec()
    objective: str | None = None
    training: TrainingRecipe = TrainingRecipe()
    factors: Factors = {}
    conditions: ConditionsSpec = ConditionsSpec()
    analyses: tuple[str, ...] | None = None
    metrics: tuple[str, ...] | None = Field(default=None, min_length=1)
    statistics: StatisticsSpec = StatisticsSpec()
    reference: Reference | None = None
    views: tuple[str, ...] | None = Field(default=None, min_length=1)

    @field_validator("name")
    @classmethod
    def _check_name(cls, name: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
            raise ValueError(
                f"{short(name)} is not a name of a study; expected letters, digits and . _ -, with a letter or digit"
                " first, such as my-study"
            )
        return name

    @field_validator("conditions", mode="before")
    @classmethod
    def _check_conditions(cls, given: Any) -> Any:
        if given == {}:
            raise ValueError(
                "conditions is empty; leave it out for the default conditions, or switch them off:"
                " {layer_masks: null, removals: null, controls: null}"
            )
        return given

    @field_validator("factors", mode="before")
    @classmethod
    def _read_factors(cls, given: Any) -> Factors:
        return read_factors({} if given is None else given)

    @field_validator("analyses", "metrics", "views")
    @classmethod
    def _check_each_once(cls, names: tuple[str, ...] | None) -> tuple[str, ...] | None:
        repeated = [name for i, name in enumerate(names or ()) if name in (names or ())[:i]]
        if repeated:
            raise ValueError(f"{repeated[0]!r} is listed twice; list it once")
        return names

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        cohorts = []
        for levels in combinations(self.factors) if self.factors else ():
            try:
                cohorts.append(self.at(levels).cohort)
            except ArgumentError as error:
                where = ", ".join(f"{factor}={level}" for factor, level in levels.items())
                raise ValueError(f"at {where}: {error}") from None
        if any(one.electrodes for one in cohorts) and not any(one.names_electrodes for one in cohorts):
            names = ", ".join(dict.fromkeys(name for one in cohorts for name in one.electrodes))
            raise ValueError(
                f"cohort.channels uses none of the electrode sets {names}; name one of them there: {{emg: NAME}}"
            )
        compared = {name: tuple(self.factors[name]) for name in self.compared_factors}
        for comparison in self.statistics.compare:
            comparison.check(compared)
        if self.reference is not None:
            self.reference.check(compared)
        if not self.factors:
            _ = self.cohort.groups, self.cohort.rectified  # raises if they use an unknown name
        if any(one.sees is not None for one in self.conditions.extra):
            self._check_expected_accuracy()
        return self

    def _check_expected_accuracy(self) -> None:
        """Refuse `sees` if the accuracy that the data set implies is unknown."""
        dataset = self.cohort.dataset
        if dataset in DATASETS and DATASETS[dataset].expected_accuracy is None:
            known = ", ".join(name for name, one in DATASETS.items() if one.expected_accuracy is not None)
            raise ValueError(
                f"conditions.extra: the true information in {dataset!r} is unknown; leave 'sees' out, or use {known}"
            )
        if self.cohort.labels is not None:
            raise ValueError("conditions.extra: 'sees' needs every class of the data set; leave cohort.labels out")

    # --- levels -------------------------------------------------------------------------------------------

    def at(self, levels: Levels) -> "StudySpec":
        """Return the study at one level of every factor; it has no factors itself."""
        if not levels:
            return self
        content = self.model_dump(mode="json", exclude={"factors", "statistics", "reference"})
        return StudySpec.from_content(override(content, self.factors, levels))

    @cached_property
    def cells(self) -> tuple[tuple[dict[str, str], "StudySpec"], ...]:
        """All combinations of levels, each with the study at these levels."""
        return tuple((levels, self.at(levels)) for levels in combinations(self.factors))

    @property
    def compared_factors(self) -> tuple[str, ...]:
        """Factors with levels that tables compare: all but `seed` and `electrode_set`, which are averaged."""
        return tuple(name for name in self.factors if name not in AVERAGED)

    @property
    def fit_analyses(self) -> tuple[str, ...]:
        """Names of the fit analyses that are run on each fitted model."""
        if self.analyses is None:
            return (SUPERSETS,) if self.conditions.controls is None else (SHIFT, SUPERSETS)
        verdicts = () if self.conditions.controls is None else (SUPERSETS,)  # verdicts compare with supersets
        return tuple(dict.fromkeys([*self.analyses, *verdicts]))

    @property
    def division(self) -> str:
        """Cohort and split without the choice of channels, as text. Equal texts mean equal training and test trials."""
        parts = self.model_copy(update={"cohort": self.cohort.of_every_channel})
        return parts.model_dump_json(include={"cohort", "split"})

    def check(self) -> None:
        """Check the names of data sets and fit analyses.

        Raises:
            StudyError: A name is unknown.
        """
        for _, spec in self.cells:
            try:
                describe_dataset(spec.cohort.dataset)
            except EmgLensError as error:
                raise StudyError(str(error)) from None
        unknown = [name for name in self.fit_analyses if name not in FIT_ANALYSES]
        if unknown:
            known = ", ".join(FIT_ANALYSES.names())
            hint = did_you_mean(unknown[0], FIT_ANALYSES.names())
            raise StudyError(f"analyses: unknown fit analysis {unknown[0]!r}; {hint}known: {known}")
