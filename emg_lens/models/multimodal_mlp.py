"""`MultimodalMLP` (Tyacke et al. 2025, §3): one head per modality, and one classifier on their joined outputs.

This is the baseline without attention: modalities meet once, in a linear map. In the paper the heads for NinaPro have a
width of 200; the other widths are not stated (`docs/isonet-protocol.md` §4.10).
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import PositiveInt
from torch import Tensor, nn

from emg_lens.lens.config import Fraction, SignalConfig, check_names_of_parts
from emg_lens.lens.points import Point
from emg_lens.lens.signals import SignalModel
from emg_lens.models.dropout import drop
from emg_lens.models.registry import Architecture


@dataclass
class MultimodalMLPConfig(SignalConfig):
    """`SignalConfig` with the widths of the layers.

    Attributes:
        d_hidden: Width of both layers in the head of a modality.
        d_fused: Width of the layer that reads all heads.
        dropout: Probability of dropping a value after each ReLU during training.
    """

    d_hidden: PositiveInt = 200
    d_fused: PositiveInt = 200
    dropout: Fraction = 0.0

    model_name = "multimodal-mlp"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_names_of_parts(self.modalities)

    @property
    def n_weights(self) -> int:
        """Number of values in the matrices of all layers."""
        n = len(self.modalities)
        heads = self.d_hidden * (self.n_channels * self.n_samples + n * self.d_hidden)
        return heads + self.d_fused * (n * self.d_hidden + self.n_classes)


class ModalityHead(nn.Module):
    """Two linear layers, each with a ReLU, on all samples of one modality."""

    def __init__(self, n_values: int, cfg: MultimodalMLPConfig) -> None:
        super().__init__()
        self.dropout = cfg.dropout
        self.first = nn.Linear(n_values, cfg.d_hidden)
        self.second = nn.Linear(cfg.d_hidden, cfg.d_hidden)
        self.hook_hidden = Point()  # [batch, d_hidden]
        self.hook_out = Point()  # [batch, d_hidden]

    def forward(self, x: Float[Tensor, "batch channel time"]) -> Float[Tensor, "batch d_hidden"]:
        """Compute the features of one modality."""
        dropout = self.dropout if self.training else 0.0
        hidden = self.hook_hidden(drop(F.relu(self.first(x.flatten(1))), dropout))
        return self.hook_out(drop(F.relu(self.second(hidden)), dropout))


class MultimodalMLP(SignalModel):
    """The paper's multimodal MLP, with linear fusion.

    Hook points: `heads.{modality}.hook_hidden`, `heads.{modality}.hook_out`, `hook_fused`, all `[batch, value]`.
    """

    cfg: MultimodalMLPConfig
    head_parameters = ("classifier.",)

    def __init__(self, config: MultimodalMLPConfig) -> None:
        super().__init__(config)
        cfg, n_modalities = self.cfg, len(self.cfg.modalities)
        self.heads = nn.ModuleDict(
            {name: ModalityHead(n_channels * cfg.n_samples, cfg) for name, n_channels in cfg.modalities.items()}
        )
        self.fuse = nn.Linear(n_modalities * cfg.d_hidden, cfg.d_fused)
        self.hook_fused = Point()  # [batch, d_fused]
        self.classifier = nn.Linear(cfg.d_fused, cfg.n_classes)
        self.setup()

    def forward(self, input: Float[Tensor, "batch channel time"]) -> Float[Tensor, "batch output"]:
        """Compute class logits, or the targets of a regression."""
        self.check_signals(input)
        parts = input.split(list(self.cfg.modalities.values()), dim=1)
        features = torch.cat([head(part) for head, part in zip(self.heads.values(), parts, strict=True)], dim=1)
        fused = drop(F.relu(self.fuse(features)), self.cfg.dropout if self.training else 0.0)
        return self.classifier(self.hook_fused(fused))


MULTIMODAL_MLP = Architecture("multimodal-mlp", MultimodalMLPConfig, MultimodalMLP)
