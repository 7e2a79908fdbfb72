"""The shape of a model: what every one says of its signals, and what an encoder says beside it.

Field names are those that TransformerLens utilities read from `model.cfg`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field, PositiveFloat, PositiveInt

from emg_lens.hooks import EdgeSet, flow, lag, none, parse_edges
from emg_lens.layout import TokenLayout
from emg_lens.validation import ArgumentError, OutputCount, check_fields

PositionKind = Literal["none", "learned", "sinusoidal", "rotary", "rotary_time", "relative"]
Norm = Literal["pre", "post"]
Readout = Literal["cls", "mean", "each", "none"]
AttentionDirection = Literal["bidirectional", "causal"]
Embedding = Literal["dedicated", "shared"]
TokenKind = Literal["channel", "time"]
NonLinearity = Literal["gelu", "relu"]
DropPathShape = Literal["linear", "constant"]
InitialWeights = Literal["xavier", "depth_scaled"]
Number = Annotated[int, Field(ge=1, le=10_000)]
"""Of layers, or of heads: no model has so many."""
Share = Annotated[float, Field(ge=0, lt=1)]


@dataclass
class SignalConfig:
    """What goes into a model and what comes out; the configuration of every registered model begins with it.

    Fields are checked against their types, choices and ranges, also in classes that add fields.

    Attributes:
        modalities: Channels of each modality, in the order of the input's channel axis.
        n_samples: Samples a channel of one input (the `time` axis).
        n_classes: Outputs a trial: classes, or targets of a regression.
        class_names: One name an output (gesture labels, targets); default `"0"`, `"1"`, ...
        modality_order: Names of the modalities in order; filled in, because JSON files sort their keys.
    """

    modalities: dict[str, int]
    n_samples: PositiveInt
    n_classes: OutputCount
    class_names: list[str] = field(default_factory=list, kw_only=True)
    modality_order: list[str] = field(default_factory=list, kw_only=True)

    # Not fields: facts of a kind of model, and of a running one; never saved.
    model_name = "signal-model"
    per_fit_settings: ClassVar[tuple[str, ...]] = ("dropout",)
    """Fields that another fit on the same weights may set anew: how it trains, its head, what is masked."""
    n_layers = 0
    n_heads = 0
    device = torch.device("cpu")
    dtype = torch.float32

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if isinstance(value, np.generic):
                setattr(self, name, value.item())  # which can be saved
        check_fields(self)
        self.modality_order = self.modality_order or list(self.modalities)
        if sorted(self.modality_order) != sorted(self.modalities):
            raise ArgumentError(f"modality_order={self.modality_order} does not order {list(self.modalities)}")
        self.modalities = {name: self.modalities[name] for name in self.modality_order}
        TokenLayout.channels(self.modalities)  # refuses names and counts that mean nothing
        if self.has_readout and self.n_classes < 1:
            raise ArgumentError(f"n_classes must be at least 1, got {self.n_classes}")
        if not self.class_names:
            self.class_names = [str(c) for c in range(self.n_classes)]
        if len(self.class_names) != self.n_classes:
            raise ArgumentError(f"{len(self.class_names)} class_names for n_classes={self.n_classes}")

    @property
    def has_readout(self) -> bool:
        """Whether the model gives `n_classes` outputs a trial."""
        return True

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Shape of what the model gives for one trial."""
        return (self.n_classes,)

    @property
    def n_weights(self) -> int:
        """Trainable values of the model, at least; 0 where a kind of model does not say."""
        return 0

    @property
    def layout(self) -> TokenLayout:
        """What the model's tokens stand for; in a model without a residual stream, its input channels."""
        return TokenLayout.channels(self.modalities, cls=False)

    @property
    def n_channels(self) -> int:
        """Channels of one input, all modalities together."""
        return sum(self.modalities.values())


