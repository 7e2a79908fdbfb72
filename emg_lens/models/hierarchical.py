"""`HierarchicalTransformer` (Tyacke et al. 2025, §3): one transformer per modality, then one over all tokens.

Attention joins modalities in the fusion stage only. The logits are read from the CLS token of this stage, at position
0; it enters with the stage's first layer, and can read the CLS tokens of the modalities (`docs/isonet-protocol.md`
§4.10).
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
    """`StagedConfig` with a fusion stage; by default five layers in each, as in the paper."""

    n_layers: Number = 10
    n_fusion_layers: FusionLayers = 5

    model_name = "hierarchical"
    fuses = True


class HierarchicalTransformer(StagedEncoder):
    """Two levels of transformers: one per modality, and one over all tokens."""

    cfg: HierarchicalConfig

    def __init__(self, config: HierarchicalConfig) -> None:
        super().__init__(config)

    def pool(self, resid: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch d_model"]:
        """Return the CLS vector of the fusion stage, or the mean of all tokens except CLS tokens."""
        if self.cfg.readout == "cls":
            return resid[:, 0]
        return resid[:, self.readout_positions].mean(dim=1)

    @property
    def readout_positions(self) -> Int[Tensor, " position"]:
        """Positions of the last residual stream that reach the outputs."""
        if self.cfg.readout == "cls":
            return torch.tensor([0])
        return torch.tensor([p for p, g in enumerate(self.layout.group) if g != CLS or self.cfg.readout == "none"])


HIERARCHICAL = Architecture("hierarchical", HierarchicalConfig, HierarchicalTransformer)
