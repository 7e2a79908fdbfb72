"""`SignalModel`: the base of all our models, with attention or without."""

import contextlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Self, get_type_hints

import torch
from huggingface_hub import PyTorchModelHubMixin
from jaxtyping import Float
from pydantic import NonNegativeInt
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_model
from torch import Tensor

from emg_lens.errors import EmgLensError
from emg_lens.io.checksums import PLACEHOLDER, DamagedFileError, check_file, replacing_with_checksum
from emg_lens.layout import TokenLayout
from emg_lens.lens.config import SignalConfig
from emg_lens.memory import check_memory
from emg_lens.transformer_lens_imports import HookedRootModule
from emg_lens.validation import ArgumentError, check_argument, checked

CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"
"""Files of a saved model, with the hub's names."""
LARGEST_WEIGHT = 1e18
"""Largest weight of a file; sums of squares of larger ones may be infinite in float32."""
ABOUT = "emg-lens"
"""The entry of the weights' metadata with their configuration and checksum, as JSON."""

MODEL_CARD = """---
{{ card_data }}
---

A model of biosignals, saved by emg-lens. `config.json` is its configuration; `from_pretrained` of its class loads it.
"""


_ON_DAMAGED_FILES = (OSError, ValueError, TypeError, LookupError, AttributeError, RuntimeError, SafetensorError)


class ModelFileError(EmgLensError, RuntimeError):
    """A saved model that is missing, damaged, or of another class."""