@dataclass
class EncoderConfig(SignalConfig):
    """Everything needed to build a `HookedBiosignalEncoder`; `n_classes` is 0 with `readout="none"`.

    Attributes:
        d_model: Width of the residual stream.
        n_heads: Attention heads a layer; `d_model` is divided among them.
        n_layers: Blocks.
        d_mlp: Hidden width of the MLPs.
        patch_samples: Samples a token (patches); `None` = all there are.
        tokens: `"channel"` = a token is a channel, or one patch of it; `"time"` = one patch of all channels of a
            modality, each with a linear map of its own.
        embedding: `"dedicated"` = one linear map a channel (IsoNet), `"shared"` = one map for all channels.
        cls_token: Whether a learned CLS token stands at position 0.
        positions: How positions enter: learned or sinusoidal vectors added to the embeddings; rotary, over the position
            (`"rotary"`) or over the patch, which begins anew in every channel (`"rotary_time"`); a learned vector a
            distance in time, in the keys (`"relative"`); or not at all.
        norm: `"post"` = LayerNorm after each residual sum, no final norm; `"pre"` = before each sub-layer, and a final
            one.
        readout: What reaches the logits: the CLS position; the mean of all others; each of the others by itself
            (logits `[batch, pos, class]`); or none (returns the residual stream).
        act_fn: Non-linearity of the MLPs.
        qkv_bias: Whether the query, key and value maps have a bias.
        dropout: Probability of dropping attention weights and sub-layer outputs while training.
        hidden_dropout: Probability of dropping a hidden value of an MLP while training.
        drop_path: Probability of skipping a sub-layer of one trial while training.
        drop_path_shape: `"linear"` = grows from 0 in the first layer to `drop_path` in the last; `"constant"` = the
            same in all.
        eps: Added to the variance in LayerNorm.
        rotary_base: Base of the rotary frequencies.
        rotary_adjacent_pairs: Whether values 2i and 2i + 1 of a head rotate against each other (Su et al. 2021, §3.2),
            and not value i of its first half against value i of its second.
        masked_edges: Edge expression of attention edges that this model does not have, in training or ever
            (`"flow('acc', 'cls')"`); empty = it has all.
        mask_token: Whether there is a learned vector that stands for tokens that are hidden (`model(x, masked=...)`).
        initial_weights: `"xavier"` = every map by itself; `"depth_scaled"` = those of queries, keys and values as one
            map, and what layer l writes to the residual stream over √(2l), counted from 1 (`docs/tinymyo-model.md`
            §9.1).
        drop_tail: Whether samples behind the last whole patch are left out; else such trials are refused.
        attention_dir: `"causal"` = tokens read those of their own time and of earlier ones alone; CLS, if there is one,
            reads all and is read by none. The other edges are not there, as `masked_edges` are not.
        relative_reach: Farthest distance in time with a vector of its own (`positions="relative"`).
    """

    d_model: PositiveInt = 128
    n_heads: Number = 4
    n_layers: Number = 4
    d_mlp: PositiveInt = 256
    patch_samples: PositiveInt | None = None
    tokens: TokenKind = "channel"
    embedding: Embedding = "dedicated"
    cls_token: bool = True
    positions: PositionKind = "learned"
    norm: Norm = "pre"
    readout: Readout = "cls"
    act_fn: NonLinearity = "gelu"
    qkv_bias: bool = True
    dropout: Share = 0.0
    hidden_dropout: Share = 0.0
    drop_path: Share = 0.0
    drop_path_shape: DropPathShape = "linear"
    eps: PositiveFloat = 1e-5
    rotary_base: PositiveFloat = 10000.0
    rotary_adjacent_pairs: bool = False
    masked_edges: str = ""
    mask_token: bool = False
    initial_weights: InitialWeights = "xavier"
    drop_tail: bool = False
    attention_dir: AttentionDirection = "bidirectional"
    relative_reach: PositiveInt = 100

    # Read by TransformerLens utilities. Not fields: they are switches of a running model, never saved.
    model_name = "biosignal-encoder"
    per_fit_settings = (*SignalConfig.per_fit_settings, "hidden_dropout", "drop_path", "drop_path_shape",
                        "initial_weights", "masked_edges")  # fmt: skip
    normalization_type = "LN"
    attn_only = False
    final_rms = False
    parallel_attn_mlp = False
    n_key_value_heads = None
    use_attn_result = False
    use_split_qkv_input = False
    use_attn_in = False
    use_hook_mlp_in = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.d_model % self.n_heads:
            raise ArgumentError(f"d_model={self.d_model} cannot be divided among n_heads={self.n_heads}")
        if self.rotates and self.d_head % 2:
            raise ArgumentError(f"rotary positions need an even d_model / n_heads, got {self.d_head}")
        if self.positions == "rotary_time" and not self.has_times:
            raise ArgumentError("positions='rotary_time' needs tokens with a patch: set patch_samples")
        if self.positions == "sinusoidal" and self.d_model % 2:
            raise ArgumentError(f"sinusoidal positions need an even d_model, got {self.d_model}")
        if self.patch_samples is not None and not 1 <= self.patch_samples <= self.n_samples:
            raise ArgumentError(f"patch_samples must be 1 to n_samples={self.n_samples}, got {self.patch_samples}")
        if self.patch_samples is not None and self.n_samples % self.patch_samples and not self.drop_tail:
            raise ArgumentError(
                f"n_samples={self.n_samples} is not a multiple of patch_samples={self.patch_samples}; crop the trials,"
                " or set drop_tail=True"
            )
        if self.tokens == "time" and self.embedding != "dedicated":
            raise ArgumentError("tokens='time' needs embedding='dedicated': one map would not tell channels apart")
        if self.readout == "cls" and not self.cls_token:
            raise ArgumentError("readout='cls' needs cls_token=True")
        if self.n_classes and self.readout == "none":
            raise ArgumentError(f"readout='none' gives no outputs, got n_classes={self.n_classes}; expected 0")
        if self.attention_dir == "causal" and (not self.has_times or self.n_patches < 2):
            raise ArgumentError(
                f"attention_dir='causal' needs tokens of two times or more, got {self.n_patches} in n_samples="
                f"{self.n_samples}; set patch_samples to a part of them, or give longer windows"
            )
        self._permanent_mask = parse_edges(self.masked_edges) if self.masked_edges else none()

    @property
    def permanent_mask(self) -> EdgeSet:
        """`masked_edges`, read, and those that a causal model does not have."""
        if self.attention_dir == "bidirectional":
            return self._permanent_mask
        forbidden = lag(1 - self.n_patches, -1)
        for name in self.modalities if self.cls_token else ():
            forbidden = forbidden | flow("cls", name)  # which has read what is to come
        return forbidden if self._permanent_mask == none() else self._permanent_mask | forbidden

    @property
    def has_times(self) -> bool:
        """Whether tokens stand for times: patches, or steps of a front end of its own."""
        return self.patch_samples is not None

    @property
    def rotates(self) -> bool:
        """Whether positions are rotated into queries and keys."""
        return self.positions in ("rotary", "rotary_time")

    @property
    def adds_positions(self) -> bool:
        """Whether vectors that stand for positions are added to the embeddings."""
        return self.positions in ("learned", "sinusoidal")

    @property
    def positional_embedding_type(self) -> str:
        """The kind of positions, in TransformerLens's terms."""
        if self.positions == "relative":
            return "relative_positional_bias"
        return "rotary" if self.rotates else "standard" if self.positions in ("learned", "sinusoidal") else "none"

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Shape of what the model gives for one trial; without a readout, of its residual stream."""
        return super().output_shape if self.has_readout else (self.n_ctx, self.d_model)

    @property
    def n_weights(self) -> int:
        """Values of the matrices of embedding, attention, MLPs and unembedding."""
        n_maps = self.n_channels if self.embedding == "dedicated" else 1
        embedding = self.d_model * (n_maps * (self.patch_samples or self.n_samples) + self.n_ctx + self.n_classes)
        return embedding + self.n_layers * self.d_model * (4 * self.d_model + 2 * self.d_mlp)

    @property
    def has_readout(self) -> bool:
        """Whether the model gives `n_classes` outputs a trial, and not its residual stream."""
        return self.readout != "none"

    @property
    def layout(self) -> TokenLayout:
        """What each position of the residual stream stands for."""
        return self.layout_of(self.modalities, cls=self.cls_token)

    def layout_of(self, modalities: Mapping[str, int], *, cls: bool) -> TokenLayout:
        """The layout of some modalities' tokens."""
        if self.tokens == "time":
            return TokenLayout.times(modalities, self.n_patches, cls=cls)
        if self.patch_samples is None:
            return TokenLayout.channels(modalities, cls=cls)
        return TokenLayout.patches(modalities, self.n_patches, cls=cls)

    @property
    def n_patches(self) -> int:
        """Tokens a channel, or a modality."""
        return 1 if self.patch_samples is None else self.n_samples // self.patch_samples

    @property
    def n_tokens(self) -> int:
        """Positions that stand for signals."""
        return (self.n_channels if self.tokens == "channel" else len(self.modalities)) * self.n_patches

    @property
    def n_ctx(self) -> int:
        """Positions of the residual stream."""
        return self.n_tokens + self.cls_token

    @property
    def d_head(self) -> int:
        """Width of a head."""
        return self.d_model // self.n_heads

    @property
    def d_vocab(self) -> int:
        """Number of classes, under the name that TransformerLens gives the width of the unembedding."""
        return self.n_classes

    @property
    def d_vocab_out(self) -> int:
        """Number of classes, as `d_vocab`."""
        return self.n_classes


def check_names_of_parts(names: Iterable[str]) -> None:
    """Refuse modalities that cannot name a part of a model that has one a modality.

    Raises:
        ArgumentError: torch has an attribute of this name on every module (`float`, `train`, `keys`).
    """
    taken = [name for name in names if hasattr(torch.nn.ModuleDict, name) or name == "training"]
    if taken:
        raise ArgumentError(f"a modality cannot be named {taken[0]!r} in this model: torch modules have that attribute")
