"""The specification of a pre-training: corpus, model, recipe. Shipped ones are in `catalog/`."""

from typing import Self

from pydantic import Field, PositiveInt, model_validator

from emg_lens.data.corpus import HeldOut, Padding, Scale
from emg_lens.data.corpus_writer import CorpusPart
from emg_lens.errors import EmgLensError
from emg_lens.io.spec_file import SpecFile, shipped_names
from emg_lens.models.spec import ModelSpec
from emg_lens.training.pretraining.recipe import PretrainingRecipe
from emg_lens.validation import Name, SpecModel


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


class PretrainingSpec(SpecFile):
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

    KIND = "pre-training"
    KEYS = ("name", "corpus", "model")
    OTHER_KIND = ("cohort", "is a study, not a pre-training; run it with emg-lens run")
    PACKAGE = "emg_lens.training.pretraining"
    ERROR = PretrainingError
    NO_NUMBER = ("title", "question")

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


def shipped_pretrainings() -> tuple[str, ...]:
    """Return the names of the shipped pre-trainings."""
    return shipped_names(PretrainingSpec.PACKAGE)
