"""A small IsoNet and a separable task for the tests of fitting."""

import torch
from torch import Tensor

from emg_lens.models.isonet import IsoNet, IsoNetConfig


def make_model(seed: int = 0, dropout: float = 0.0, n_classes: int = 3, **fields) -> IsoNet:
    config = IsoNetConfig(
        modalities={"emg": 4, "acc": 3}, n_samples=8, n_classes=n_classes, d_model=16, n_heads=2, n_layers=2, d_mlp=16,
        dropout=dropout, **fields,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return IsoNet(config)


def make_trials(n: int = 90, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Trials in which the channel with the largest mean is the class."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % 3
    x = torch.randn(n, 7, 8, generator=generator)
    x[torch.arange(n), y] += 1.5
    return x, y


def make_values(n: int = 90, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Trials and two values per trial (mean 0, variance 1) that a model can predict from them."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 7, 8, generator=generator)
    values = torch.stack([x[:, 0].mean(1), x[:, 1].mean(1) - x[:, 5].mean(1)], 1)
    return x, (values - values.mean(0)) / values.std(0, correction=0)
