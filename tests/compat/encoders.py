"""Small encoders with random weights everywhere, for tests of TransformerLens's own utilities on them."""

import importlib.metadata

import pytest
import torch

from emg_lens.lens.config import EncoderConfig
from emg_lens.models.encoder import HookedBiosignalEncoder

MAJOR = int(importlib.metadata.version("transformer-lens").split(".")[0])
needs_4 = pytest.mark.skipif(MAJOR < 4, reason="new in TransformerLens 4")
only_3 = pytest.mark.skipif(MAJOR > 3, reason="removed in TransformerLens 4")

CLASSES = ["rest", "fist", "pinch", "point", "wave"]


def make(**changes) -> HookedBiosignalEncoder:
    """An encoder of 1 + 4 + 2 tokens, 3 layers, 2 heads; no weight is at its initial zero or one."""
    settings = dict(
        modalities={"emg": 4, "acc": 2}, n_samples=6, n_classes=5, class_names=CLASSES,
        d_model=12, n_heads=2, n_layers=3, d_mlp=10, norm="pre",
    )  # fmt: skip
    settings |= changes
    if settings.get("readout") == "none":
        settings |= {"n_classes": 0, "class_names": []}
    torch.manual_seed(0)
    model = HookedBiosignalEncoder(EncoderConfig(**settings)).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.3 * torch.randn(p.shape))
    return model


def pair(model: HookedBiosignalEncoder, batch: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    """Clean and corrupt trials."""
    return model.example_input(batch, seed=1), model.example_input(batch, seed=2)


def logit_difference(logits: torch.Tensor) -> torch.Tensor:
    """A metric: the logit of "fist" minus the logit of "rest"."""
    return (logits[:, 1] - logits[:, 0]).mean()
