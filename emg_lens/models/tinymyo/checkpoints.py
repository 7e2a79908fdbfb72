"""TinyMyo's published files: reading them, the model settings that follow from them, and the report.

The licence of the published weights (CC BY-ND 4.0) forbids the distribution of changed copies, and a converted copy is
one. Convert on your own machine, and refer others to the original.
"""

import os
import pickle
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HFValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from emg_lens.io.files import replacing
from emg_lens.lens.signals import ModelFileError
from emg_lens.models.tinymyo.weights import CHANNEL_EMBED, FREQUENCIES, State

PUBLISHED_PARAMETERS = 3_563_520
"""Parameters of the published model without its head (docs/tinymyo-model.md §9.1)."""
EXPECTED_INPUT = {
    "reconstruction": "each channel of each window scaled to [-1, 1] by its smallest and largest value; as published"
    " 1000 samples, 16 channels, 2000 Hz",
    "classification": "z-scores of each channel; as published at 200 Hz, 1000 samples (UCI EMG, EPN-612) or 200 (DB5)",
    "regression": "z-scores of each channel; as published 1000 samples, 16 channels (DB8)",
}
"""Scaling, window and rate of the data that each head was trained on (docs/tinymyo-model.md §9.3)."""
DAMAGED = (
    SafetensorError, OSError, RuntimeError, EOFError, ValueError, LookupError, AttributeError, TypeError,
    zipfile.BadZipFile,
)  # fmt: skip
"""Exceptions of the readers on damaged files."""
LARGEST_WEIGHT = 1e6
"""A file with larger weights counts as damaged; weights in published files are below ten."""
READ = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
SUFFIXES = (".safetensors", ".ckpt", ".pt", ".pth")
SHOWN = 3
"""Tensors that a message names."""
LIGHTNING_PREFIX = "model."
NAMES = re.compile(r"(blocks|norm|patch_embedding|model_head)\.")
"""How the names of published tensors begin."""
HEADS = {"decoder_pred": "reconstruction", "classifier": "classification", "regressor": "regression"}


@dataclass(frozen=True)
class LoadReport:
    """The report about a published file that was loaded; `print(model.load_report)`.

    Attributes:
        source: The file.
        rope: Index of the rotary positions in the model: `"none"`, `"token"` or `"time"`.
        rope_source: What decided this.
        n_tensors: Number of tensors that were loaded.
        reshaped: Tensors with other axes here: `published name -> our names`.
        missing: Names that the model needs and the file does not have; they keep their initial weights.
        unexpected: Names in the file that the model does not have.
        fresh: Our names of the tensors of a new head.
        n_parameters: Number of parameters of the model.
        n_encoder: Number of parameters without the head.
        notes: Further remarks.
        expects: Rate, window and scaling of the training data, as published.
    """

    source: str
    rope: str
    rope_source: str
    n_tensors: int
    reshaped: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    fresh: tuple[str, ...]
    n_parameters: int
    n_encoder: int
    notes: tuple[str, ...]
    expects: str

    def __repr__(self) -> str:
        as_published = self.n_encoder == PUBLISHED_PARAMETERS
        same = "as published" if as_published else f"published: {PUBLISHED_PARAMETERS:,}"
        lines = [
            f"TinyMyo from {self.source}",
            f"  tensors     {self.n_tensors} loaded, {len(self.reshaped)} of them with other axes (.reshaped)",
            f"  parameters  {self.n_parameters:,}; the encoder's {self.n_encoder:,} ({same})",
            f"  rope        {self.rope!r}: {self.rope_source}",
            f"  expects     {self.expects}",
        ]
        for what, names in (("missing", self.missing), ("unexpected", self.unexpected), ("fresh", self.fresh)):
            if names:
                lines.append(f"  {what:<11} {', '.join(names)}")
        return "\n".join(lines + [f"  note        {note}" for note in self.notes])


