"""The configuration of TinyMyo: the published sizes, and what its variants differ in (docs/tinymyo-model.md §9)."""

from dataclasses import dataclass
from typing import Literal

from pydantic import NonNegativeInt, PositiveInt

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
from emg_lens.validation import ArgumentError

Head = Literal["reconstruction", "classification", "regression"]
Fusion = Literal["concat", "mean"]
Rope = Literal["none", "token", "time"]

POSITIONS_OF: dict[Rope, PositionKind] = {"none": "none", "token": "rotary", "time": "rotary_time"}
"""What rotary positions of the published variants run over, in the words of `EncoderConfig.positions`."""


@dataclass
class PublishedBlocks(EncoderConfig):
    """`EncoderConfig` with the published blocks, whatever tokens are and whatever they are read for."""

    d_model: PositiveInt = 192
    n_heads: Number = 3
    n_layers: Number = 8
    d_mlp: PositiveInt = 768
    cls_token: bool = False
    rotary_adjacent_pairs: bool = True
    dropout: Share = 0.1
    hidden_dropout: Share = 0.1
    drop_path: Share = 0.1
    drop_path_shape: DropPathShape = "constant"
    initial_weights: InitialWeights = "depth_scaled"


@dataclass
class TinyMyoConfig(PublishedBlocks):
    """`EncoderConfig` with the published sizes (`docs/tinymyo-model.md` §9.1).

    Attributes:
        head: What the residual stream is read for: the samples that went in (`"reconstruction"`, `n_classes=0`),
            classes, or `n_classes` values a sample (`"regression"`).
        fusion: How the channels of a patch meet in front of the head: side by side, or their mean.
        positions: `"rotary"` over the position in the layout, `"rotary_time"` over the patch of a channel, `"none"`.
        output_samples: Samples that the regression gives a window; `None` = `n_samples`.
        pooled: Whether the regression gives the mean of its values over the window, one a target, which is what the
            `regression` objective fits; as published it gives one a sample.
        channel_slots: Learned vectors added to the tokens of the first so many channels; 0 = none.
        padding: Modality whose channels hold zeros, there to make up a number of channels (`{"emg": 12, "pad": 4}`).
        reads_padding: Whether other tokens attend to those of `padding`; as published they do.
    """

    patch_samples: PositiveInt | None = 20
    embedding: Embedding = "shared"
    positions: PositionKind = "rotary"
    readout: Readout = "mean"
    mask_token: bool = True
    head: Head = "classification"
    fusion: Fusion = "concat"
    output_samples: PositiveInt | None = None
    pooled: bool = False
    channel_slots: NonNegativeInt = 0
    padding: str = ""
    reads_padding: bool = True

    model_name = "tinymyo"
    per_fit_settings = (*PublishedBlocks.per_fit_settings, "head", "fusion", "output_samples", "pooled", "padding",
                        "reads_padding")  # fmt: skip

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
        if self.pooled and (self.head != "regression" or self.output_samples is not None):
            raise ArgumentError(
                f"pooled=True is for head='regression' without output_samples, got {self.head!r} and"
                f" output_samples={self.output_samples}"
            )
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
    def output_shape(self) -> tuple[int, ...]:
        """Classes or pooled targets, `[sample, target]`, or the samples of each channel."""
        if self.head == "reconstruction":
            return (self.n_channels, self.n_patches * (self.patch_samples or 1))
        if self.head == "regression" and not self.pooled:
            return (self.output_samples or self.n_samples, self.n_classes)
        return super().output_shape

    @property
    def rope(self) -> Rope:
        """`positions` in the words of the published variants: what rotary positions run over."""
        return next(word for word, kind in POSITIONS_OF.items() if kind == self.positions)

    @property
    def adds_positions(self) -> bool:
        """Whether vectors are added to the tokens: those of channels."""
        return self.channel_slots > 0

    @property
    def permanent_mask(self) -> EdgeSet:
        """`masked_edges`, read, and the edges from padded channels if they are not to be read."""
        if self.reads_padding:
            return super().permanent_mask
        return super().permanent_mask | positions(src=self.layout.find(self.padding))
