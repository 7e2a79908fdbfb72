"""The file of a pre-training: corpus, model, recipe. Shipped ones are in `catalog/`."""

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
"""Keys that change no number."""


class PretrainingError(EmgLensError, ValueError):
    """A pre-training that cannot be read or run; the message is one line for the person who wrote it."""


class CorpusSpec(SpecModel):
    """Which windows, and how they are handed to the model.

    Attributes:
        parts: Registered data sets, by a name of your own; their windows are written as shards first.
        folders: Instead, folders of shards, below the folder of all data; `.` is that folder itself.
        modalities: Channels of each modality that windows are padded to; default those of the widest shard.
        scale: `min-max` or `none`; see `emg_lens.data.corpus.Corpus`.
        padding: `counted`, as published, or `left out`.
    """

    parts: dict[Name, CorpusPart] = {}
    folders: tuple[str, ...] = ()
    modalities: dict[Name, PositiveInt] | None = None
    scale: Scale = "min-max"
    padding: Padding = "counted"

    @model_validator(mode="after")
    def _one_way(self) -> "CorpusSpec":
        if bool(self.parts) == bool(self.folders):
            raise ValueError("a corpus needs either parts (data sets to write shards of) or folders (of shards)")
        return self


class PretrainingSpec(SpecModel):
    """A whole pre-training, as a file says it.

    Attributes:
        name: Short name, also of the run's folder.
        title: One line.
        question: What it is for, in a few sentences.
        corpus: Which windows.
        held_out: Which of them are for validation.
        model: What learns: an architecture whose tokens are patches of channels, and its settings.
        recipe: How: `{like: tinymyo-released, epochs: 5}`.
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
            raise ValueError("a pre-training begins with fresh weights: leave model.pretrained out")
        return self

    @classmethod
    def load(cls, name_or_path: str | Path) -> Self:
        """Read a pre-training by its catalogue name or from a YAML file.

        Raises:
            PretrainingError: No such file or name, not YAML, or a key or value that does not belong there.
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
            PretrainingError: As `load`.
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
        """The pre-training with every default written out (but those of the architecture)."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=110)

    def digest(self) -> str:
        """Ten hexadecimal digits that change with any setting that could change a number."""
        content = json.dumps(self.model_dump(mode="json", exclude={*WORDS}), sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:10]


def shipped_pretrainings() -> tuple[str, ...]:
    """Names of the shipped pre-trainings."""
    return tuple(sorted(f.name.removesuffix(".yaml") for f in _folder().iterdir() if f.name.endswith(".yaml")))


def _folder() -> Traversable:
    return resources.files("emg_lens.training.pretraining") / "catalog"


def _read(path: Path) -> str:
    try:
        return text_of_file(path, "pre-training")
    except YAMLTextError as error:
        raise PretrainingError(str(error)) from None
