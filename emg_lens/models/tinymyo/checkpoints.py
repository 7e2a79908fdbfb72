"""TinyMyo's published files: how they are read, what they say of the model they belong to, and the report of reading.

The licence of the published weights (CC BY-ND 4.0) lets nobody pass on changed copies, and a copy that was converted is
one: convert where you run, and share the name of the original.
"""

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

PUBLISHED_PARAMETERS = {"encoder": 3_563_520, "reconstruction": 3_567_380}
"""Of the published model: without its head, and with that of pre-training (docs/tinymyo-model.md §9.1)."""
EXPECTED_INPUT = {
    "reconstruction": "each channel of each window scaled to [-1, 1] by its least and largest value; as published"
    " 1000 samples, 16 channels, 2000 Hz",
    "classification": "z-scores of each channel; as published at 200 Hz, 1000 samples (UCI EMG, EPN-612) or 200 (DB5)",
    "regression": "z-scores of each channel; as published 1000 samples, 16 channels (DB8)",
}
"""Scaling, window and rate of what each head was trained with (docs/tinymyo-model.md §9.3)."""
DAMAGED = (
    SafetensorError, OSError, RuntimeError, EOFError, ValueError, LookupError, AttributeError, TypeError,
    zipfile.BadZipFile,
)  # fmt: skip
"""What the readers raise on damaged files."""
LARGEST_WEIGHT = 1e6
"""Weights beyond it are a damaged file's: those of the published kind are below ten."""
READ = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
SUFFIXES = (".safetensors", ".ckpt", ".pt", ".pth")
LIGHTNING_PREFIX = "model."
HEADS = {"decoder_pred": "reconstruction", "classifier": "classification", "regressor": "regression"}


@dataclass(frozen=True)
class LoadReport:
    """What reading a published file told; `print(model.load_report)`.

    Attributes:
        source: The file.
        rope: What rotary positions run over in the model that was built: `"none"`, `"token"` or `"time"`.
        rope_told_by: What says so.
        n_tensors: Tensors that were taken.
        reshaped: Of these, those whose axes lie differently here: `name there -> names here`.
        missing: Names that the model needs and the file does not have; they keep fresh weights.
        unexpected: Names of the file that the model has no place for.
        fresh: Our names of a head that was asked for in the place of the file's.
        n_parameters: Of the model.
        n_encoder: Of these, the encoder's, without the head.
        notes: What else there is to know.
        expects: Rate, window and scaling of what the model was trained with, as published.
    """

    source: str
    rope: str
    rope_told_by: str
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
        published = PUBLISHED_PARAMETERS["encoder"]
        same = "as published" if self.n_encoder == published else f"published: {published:,}"
        lines = [
            f"TinyMyo from {self.source}",
            f"  tensors     {self.n_tensors} taken, {len(self.reshaped)} of them with other axes (.reshaped)",
            f"  parameters  {self.n_parameters:,}; the encoder's {self.n_encoder:,} ({same})",
            f"  rope        {self.rope!r}: {self.rope_told_by}",
            f"  expects     {self.expects}",
        ]
        for what, names in (("missing", self.missing), ("unexpected", self.unexpected), ("fresh", self.fresh)):
            if names:
                lines.append(f"  {what:<11} {', '.join(names)}")
        return "\n".join(lines + [f"  note        {note}" for note in self.notes])


