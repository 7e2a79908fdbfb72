"""IsoNet (Tyacke et al. 2025, §3): one dedicated embedding a channel, a shared post-LN backbone, two heads."""

from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from emg_lens.lens.config import EncoderConfig, Norm
from emg_lens.models.components import Unembed
from emg_lens.models.encoder import HookedBiosignalEncoder, ReturnType
from emg_lens.models.registry import Architecture


@dataclass
class IsoNetConfig(EncoderConfig):
    """`EncoderConfig` with the paper's sizes (§3: 512-D, 8 heads, 5 layers, 128-D feed-forward).

    Attributes:
        shared_head: Whether the CLS vector and the mean vector are read by one linear map. The paper leaves it open
            (fact sheet §2.3, item 17); the default is two maps.
    """

    d_model: int = 512
    n_heads: int = 8
    n_layers: int = 5
    d_mlp: int = 128
    norm: Norm = "post"
    shared_head: bool = False

    model_name = "isonet"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.readout != "cls":
            raise ValueError(f"IsoNet reads its logits from CLS, got readout={self.readout!r}")


class IsoNet(HookedBiosignalEncoder):
    """The Isolation Network: CLS logits, and during training also logits of the mean of all other tokens.

    `return_type="loss"` is the cross-entropy of the CLS logits, λ = 1: what annealing ends at. The annealed loss needs
    the epoch; `emg_lens.training.fitting.fit` uses it.
    """

    cfg: IsoNetConfig

    def __init__(self, config: IsoNetConfig) -> None:
        super().__init__(config)
        if not config.shared_head:
            self.unembed_mean = Unembed(config)
        self.setup()

    def head(self, resid: Float[Tensor, "batch pos d_model"], return_type: ReturnType = "logits") -> Any:
        """CLS logits; with `return_type="both"`, `(CLS logits, mean logits)`, each `[batch, class]`."""
        if return_type != "both":
            return super().head(resid, return_type)
        unembed_mean = self.unembed if self.cfg.shared_head else self.unembed_mean
        return self.unembed(resid[:, 0]), unembed_mean(resid[:, 1:].mean(dim=1))


def anneal_weight(epoch: int, anneal_epochs: int) -> float:
    """λ(t) = min(1, t / T): the weight of the CLS loss in epoch t (paper §3). T = 0 means CLS alone."""
    return 1.0 if anneal_epochs <= 0 else min(1.0, epoch / anneal_epochs)


def annealed_loss(
    cls_logits: Float[Tensor, "batch class"],
    mean_logits: Float[Tensor, "batch class"] | None,
    labels: Int[Tensor, " batch"],
    weight: float,
    label_smoothing: float = 0.0,
) -> Float[Tensor, ""]:
    """λ · CE(cls) + (1 − λ) · CE(mean), the dual-head loss of the paper (§3); `weight` is λ.

    Raises:
        ValueError: No mean logits, and λ < 1.
    """
    cls_loss = F.cross_entropy(cls_logits, labels, label_smoothing=label_smoothing)
    if weight >= 1:
        return cls_loss
    if mean_logits is None:
        raise ValueError(f"the mean head has a part in the loss at λ = {weight:g}; got no mean logits")
    return weight * cls_loss + (1 - weight) * F.cross_entropy(mean_logits, labels, label_smoothing=label_smoothing)


ISONET = Architecture("isonet", IsoNetConfig, IsoNet)
