"""Hooked building blocks of the encoders: embedding, LayerNorm, MLP, block, readout. Attention has its own file.

Hook names, weight shapes and the order of operations are as in TransformerLens (docs/transformerlens.md §2
to §4). Without a hook, the fused torch kernel of the same function runs instead.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, Shaped
from torch import Tensor, nn

from emg_lens.lens.config import EncoderConfig
from emg_lens.lens.points import GatedPoint, Point, has_hook
from emg_lens.models.attention import Attention
from emg_lens.models.dropout import drop
from emg_lens.validation import ArgumentError, short

HiddenTokens = Shaped[Tensor, "trial token"]  # torch.bool [batch, pos]; other types get a message of ours
"""The hidden tokens of each trial."""


class LayerNorm(nn.Module):
    """Layer normalisation with learned gain `w` and offset `b`."""

    mixes_only_by_attention = folds = True

    def __init__(self, cfg: EncoderConfig) -> None:
        super().__init__()
        self.eps = cfg.eps
        self.w = nn.Parameter(torch.empty(cfg.d_model))
        self.b = nn.Parameter(torch.empty(cfg.d_model))
        self.hook_scale = Point()  # [batch, pos, 1]
        self.hook_normalized = Point()  # [batch, pos, d_model]
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise the weights; `transformer_lens.tools.analysis.reinitialized` calls it."""
        nn.init.ones_(self.w)
        nn.init.zeros_(self.b)

    def forward(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        """Centre, scale to unit variance, multiply by `w`, add `b`."""
        w = self.w
        if not has_hook(self.hook_scale, self.hook_normalized):
            return F.layer_norm(x, w.shape, w, self.b, self.eps)
        centred = x - x.mean(-1, keepdim=True)
        scale = self.hook_scale((centred.pow(2).mean(-1, keepdim=True) + self.eps).sqrt())
        return self.hook_normalized(centred / scale) * w + self.b


class ChannelEmbed(nn.Module):
    """Linear map from the samples of a channel, or of a patch of a channel, to a token; CLS is the first token.

    `W_E` is `[channel, sample, d_model]` with one map per channel, or `[1, sample, d_model]` with one map for all. If a
    token is a patch of all channels of a modality, it is the sum over channels: one linear map of all their samples.
    """

    map_of_channel: Tensor | None

    def __init__(self, cfg: EncoderConfig) -> None:
        super().__init__()
        self.n_samples, self.n_channels = cfg.patch_samples or cfg.n_samples, list(cfg.modalities.values())
        self.adds_channels = cfg.tokens == "time"
        self.n_used = cfg.n_patches * self.n_samples
        self.initial_weights = cfg.initial_weights
        self.register_buffer("map_of_channel", None, persistent=False)
        self.W_E = nn.Parameter(torch.empty(cfg.n_maps, self.n_samples, cfg.d_model))
        self.b_E = nn.Parameter(torch.empty(cfg.n_maps, cfg.d_model))
        self.cls = nn.Parameter(torch.empty(*cfg.cls_shape, cfg.d_model)) if cfg.cls_token else None
        self.mask_token = nn.Parameter(torch.empty(cfg.d_model)) if cfg.mask_token else None
        self.reset_parameters()

    def multiply_accumulates(self, cfg: EncoderConfig) -> int:
        """Count the multiplications of the tokens of one trial."""
        return cfg.n_channels * self.n_used * cfg.d_model

    def reset_parameters(self) -> None:
        """Initialise the weights."""
        plain = 1 / math.sqrt(self.n_samples)
        if self.initial_weights == "xavier":
            nn.init.uniform_(self.W_E, -plain, plain)
            nn.init.zeros_(self.b_E)
        elif self.initial_weights == "normal":
            nn.init.normal_(self.W_E, std=0.02)
            nn.init.zeros_(self.b_E)
        else:
            bound = math.sqrt(6 / (self.n_samples + self.W_E.shape[-1]))
            nn.init.uniform_(self.W_E, -bound, bound)
            nn.init.uniform_(self.b_E, -plain, plain)
        if self.cls is not None:
            nn.init.normal_(self.cls, std=0.02)
        if self.mask_token is not None:
            nn.init.trunc_normal_(self.mask_token, std=0.02, a=-0.02, b=0.02)

    def hide(
        self, tokens: Float[Tensor, "batch pos d_model"], masked: HiddenTokens
    ) -> Float[Tensor, "batch pos d_model"]:
        """Put the mask token in the place of the `masked` tokens."""
        assert self.mask_token is not None
        if not isinstance(masked, Tensor) or masked.dtype != torch.bool or masked.shape != tokens.shape[:2]:
            raise ArgumentError(
                f"masked={short(masked)}; expected torch.bool {list(tokens.shape[:2])}: one truth value per token, in"
                " the order of model.layout"
            )
        return torch.where(masked[..., None].to(tokens.device), self.mask_token.to(tokens.dtype), tokens)

    def forward(self, x: Float[Tensor, "batch channel time"]) -> Float[Tensor, "batch pos d_model"]:
        """Compute tokens in the layout's order."""
        pieces = self.tokens(x)
        if self.cls is not None:
            pieces = [self.cls.expand(len(x), 1, -1), *pieces]
        return torch.cat(pieces, dim=1)

    def tokens(self, x: Float[Tensor, "batch channel time"]) -> list[Float[Tensor, "batch own_pos d_model"]]:
        """Compute the tokens of each modality, without CLS."""
        x = x[..., : self.n_used]
        samples = rearrange(x, "batch channel (patch sample) -> channel (batch patch) sample", sample=self.n_samples)
        weight, bias = (p.expand(x.shape[1], *p.shape[1:]) if len(p) == 1 else p for p in (self.W_E, self.b_E))
        if self.map_of_channel is not None:
            weight, bias = self.W_E[self.map_of_channel], self.b_E[self.map_of_channel]
        tokens = torch.baddbmm(bias[:, None], samples, weight)
        tokens = rearrange(tokens, "channel (batch patch) d_model -> batch channel patch d_model", batch=len(x))
        pieces = tokens.split(self.n_channels, dim=1)
        if self.adds_channels:
            return [piece.sum(1) for piece in pieces]
        return [piece.flatten(1, 2) for piece in pieces]


class PosEmbed(nn.Module):
    """Position vectors `W_pos [pos, d_model]`, learned or sinusoidal (Vaswani et al. 2017, §3.5)."""

    def __init__(self, cfg: EncoderConfig) -> None:
        super().__init__()
        if cfg.positions == "learned":
            self.W_pos = nn.Parameter(torch.empty(cfg.n_ctx, cfg.d_model), requires_grad=cfg.train_positions)
            self.reset_parameters()
        else:
            rate = torch.exp(-math.log(10000.0) * torch.arange(0, cfg.d_model, 2) / cfg.d_model)
            angle = torch.arange(cfg.n_ctx)[:, None] * rate
            self.register_buffer("W_pos", torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1))

    def reset_parameters(self) -> None:
        """Initialise the weights; sinusoidal positions have none."""
        if isinstance(self.W_pos, nn.Parameter):
            nn.init.normal_(self.W_pos, std=0.02)

    def forward(self, tokens: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos d_model"]:
        """Return a view of `W_pos`; clone it before an edit in place."""
        return self.W_pos.expand(tokens.shape[0], -1, -1)


class MLP(nn.Module):
    """Two linear maps with a non-linearity between them."""

    mixes_only_by_attention = folds = True

    def __init__(self, cfg: EncoderConfig, initial_gain: float = 1.0) -> None:
        super().__init__()
        self.initial_gain, self.initial_weights = initial_gain, cfg.initial_weights
        self.act_fn = F.gelu if cfg.act_fn == "gelu" else F.relu
        self.dropout = cfg.hidden_dropout
        self.W_in = nn.Parameter(torch.empty(cfg.d_model, cfg.d_mlp))
        self.b_in = nn.Parameter(torch.empty(cfg.d_mlp))
        self.W_out = nn.Parameter(torch.empty(cfg.d_mlp, cfg.d_model))
        self.b_out = nn.Parameter(torch.empty(cfg.d_model))
        self.hook_pre = Point()  # [batch, pos, d_mlp]
        self.hook_post = Point()  # [batch, pos, d_mlp]
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise the weights."""
        for weight, bias in ((self.W_in, self.b_in), (self.W_out, self.b_out)):
            nn.init.normal_(weight, std=0.02) if self.initial_weights == "normal" else nn.init.xavier_uniform_(weight)
            nn.init.zeros_(bias)
        if self.initial_gain != 1:
            self.W_out.data.mul_(self.initial_gain)

    def forward(self, x: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos d_model"]:
        """Transform each position by itself."""
        pre = self.hook_pre(F.linear(x, self.W_in.T, self.b_in))
        post = self.hook_post(self.act_fn(pre))
        return F.linear(drop(post, self.dropout if self.training else 0.0), self.W_out.T, self.b_out)


class Block(nn.Module):
    """Attention and MLP around the residual stream, with LayerNorm before (`"pre"`) or after (`"post"`) each.

    Post-LN: `resid_mid = resid_pre + attn_out`, `resid_post = ln1(resid_mid) + mlp_out`, and the block's output is
    `ln2(resid_post)`, under the hook names of TransformerLens's BERT block.
    """

    mixes_only_by_attention = folds = True
    """Declares that positions exchange information through attention edges only, and that the folded executor may copy
    this class's arithmetic. Every part of a block declares both for itself."""
    hook_out_is_single_residual_stream = True  # read by transformer_lens.tools logit lens

    def __init__(
        self, cfg: EncoderConfig, layer: int, permanent_mask: Bool[Tensor, "head dest src"] | None = None
    ) -> None:
        super().__init__()
        self.cfg = cfg
        constant = cfg.drop_path_shape == "constant"
        self.drop_path = cfg.drop_path * (1 if constant else layer / max(cfg.n_layers - 1, 1))
        initial_gain = 1 / math.sqrt(2 * (layer + 1)) if cfg.initial_weights == "depth_scaled" else 1.0
        self.ln1 = LayerNorm(cfg)
        self.attn = Attention(cfg, permanent_mask, initial_gain)
        self.ln2 = LayerNorm(cfg)
        self.mlp = MLP(cfg, initial_gain)
        self.hook_resid_pre = Point()  # all [batch, pos, d_model]
        self.hook_attn_in = GatedPoint(cfg, "use_attn_in")  # [batch, pos, head, d_model]
        self.hook_attn_out = Point()
        self.hook_resid_mid = Point()
        self.hook_mlp_in = GatedPoint(cfg, "use_hook_mlp_in")
        self.hook_mlp_out = Point()
        self.hook_resid_post = Point()
        if cfg.norm == "post":
            self.hook_normalized_resid_mid = Point()
            self.hook_normalized_resid_post = Point()

    def forward(
        self, resid: Float[Tensor, "batch pos d_model"], n_dest: int | None = None
    ) -> Float[Tensor, "batch dest d_model"]:
        """Compute the residual stream after this block, at all positions or at the first `n_dest` only."""
        resid_pre = self.hook_resid_pre(resid)
        inputs = self.attention_inputs(resid_pre)
        if n_dest is not None:
            query_input, key_input, value_input = inputs * (3 // len(inputs))
            inputs = (query_input[:, :n_dest], key_input, value_input)
            resid_pre = resid_pre[:, :n_dest]
        return self.after_attention(resid_pre, self.attn(*inputs))

    def attention_inputs(self, resid_pre: Float[Tensor, "batch pos d_model"]) -> tuple[Tensor, ...]:
        """Return the input of attention: one tensor, or three for queries, keys, values (`cfg.use_split_qkv_input`).

        As in TransformerLens, the copies for single heads are made, and hooked, before the norm.
        """
        cfg = self.cfg
        if cfg.use_split_qkv_input:
            points = (self.attn.hook_q_input, self.attn.hook_k_input, self.attn.hook_v_input)
            inputs = tuple(point(self._copy_per_head(resid_pre)) for point in points)
        elif cfg.use_attn_in:
            inputs = (self.hook_attn_in(self._copy_per_head(resid_pre)),)
        else:
            inputs = (resid_pre,)
        return tuple(map(self.ln1, inputs)) if cfg.norm == "pre" else inputs

    def _copy_per_head(self, x: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos head d_model"]:
        return x.unsqueeze(2).expand(-1, -1, self.cfg.n_heads, -1).clone()  # hooks may edit in place

    def after_attention(
        self, resid_pre: Float[Tensor, "batch pos d_model"], attn_out: Float[Tensor, "batch pos d_model"]
    ) -> Float[Tensor, "batch pos d_model"]:
        """Compute the rest of the block, each position by itself: residual sum, MLP, norms."""
        attn_out = self.hook_attn_out(self._drop(attn_out))
        resid_mid = self.hook_resid_mid(resid_pre + attn_out)
        mlp_in = self.hook_mlp_in(resid_mid.clone()) if self.cfg.use_hook_mlp_in else resid_mid
        if self.cfg.norm == "pre":
            mlp_out = self.hook_mlp_out(self._drop(self.mlp(self.ln2(mlp_in))))
            return self.hook_resid_post(resid_mid + mlp_out)
        normalized_mid = self.hook_normalized_resid_mid(self.ln1(mlp_in))
        mlp_out = self.hook_mlp_out(self._drop(self.mlp(normalized_mid)))
        resid_post = self.hook_resid_post(normalized_mid + mlp_out)
        return self.hook_normalized_resid_post(self.ln2(resid_post))

    def _drop(self, x: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos d_model"]:
        if not self.training:
            return x
        x = drop(x, self.cfg.dropout)
        if self.drop_path:
            kept = torch.rand(len(x), 1, 1, device=x.device) >= self.drop_path
            x = x * kept / (1 - self.drop_path)
        return x

    def multiply_accumulates(self, n_tokens: int) -> int:
        """Count the multiplications of attention and MLP over `n_tokens` positions of one trial."""
        cfg, width = self.cfg, self.cfg.d_model
        distances = 2 * cfg.relative_reach - 1 if cfg.positions == "relative" else 0
        return n_tokens * width * (4 * width + 2 * n_tokens + 2 * cfg.d_mlp + distances)

    @property
    def submodules(self) -> Any:
        """Raise an error for a post-LN block, so that TransformerLens's edge tools, which read this attribute, stop.

        Direct path patching, edge attribution and faithfulness add the output of one component to the input of another.
        This is exact only if the residual stream is a plain sum.
        """
        if self.cfg.norm == "pre":
            raise AttributeError("submodules")  # a pre-LN block has no such attribute
        raise ArgumentError(
            "post-LN blocks normalise the residual stream after every sum, so paths between two components are not"
            " additive; use activation patching, node attribution, or cut their attention edges"
        )


class Unembed(nn.Module):
    """Linear map from a residual vector to logits, `W_U [d_model, class]`."""

    def __init__(self, *shape: int, normal: bool = False) -> None:
        super().__init__()
        self.normal = normal
        self.W_U = nn.Parameter(torch.empty(shape))
        self.b_U = nn.Parameter(torch.empty(shape[-1]))
        self.reset_parameters()

    def multiply_accumulates(self, cfg: EncoderConfig) -> int:
        """Count the multiplications of the outputs of one trial."""
        return self.W_U.numel() * (cfg.n_tokens if cfg.readout == "each" else 1)

    def reset_parameters(self) -> None:
        """Initialise the weights: Xavier for the map of all inputs together, or `normal` with SD 0.02."""
        weight = self.W_U.data.view(-1, self.W_U.shape[-1])
        nn.init.normal_(weight, std=0.02) if self.normal else nn.init.xavier_uniform_(weight)
        nn.init.zeros_(self.b_U)

    def forward(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch class"]:
        """Compute logits."""
        return F.linear(x, self.W_U.T, self.b_U)
