"""Configurations: signals and outputs of every model, and the sizes and options of an encoder.

Field names are those that TransformerLens's utilities read from `model.cfg`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from functools import reduce
from operator import or_
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field, PositiveFloat, PositiveInt

from emg_lens.hooks import EdgeSet, flow, lag, none, parse_edges, positions
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
InitialWeights = Literal["xavier", "depth_scaled", "normal"]
Number = Annotated[int, Field(ge=1, le=10_000)]
"""Number of layers, or of heads."""
Fraction = Annotated[float, Field(ge=0, lt=1)]


@dataclass
class SignalConfig:
    """Inputs and outputs of a model; the configuration of every registered model derives from it.

    Fields are checked against their types, choices and ranges, also in classes that add fields (`ArgumentError`).

    Attributes:
        modalities: Channels of each modality, in the order of the input's channel axis.
        n_samples: Samples per channel of one input (the `time` axis).
        n_classes: Outputs per trial: classes, or targets of a regression.
        class_names: One name per output (gesture labels, targets); default `"0"`, `"1"`, ...
        modality_order: Names of the modalities in order; set automatically, because JSON files sort their keys.
    """

    modalities: dict[str, int]
    n_samples: PositiveInt
    n_classes: OutputCount
    class_names: list[str] = field(default_factory=list, kw_only=True)
    modality_order: list[str] = field(default_factory=list, kw_only=True)

    # Not fields, and never saved: properties of a kind of model, and of a running model.
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
                setattr(self, name, value.item())  # so that it can be saved
        check_fields(self)
        self.modality_order = self.modality_order or list(self.modalities)
        if sorted(self.modality_order) != sorted(self.modalities):
            raise ArgumentError(f"modality_order={self.modality_order}; expected an order of {list(self.modalities)}")
        self.modalities = {name: self.modalities[name] for name in self.modality_order}
        TokenLayout.channels(self.modalities)  # checks names and counts
        if self.has_readout and self.n_classes < 1:
            raise ArgumentError(f"n_classes={self.n_classes}; expected at least 1")
        if not self.class_names:
            self.class_names = [str(c) for c in range(self.n_classes)]
        if len(self.class_names) != self.n_classes:
            raise ArgumentError(f"{len(self.class_names)} class_names; expected n_classes={self.n_classes}")

    has_readout = True
    """Whether the model gives `n_classes` outputs per trial."""
    n_weights = 0
    """Number of trainable values or less (a lower bound); 0 if unknown."""

    def to_dict(self) -> dict[str, Any]:
        """Return the fields by name; the class called with them gives an equal configuration."""
        return asdict(self)

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Shape of the output for one trial."""
        return (self.n_classes,)

    @property
    def layout(self) -> TokenLayout:
        """Meaning of the model's tokens; for a model without a residual stream, of its input channels."""
        return TokenLayout.channels(self.modalities, cls=False)

    @property
    def n_channels(self) -> int:
        """Number of channels of all modalities."""
        return sum(self.modalities.values())