class SignalModel(
    HookedRootModule,
    PyTorchModelHubMixin,
    library_name="emg-lens",
    model_card_template=MODEL_CARD,
    tags=["biosignals", "emg", "transformer-lens"],
):
    """A model of signals `[batch, channel, time]` with hook points, which can be saved and loaded.

    Attributes:
        cfg: The configuration; a copy of the given one.
        layout: Meaning of the tokens.
        auxiliary_parameters: Beginning of the parameter names of a second head that only training uses; `""` = there is
            none. A model with two heads returns `(outputs, auxiliary outputs)` for `return_type="both"`.
        head_parameters: Prefixes of the names of head parameters; `()` = not declared.
        not_saved: What this object computes and saved files would not contain; `save_pretrained` then refuses.
        one_by_one: Whether `torch.vmap` cannot map a step of its training (running statistics of a batch, recurrent
            kernels). Such models cannot be fitted as a cohort.
    """

    cfg: SignalConfig
    layout: TokenLayout
    auxiliary_parameters: str = ""
    head_parameters: tuple[str, ...] = ()
    not_saved: str = ""
    one_by_one: bool = False

    def __init__(self, config: SignalConfig) -> None:
        super().__init__()
        check_argument(f"{type(self).__name__}: config", config, get_type_hints(type(self))["cfg"])
        check_memory(4 * config.n_weights, f"{type(self).__name__} with {config.n_weights:.3g} weights or more")
        self.cfg = replace(config)  # switches and device are this model's own
        self.layout = self.cfg.layout

    @property
    def parameter_layers(self) -> dict[str, int]:
        """Beginning of parameter names -> layer: -1 for embeddings, `cfg.n_layers` for everything after the blocks.

        Empty = not declared.
        """
        return {}

    @checked
    def example_input(self, batch: NonNegativeInt = 1, seed: NonNegativeInt = 0) -> Float[Tensor, "batch channel time"]:
        """Make standard-normal input of the right shape on the model's device."""
        check_memory(4 * batch * self.cfg.n_channels * self.cfg.n_samples, f"an input of {batch} trials")
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(batch, self.cfg.n_channels, self.cfg.n_samples, generator=generator)
        return x.to(self.cfg.device)

    def check_signals(self, x: Tensor) -> None:
        """Refuse input that does not fit the configuration."""
        if not isinstance(x, Tensor):
            raise ArgumentError(f"input is a {type(x).__name__}; expected a tensor: torch.as_tensor(x).float()")
        if x.dtype == torch.float64 != self.cfg.dtype:
            raise ArgumentError(f"input is {x.dtype} (numpy's default) and the model {self.cfg.dtype}; use x.float()")
        if x.is_floating_point() and x.dtype != torch.float64 == self.cfg.dtype:
            raise ArgumentError(f"input is {x.dtype} and the model {self.cfg.dtype}; use x.double()")
        is_half = x.dtype in (torch.float16, torch.bfloat16) and not torch.is_autocast_enabled(x.device.type)
        if is_half and x.dtype != self.cfg.dtype:
            raise ArgumentError(f"input is {x.dtype} and the model {self.cfg.dtype}; use x.to({self.cfg.dtype})")
        if not x.numel():
            raise ArgumentError(f"input has shape {list(x.shape)}; expected at least one trial and one sample")
        expected = (self.cfg.n_channels, self.cfg.n_samples)
        if x.ndim != 3 or tuple(x.shape[1:]) != expected or not x.is_floating_point():
            raise ArgumentError(
                f"input has shape {list(x.shape)} ({x.dtype}); expected [batch, {expected[0]}"
                f" channels, {expected[1]} samples] of floats, with channels ordered {self.cfg.modalities}"
            )

    def _apply(self, fn: Callable, recurse: bool = True) -> "SignalModel":
        super()._apply(fn, recurse)
        parameter = next(self.parameters())
        self.cfg.device, self.cfg.dtype = parameter.device, parameter.dtype
        return self

    # --- saving and loading -------------------------------------------------------------------------------

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **kwargs: Any) -> Self:
        """Load a model from a folder of `save_pretrained`, or from a repository of the hub with the same files.

        Args:
            pretrained_model_name_or_path: The folder, or the name of the repository.
            **kwargs: As in `huggingface_hub`: `revision`, `config` instead of the saved one, ...

        Raises:
            ModelFileError: Missing or damaged files, another class, or weights that are not finite or too large.
        """
        place = Path(pretrained_model_name_or_path).expanduser()
        for name in (CONFIG_FILE, WEIGHTS_FILE) if place.is_dir() else ():
            if not (place / name).is_file() and not (name == CONFIG_FILE and "config" in kwargs):
                raise ModelFileError(f"{place} has no {name}; expected a folder written by save_pretrained")
        try:
            model = super().from_pretrained(place if place.is_dir() else pretrained_model_name_or_path, **kwargs)
            if "config" not in kwargs:
                model._check_config()
            return model
        except (ModelFileError, DamagedFileError):
            raise
        except (*_ON_DAMAGED_FILES, EmgLensError) as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            missing = "" if place.is_dir() else "there is no such folder, and from the hub it "
            raise ModelFileError(f"{place}: {missing}cannot be loaded as {cls.__name__} ({reason[:300]})") from None

    def _save_pretrained(self, save_directory: Path) -> None:
        if self.not_saved:
            raise ModelFileError(
                f"saved files would not contain the {self.not_saved} of this model; save the original model, and call"
                " quantised again after from_pretrained"
            )
        about = json.dumps({"config": self._config_content(), "checksum": PLACEHOLDER})
        with replacing_with_checksum(save_directory / WEIGHTS_FILE) as partial:
            save_model(self, str(partial), {ABOUT: about})

    @classmethod
    def _from_pretrained(cls, *, strict: bool = True, **kwargs: Any) -> "SignalModel":
        """Load weights; unlike the hub's default, a missing or unexpected key is an error."""
        with contextlib.redirect_stdout(None):  # the hub library prints to stdout
            return super()._from_pretrained(strict=strict, **kwargs).eval()

    @classmethod
    def _load_as_safetensor(  # pyright: ignore[reportIncompatibleMethodOverride]
        cls, model: "SignalModel", model_file: str, map_location: str, strict: bool
    ) -> "SignalModel":
        if not check_file(Path(model_file)) and _facts(Path(model_file)):
            raise DamagedFileError(f"{model_file} was changed after it was written: its checksum is missing")
        model = super()._load_as_safetensor(model, model_file, map_location, strict)
        for name, weight in model.state_dict().items():
            if weight.is_floating_point() and not (weight.float().abs() <= LARGEST_WEIGHT).all():
                raise ModelFileError(
                    f"{model_file}: the weights {name} contain NaN, infinity or numbers beyond {LARGEST_WEIGHT:g}; save"
                    " the model again"
                )
        model._folder = Path(model_file).parent
        return model

    _folder = Path()
    """The folder that the weights were loaded from."""

    def _config_content(self) -> dict[str, Any]:
        """Return the content of `config.json` for this model."""
        return json.loads(json.dumps(self.cfg.to_dict()))

    def _check_config(self) -> None:
        """Refuse a configuration that differs from the one saved with the weights."""
        path, now = self._folder / CONFIG_FILE, self._config_content()
        unknown = [name for name in json.loads(path.read_text(encoding="utf-8")) if name not in now]
        if unknown:
            raise ModelFileError(f"{path}: {type(self).__name__} has no setting {unknown[0]!r}; remove it")
        for name, value in _facts(self._folder / WEIGHTS_FILE).get("config", {}).items():
            if name in now and now[name] != value:
                raise ModelFileError(
                    f"{path} was changed after it was written: {name} is {now[name]!r}, and the weights were saved"
                    f" with {value!r}; give config=... if this is intended"
                )


def _facts(weights: Path) -> dict[str, Any]:
    """Return what `save_pretrained` wrote into the metadata of a file of weights; empty for files of other programs."""
    with safe_open(weights, "pt") as file:
        return json.loads((file.metadata() or {}).get(ABOUT, "{}"))
