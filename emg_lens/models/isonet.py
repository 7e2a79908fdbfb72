"""IsoNet (Tyacke et al. 2025, §3): one dedicated embedding a channel, a shared post-LN backbone, two heads."""

from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor

from emg_lens.lens.config import EncoderConfig, Norm
from emg_lens.models.components import Unembed
from emg_lens.models.encoder import HookedBiosignalEncoder, ReturnType
from emg_lens.models.registry import Architecture
from emg_lens.validation import ArgumentError


@dataclass
class IsoNetConfig(EncoderConfig):
    """`EncoderConfig` with the paper's sizes (§3: 512-D, 8 heads, 5 layers, 128-D feed-forward).

    The paper puts dropout after both sub-layers and does not state its rate; the default is none, and shipped studies
    take 0.1 (`docs/isonet-protocol.md` §4.9).

    Attributes:
        readout: What the logits are read from: the paper's CLS token, or the mean of all others; what is not is read by
            the second head, in training.
        shared_head: Whether the CLS vector and the mean vector are read by one linear map. The paper leaves it open;
            the default is two maps (`docs/protocol.md`).
    """

    d_model: int = 512
    n_heads: int = 8
    n_layers: int = 5
    d_mlp: int = 128
    norm: Norm = "post"
    shared_head: bool = False

    model_name = "isonet"
    per_fit_settings = (*EncoderConfig.per_fit_settings, "shared_head")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.readout in ("none", "each") or not self.cls_token:
            raise ArgumentError(
                f"IsoNet has a CLS token, and reads its logits from it or from the others' mean; got"
                f" cls_token={self.cls_token}, readout={self.readout!r}"
            )


class IsoNet(HookedBiosignalEncoder):
    """The Isolation Network: CLS logits, and during training also logits of the mean of all other tokens.

    `return_type="loss"` is the cross-entropy of the CLS logits, λ = 1: what annealing ends at. The annealed loss needs
    the epoch; `emg_lens.training.fit` uses it.
    """

    cfg: IsoNetConfig

    def __init__(self, config: IsoNetConfig) -> None:
        super().__init__(config)
        if not config.shared_head:
            setattr(self, self._second_head, Unembed(config))
        self.setup()

    @property
    def _second_head(self) -> str:
        return "unembed_mean" if self.cfg.readout == "cls" else "unembed_cls"

    @property
    def auxiliary_parameters(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Those of the second head; with one shared head there are none, and still auxiliary outputs."""
        return f"{self._second_head}."

    def head(self, resid: Float[Tensor, "batch pos d_model"], return_type: ReturnType = "logits") -> Any:
        """The readout's logits; with `return_type="both"`, also those of the other vector, each `[batch, class]`."""
        if return_type != "both":
            return super().head(resid, return_type)
        second = self.unembed if self.cfg.shared_head else getattr(self, self._second_head)
        other = resid[:, 1:].mean(dim=1) if self.cfg.readout == "cls" else resid[:, 0]
        return self.unembed(self.pool(resid)), second(other)

    readout_positions = HookedBiosignalEncoder.readout_positions  # of the logits; `"both"` is for training


ISONET = Architecture("isonet", IsoNetConfig, IsoNet)
