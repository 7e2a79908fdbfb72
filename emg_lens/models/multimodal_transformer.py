"""`MultimodalTransformer` (Tyacke et al. 2025, §3): one transformer per modality, and a linear layer on their outputs.

No attention edge joins two modalities, so all its edges are unimodal. The paper only states "concatenating outputs via
a linear layer" with 128-D "integration dimensions" (`docs/isonet-protocol.md` §4.10). Here the CLS vectors of all
modalities are concatenated; one linear layer with a ReLU reads them, as in the multimodal MLP, and another classifies.
"""

from dataclasses import dataclass
from typing import NoReturn

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from pydantic import PositiveInt
from torch import Tensor, nn

from emg_lens.lens.points import Point
from emg_lens.models.registry import Architecture
from emg_lens.models.staged import StagedConfig, StagedEncoder
from emg_lens.validation import ArgumentError


@dataclass
class MultimodalTransformerConfig(StagedConfig):
    """`StagedConfig` without a fusion stage.

    Attributes:
        d_fused: Width of the linear layer on all modalities.
    """

    d_fused: PositiveInt = 128

    model_name = "multimodal-transformer"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.readout != "cls":
            raise ArgumentError(f"readout={self.readout!r}; {self.model_name} needs 'cls', the CLS token per modality")

    @property
    def n_weights(self) -> int:
        """Number of values in the matrices of one stage, embeddings and both linear layers."""
        return super().n_weights + self.d_fused * (len(self.modalities) * self.d_model + self.n_classes)


class LinearFusion(nn.Module):
    """Concatenated CLS vectors -> linear, ReLU -> linear -> logits."""

    def __init__(self, cfg: MultimodalTransformerConfig) -> None:
        super().__init__()
        self.fuse = nn.Linear(len(cfg.modalities) * cfg.d_model, cfg.d_fused)
        self.hook_fused = Point()  # [batch, d_fused]
        self.classifier = nn.Linear(cfg.d_fused, cfg.n_classes)

    def forward(self, x: Float[Tensor, "batch value"]) -> Float[Tensor, "batch class"]:
        """Compute logits."""
        return self.classifier(self.hook_fused(F.relu(self.fuse(x))))

    def multiply_accumulates(self, cfg: MultimodalTransformerConfig) -> int:  # noqa: ARG002 - as of every head
        """Count the multiplications of the outputs of one trial."""
        return self.fuse.weight.numel() + self.classifier.weight.numel()


class MultimodalTransformer(StagedEncoder):
    """The dual encoder: self-attention within each modality, and linear fusion of the CLS vectors."""

    cfg: MultimodalTransformerConfig

    def __init__(self, config: MultimodalTransformerConfig) -> None:
        super().__init__(config)

    def add_readout(self) -> None:
        """Make the linear layers on the CLS vectors."""
        self.unembed = LinearFusion(self.cfg)

    def _trains_cls_alone(self) -> bool:
        """False, also with one modality: dropout would use other random numbers than in published results."""
        return False

    def pool(self, resid: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch modality_and_d_model"]:
        """Concatenate the CLS vectors of all modalities."""
        return resid[:, self.readout_positions].flatten(1)

    @property
    def W_U(self) -> NoReturn:  # noqa: N802
        """Raise an error, because classes are read through a ReLU."""
        raise ArgumentError(
            "W_U: this model's logits are read through a ReLU, so classes have no direction in the residual stream; use"
            " unembed.fuse and unembed.classifier"
        )

    b_U = W_U

    @property
    def readout_positions(self) -> Int[Tensor, " position"]:
        """The CLS positions."""
        return torch.tensor([span.start for span in self.cfg.spans.values()])


MULTIMODAL_TRANSFORMER = Architecture("multimodal-transformer", MultimodalTransformerConfig, MultimodalTransformer)