@dataclass(frozen=True)
class PublishedFile:
    """A published file: its tensors under their published names, without a prefix, in float32; notes on changes."""

    source: str
    state: State
    notes: tuple[str, ...]

    @property
    def rope(self) -> tuple[Literal["token", "time"] | None, str]:
        """Index of its rotary positions, None if the file does not say; and the reason."""
        if any(name.endswith(FREQUENCIES) for name in self.state):
            return "token", f"the file has {FREQUENCIES}"
        if CHANNEL_EMBED in self.state:
            return "time", f"the file has {CHANNEL_EMBED}"
        return None, "the file does not say; 'none' gives the outputs of the published code; use detect_rope_mode"

    @property
    def head(self) -> dict[str, Any]:
        """The fields of `TinyMyoConfig` that follow from the file's head, and `n_channels` if the head fixes it."""
        kinds = {kind for part, kind in HEADS.items() if any(f"model_head.{part}." in name for name in self.state)}
        if len(kinds) != 1:
            raise ModelFileError(
                f"{self.source} has {len(kinds) or 'no'} heads{f' ({sorted(kinds)})' * bool(kinds)}; expected one of"
                f" model_head.{', model_head.'.join(HEADS)}; give head=... for a new head"
            )
        kind, d_model = kinds.pop(), len(self._tensor("norm.weight", 1))
        if kind == "reconstruction":
            return {"head": kind, "n_classes": 0}
        last = "classifier" if kind == "classification" else "regressor.5"
        n_classes = len(self._tensor(f"model_head.{last}.bias", 1))
        if kind == "regression":
            return {"head": kind, "n_classes": n_classes, "n_channels": self._channels("regressor.0", 3, d_model)}
        n_channels = self._channels("classifier", 2, d_model)
        if n_channels == 1:  # it reads the mean of all channels
            return {"head": kind, "fusion": "mean", "n_classes": n_classes}
        return {"head": kind, "fusion": "concat", "n_classes": n_classes, "n_channels": n_channels}

    @property
    def sizes(self) -> dict[str, Any]:
        """The fields of `TinyMyoConfig` that follow from the shapes of the encoder's tensors."""
        layers = {int(match[1]) for match in map(re.compile(r"blocks\.(\d{1,3})\.").match, self.state) if match}
        if layers != set(range(len(layers))) or not layers:
            raise ModelFileError(f"{self.source} has the blocks {sorted(layers)}; expected 0, 1, 2, ... without a gap")
        patch = self._tensor("patch_embedding.patch_embed.proj.weight", 4)
        sizes = {"d_model": len(patch), "patch_samples": patch.shape[-1], "n_layers": len(layers)}
        sizes["d_mlp"] = len(self._tensor("blocks.0.mlp.fc1.weight", 2))
        if CHANNEL_EMBED in self.state:
            vectors = self.state[CHANNEL_EMBED]
            if vectors.numel() % len(patch):
                raise ModelFileError(
                    f"{self.source}: {CHANNEL_EMBED} has shape {list(vectors.shape)}; expected vectors of {len(patch)}"
                )
            sizes["channel_slots"] = vectors.numel() // len(patch)
        return sizes

    def _tensor(self, name: str, n_axes: int) -> Tensor:
        tensor = self.state.get(name)
        if tensor is None or tensor.ndim != n_axes or not tensor.numel():
            problem = f"is missing ({_has(self.state)})" if tensor is None else f"has shape {list(tensor.shape)}"
            raise ModelFileError(f"{self.source}: {name} {problem}; expected {n_axes} axes, as in TinyMyo")
        return tensor

    def _channels(self, layer: str, n_axes: int, d_model: int) -> int:
        width = self._tensor(f"model_head.{layer}.weight", n_axes).shape[1]
        if width % d_model or not width:
            raise ModelFileError(
                f"{self.source}: model_head.{layer} reads {width} values; expected channels x {d_model}"
            )
        return width // d_model


