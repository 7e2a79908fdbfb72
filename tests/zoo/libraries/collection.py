"""The libraries of the zoo: which are installed, in which version, and their architectures.

PyPI's torchvision and torchaudio hold operators that only load next to a torch for CUDA. No architecture needs them, so
on a torch without CUDA they are imported without. Import this module before transformers, which imports torchvision.
"""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from unittest.mock import patch

import torch
from torch import library
from zoo.libraries.architecture import Architecture

LIBRARIES = {
    "torch": "ordinary_code",
    "transformers": "hugging_face_models",
    "timm": "timm_models",
    "braindecode": "braindecode_models",
    "x-transformers": "x_transformers_models",
    "vit-pytorch": "vit_pytorch_models",
}
"""Package -> module of this folder with its architectures."""

if torch.version.cuda is None and find_spec("torchvision"):
    with patch.object(library, "register_fake", lambda *_, **__: lambda function: function):
        import_module("torchvision")
    with patch("pathlib.Path.glob", lambda *_: iter(())):  # torchaudio looks for its operators with this
        import_module("torchaudio")


def installed() -> list[str]:
    """Return the libraries that are installed."""
    found = []
    for package in LIBRARIES:
        try:
            version(package)
        except PackageNotFoundError:
            continue
        found.append(package)
    return found


def architectures(package: str) -> dict[str, Architecture]:
    """Return the architectures of a library by name."""
    return import_module(f"zoo.libraries.{LIBRARIES[package]}").MODELS
