"""The configuration of TinyMyo: the published sizes and variants (docs/tinymyo-model.md §9)."""

from dataclasses import dataclass
from typing import Literal

from pydantic import NonNegativeInt, PositiveInt

from emg_lens.hooks import EdgeSet, positions
from emg_lens.lens.config import (
    DropPathShape,
    Embedding,
    EncoderConfig,
    Fraction,
    InitialWeights,
    Number,
    PositionKind,
    Readout,
)
from emg_lens.validation import ArgumentError

Head = Literal["reconstruction", "classification", "regression"]
Fusion = Literal["concat", "mean"]
Rope = Literal["none", "token", "time"]

POSITIONS_OF: dict[Rope, PositionKind] = {"none": "none", "token": "rotary", "time": "rotary_time"}
"""Index of the rotary positions in the published variants -> value of `EncoderConfig.positions`."""


@dataclass
class PublishedBlocks(EncoderConfig):
    """`EncoderConfig` with the published blocks, for any tokens and any head."""

    d_model: PositiveInt = 192
    n_heads: Number = 3
    n_layers: Number = 8
    d_mlp: PositiveInt = 768
    cls_token: bool = False
    rotary_adjacent_pairs: bool = True
    dropout: Fraction = 0.1
    hidden_dropout: Fraction = 0.1
    drop_path: Fraction = 0.1
    drop_path_shape: DropPathShape = "constant"
    initial_weights: InitialWeights = "depth_scaled"


@dataclass
class TinyMyoConfig(PublishedBlocks):
    """`EncoderConfig` with the published sizes (`docs/tinymyo-model.md` §9.1).

    Attributes:
        head: Output: the input samples (`"reconstruction"`, `n_classes=0`), classes (`"classification"`), or
            `n_classes` values per sample (`"regression"`).
        fusion: How the head combines channels: `"concat"` or `"mean"`.
        positions: `"rotary"` over the position in the layout, `"rotary_time"` over the patch of a channel, `"none"`.
        output_samples: Samples in the output of the regression; `None` = `n_samples`.
        pooled: Whether the regression gives one value per target, the mean over the window, as the `regression`
            objective needs. The published model gives one value per sample.
        channel_slots: Number of learned vectors, each added to the tokens of one channel; 0 = none.
        padding: Modality with zeros, which fills up the number of channels (`{"emg": 12, "pad": 4}`).
        reads_padding: Whether other tokens attend to the tokens of `padding`, as in the published model.
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
                f"cls_token={self.cls_token}, readout={self.readout!r}, tokens={self.tokens!r},"
                f" patch_samples={self.patch_samples}; TinyMyo needs cls_token=False, readout='mean', tokens='channel'"
                " and a number of patch_samples"
            )
        if self.positions not in POSITIONS_OF.values():
            raise ArgumentError(
                f"positions={self.positions!r}; TinyMyo needs one of {', '.join(POSITIONS_OF.values())}"
            )
        if self.n_classes and not self.has_readout:
            raise ArgumentError(f"n_classes={self.n_classes}; head='reconstruction' needs n_classes=0")
        if self.head == "regression" and self.fusion == "mean":
            raise ArgumentError("fusion='mean'; head='regression' needs fusion='concat'")
        if self.output_samples is not None and self.head != "regression":
            raise ArgumentError(f"output_samples={self.output_samples} needs head='regression', got {self.head!r}")
        if self.pooled and (self.head != "regression" or self.output_samples is not None):
            raise ArgumentError(
                f"pooled=True needs head='regression' without output_samples, got {self.head!r} and"
                f" output_samples={self.output_samples}"
            )
        if self.channel_slots and self.channel_slots < self.n_channels:
            raise ArgumentError(
                f"channel_slots={self.channel_slots} for {self.n_channels} channels; expected at least one per channel,"
                " or 0"
            )
        if self.padding and self.padding not in self.modalities:
            raise ArgumentError(f"padding={self.padding!r} is none of the modalities {list(self.modalities)}")
        if not self.reads_padding and (not self.padding or len(self.modalities) == 1):
            raise ArgumentError(
                "reads_padding=False needs padding='pad', the name of the padded modality, and another modality"
            )

    @property
    def has_readout(self) -> bool:
        """Whether the model gives `n_classes` outputs instead of samples."""
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
        """Index of the rotary positions: `positions` in the terms of the published variants."""
        return next(word for word, kind in POSITIONS_OF.items() if kind == self.positions)

    adds_positions = property(lambda self: self.channel_slots > 0, doc="Whether vectors of channels are added.")

    @property
    def permanent_mask(self) -> EdgeSet:
        """The edges in `masked_edges`; without `reads_padding`, also the edges from padded channels."""
        if self.reads_padding:
            return super().permanent_mask
        return super().permanent_mask | positions(src=self.layout.find(self.padding))
