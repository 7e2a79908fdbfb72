"""Fitting that begins with weights of another fit: everything but the head is taken, or nothing is.

The weights are a folder of `save_pretrained`, the folder of a pre-training, or, for architectures that read published
files (`from_published`), such a file.
"""

import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from emg_lens.io.hashing import content_hashes
from emg_lens.lens.signals import CONFIG_FILE, WEIGHTS_FILE, ModelFileError
from emg_lens.models.registry import FROM_DATA, Architecture, ModelError

MODEL = "model"
"""The folder of the model in that of a pre-training."""
PUBLISHED = (".safetensors", ".ckpt", ".pt", ".pth")
OWN = (
    "dropout", "hidden_dropout", "drop_path", "drop_path_shape", "initial_weights", "masked_edges",
    "head", "fusion", "output_samples", "pooled", "shared_head", "padding", "reads_padding",
)  # fmt: skip
"""Settings that another fit on the same weights may have otherwise: how it is fitted, what is read, what is cut."""
SHOWN = 3


@dataclass(frozen=True)
class PretrainedWeights:
    """Weights to begin with.

    Attributes:
        source: Where they come from.
        settings: What the model they are of was built with, without what the data or another fit decide.
        trunk: Its tensors but for the head, by name.
        notes: What there is to know of them.
    """

    source: str
    settings: Mapping[str, Any]
    trunk: Mapping[str, Tensor]
    notes: tuple[str, ...] = ()

    def combined(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """The settings asked for, over those of the weights.

        Raises:
            ModelError: One that weights of another value cannot be used with.
        """
        other = [name for name, value in asked.items() if name in self.settings and self.settings[name] != value]
        if other:
            raise ModelError(
                f"{self.source} was trained with {other[0]}={self.settings[other[0]]!r}, and the model asks for"
                f" {asked[other[0]]!r}; leave it out"
            )
        return {**self.settings, **asked}

    def load_into(self, model: Any) -> None:
        """Put them into a model; its head keeps its weights.

        Raises:
            ModelError: Tensors that the model lacks, that it has and these do not, or of other shapes.
        """
        own = {name: tensor for name, tensor in model.state_dict().items() if not _is_of_head(name, model)}
        lacking = [f"{name} is missing in it" for name in own if name not in self.trunk]
        lacking += [f"{name} has no place in the model" for name in self.trunk if name not in own]
        lacking += [
            f"{name} has the shape {list(tensor.shape)}, and the model's {list(own[name].shape)}"
            for name, tensor in self.trunk.items()
            if name in own and own[name].shape != tensor.shape
        ]
        if lacking:
            more = f"; and {len(lacking) - SHOWN} more" * (len(lacking) > SHOWN)
            raise ModelError(f"{self.source} does not fit this model: {'; '.join(lacking[:SHOWN])}{more}")
        model.load_state_dict(dict(self.trunk), strict=False)


def weights_files(pretrained: str) -> list[Path]:
    """The files that a study's `pretrained:` means; `$NAME` stands for an environment variable.

    Raises:
        ModelFileError: There is none, or the variable is not set.
    """
    place = Path(os.path.expandvars(pretrained)).expanduser()
    unset = re.search(r"\$\{?\w+\}?", str(place))
    if unset:
        raise ModelFileError(
            f"pretrained: {pretrained}: {unset[0]} is not set; set it to a file of weights, a folder of"
            " save_pretrained, or the folder of a pre-training, or leave out what begins with it"
        )
    folder = place / MODEL if (place / MODEL).is_dir() else place
    if (folder / CONFIG_FILE).is_file() and (folder / WEIGHTS_FILE).is_file():
        return [folder / CONFIG_FILE, folder / WEIGHTS_FILE]
    if place.is_file() and place.suffix in PUBLISHED:
        return [place]
    raise ModelFileError(
        f"pretrained: {place}: expected a file of weights ({', '.join(PUBLISHED)}), or a folder with {CONFIG_FILE} and"
        f" {WEIGHTS_FILE}, as save_pretrained and a finished pre-training leave it; fetch a repository of the hub first"
    )


def weights_fingerprint(pretrained: Iterable[str]) -> str:
    """A short hash of the contents of these weights, in their order.

    Raises:
        ModelFileError: As `weights_files`.
    """
    files = [path for one in pretrained for path in weights_files(one)]
    return "-".join(digest[:10] for digest in map(content_hashes(files).get, files) if digest)


def read_pretrained(entry: Architecture, pretrained: str, asked: Mapping[str, Any]) -> PretrainedWeights:
    """The weights that a model of this architecture begins with.

    Args:
        entry: The architecture.
        pretrained: A file or a folder, as `weights_files` takes it.
        asked: Settings of the model that is to be built.

    Raises:
        ModelFileError: Missing, damaged, or of another architecture.
        ModelError: An architecture that does not say what its head is, or reads no published files.
    """
    files = weights_files(pretrained)
    if len(files) > 1:
        model, notes = entry.model.from_pretrained(files[0].parent), [_whom_it_met(files[0].parent)]
    elif hasattr(entry.model, "from_published"):
        smallest = {"modalities": {"emg": 1}, "head": "classification", "n_classes": 2}  # the trunk fits any number
        model = entry.model.from_published(files[0], **smallest, **entry.model.reading(asked))
        notes = [f"whom the weights in {files[0]} were trained with is not told there", *model.load_report.notes]
    else:
        raise ModelError(f"{files[0]}: {entry.name} reads no published files; give a folder of save_pretrained")
    if not model.head_parameters:
        raise ModelError(f"model {entry.name!r} does not say what its head is (head_parameters), so none can be fresh")
    settings = {name: getattr(model.cfg, name) for name in entry.settings if name not in (*FROM_DATA, *OWN)}
    trunk = {name: tensor for name, tensor in model.state_dict().items() if not _is_of_head(name, model)}
    return PretrainedWeights(str(files[-1]), settings, trunk, tuple(notes))


def _whom_it_met(folder: Path) -> str:
    """Of the weights in a folder, whom they were trained without, if that is known."""
    try:
        left_out = json.loads((folder.parent / "data.json").read_text(encoding="utf-8"))["held_out"]
        names = ", ".join(left_out) or "nobody"
    except (OSError, ValueError, KeyError, TypeError):
        return f"whom the weights in {folder} were trained with is not told there"
    return (
        f"the weights in {folder} are of a pre-training that left out {names}; whomever else it read and this study"
        " tests, it has met before"
    )


def _is_of_head(name: str, model: Any) -> bool:
    return name.startswith(model.head_parameters)
