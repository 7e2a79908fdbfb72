"""The specification of a pre-training: corpus, model, recipe. Shipped ones are in `catalog/`."""

import hashlib
import json
import os
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Self

import yaml
from pydantic import Field, PositiveInt, model_validator

from emg_lens.data.corpus import HeldOut, Padding, Scale
from emg_lens.data.corpus_writer import CorpusPart
from emg_lens.errors import EmgLensError
from emg_lens.io.yaml_text import YAMLTextError, read_mapping, text_of_file
from emg_lens.models.spec import ModelSpec
from emg_lens.training.pretraining.recipe import PretrainingRecipe
from emg_lens.validation import ArgumentError, Name, SpecModel, check_argument, short

WORDS = ("title", "question")
"""Keys that do not change any number."""


class PretrainingError(EmgLensError, ValueError):
    """A specification of a pre-training that cannot be read or run; the message is one line."""


class CorpusSpec(SpecModel):
    """The windows of a pre-training, and how the model receives them.

    Attributes:
        parts: Registered data sets, each under a name of your choice. Their windows are first written as shards.
        folders: Folders with shards, in place of `parts`, relative to the data folder; `.` is the data folder
            itself.
        modalities: Modality -> number of channels that windows are padded to; default: as in the widest shard.
        scale: `min-max` or `none`; see `emg_lens.data.corpus.Corpus`.
        padding: `counted` in the loss, as published, or `left out`.
    """

    parts: dict[Name, CorpusPart] = {}
    folders: tuple[str, ...] = ()
    modalities: dict[Name, PositiveInt] | None = None
    scale: Scale = "min-max"
    padding: Padding = "counted"

    @model_validator(mode="after")
    def _one_way(self) -> "CorpusSpec":
        if bool(self.parts) == bool(self.folders):
            raise ValueError("a corpus needs either parts (data sets, written as shards) or folders (of shards)")
        return self


class PretrainingSpec(SpecModel):
    """The specification of a pre-training: the content of its YAML file.

    Attributes:
        name: Short name; the run's folder has the same name.
        title: Title in one line.
        question: Purpose, in a few sentences.
        corpus: The windows.
        held_out: The windows for validation.
        model: An architecture with patches of channels as tokens, and the settings of the architecture.
        recipe: Settings of the training: `{like: tinymyo-released, epochs: 5}`.
        log_steps: Steps between two rows of the table of losses.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)
    title: str = ""
    question: str = ""
    corpus: CorpusSpec
    held_out: HeldOut = HeldOut()
    model: ModelSpec = ModelSpec(architecture="tinymyo")
    recipe: PretrainingRecipe = PretrainingRecipe()
    log_steps: PositiveInt = 10

    @model_validator(mode="after")
    def _fresh(self) -> Self:
        if self.model.pretrained is not None:
            raise ValueError("model.pretrained is set, but a pre-training starts from random weights; remove it")
        return self

    @classmethod
    def load(cls, name_or_path: str | Path) -> Self:
        """Read a pre-training by its catalogue name or from a YAML file.

        Raises:
            PretrainingError: There is no such file or name, it is not YAML, or a key or value is wrong.
        """
        check_argument("pre-training", name_or_path, str | Path)
        path = Path(name_or_path)
        if path.suffix in (".yaml", ".yml") or os.path.isfile(path):
            return cls.parse(_read(path), source=str(path))
        if str(name_or_path) not in shipped_pretrainings():
            known = ", ".join(shipped_pretrainings())
            raise PretrainingError(f"no pre-training {short(str(name_or_path))}; give a .yaml file or one of: {known}")
        return cls.parse((_folder() / f"{name_or_path}.yaml").read_text(encoding="utf-8"), source=str(name_or_path))

    @classmethod
    def parse(cls, text: str, source: str = "pre-training") -> Self:
        """Read a pre-training from YAML text.

        Raises:
            PretrainingError: As in `load`.
        """
        try:
            content = read_mapping(text, source, "name, corpus, model")
        except YAMLTextError as error:
            raise PretrainingError(str(error)) from None
        try:
            if "cohort" in content and "corpus" not in content:
                raise PretrainingError(f"{source} is a study, not a pre-training; run it with emg-lens run")
            return cls.from_content(content)
        except ArgumentError as error:
            raise PretrainingError(f"{source}: {error}") from None

    def to_yaml(self) -> str:
        """Write the specification as YAML, with all defaults except the defaults of the architecture."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=110)

    def digest(self) -> str:
        """Hash all settings that can change a number; return 10 hexadecimal digits."""
        content = json.dumps(self.model_dump(mode="json", exclude={*WORDS}), sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:10]


def shipped_pretrainings() -> tuple[str, ...]:
    """Return the names of the shipped pre-trainings."""
    return tuple(sorted(f.name.removesuffix(".yaml") for f in _folder().iterdir() if f.name.endswith(".yaml")))


def _folder() -> Traversable:
    return resources.files("emg_lens.training.pretraining") / "catalog"


def _read(path: Path) -> str:
    try:
        return text_of_file(path, "pre-training")
    except YAMLTextError as error:
        raise PretrainingError(str(error)) from None