@dataclass(frozen=True)
class PublishedFile:
    """A published file, read.

    Attributes:
        source: The file.
        state: Its tensors by upstream's names, without a prefix, in float32.
        notes: What was done to them.
    """

    source: str
    state: State
    notes: tuple[str, ...]

    @property
    def rope(self) -> tuple[Literal["token", "time"] | None, str]:
        """What its positions run over, None if it does not say; and what says so."""
        if any(name.endswith(FREQUENCIES) for name in self.state):
            return "token", f"the file has {FREQUENCIES}"
        if CHANNEL_EMBED in self.state:
            return "time", f"the file has {CHANNEL_EMBED}"
        return None, "the file does not say; 'none' gives the outputs of the published code, detect_rope_mode decides"

    @property
    def head(self) -> dict[str, Any]:
        """The fields of `TinyMyoConfig` that the file's head decides, and `n_channels` where the head knows it."""
        kinds = {kind for part, kind in HEADS.items() if any(f"model_head.{part}." in name for name in self.state)}
        if len(kinds) != 1:
            raise ModelFileError(
                f"{self.source} has {len(kinds) or 'no'} heads{f' ({sorted(kinds)})' * bool(kinds)}; expected one of"
                f" model_head.{', model_head.'.join(HEADS)}; give head=... for a fresh one"
            )
        kind, d_model = kinds.pop(), len(self._tensor("norm.weight", 1))
        if kind == "reconstruction":
            return {"head": kind, "n_classes": 0}
        last = "classifier" if kind == "classification" else "regressor.5"
        n_classes = len(self._tensor(f"model_head.{last}.bias", 1))
        if kind == "regression":
            return {"head": kind, "n_classes": n_classes, "n_channels": self._channels("regressor.0", 3, d_model)}
        n_channels = self._channels("classifier", 2, d_model)
        if n_channels == 1:  # of all channels the mean
            return {"head": kind, "fusion": "mean", "n_classes": n_classes}
        return {"head": kind, "fusion": "concat", "n_classes": n_classes, "n_channels": n_channels}

    @property
    def sizes(self) -> dict[str, Any]:
        """The fields of `TinyMyoConfig` that the shapes of the encoder's tensors decide."""
        layers = {int(found[1]) for found in map(re.compile(r"blocks\.(\d{1,3})\.").match, self.state) if found}
        if layers != set(range(len(layers))) or not layers:
            raise ModelFileError(f"{self.source} has the blocks {sorted(layers)}; expected 0, 1, 2, ... without a gap")
        patch = self._tensor("patch_embedding.patch_embed.proj.weight", 4)
        sizes = {"d_model": len(patch), "patch_samples": patch.shape[-1], "n_layers": len(layers)}
        sizes["d_mlp"] = len(self._tensor("blocks.0.mlp.fc1.weight", 2))
        if CHANNEL_EMBED in self.state:
            found = self.state[CHANNEL_EMBED]
            if found.numel() % len(patch):
                raise ModelFileError(
                    f"{self.source}: {CHANNEL_EMBED} has shape {list(found.shape)}; expected vectors of {len(patch)}"
                )
            sizes["channel_slots"] = found.numel() // len(patch)
        return sizes

    def _tensor(self, name: str, n_axes: int) -> Tensor:
        found = self.state.get(name)
        if found is None or found.ndim != n_axes or not found.numel():
            told = "is missing" if found is None else f"has shape {list(found.shape)}"
            raise ModelFileError(f"{self.source}: {name} {told}; expected a tensor of {n_axes} axes, as TinyMyo's is")
        return found

    def _channels(self, layer: str, n_axes: int, d_model: int) -> int:
        width = self._tensor(f"model_head.{layer}.weight", n_axes).shape[1]
        if width % d_model or not width:
            raise ModelFileError(
                f"{self.source}: model_head.{layer} reads {width} values; expected channels x {d_model}"
            )
        return width // d_model


def is_of_head(name: str) -> bool:
    """Whether a tensor of upstream's is the head's."""
    return name.startswith("model_head.")


def differences(published: PublishedFile, cfg: Any, expected: State, *, own_head: bool) -> tuple[list[str], list[str]]:
    """Names that are missing in a file, and those that nothing has a place for.

    Args:
        published: The file.
        cfg: The model's configuration.
        expected: What `to_theirs` gives for the model.
        own_head: Whether the file's head is to be taken.

    Raises:
        ModelFileError: A tensor of another shape than the model's, or frequencies that are not those of its rotation.
    """
    state = published.state
    for name, tensor in state.items():
        if name.endswith(FREQUENCIES) and name in expected:
            if tensor.shape != expected[name].shape:
                wide = 2 * tensor.numel()
                raise ModelFileError(
                    f"{published.source}: {name} are those of heads {wide} wide; expected {cfg.d_head}: give n_heads="
                    f"{cfg.d_model // max(wide, 1)}"
                )
            rounded = [expected[name].to(dtype).float() for dtype in READ]  # as the file may have held them
            if not any(torch.allclose(tensor.float(), one, rtol=1e-5) for one in rounded):
                raise ModelFileError(
                    f"{published.source}: {name} are not those of base {cfg.rotary_base}: {tensor[:3]}"
                )
        elif name in expected and name != CHANNEL_EMBED and tensor.shape != expected[name].shape:
            if is_of_head(name) and not own_head:
                continue
            raise ModelFileError(
                f"{published.source}: {name} has shape {list(tensor.shape)}; expected {list(expected[name].shape)}"
            )
    of_head = {name for name in expected if is_of_head(name) and not own_head}
    optional = {name for name in expected if name.endswith(FREQUENCIES)} | of_head
    left = {name for name in state if is_of_head(name) and not own_head}
    idle = {name for name in state if name.endswith(FREQUENCIES)}  # said by the configuration
    return [n for n in expected if n not in state and n not in optional], [
        n for n in state if n not in expected and n not in left | idle
    ]


# --- files ------------------------------------------------------------------------------------------------


def find_file(source: str | Path, filename: str | None, revision: str | None) -> Path:
    """The file that is meant: itself, one in a folder, or one in a repository of the hub, fetched.

    Raises:
        ModelFileError: There is none, or several and no `filename` says which.
    """
    place = Path(source).expanduser()
    if place.is_file():
        return place
    if place.is_dir():
        if filename is not None:
            if (place / filename).is_file():
                return place / filename
            raise ModelFileError(f"{place} holds no file {filename!r}; it has {_list(place)}")
        found = sorted(path for path in place.rglob("*") if path.suffix in SUFFIXES)
        if len(found) != 1:
            raise ModelFileError(f"{place}: give filename=..., one of its weights; it has {_list(place)}")
        return found[0]
    if filename is None:
        raise ModelFileError(
            f"there is no file or folder {str(source)!r}; for a repository of the hub give filename=... too, such as"
            " 'UCI_EMG/base.safetensors'"
        )
    try:
        return Path(hf_hub_download(str(source), filename, revision=revision))
    except (OSError, ValueError, HFValidationError) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise ModelFileError(
            f"there is no file or folder {str(source)!r}, and {filename!r} cannot be fetched from the hub"
            f" ({reason[:200]})"
        ) from None