def is_of_head(name: str) -> bool:
    """Whether a published tensor belongs to the head."""
    return name.startswith("model_head.")


def differences(published: PublishedFile, cfg: Any, expected: State, *, own_head: bool) -> tuple[list[str], list[str]]:
    """Find the names that are missing in the file, and the names that the model does not have.

    `expected` has the model's tensors under their published names; `own_head` = the file's head is loaded. Tensors of
    another shape than the model's, and frequencies of another rotation, are a `ModelFileError`.
    """
    state = published.state

    def counts(name: str) -> bool:  # the configuration has the frequencies
        return not name.endswith(FREQUENCIES) and (own_head or not is_of_head(name))

    for name, tensor in state.items():
        if name.endswith(FREQUENCIES) and name in expected:
            if tensor.shape != expected[name].shape:
                wide = 2 * tensor.numel()
                raise ModelFileError(
                    f"{published.source}: {name} belong to heads of width {wide}; expected {cfg.d_head}: give n_heads="
                    f"{cfg.d_model // max(wide, 1)}"
                )
            rounded = [expected[name].to(dtype).float() for dtype in READ]  # the precision of the file is not known
            if not any(torch.allclose(tensor.float(), one, rtol=1e-5) for one in rounded):
                raise ModelFileError(
                    f"{published.source}: {name} are {tensor[:3]}, ...; expected the values for base {cfg.rotary_base}"
                )
        elif name in expected and name != CHANNEL_EMBED and counts(name) and tensor.shape != expected[name].shape:
            raise ModelFileError(
                f"{published.source}: {name} has shape {list(tensor.shape)}; expected {list(expected[name].shape)}"
            )
    missing = [name for name in expected if name not in state and counts(name)]
    return missing, [name for name in state if name not in expected and counts(name)]


# --- files ------------------------------------------------------------------------------------------------


def find_file(source: str | Path, filename: str | None, revision: str | None) -> Path:
    """Find a file: by its path, in a folder, or in a repository of the hub, from which it is downloaded."""
    place = Path(source).expanduser()
    if place.is_file():
        return place
    if place.is_dir():
        if filename is not None:
            if (place / filename).is_file():
                return place / filename
            raise ModelFileError(f"{place} has no file {filename!r}; it has {_list(place)}")
        files = sorted(path for path in place.rglob("*") if path.suffix in SUFFIXES)
        if len(files) != 1:
            raise ModelFileError(f"{place}: give filename=..., one of its files of weights; it has {_list(place)}")
        return files[0]
    if filename is None:
        raise ModelFileError(
            f"there is no file or folder {str(source)!r}; for a repository of the hub give filename=... too, as"
            " 'UCI_EMG/base.safetensors'"
        )
    try:
        return Path(hf_hub_download(str(source), filename, revision=revision))
    except (OSError, ValueError, HFValidationError) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise ModelFileError(
            f"there is no file or folder {str(source)!r}, and {filename!r} cannot be downloaded from the hub"
            f" ({reason[:200]})"
        ) from None


