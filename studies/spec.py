"""The study file: a frozen, validated, hashable description of a whole ablation study.

cohort × model × training × conditions × statistics. A misspelt key is an error, and so is an edge expression that does
not parse; everything else that can be known without data is checked by `Study.check`.
"""

import hashlib
import json
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from emg_lens.data.preprocessing import Recipe
from emg_lens.data.recording import DataError
from emg_lens.data.registry import TRIALS, describe_dataset
from emg_lens.data.trials import Segment
from emg_lens.hooks import EdgeError, parse_edges
from emg_lens.studies.statistics.comparison import StatisticsSpec
from emg_lens.sweeps.conditions import MODES, Condition, Mode, layer_masks, with_baseline
from emg_lens.training.recipe import TrainingRecipe

if TYPE_CHECKING:  # imported where a model is built, and where a study is run
    from emg_lens.models.isonet import IsoNetConfig
    from emg_lens.studies.results import StudyResult


class StudyError(EmgLensError, ValueError):
    """A study that cannot be read or run; the message is one line for the person who wrote it."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Cohort(_Part):
    """Whose recordings, and which part of them.

    Attributes:
        dataset: A registered data set (`emg-lens list`).
        options: Options of its loader.
        subjects: Only these; default all.
        modalities: Only these; default all that the data set has.
        labels: Only these movements, in this order; default all that occur.
        train_repetitions: Repetitions the models are fitted on; default all that are not test repetitions.
        test_repetitions: Repetitions every number is computed on.
        recipe: Filters and common rate.
        segment: The part of each movement that is used.
        rectify: Modalities whose standardised samples are replaced by their absolute value (paper §2.2 order).
    """

    dataset: str
    options: dict[str, Any] = {}
    subjects: tuple[str | int, ...] | None = None
    modalities: tuple[str, ...] | None = None
    labels: tuple[int, ...] | None = None
    train_repetitions: tuple[int, ...] | None = None
    test_repetitions: tuple[int, ...] = Field(min_length=1)
    recipe: Recipe = Recipe()
    segment: Segment = Segment()
    rectify: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _no_overlap(self) -> "Cohort":
        both = sorted(set(self.train_repetitions or ()) & set(self.test_repetitions))
        if both:
            raise ValueError(f"repetitions {both} are in train_repetitions and in test_repetitions")
        return self


class ModelSpec(_Part):
    """The architecture, without what the data decide (channels, samples, classes).

    Attributes:
        architecture: `"isonet"`; more will follow.
        severed_edges: Edges the model never has, in training or after; an edge expression.
    """

    architecture: Literal["isonet"] = "isonet"
    d_model: int = Field(default=512, ge=1)
    n_heads: int = Field(default=8, ge=1)
    n_layers: int = Field(default=5, ge=1)
    d_mlp: int = Field(default=128, ge=1)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    positions: Literal["none", "learned", "sinusoidal", "rotary"] = "learned"
    shared_head: bool = False
    severed_edges: str = ""

    @field_validator("severed_edges")
    @classmethod
    def _parses(cls, text: str) -> str:
        return str(parse_edges(text)) if text else text

    def summary(self) -> str:
        """The architecture in a line."""
        severed = f", without the edges {self.severed_edges}" if self.severed_edges else ""
        return (
            f"{self.architecture}, {self.n_layers} layers, {self.n_heads} heads, d_model {self.d_model},"
            f" d_mlp {self.d_mlp}, dropout {self.dropout:g}, positions {self.positions}{severed}"
        )

    def config(self, modalities: dict[str, int], n_samples: int, class_names: Sequence[str]) -> "IsoNetConfig":
        """The full configuration for these data."""
        from emg_lens.models.isonet import IsoNetConfig

        sizes = self.model_dump(exclude={"architecture"})
        return IsoNetConfig(
            modalities=modalities,
            n_samples=n_samples,
            n_classes=len(class_names),
            class_names=list(class_names),
            **sizes,
        )


class LayerMasks(_Part):
    """Every edge set × mode × layer (Table 3 of the IsoNet paper).

    Attributes:
        edges: Edge expressions by the name that tables show.
        modes: Any of `individual`, `from_beginning`, `from_end`.
    """

    edges: dict[str, str] = {"unimodal": "unimodal()", "cross_modal": "cross_modal()"}
    modes: tuple[Mode, ...] = MODES


class ExtraCondition(_Part):
    """One more cut.

    Attributes:
        name: Its name in tables.
        edges: What it cuts.
        sees: For simulated cohorts: the modalities whose label information still reaches the readout under this cut.
            The report then puts the accuracy that the simulation implies beside the measured one.
    """

    name: str = Field(min_length=1)
    edges: str
    sees: tuple[str, ...] | None = None


class ConditionsSpec(_Part):
    """What is cut."""

    layer_masks: LayerMasks | None = LayerMasks()
    extra: tuple[ExtraCondition, ...] = ()

    @model_validator(mode="after")
    def _readable(self) -> "ConditionsSpec":
        texts = [
            *(self.layer_masks.edges.values() if self.layer_masks else ()),
            *(e.edges for e in self.extra),
        ]
        if not texts:
            raise ValueError("a study needs layer_masks or extra conditions, it has neither")
        for text in texts:
            parse_edges(text)
        return self

    def build(self, n_layers: int) -> list[Condition]:
        """The conditions for a model of this depth, baseline first."""
        masks = self.layer_masks
        families = (
            layer_masks({k: parse_edges(v) for k, v in masks.edges.items()}, n_layers, masks.modes) if masks else []
        )
        extra = [Condition(e.name, parse_edges(e.edges), {"edges": e.name, "mode": ""}) for e in self.extra]
        return with_baseline([*families, *extra])


class Study(_Part):
    """A whole study. `Study.load("quickstart").run()` is all it takes.

    Attributes:
        name: Short name, also of the run's folder.
        title: One line for the report.
        question: What the study asks, in a few sentences.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    title: str
    question: str = ""
    cohort: Cohort
    model: ModelSpec = ModelSpec()
    training: TrainingRecipe = TrainingRecipe()
    conditions: ConditionsSpec = ConditionsSpec()
    statistics: StatisticsSpec = StatisticsSpec()

    @model_validator(mode="after")
    def _fits_together(self) -> "Study":
        if any(e.sees is not None for e in self.conditions.extra) and self.cohort.dataset != "simulated":
            raise ValueError("conditions with 'sees' need dataset: simulated, whose true information is known")
        return self

    @classmethod
    def load(cls, name_or_path: str | Path) -> "Study":
        """Read a study by its catalogue name or from a YAML file.

        Raises:
            StudyError: No such study, not YAML, or a key or value that does not belong there.
        """
        path = Path(name_or_path)
        if path.suffix in (".yaml", ".yml") or path.is_file():
            return cls.parse(_read(path), source=str(path))
        if str(name_or_path) not in catalogue():
            raise StudyError(f"no study {str(name_or_path)!r}; give a .yaml file or one of: {', '.join(catalogue())}")
        return cls.parse(_catalogue_file(str(name_or_path)).read_text(), source=str(name_or_path))

    @classmethod
    def parse(cls, text: str, source: str = "study") -> "Study":
        """Read a study from YAML text.

        Raises:
            StudyError: As `load`.
        """
        try:
            content = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise StudyError(f"{source} is not valid YAML: {' '.join(str(error).split())}") from None
        if not isinstance(content, dict):
            raise StudyError(f"{source} holds {type(content).__name__}; expected keys such as name, cohort, model")
        try:
            return cls.model_validate(content)
        except ValidationError as error:
            raise StudyError(f"{source}: {_one_line(error)}") from None

    def to_yaml(self) -> str:
        """The study with every default written out."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=110)

    def digest(self) -> str:
        """Ten hexadecimal digits that change with any setting that could change a number."""
        content = self.model_dump(mode="json", exclude={"title", "question"})
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:10]

    def check(self) -> None:
        """Check what the file alone can tell beyond its schema: data set, its options, layers.

        Raises:
            StudyError: What is wrong, in one line.
        """
        if self.cohort.dataset in COMING:
            return
        try:
            if self.cohort.dataset != TRIALS:
                describe_dataset(self.cohort.dataset)
            self.conditions.build(self.model.n_layers)
        except (DataError, EdgeError) as error:
            raise StudyError(str(error)) from None

    def run(
        self,
        data: str | Path | None = None,
        out: str | Path = "runs",
        jobs: int | None = None,
        device: str = "cpu",
    ) -> "StudyResult":
        """Run the study, or continue it: see `emg_lens.studies.run.run_study`."""
        from emg_lens.studies.run import run_study

        return run_study(self, data, out, jobs, device)  # pyright: ignore[reportArgumentType] (one class, two paths)


COMING = ("ninapro-db2",)
"""Data sets that shipped studies name and whose loader is not written yet."""


def catalogue() -> tuple[str, ...]:
    """Names of the studies that are shipped."""
    folder = resources.files("emg_lens.studies") / "catalog"
    return tuple(sorted(f.name.removesuffix(".yaml") for f in folder.iterdir() if f.name.endswith(".yaml")))


def _catalogue_file(name: str) -> Any:
    return resources.files("emg_lens.studies") / "catalog" / f"{name}.yaml"


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise StudyError(f"cannot read study {str(path)!r}: {error}") from None


def _one_line(error: ValidationError) -> str:
    parts = []
    for item in error.errors()[:3]:
        where = ".".join(str(p) for p in item["loc"]) or "study"
        what = "is not a known key" if item["type"] == "extra_forbidden" else item["msg"].removeprefix("Value error, ")
        parts.append(f"{where} {what}" if item["type"] == "extra_forbidden" else f"{where}: {what}")
    more = len(error.errors()) - len(parts)
    return "; ".join(parts) + (f"; and {more} more" if more else "")