@dataclass
class EncoderConfig(SignalConfig):
    """The configuration of a `HookedBiosignalEncoder`; `n_classes` is 0 with `readout="none"`.

    Attributes:
        d_model: Width of the residual stream.
        n_heads: Attention heads per layer; `d_model` is divided among them.
        n_layers: Number of blocks.
        d_mlp: Hidden width of the MLPs.
        patch_samples: Samples in a token (patches); `None` = all samples.
        tokens: `"channel"` = a token is a channel, or one patch of it; `"time"` = a token is one patch of all channels
            of a modality, each with its own linear map.
        embedding: `"dedicated"` = one linear map per channel (IsoNet), `"shared"` = one map for all channels.
        cls_token: Whether there is a learned CLS token at position 0.
        positions: How positions enter: learned or sinusoidal vectors, added to the embeddings; rotary, over the
            position (`"rotary"`) or over the patch of a channel (`"rotary_time"`); a vector per head and distance in
            time, whose product with the query is added to the score (`"relative"`); or `"none"`.
        norm: `"post"` = LayerNorm after each residual sum, without a final norm; `"pre"` = before each sub-layer, with
            a final norm.
        readout: What the logits are computed from: `"cls"` = the CLS position; `"mean"` = the mean of all others;
            `"each"` = each of the others by itself (logits `[batch, pos, class]`); `"none"` = the model returns the
            residual stream.
        act_fn: Non-linearity of the MLPs.
        qkv_bias: Whether the query, key and value maps have a bias.
        dropout: Probability of dropping attention weights and sub-layer outputs during training.
        hidden_dropout: Probability of dropping a hidden value of an MLP during training.
        drop_path: Probability of skipping a sub-layer for one trial during training.
        drop_path_shape: `"linear"` = grows from 0 in the first layer to `drop_path` in the last; `"constant"` = the
            same in all.
        eps: Added to the variance in LayerNorm.
        rotary_base: Base of the rotary frequencies.
        rotary_adjacent_pairs: Whether values 2i and 2i + 1 of a head rotate as a pair (Su et al. 2021, §3.2), instead
            of value i of its first half and value i of its second.
        masked_edges: Edge expression of attention edges that this model never has, in training or later
            (`"flow('acc', 'cls')"`); empty = it has all edges.
        mask_token: Whether there is a learned vector that replaces hidden tokens (`model(x, masked=...)`).
        initial_weights: `"xavier"` = every map separately. `"depth_scaled"` = queries, keys and values as one map; the
            output maps of attention and MLP in layer l (from 1) are divided by √(2l) (`docs/tinymyo-model.md` §9.1).
            `"normal"` = normal with SD 0.02, except convolutions. Biases are 0.
        drop_tail: Whether samples after the last complete patch are ignored; otherwise such trials are refused.
        attention_dir: `"causal"` = tokens attend only to tokens of their own time and of earlier times; CLS attends to
            all tokens, and no token attends to CLS. The other edges do not exist, like `masked_edges`.
        relative_reach: Distance in time from which edges do not exist, like `masked_edges`; each smaller distance has
            a vector (`positions="relative"`).
        train_positions: Whether the vectors of learned or relative positions are trained. False = they keep their
            random initial values.

    Example:
        >>> from emg_lens import EncoderConfig
        >>> cfg = EncoderConfig({"emg": 8, "acc": 3}, n_samples=200, n_classes=6, patch_samples=50)
        >>> cfg.n_ctx, cfg.d_head, cfg.layout.names[:3]  # 11 channels of 4 patches, and CLS
        (45, 32, ('cls', 'emg.0.p0', 'emg.0.p1'))
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
    dropout: Fraction = 0.0
    hidden_dropout: Fraction = 0.0
    drop_path: Fraction = 0.0
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
    train_positions: bool = True

    # Read by TransformerLens's utilities. Not fields, and never saved: switches of a running model.
    model_name = "biosignal-encoder"
    per_fit_settings = (*SignalConfig.per_fit_settings, "hidden_dropout", "drop_path", "drop_path_shape",
                        "initial_weights", "masked_edges")  # fmt: skip
    normalization_type = "LN"
    attn_only = False
    final_rms = False
    parallel_attn_mlp = False
    n_key_value_heads = None
    cls_shape: ClassVar[Any] = ()
    """The leading axes of the CLS tokens' weights: none for a single one."""
    use_attn_result = False
    use_split_qkv_input = False
    use_attn_in = False
    use_hook_mlp_in = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.d_model % self.n_heads:
            raise ArgumentError(f"d_model={self.d_model} is not a multiple of n_heads={self.n_heads}")
        if self.rotates and self.d_head % 2:
            raise ArgumentError(f"d_model / n_heads is {self.d_head}; rotary positions need an even number")
        if self.positions == "rotary_time" and not self.has_times:
            raise ArgumentError("positions='rotary_time' needs patches; set patch_samples")
        if self.positions == "sinusoidal" and self.d_model % 2:
            raise ArgumentError(f"d_model={self.d_model}; sinusoidal positions need an even number")
        if self.patch_samples is not None and not 1 <= self.patch_samples <= self.n_samples:
            raise ArgumentError(f"patch_samples={self.patch_samples}; expected 1 to n_samples={self.n_samples}")
        if self.patch_samples is not None and self.n_samples % self.patch_samples and not self.drop_tail:
            raise ArgumentError(
                f"n_samples={self.n_samples} is not a multiple of patch_samples={self.patch_samples}; crop the trials,"
                " or set drop_tail=True"
            )
        if self.tokens == "time" and self.embedding != "dedicated":
            raise ArgumentError("tokens='time' needs embedding='dedicated', so that channels differ")
        if self.readout == "cls" and not self.cls_token:
            raise ArgumentError("readout='cls' needs cls_token=True")
        if self.n_classes and self.readout == "none":
            raise ArgumentError(f"n_classes={self.n_classes}; readout='none' needs n_classes=0")
        if self.attention_dir == "causal" and (not self.has_times or self.n_patches < 2):
            raise ArgumentError(
                f"n_samples={self.n_samples} gives {self.n_patches} time step; attention_dir='causal' needs two or"
                " more: set patch_samples to a smaller number, or give longer windows"
            )
        if self.positions == "relative" and not self.has_times and self.n_ctx > self.relative_reach:
            raise ArgumentError(
                f"relative_reach={self.relative_reach} for {self.n_ctx} tokens without times; expected at least"
                f" {self.n_ctx}, or patches: set patch_samples"
            )
        self._permanent_mask = parse_edges(self.masked_edges) if self.masked_edges else none()

    @property
    def permanent_mask(self) -> EdgeSet:
        """All edges that the model does not have: `masked_edges`, and those that it cannot have by its design.

        These are in a causal model edges from later patches or CLS to a token, and with relative positions edges over
        a distance of `relative_reach` or more.
        """
        absent = [] if self._permanent_mask == none() else [self._permanent_mask]
        if self.attention_dir == "causal":
            absent.append(lag(1 - self.n_patches, -1))
            # CLS contains information from later times
            absent += [flow("cls", name) for name in self.modalities if self.cls_token]
        if self.positions == "relative" and self.has_times:
            reach, last = self.relative_reach, self.n_patches - 1
            absent += [lag(reach, last), lag(-last, -reach)] if last >= reach else []
            if self.cls_token and last >= reach - 1:  # CLS is one patch before the first
                far = [place for place, patch in enumerate(self.layout.patch) if patch >= reach - 1]
                absent += [positions(dest=["cls"], src=far), positions(dest=far, src=["cls"])]
        return reduce(or_, absent) if absent else none()

    has_times = property(lambda self: self.patch_samples is not None, doc="Whether each token belongs to a time.")
    rotates = property(lambda self: self.positions in ("rotary", "rotary_time"), doc="Whether positions are rotary.")
    adds_positions = property(
        lambda self: self.positions in ("learned", "sinusoidal"), doc="Whether vectors are added to the embeddings."
    )

    @property
    def positional_embedding_type(self) -> str:
        """The kind of positions, in TransformerLens's terms."""
        if self.positions == "relative":
            return "relative_positional_bias"
        return "rotary" if self.rotates else "standard" if self.positions in ("learned", "sinusoidal") else "none"

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Shape of the output for one trial; without a readout, shape of the residual stream."""
        if not self.has_readout:
            return self.n_ctx, self.d_model
        return (self.n_ctx, self.n_classes) if self.readout == "each" else super().output_shape

    @property
    def n_weights(self) -> int:
        """Number of values in the matrices of embedding, attention, MLPs and unembedding."""
        embedding = self.d_model * (self.n_maps * (self.patch_samples or self.n_samples) + self.n_ctx + self.n_classes)
        return embedding + self.n_layers * self.d_model * (4 * self.d_model + 2 * self.d_mlp)

    n_maps = property(
        lambda self: self.n_channels if self.embedding == "dedicated" else 1, doc="Linear maps from samples to tokens."
    )

    @property
    def has_readout(self) -> bool:
        """Whether the model gives `n_classes` outputs per trial instead of its residual stream."""
        return self.readout != "none"

    @property
    def layout(self) -> TokenLayout:
        """Meaning of each position of the residual stream."""
        return self.layout_of(self.modalities, cls=self.cls_token)

    def layout_of(self, modalities: Mapping[str, int], *, cls: bool) -> TokenLayout:
        """Return the layout of the tokens of some modalities."""
        if self.tokens == "time":
            return TokenLayout.times(modalities, self.n_patches, cls=cls)
        if self.patch_samples is None:
            return TokenLayout.channels(modalities, cls=cls)
        return TokenLayout.patches(modalities, self.n_patches, cls=cls)

    @property
    def n_patches(self) -> int:
        """Number of tokens of each channel, or of each modality."""
        return 1 if self.patch_samples is None else self.n_samples // self.patch_samples

    @property
    def n_tokens(self) -> int:
        """Number of signal tokens, without CLS tokens."""
        return (self.n_channels if self.tokens == "channel" else len(self.modalities)) * self.n_patches

    n_ctx = property(lambda self: self.n_tokens + self.cls_token, doc="Number of positions of the residual stream.")
    d_head = property(lambda self: self.d_model // self.n_heads, doc="Width of a head.")
    d_vocab = d_vocab_out = property(lambda self: self.n_classes, doc="`n_classes`, under TransformerLens's names.")


def check_names_of_parts(names: Iterable[str]) -> None:
    """Refuse names of modalities that cannot name a part of a model (`float`, `train`, `keys`)."""
    taken = [name for name in names if hasattr(torch.nn.ModuleDict, name) or name == "training"]
    if taken:
        raise ArgumentError(f"a modality cannot be named {taken[0]!r} in this model: torch modules have this attribute")
