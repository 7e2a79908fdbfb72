"""The study file: a frozen, validated description of a whole ablation study.

cohort × split × model × training × factors × conditions × statistics × views. A misspelt key is an error, and so is an
edge expression that does not parse. What only the model's own code or the data can tell (its settings, layers, classes)
is checked before anything runs.
"""

import difflib
import hashlib
import json
import os
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from emg_lens.data.registry import describe_dataset
from emg_lens.data.splits import SplitSpec
from emg_lens.errors import EmgLensError
from emg_lens.io.yaml_text import YAMLTextError, read_mapping, text_of_file
from emg_lens.models.spec import ModelSpec
from emg_lens.studies.spec.catalog_lookup import catalogue, catalogue_text
from emg_lens.studies.spec.cohort import Cohort
from emg_lens.studies.spec.condition_spec import ConditionsSpec
from emg_lens.studies.spec.errors import StudyError
from emg_lens.studies.spec.factors import AVERAGED, Factors, Levels, combinations, override, read_factors
from emg_lens.studies.spec.reference import Reference
from emg_lens.studies.statistics.spec import StatisticsSpec
from emg_lens.training.recipe import TrainingRecipe
from emg_lens.validation import SpecModel, check_argument, short

WORDS = ("title", "question")
"""Keys that change no number."""
AFTERWARDS = ("metrics", "statistics", "reference", "views")
"""Keys that change what is made of finished fits, not the fits: outputs are kept, so that other metrics need no fit."""
IN_WORDS = {
    "missing": "is needed and missing",
    "tuple_type": "expected a list: [one, two], or lines that begin with '-'",
    "dict_type": "expected keys and values: {key: value}",
    "model_type": "expected keys and values: {key: value}",
    "model_attributes_type": "expected keys and values: {key: value}",
}
"""What pydantic says of a value's form, in the words of a YAML file."""
FORMER = {"n_bootstrap": "intervals are no longer drawn at random; leave it out"}
"""Keys of former versions that changed no fit, and what became of them."""


