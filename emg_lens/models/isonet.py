"""IsoNet (Tyacke et al. 2025, §3): one embedding per channel, a shared post-LN backbone, two heads."""

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

    The paper has dropout after both sub-layers and does not state its rate. The default is no dropout; shipped studies
    use 0.1 (`docs/isonet-protocol.md` §4.9).

    Attributes:
        readout: What the logits are read from: the CLS token, as in the paper, or the mean of all others. In training,
            the second head reads the other one.
        shared_head: Whether one linear map reads both the CLS vector and the mean vector. The paper leaves this open;
            the default is two maps (`docs/isonet-protocol.md`).

    Example:
        >>> from emg_lens import IsoNetConfig
        >>> cfg = IsoNetConfig({"emg": 12, "acc": 36}, n_samples=100, n_classes=17)
        >>> cfg.d_model, cfg.n_heads, cfg.n_layers, cfg.n_ctx
        (512, 8, 5, 49)
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
                f"cls_token={self.cls_token}, readout={self.readout!r}; IsoNet needs cls_token=True, readout='cls' or"
                " 'mean'"
            )


class IsoNet(HookedBiosignalEncoder):
    """The Isolation Network: logits of CLS, and during training also logits of the mean of all other tokens.

    `return_type="loss"` is the cross-entropy of the CLS logits, to which the annealed loss of training converges
    (λ = 1). `emg_lens.training.fit` computes the annealed loss, which depends on the epoch.

    Example:
        >>> from emg_lens import IsoNet, IsoNetConfig
        >>> model = IsoNet(IsoNetConfig({"emg": 4, "acc": 3}, n_samples=20, n_classes=5, d_model=16))
        >>> x = model.example_input(8)
        >>> cls_logits, mean_logits = model(x, return_type="both")
        >>> tuple(model(x).shape), tuple(mean_logits.shape), model.layout.names[:3]
        ((8, 5), (8, 5), ('cls', 'emg.0', 'emg.1'))
    """

    cfg: IsoNetConfig

    def __init__(self, config: IsoNetConfig) -> None:
        super().__init__(config)
        if not config.shared_head:
            normal = config.initial_weights == "normal"
            setattr(self, self._second_head, Unembed(config.d_model, config.n_classes, normal=normal))
        self.setup()

    @property
    def _second_head(self) -> str:
        return "unembed_mean" if self.cfg.readout == "cls" else "unembed_cls"

    @property
    def auxiliary_parameters(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The beginning of the second head's parameter names. A shared head has none, but auxiliary outputs."""
        return f"{self._second_head}."

    def head(self, resid: Float[Tensor, "batch pos d_model"], return_type: ReturnType = "logits") -> Any:
        """Compute the logits; with `return_type="both"`, also those of the other vector, each `[batch, class]`."""
        if return_type != "both":
            return super().head(resid, return_type)
        second = self.unembed if self.cfg.shared_head else getattr(self, self._second_head)
        other = resid[:, 1:].mean(dim=1) if self.cfg.readout == "cls" else resid[:, 0]
        return self.unembed(self.pool(resid)), second(other)

    readout_positions = HookedBiosignalEncoder.readout_positions  # pyright: ignore - of the logits; "both" is for training


ISONET = Architecture("isonet", IsoNetConfig, IsoNet)
