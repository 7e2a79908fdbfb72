"""Pretrained weights for a fit: all weights except the head's are loaded. A file that does not fit is an error.

The weights are a folder of `save_pretrained`, the folder of a pre-training, or a published file for architectures that
read such files (`from_published_trunk`).
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
"""The model's folder inside the folder of a pre-training."""
PUBLISHED = (".safetensors", ".ckpt", ".pt", ".pth")
SHOWN = 3


@dataclass(frozen=True)
class PretrainedWeights:
    """Weights that a fit starts from: the model's tensors by name, without the head (`trunk`).

    `settings` are those of the pretrained model, except settings that the data or another fit decide; `notes` are facts
    for the report.
    """

    source: str
    settings: Mapping[str, Any]
    trunk: Mapping[str, Tensor]
    notes: tuple[str, ...] = ()

    def combined(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """Combine the settings of the weights with those asked for."""
        other = [name for name, value in asked.items() if name in self.settings and self.settings[name] != value]
        if other:
            raise ModelError(
                f"{self.source} was trained with {other[0]}={self.settings[other[0]]!r}, and the model asks for"
                f" {asked[other[0]]!r}; leave it out"
            )
        return {**self.settings, **asked}

    def load_into(self, model: Any) -> None:
        """Load them into a model; its head keeps its weights."""
        own = _trunk(model)
        problems = [f"{name} is missing from it" for name in own if name not in self.trunk]
        problems += [f"the model has no tensor {name}" for name in self.trunk if name not in own]
        problems += [
            f"{name} has shape {list(tensor.shape)}, expected {list(own[name].shape)}"
            for name, tensor in self.trunk.items()
            if name in own and own[name].shape != tensor.shape
        ]
        if problems:
            more = f"; and {len(problems) - SHOWN} more" * (len(problems) > SHOWN)
            raise ModelError(f"{self.source} does not fit this model: {'; '.join(problems[:SHOWN])}{more}")
        model.load_state_dict(dict(self.trunk), strict=False)


def weights_files(pretrained: str) -> list[Path]:
    """Find the files of a study's `pretrained:`; `$NAME` is replaced by the environment variable NAME."""
    place = Path(os.path.expandvars(pretrained)).expanduser()
    unset = re.search(r"\$\{?\w+\}?", str(place))
    if unset:
        raise ModelFileError(
            f"pretrained: {pretrained}: {unset[0]} is not set; set it to a file of weights, a folder of"
            " save_pretrained, or the folder of a pre-training, or leave out the levels that use it"
        )
    folder = place / MODEL if (place / MODEL).is_dir() else place
    if (folder / CONFIG_FILE).is_file() and (folder / WEIGHTS_FILE).is_file():
        return [folder / CONFIG_FILE, folder / WEIGHTS_FILE]
    if place.is_file() and place.suffix in PUBLISHED:
        return [place]
    raise ModelFileError(
        f"pretrained: {place}: expected a file of weights ({', '.join(PUBLISHED)}), or a folder with {CONFIG_FILE} and"
        f" {WEIGHTS_FILE} from save_pretrained or a finished pre-training; download a repository of the hub first"
    )


def weights_fingerprint(pretrained: Iterable[str]) -> str:
    """Return a short hash of the contents of these weights, in their order."""
    files = [path for one in pretrained for path in weights_files(one)]
    return "-".join(digest[:10] for digest in map(content_hashes(files).get, files) if digest)


def read_pretrained(entry: Architecture, pretrained: str, asked: Mapping[str, Any]) -> PretrainedWeights:
    """Read the weights that a model of this architecture starts from: a file or a folder, as in `weights_files`.

    `asked` are the settings of the model that is to be built.
    """
    files = weights_files(pretrained)
    if len(files) > 1:
        model, notes = entry.model.from_pretrained(files[0].parent), [_subjects_note(files[0].parent)]
    elif hasattr(entry.model, "from_published_trunk"):
        model = entry.model.from_published_trunk(files[0], asked)
        notes = [_UNKNOWN_SUBJECTS.format(files[0]), *model.load_report.notes]
    else:
        raise ModelError(f"{files[0]}: {entry.name} cannot load published files; give a folder of save_pretrained")
    if not model.head_parameters:
        raise ModelError(
            f"model {entry.name!r} does not declare its head (head_parameters), so the head cannot be replaced"
        )
    kept = [name for name in entry.settings if name not in (*FROM_DATA, *entry.config.per_fit_settings)]
    settings = {name: getattr(model.cfg, name) for name in kept}
    return PretrainedWeights(str(files[-1]), settings, _trunk(model), tuple(notes))


_UNKNOWN_SUBJECTS = "{} does not name the subjects that its weights were trained on"


def _subjects_note(folder: Path) -> str:
    """Say which subjects the weights in a folder were trained without, if that is known."""
    try:
        left_out = json.loads((folder.parent / "data.json").read_text(encoding="utf-8"))["held_out"]
        names = ", ".join(left_out) or "nobody"
    except (OSError, ValueError, KeyError, TypeError):
        return _UNKNOWN_SUBJECTS.format(folder)
    return (
        f"the weights in {folder} come from a pre-training that left out {names}; its other subjects may also be test"
        " subjects of this study"
    )


def _trunk(model: Any) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in model.state_dict().items() if not name.startswith(model.head_parameters)}