class StudySpec(SpecModel):
    """A whole study, as a file says it.

    Attributes:
        name: Short name, also of the run's folder.
        title: One line for the report.
        question: What the study asks, in a few sentences.
        cohort: Whose recordings.
        split: Which trials are fitted and which are tested: `{by: repetition, …}`, by subject, or by block.
        model: What is fitted.
        objective: What for; default the architecture's.
        training: How.
        factors: What varies between fits; a level overrides parts of the study.
        conditions: What is done to each fitted model.
        metrics: Numbers of each condition, the first is the one that is compared; default the objective's.
        statistics: How they are compared.
        reference: Published numbers that are shown beside those of the study.
        views: Tables and figures; default those that the study's tags allow.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)
    title: str
    question: str = ""
    cohort: Cohort
    split: SplitSpec
    model: ModelSpec = ModelSpec()
    objective: str | None = None
    training: TrainingRecipe = TrainingRecipe()
    factors: Factors = {}
    conditions: ConditionsSpec = ConditionsSpec()
    metrics: tuple[str, ...] | None = Field(default=None, min_length=1)
    statistics: StatisticsSpec = StatisticsSpec()
    reference: Reference | None = None
    views: tuple[str, ...] | None = Field(default=None, min_length=1)

    @field_validator("factors", mode="before")
    @classmethod
    def _read_factors(cls, given: Any) -> Factors:
        return read_factors({} if given is None else given)

    @field_validator("metrics", "views")
    @classmethod
    def _each_once(cls, names: tuple[str, ...] | None) -> tuple[str, ...] | None:
        doubled = [name for i, name in enumerate(names or ()) if name in (names or ())[:i]]
        if doubled:
            raise ValueError(f"{doubled[0]!r} is there twice")
        return names

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        cohorts = []
        for levels in combinations(self.factors) if self.factors else ():
            try:
                cohorts.append(self.at(levels).cohort)
            except ValidationError as error:
                where = ", ".join(f"{factor}={level}" for factor, level in levels.items())
                raise ValueError(f"at {where}: {one_line(error)}") from None
        if any(one.electrodes for one in cohorts) and not any(one.names_electrodes for one in cohorts):
            names = ", ".join(dict.fromkeys(name for one in cohorts for name in one.electrodes))
            raise ValueError(f"cohort.channels uses none of the electrodes {names}; name them there: {{emg: NAME}}")
        compared = {name: tuple(self.factors[name]) for name in self.compared_factors}
        for comparison in self.statistics.compare:
            comparison.check(compared)
        if self.reference is not None:
            self.reference.check(compared)
        if not self.factors:
            _ = self.cohort.groups, self.cohort.rectified  # whether the names in them are known
        if any(e.sees is not None for e in self.conditions.extra) and self.cohort.dataset != "simulated":
            raise ValueError("conditions with 'sees' need dataset: simulated, whose true information is known")
        if any(e.sees is not None for e in self.conditions.extra) and self.cohort.labels is not None:
            raise ValueError("conditions with 'sees' need every class of the simulation: leave cohort.labels out")
        return self

    # --- reading and writing ------------------------------------------------------------------------------

    @classmethod
    def load(cls, name_or_path: str | Path) -> Self:
        """Read a study by its catalogue name or from a YAML file.

        Raises:
            StudyError: No such study, not YAML, or a key or value that does not belong there.
        """
        check_argument("study", name_or_path, str | Path)
        path = Path(name_or_path)
        if path.suffix in (".yaml", ".yml") or os.path.isfile(path):  # False, too, where a name is no name of a file
            return cls.parse(_read(path), source=str(path))
        if str(name_or_path) not in catalogue():
            known = ", ".join(catalogue())
            raise StudyError(f"no study {short(str(name_or_path))}; give a .yaml file or one of: {known}")
        return cls.parse(catalogue_text(str(name_or_path)), source=str(name_or_path))

    @classmethod
    def parse(cls, text: str, source: str = "study") -> Self:
        """Read a study from YAML text.

        Raises:
            StudyError: As `load`.
        """
        try:
            content = read_mapping(text, source, "name, cohort, model")
        except YAMLTextError as error:
            raise StudyError(str(error)) from None
        try:
            if "corpus" in content and "cohort" not in content:
                raise StudyError(f"{source} is a pre-training, not a study; run it with emg-lens pretrain")
            return cls.from_content(content)
        except ValidationError as error:
            raise StudyError(f"{source}: {one_line(error)}") from None

    def to_yaml(self) -> str:
        """The study with every default written out (but those of the architecture)."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=110)

    def digest(self) -> str:
        """Ten hexadecimal digits that change with any setting that could change a fit or its outputs."""
        content = self.model_dump(mode="json", exclude={*WORDS, *AFTERWARDS})
        for name in ("electrodes", "channels"):  # a study that does not use them has the digest it had without them
            if not content["cohort"][name]:
                del content["cohort"][name]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:10]

    # --- levels -------------------------------------------------------------------------------------------

    def at(self, levels: Levels) -> "StudySpec":
        """The study without factors, as these levels make it."""
        if not levels:
            return self
        content = self.model_dump(mode="json", exclude={"factors", "statistics", "reference"})
        return StudySpec.from_content(override(content, self.factors, levels))

    @cached_property
    def cells(self) -> tuple[tuple[dict[str, str], "StudySpec"], ...]:
        """Every combination of levels, and the study there."""
        return tuple((levels, self.at(levels)) for levels in combinations(self.factors))

    @property
    def compared_factors(self) -> tuple[str, ...]:
        """Factors whose levels are set side by side: all but `seed` and `draw`, whose levels are averaged."""
        return tuple(name for name in self.factors if name not in AVERAGED)

    @property
    def division(self) -> str:
        """What decides which trials are fitted and which are tested: cohort and split, whatever channels are heard."""
        parts = self.model_copy(update={"cohort": self.cohort.of_every_channel})
        return parts.model_dump_json(include={"cohort", "split"})

    def check(self) -> None:
        """Check what the file alone can tell beyond its schema: the data set.

        Raises:
            StudyError: What is wrong, in one line.
        """
        for _, spec in self.cells:
            try:
                describe_dataset(spec.cohort.dataset)
            except EmgLensError as error:
                raise StudyError(str(error)) from None


def one_line(error: ValidationError) -> str:
    """What pydantic found, in a line: at most three findings."""
    parts = []
    for item in error.errors()[:3]:
        where = ".".join(str(p) for p in item["loc"]) or "study"
        if item["type"] == "extra_forbidden" and item["loc"] and item["loc"][-1] in FORMER:
            parts.append(f"{where}: {FORMER[item['loc'][-1]]}")
            continue
        if item["type"] == "extra_forbidden" and item["loc"]:
            close = difflib.get_close_matches(str(item["loc"][-1]), _keys() - {item["loc"][-1]}, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            parts.append(f"{where} is not a known key{hint}")
            continue
        parts.append(f"{where}: {IN_WORDS.get(item['type']) or item['msg'].removeprefix('Value error, ')}")
    more = len(error.errors()) - len(parts)
    return "; ".join(parts) + (f"; and {more} more" if more else "")


def _keys() -> set[str]:
    """Every key that some part of a study file has."""
    schema = StudySpec.model_json_schema()
    return {key for part in (schema, *schema["$defs"].values()) for key in part.get("properties", ())}


def _read(path: Path) -> str:
    try:
        return text_of_file(path, "study")
    except YAMLTextError as error:
        raise StudyError(str(error)) from None