def read_published(path: Path) -> PublishedFile:
    """The tensors of a published file: safetensors, or what Lightning writes (`.ckpt`), of which nothing else is read.

    Raises:
        ModelFileError: It is damaged, holds something else than tensors, or values that are not finite.
    """
    try:
        found: Any = load_file(path) if path.suffix == ".safetensors" else _load_pickled(path)
    except ModelFileError:
        raise
    except DAMAGED as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise ModelFileError(f"{path} is damaged, or no file of weights ({reason[:200]}); fetch it again") from None
    notes = []
    if isinstance(found, Mapping) and isinstance(found.get("state_dict"), Mapping):
        found = found["state_dict"]
    tensors = isinstance(found, Mapping) and all(isinstance(one, Tensor) for one in found.values())
    if not tensors or not found:
        raise ModelFileError(f"{path} holds no tensors by name; expected a state_dict of TinyMyo")
    state = {str(name): tensor for name, tensor in found.items()}
    if all(name.startswith(LIGHTNING_PREFIX) for name in state):
        state = {name.removeprefix(LIGHTNING_PREFIX): tensor for name, tensor in state.items()}
    for name, tensor in state.items():
        if reason := _no_weights(tensor):
            raise ModelFileError(f"{path}: {name} {reason}; expected plain values of {', '.join(map(str, READ))}")
        if not (tensor.abs() <= LARGEST_WEIGHT).all():
            raise ModelFileError(
                f"{path}: {name} holds NaN or values beyond {LARGEST_WEIGHT:g}, as no trained"
                " weights are; fetch it again"
            )
    others = {tensor.dtype for tensor in state.values()} - {torch.float32}
    if others:
        notes.append(f"weights were {', '.join(sorted(map(str, others)))} and are torch.float32 now")
    return PublishedFile(str(path), {name: tensor.float() for name, tensor in state.items()}, tuple(notes))


def write_published(path: Path, state: State, prefix: str) -> None:
    """Write tensors by upstream's names, as safetensors or, by the file's ending, as Lightning does.

    Raises:
        ModelFileError: The file's name has another ending.
    """
    named = {prefix + name: tensor.cpu() for name, tensor in state.items()}
    if path.suffix not in SUFFIXES:
        raise ModelFileError(f"{path}: expected a name that ends in {', '.join(SUFFIXES)}")
    with replacing(path) as partial:
        if path.suffix == ".safetensors":
            save_file(named, partial, {"format": "pt"})
        else:
            torch.save({"state_dict": named}, partial)


def _no_weights(tensor: Tensor) -> str | None:
    """Why the values of a tensor cannot be taken: they are not there, or not numbers that can be compared."""
    if tensor.is_nested or tensor.layout != torch.strided or tensor.device.type != "cpu":
        return f"is a nested, {tensor.layout} or {tensor.device.type} tensor"
    if tensor.dtype not in READ:
        return f"is {tensor.dtype}"
    if tensor.nbytes > tensor.untyped_storage().nbytes():
        return f"declares {tensor.nbytes / 1e6:.1f} MB and holds {tensor.untyped_storage().nbytes() / 1e6:.1f}"
    return None


def _load_pickled(path: Path) -> Any:
    """What a file of `torch.save` holds, with something inert for each object that is not torch's own.

    Lightning keeps a run's settings so. No class that the file names is looked up, and no code of it is run.
    """
    try:
        foreign = get_unsafe_globals_in_checkpoint(path) if zipfile.is_zipfile(path) else []
        inert = [(type("Inert", (), {"__new__": _inert, "__setstate__": _forget}), name) for name in foreign]
        with safe_globals(inert):  # pyright: ignore[reportArgumentType]  (takes names since 2.6, as its docstring says)
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if re.search(r"operand|load key|truncated", str(error)):  # no pickle, or not all of one
            raise ValueError(str(error)) from None
        raise ModelFileError(
            f"{path} holds Python objects beside its weights that cannot be passed over, and they are never run here;"
            " where you trust it, take the weights out:"
            " torch.save({'state_dict': torch.load(path, weights_only=False)['state_dict']}, 'weights.pt')"
        ) from None


def _inert(cls: type, *_: Any, **__: Any) -> Any:
    return object.__new__(cls)


def _forget(self: Any, state: Any) -> None:
    """Nothing of an object is kept."""


def _list(place: Path) -> str:
    found = sorted(str(path.relative_to(place)) for path in place.rglob("*") if path.suffix in SUFFIXES)
    return ", ".join(found[:8]) + f" and {len(found) - 8} more" * (len(found) > 8) or "none"