def read_published(path: Path) -> PublishedFile:
    """Read the tensors of a published file: safetensors, or Lightning's `.ckpt`, of which nothing else is read."""
    try:
        content: Any = load_file(path) if path.suffix == ".safetensors" else _load_pickled(path)
    except ModelFileError:
        raise
    except DAMAGED as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise ModelFileError(f"{path} is damaged or not a weights file ({reason[:200]}); download it again") from None
    notes = []
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    tensors = isinstance(content, Mapping) and all(isinstance(one, Tensor) for one in content.values())
    if not tensors or not content:
        raise ModelFileError(f"{path} holds no tensors by name; expected a state_dict of TinyMyo")
    state = {str(name): tensor for name, tensor in content.items()}
    if all(name.startswith(LIGHTNING_PREFIX) for name in state):
        state = {name.removeprefix(LIGHTNING_PREFIX): tensor for name, tensor in state.items()}
    if not any(map(NAMES.match, state)):
        prefix = re.match(r"(.*\.)?", os.path.commonprefix(list(state)))
        advice = f"rename the tensors without {prefix[0]!r}" if prefix and prefix[0] else "is it another model?"
        raise ModelFileError(f"{path} has no name of a tensor of TinyMyo, such as norm.weight; {_has(state)}; {advice}")
    for name, tensor in state.items():
        if reason := _no_weights(tensor):
            raise ModelFileError(f"{path}: {name} {reason}; expected plain values of {', '.join(map(str, READ))}")
        if not (tensor.abs() <= LARGEST_WEIGHT).all():
            raise ModelFileError(
                f"{path}: {name} has NaN or values above {LARGEST_WEIGHT:g}, so the file is damaged; download it again"
            )
    others = {tensor.dtype for tensor in state.values()} - {torch.float32}
    if others:
        notes.append(f"weights were {', '.join(sorted(map(str, others)))} and are torch.float32 now")
    return PublishedFile(str(path), {name: tensor.float() for name, tensor in state.items()}, tuple(notes))


def write_published(path: Path, state: State, prefix: str) -> None:
    """Write tensors under their published names, as safetensors or for Lightning, as the file's ending says."""
    named = {prefix + name: tensor.cpu() for name, tensor in state.items()}
    if path.suffix not in SUFFIXES:
        raise ModelFileError(f"{path}: expected a name that ends in one of {', '.join(SUFFIXES)}")
    with replacing(path) as partial:
        if path.suffix == ".safetensors":
            save_file(named, partial, {"format": "pt"})
        else:
            torch.save({"state_dict": named}, partial)


def _no_weights(tensor: Tensor) -> str | None:
    """Say why the values of a tensor cannot be used; None if they can."""
    if tensor.is_nested or tensor.layout != torch.strided or tensor.device.type != "cpu":
        return f"is a nested, {tensor.layout} or {tensor.device.type} tensor"
    if tensor.dtype not in READ:
        return f"is {tensor.dtype}"
    if tensor.nbytes > tensor.untyped_storage().nbytes():
        return f"declares {tensor.nbytes / 1e6:.1f} MB and holds {tensor.untyped_storage().nbytes() / 1e6:.1f}"
    return None


def _load_pickled(path: Path) -> Any:
    """Read a file of `torch.save`, with a placeholder for each object that is not torch's own.

    Lightning stores the settings of a run in such objects. No class named in the file is imported, and no code is run.
    """
    try:
        foreign = get_unsafe_globals_in_checkpoint(path) if zipfile.is_zipfile(path) else []
        inert = [(type("Inert", (), {"__new__": _inert, "__setstate__": _forget}), name) for name in foreign]
        with safe_globals(inert):  # pyright: ignore[reportArgumentType]  (takes names since 2.6, as its docstring says)
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if re.search(r"operand|load key|truncated", str(error)):  # not a pickle, or truncated
            raise ValueError(str(error)) from None
        raise ModelFileError(
            f"{path} holds Python objects besides its weights that cannot be skipped, and emg-lens never loads objects,"
            " because loading may run code; expected a file of tensors only: ask its authors for safetensors"
        ) from None


def _has(state: State) -> str:
    """Name some tensors of a file."""
    return f"it has {', '.join(list(state)[:SHOWN])}" + f" and {len(state) - SHOWN} more" * (len(state) > SHOWN)


def _inert(cls: type, *_: Any, **__: Any) -> Any:
    return object.__new__(cls)


def _forget(self: Any, state: Any) -> None:
    """Drop the state of a placeholder."""


def _list(place: Path) -> str:
    names = sorted(str(path.relative_to(place)) for path in place.rglob("*") if path.suffix in SUFFIXES)
    return ", ".join(names[:8]) + f" and {len(names) - 8} more" * (len(names) > 8) or "none"
