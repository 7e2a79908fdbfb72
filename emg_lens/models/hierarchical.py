"""`HierarchicalTransformer` (Tyacke et al. 2025, §3): a transformer a modality, then one over all their tokens.

Attention joins modalities in the fusion stage alone. The logits are read from a CLS token of that stage, which stands
at position 0 and enters with its first layer; the modalities' CLS tokens are among the tokens that it can read
(`docs/isonet-protocol.md` §4.10).
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from emg_lens.layout import CLS
from emg_lens.lens.config import Number
from emg_lens.models.registry import Architecture
from emg_lens.models.staged import FusionLayers, StagedConfig, StagedEncoder


@dataclass
class HierarchicalConfig(StagedConfig):
    """`StagedConfig` with a fusion stage; by default five layers in either, the sizes of the paper."""

    n_layers: Number = 10
    n_fusion_layers: FusionLayers = 5

    model_name = "hierarchical"
    fuses = True


class HierarchicalTransformer(StagedEncoder):
    """Two levels of transformers: one a modality, one over all."""

    cfg: HierarchicalConfig

    def __init__(self, config: HierarchicalConfig) -> None:
        super().__init__(config)

    def pool(self, resid: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch d_model"]:
        """What the logits are read from: the fusion stage's CLS, or the mean of all tokens but CLS tokens."""
        if self.cfg.readout == "cls":
            return resid[:, 0]
        return resid[:, self.readout_positions].mean(dim=1)

    @property
    def readout_positions(self) -> Int[Tensor, " position"]:
        """Positions of the last residual stream that reach the logits."""
        if self.cfg.readout == "cls":
            return torch.tensor([0])
        return torch.tensor([p for p, g in enumerate(self.layout.group) if g != CLS or self.cfg.readout == "none"])


HIERARCHICAL = Architecture("hierarchical", HierarchicalConfig, HierarchicalTransformer)
