"""TinyMyo (Fasulo et al. 2025): a foundation model of surface EMG, a token a patch of a channel.

`docs/protocol.md` §9 says what was published under the name, in which variants, and what each part computes.
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from einops import rearrange, repeat
from jaxtyping import Float, Int
from pydantic import NonNegativeInt, PositiveInt
from torch import Tensor, nn

from emg_lens.arguments import ArgumentError
from emg_lens.hooks import EdgeSet, positions
from emg_lens.lens.config import (
    DropPathShape,
    Embedding,
    EncoderConfig,
    InitialWeights,
    Number,
    PositionKind,
    Readout,
    Share,
)
from emg_lens.models.components import Unembed
from emg_lens.models.encoder import HookedBiosignalEncoder, ReturnType
from emg_lens.models.registry import Architecture
from emg_lens.models.tinymyo_heads import ChannelUnembed, SampleUnembed, SequenceUnembed

Head = Literal["reconstruction", "classification", "regression"]
Fusion = Literal["concat", "mean"]
Rope = Literal["none", "token", "time"]

POSITIONS_OF: dict[Rope, PositionKind] = {"none": "none", "token": "rotary", "time": "rotary_time"}
"""What rotary positions of the published variants run over, in the words of `EncoderConfig.positions`."""


@dataclass
class TinyMyoConfig(EncoderConfig):
    """`EncoderConfig` with the published sizes (`docs/protocol.md` §9.1).

    Attributes:
        head: What the residual stream is read for: the samples that went in (`"reconstruction"`, `n_classes=0`),
            classes, or `n_classes` values a sample (`"regression"`).
        fusion: How the channels of a patch meet in front of the head: side by side, or their mean.
        positions: `"rotary"` over the position in the layout, `"rotary_time"` over the patch of a channel, `"none"`.
        output_samples: Samples that the regression gives a window; `None` = `n_samples`.
        channel_slots: Learned vectors added to the tokens of the first so many channels; 0 = none.
        padding: Modality whose channels hold zeros, there to make up a number of channels (`{"emg": 12, "pad": 4}`).
        reads_padding: Whether other tokens attend to those of `padding`; as published they do.
    """

    d_model: PositiveInt = 192
    n_heads: Number = 3
    n_layers: Number = 8
    d_mlp: PositiveInt = 768
    patch_samples: PositiveInt | None = 20
    embedding: Embedding = "shared"
    cls_token: bool = False
    positions: PositionKind = "rotary"
    rotary_adjacent_pairs: bool = True
    readout: Readout = "mean"
    dropout: Share = 0.1
    hidden_dropout: Share = 0.1
    drop_path: Share = 0.1
    drop_path_shape: DropPathShape = "constant"
    mask_token: bool = True
    initial_weights: InitialWeights = "depth_scaled"
    head: Head = "classification"
    fusion: Fusion = "concat"
    output_samples: PositiveInt | None = None
    channel_slots: NonNegativeInt = 0
    padding: str = ""
    reads_padding: bool = True

    model_name = "tinymyo"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.cls_token or self.readout != "mean" or self.tokens != "channel" or self.patch_samples is None:
            raise ArgumentError(
                "TinyMyo's tokens are patches of channels, without CLS, all of them read: expected cls_token=False,"
                f" readout='mean', tokens='channel', patch_samples; got {self.cls_token}, {self.readout!r},"
                f" {self.tokens!r}, {self.patch_samples}"
            )
        if self.positions not in POSITIONS_OF.values():
            raise ArgumentError(f"positions={self.positions!r}; TinyMyo has {', '.join(POSITIONS_OF.values())}")
        if self.n_classes and not self.has_readout:
            raise ArgumentError(f"head='reconstruction' gives samples, got n_classes={self.n_classes}; expected 0")
        if self.head == "regression" and self.fusion == "mean":
            raise ArgumentError("head='regression' reads channels side by side; expected fusion='concat', got 'mean'")
        if self.output_samples is not None and self.head != "regression":
            raise ArgumentError(f"output_samples={self.output_samples} is for head='regression', got {self.head!r}")
        if self.channel_slots and self.channel_slots < self.n_channels:
            raise ArgumentError(
                f"channel_slots={self.channel_slots} vectors for {self.n_channels} channels; expected one a channel or"
                " more, or 0"
            )
        if self.padding and self.padding not in self.modalities:
            raise ArgumentError(f"padding={self.padding!r} is none of the modalities {list(self.modalities)}")
        if not self.reads_padding and (not self.padding or len(self.modalities) == 1):
            raise ArgumentError(
                "reads_padding=False needs padding='pad', the modality of the padded channels, and another modality"
            )

    @property
    def has_readout(self) -> bool:
        """Whether the model gives `n_classes` outputs, and not samples."""
        return self.head != "reconstruction"

    @property
    def rope(self) -> Rope:
        """`positions` in the words of the published variants: what rotary positions run over."""
        return next(word for word, kind in POSITIONS_OF.items() if kind == self.positions)

    @property
    def adds_positions(self) -> bool:
        """Whether vectors are added to the tokens: those of channels."""
        return self.channel_slots > 0

    @property
    def severed(self) -> EdgeSet:
        """`severed_edges`, read, and the edges from padded channels if they are not to be read."""
        if self.reads_padding:
            return self._severed
        return self._severed | positions(src=self.layout.find(self.padding))


class ChannelVectors(nn.Module):
    """Learned vectors of channels, `W_channel [slot, d_model]`; a model of fewer channels has the first."""

    def __init__(self, cfg: TinyMyoConfig) -> None:
        super().__init__()
        self.n_channels, self.n_patches = cfg.n_channels, cfg.n_patches
        self.W_channel = nn.Parameter(torch.empty(cfg.channel_slots, cfg.d_model))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Fresh weights."""
        nn.init.trunc_normal_(self.W_channel, std=0.02, a=-0.02, b=0.02)

    @property
    def W_pos(self) -> Float[Tensor, "pos d_model"]:  # noqa: N802
        """What is added at each position."""
        return repeat(self.W_channel[: self.n_channels], "channel d -> (channel patch) d", patch=self.n_patches)

    def forward(self, tokens: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos d_model"]:
        """The vectors of each trial's tokens, all trials in one memory."""
        return self.W_pos.expand(len(tokens), -1, -1)


class TinyMyo(HookedBiosignalEncoder):
    """The EMG foundation model.

    ```python
    model = TinyMyo(TinyMyoConfig(modalities={"emg": 16}, n_samples=1000, n_classes=0, head="reconstruction"))
    model(x, masked=hidden)  # hidden [batch, pos] of truth values -> the samples [batch, channel, time]
    cache.logit_attrs(parts, 3)  # what each part adds to sample 3 of each patch
    ```

    With classes, logits are the mean over positions of what each is read for: `directions_at_positions` says what for.
    """

    cfg: TinyMyoConfig

    def add_positions(self) -> None:
        """The vectors of channels."""
        self.pos_embed = ChannelVectors(self.cfg)

    def add_readout(self) -> None:
        """The head, `unembed`."""
        cfg = self.cfg
        if cfg.head == "reconstruction":
            assert cfg.patch_samples is not None
            self.unembed = SampleUnembed(cfg.d_model, cfg.patch_samples)
        elif cfg.head == "regression":
            length = cfg.output_samples or cfg.n_samples
            self.unembed = SequenceUnembed(cfg.n_channels, cfg.d_model, cfg.n_classes, length, cfg.dropout)
        elif cfg.fusion == "concat":
            self.unembed = ChannelUnembed(cfg.n_channels, cfg.d_model, cfg.n_classes)
        else:
            self.unembed = Unembed(cfg)

    def pool(self, resid: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch *part d_model"]:
        """What the classes are read from: the mean over patches of each channel, or of all of them."""
        if self.cfg.fusion == "mean":
            return resid.mean(dim=1)
        return self._by_channel(resid).mean(dim=2)

    def head(self, resid: Float[Tensor, "batch pos d_model"], return_type: ReturnType = "logits") -> Any:
        """Class logits `[batch, class]`, samples `[batch, channel, time]`, or targets `[batch, sample, target]`."""
        if return_type != "logits" or self.cfg.head == "classification":
            return super().head(resid, return_type)
        if self.cfg.head == "regression":
            return self.unembed(self._by_channel(resid))
        return rearrange(
            self._by_channel(self.unembed(resid)), "batch channel patch sample -> batch channel (patch sample)"
        )

    def _by_channel(self, x: Float[Tensor, "batch pos value"]) -> Float[Tensor, "batch channel patch value"]:
        return rearrange(x, "batch (channel patch) value -> batch channel patch value", patch=self.cfg.n_patches)

    def _loss(self, resid: Float[Tensor, "batch pos d_model"], labels: Any) -> Float[Tensor, ""]:
        if self.cfg.head != "classification":
            raise ArgumentError(
                f"return_type='loss' is the cross-entropy of classes, and this model's head is {self.cfg.head!r}; fit"
                " it with its own objective"
            )
        return super()._loss(resid, labels)

    @property
    def readout_positions(self) -> Int[Tensor, " position"]:
        """All positions reach what comes out."""
        return torch.arange(len(self.layout))


TINYMYO = Architecture("tinymyo", TinyMyoConfig, TinyMyo)
