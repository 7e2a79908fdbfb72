"""The shape of an encoder, with the fields that TransformerLens utilities read from `model.cfg`."""

from dataclasses import dataclass, field
from typing import Literal

import torch

from emg_lens.layout import TokenLayout

Positions = Literal["none", "learned", "sinusoidal", "rotary"]
Norm = Literal["pre", "post"]
Readout = Literal["cls", "mean", "none"]
Embedding = Literal["dedicated", "shared"]


@dataclass
class EncoderConfig:
    """Everything needed to build a `HookedBiosignalEncoder`.

    Attributes:
        modalities: Channels of each modality, in the order of the input's channel axis.
        n_samples: Samples a channel of one input (the `time` axis).
        n_classes: Classes of the readout; 0 with `readout="none"`.
        d_model: Width of the residual stream.
        n_heads: Attention heads a layer; `d_model` is divided among them.
        n_layers: Blocks.
        d_mlp: Hidden width of the MLPs.
        patch_samples: Samples a token (channel patches); `None` = one token is a whole channel.
        embedding: `"dedicated"` = one linear map a channel (IsoNet), `"shared"` = one map for all channels.
        cls_token: Whether a learned CLS token stands at position 0.
        positions: How positions enter: learned or sinusoidal vectors added to the embeddings, rotary, or not at all.
        norm: `"post"` = LayerNorm after each residual sum, no final norm; `"pre"` = before each sub-layer, and a final
            one.
        readout: What reaches the logits: the CLS position, the mean of all others, or none (returns the residual
            stream).
        act_fn: Non-linearity of the MLPs.
        qkv_bias: Whether the query, key and value maps have a bias.
        dropout: Probability of dropping attention weights and sub-layer outputs while training.
        drop_path: Probability of skipping a sub-layer of one trial while training; grows linearly from 0 to this value
            over depth.
        eps: Added to the variance in LayerNorm.
        rotary_base: Base of the rotary frequencies.
        class_names: One name a class (gesture labels); default `"0"`, `"1"`, ...
        severed_edges: Edge expression of attention edges that this model does not have, in training or ever
            (`"flow('acc', 'cls')"`); empty = it has all.
        modality_order: Names of the modalities in order; filled in, because JSON files sort their keys.
    """

    modalities: dict[str, int]
    n_samples: int
    n_classes: int
    d_model: int = 128
    n_heads: int = 4
    n_layers: int = 4
    d_mlp: int = 256
    patch_samples: int | None = None
    embedding: Embedding = "dedicated"
    cls_token: bool = True
    positions: Positions = "learned"
    norm: Norm = "pre"
    readout: Readout = "cls"
    act_fn: Literal["gelu", "relu"] = "gelu"
    qkv_bias: bool = True
    dropout: float = 0.0
    drop_path: float = 0.0
    eps: float = 1e-5
    rotary_base: float = 10000.0
    class_names: list[str] = field(default_factory=list)
    severed_edges: str = ""
    modality_order: list[str] = field(default_factory=list)

    # Read by TransformerLens utilities. Not fields: they are switches of a running model, never saved.
    model_name = "biosignal-encoder"
    attention_dir = "bidirectional"
    normalization_type = "LN"
    attn_only = False
    final_rms = False
    parallel_attn_mlp = False
    n_key_value_heads = None
    use_attn_result = False
    use_split_qkv_input = False
    use_attn_in = False
    use_hook_mlp_in = False
    device = torch.device("cpu")
    dtype = torch.float32

    def __post_init__(self) -> None:
        self.modality_order = self.modality_order or list(self.modalities)
        if sorted(self.modality_order) != sorted(self.modalities):
            raise ValueError(f"modality_order={self.modality_order} does not order {list(self.modalities)}")
        self.modalities = {name: self.modalities[name] for name in self.modality_order}
        for name in ("n_samples", "d_model", "n_heads", "n_layers", "d_mlp"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.d_model % self.n_heads:
            raise ValueError(f"d_model={self.d_model} cannot be divided among n_heads={self.n_heads}")
        if self.positions == "rotary" and self.d_head % 2:
            raise ValueError(f"rotary positions need an even d_model / n_heads, got {self.d_head}")
        if self.positions == "sinusoidal" and self.d_model % 2:
            raise ValueError(f"sinusoidal positions need an even d_model, got {self.d_model}")
        if self.patch_samples is not None and not 1 <= self.patch_samples <= self.n_samples:
            raise ValueError(f"patch_samples must be 1 to n_samples={self.n_samples}, got {self.patch_samples}")
        if self.patch_samples is not None and self.n_samples % self.patch_samples:
            raise ValueError(
                f"n_samples={self.n_samples} is not a multiple of patch_samples={self.patch_samples}; crop the trials"
            )
        if self.readout == "cls" and not self.cls_token:
            raise ValueError("readout='cls' needs cls_token=True")
        if (self.n_classes < 1) != (self.readout == "none"):
            raise ValueError(f"n_classes={self.n_classes} does not fit readout={self.readout!r}")
        if not self.class_names:
            self.class_names = [str(c) for c in range(self.n_classes)]
        if len(self.class_names) != self.n_classes:
            raise ValueError(f"{len(self.class_names)} class_names for n_classes={self.n_classes}")
        for name in ("dropout", "drop_path"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be in [0, 1), got {getattr(self, name)}")

    @property
    def layout(self) -> TokenLayout:
        """What each position of the residual stream stands for."""
        if self.patch_samples is None:
            return TokenLayout.channels(self.modalities, cls=self.cls_token)
        return TokenLayout.patches(self.modalities, self.n_patches, cls=self.cls_token)

    @property
    def n_channels(self) -> int:
        """Channels of one input, all modalities together."""
        return sum(self.modalities.values())

    @property
    def n_patches(self) -> int:
        """Tokens a channel."""
        return 1 if self.patch_samples is None else self.n_samples // self.patch_samples

    @property
    def n_ctx(self) -> int:
        """Positions of the residual stream."""
        return self.n_channels * self.n_patches + self.cls_token

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
