"""The identity of a model, which a checkpoint compares before it is resumed."""

import json
from importlib.metadata import version
from typing import Any

import torch

from emg_lens.io.checkpoint import digest, tensor_bytes
from emg_lens.lens.points import has_hook


def model_identity(model: torch.nn.Module) -> dict[str, str]:
    """Describe a model by short texts: versions, device, and digests of configuration and weights.

    The names of hook points with hooks are included; the functions of these hooks are not.
    """
    cfg: Any = model.cfg
    config = {name: value for name, value in vars(cfg).items() if name not in ("device", "dtype", "_permanent_mask")}
    config_text = json.dumps([type(model).__qualname__, config], sort_keys=True, default=_plain)
    points: Any = model.hook_dict
    # Not state_dict: its names may differ between processes for a bridge.
    weights = [*model.named_parameters(), *model.named_buffers()]
    return {
        "versions": ", ".join(f"{name} {version(name)}" for name in ("emg-lens", "torch", "transformer-lens")),
        "device": next(model.parameters()).device.type,
        "model": digest([config_text.encode()]),
        "weights": digest(part for name, weight in weights for part in (name.encode(), *tensor_bytes(weight))),
        "hooks": ", ".join(sorted(name for name, point in points.items() if has_hook(point))) or "none",
    }


def _plain(value: object) -> str:
    """Convert a value that JSON does not support to a text that is the same in every process."""
    return str(value) if isinstance(value, torch.dtype | torch.device) else type(value).__qualname__
