"""Hooked building blocks of the encoders: embedding, attention, MLP, LayerNorm, block, readout.

Hook names, weight shapes and the order of operations are those of TransformerLens (fact sheet "field survey",
§4.2). Where nobody listens to a hook, the fused torch kernel of the same function runs instead.
"""

import math

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from jaxtyping import Bool, Float
from torch import Tensor, nn
from transformer_lens.hook_points import HookPoint

from emg_lens.config import EncoderConfig


def is_heard(*points: HookPoint) -> bool:
    """Whether anybody has put a hook on one of these points, by whatever means."""
    return any(p._forward_hooks or p._forward_pre_hooks or p._backward_hooks or p._backward_pre_hooks for p in points)


class LayerNorm(nn.Module):
    """Layer normalisation with learned gain `w` and offset `b`."""

    def __init__(self, cfg: EncoderConfig) -> None:
        super().__init__()
        self.eps = cfg.eps
        self.w = nn.Parameter(torch.ones(cfg.d_model))
        self.b = nn.Parameter(torch.zeros(cfg.d_model))
        self.hook_scale = HookPoint()  # [batch, pos, 1]
        self.hook_normalized = HookPoint()  # [batch, pos, d_model]

    def forward(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        if not is_heard(self.hook_scale, self.hook_normalized):
            return F.layer_norm(x, self.w.shape, self.w, self.b, self.eps)
        centred = x - x.mean(-1, keepdim=True)
        scale = self.hook_scale((centred.pow(2).mean(-1, keepdim=True) + self.eps).sqrt())
        return self.hook_normalized(centred / scale) * self.w + self.b


class ChannelEmbed(nn.Module):
    """Linear map from the samples of a channel (or of one of its patches) to a token, CLS prepended.

    `W_E [channel, sample, d_model]`, one map a channel, or `[1, sample, d_model]` where all channels share one.
    """

    def __init__(self, cfg: EncoderConfig) -> None:
        super().__init__()
        n_maps = cfg.n_channels if cfg.embedding == "dedicated" else 1
        self.n_samples = cfg.patch_samples or cfg.n_samples
        self.W_E = nn.Parameter(torch.empty(n_maps, self.n_samples, cfg.d_model))
        self.b_E = nn.Parameter(torch.zeros(n_maps, cfg.d_model))
        self.cls = nn.Parameter(torch.empty(cfg.d_model)) if cfg.cls_token else None
        nn.init.uniform_(self.W_E, -1 / math.sqrt(self.n_samples), 1 / math.sqrt(self.n_samples))
        if self.cls is not None:
            nn.init.normal_(self.cls, std=0.02)

    def forward(self, x: Float[Tensor, "batch channel time"]) -> Float[Tensor, "batch pos d_model"]:
        batch, n_channels, _ = x.shape
        samples = rearrange(x, "batch channel (patch sample) -> channel (batch patch) sample", sample=self.n_samples)
        weight = self.W_E.expand(n_channels, -1, -1)
        tokens = torch.baddbmm(self.b_E.expand(n_channels, -1)[:, None], samples, weight)
        tokens = rearrange(tokens, "channel (batch patch) d_model -> batch (channel patch) d_model", batch=batch)
        if self.cls is None:
            return tokens
        return torch.cat([repeat(self.cls, "d_model -> batch 1 d_model", batch=batch), tokens], dim=1)


class PosEmbed(nn.Module):
    """Position vectors `W_pos [pos, d_model]`, learned or sinusoidal (Vaswani et al. 2017, §3.5)."""

    def __init__(self, cfg: EncoderConfig) -> None:
        super().__init__()
        if cfg.positions == "learned":
            self.W_pos = nn.Parameter(torch.empty(cfg.n_ctx, cfg.d_model))
            nn.init.normal_(self.W_pos, std=0.02)
        else:
            rate = torch.exp(-math.log(10000.0) * torch.arange(0, cfg.d_model, 2) / cfg.d_model)
            angle = torch.arange(cfg.n_ctx)[:, None] * rate
            self.register_buffer("W_pos", torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1))

    def forward(self, tokens: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos d_model"]:
        return self.W_pos.expand(tokens.shape[0], -1, -1)


class Rotary(nn.Module):
    """Rotary position embedding over the position index: the two halves of a head rotate against each other."""

    def __init__(self, cfg: EncoderConfig) -> None:
        super().__init__()
        rate = cfg.rotary_base ** (-torch.arange(0, cfg.d_head, 2) / cfg.d_head)
        angle = (torch.arange(cfg.n_ctx)[:, None] * rate).repeat(1, 2)[:, None]
        self.register_buffer("sin", angle.sin(), persistent=False)  # [pos, 1, d_head]
        self.register_buffer("cos", angle.cos(), persistent=False)

    def forward(self, x: Float[Tensor, "batch pos head d_head"]) -> Float[Tensor, "batch pos head d_head"]:
        left, right = x.chunk(2, dim=-1)
        return x * self.cos + torch.cat([-right, left], dim=-1) * self.sin


class Attention(nn.Module):
    """Bidirectional multi-head attention.

    Order of the explicit path: scores -> `hook_attn_scores` -> softmax -> rows with every score -inf become zero ->
    `hook_pattern` -> z. With no hook on scores or pattern, `scaled_dot_product_attention` computes the same.
    Edges of `severed` never carry attention; their scores are -inf before the hook, like a causal mask.
    """

    severed: Bool[Tensor, "head dest src"] | None

    def __init__(self, cfg: EncoderConfig, severed: Bool[Tensor, "head dest src"] | None = None) -> None:
        super().__init__()
        self.cfg = cfg
        self.register_buffer("severed", severed, persistent=False)
        shape = (cfg.n_heads, cfg.d_model, cfg.d_head)
        self.W_Q = nn.Parameter(torch.empty(shape))
        self.W_K = nn.Parameter(torch.empty(shape))
        self.W_V = nn.Parameter(torch.empty(shape))
        self.W_O = nn.Parameter(torch.empty(cfg.n_heads, cfg.d_head, cfg.d_model))
        for weight in (self.W_Q, self.W_K, self.W_V, self.W_O):  # Xavier of the [d_model, d_model] map
            nn.init.uniform_(weight, -math.sqrt(3 / cfg.d_model), math.sqrt(3 / cfg.d_model))
        for name in ("b_Q", "b_K", "b_V"):
            bias = torch.zeros(cfg.n_heads, cfg.d_head)
            if cfg.qkv_bias:
                setattr(self, name, nn.Parameter(bias))
            else:  # TransformerLens utilities read the biases of every model
                self.register_buffer(name, bias, persistent=False)
        self.b_O = nn.Parameter(torch.zeros(cfg.d_model))
        self.rotary = Rotary(cfg) if cfg.positions == "rotary" else None

        self.hook_q_input = HookPoint()  # [batch, pos, head, d_model], gated by cfg.use_split_qkv_input
        self.hook_k_input = HookPoint()
        self.hook_v_input = HookPoint()
        self.hook_q = HookPoint()  # [batch, pos, head, d_head]
        self.hook_k = HookPoint()
        self.hook_v = HookPoint()
        if self.rotary is not None:
            self.hook_rot_q = HookPoint()  # [batch, pos, head, d_head]
            self.hook_rot_k = HookPoint()
        self.hook_attn_scores = HookPoint()  # [batch, head, dest, src]
        self.hook_pattern = HookPoint()  # [batch, head, dest, src]
        self.hook_z = HookPoint()  # [batch, pos, head, d_head]
        self.hook_result = HookPoint()  # [batch, pos, head, d_model], gated by cfg.use_attn_result

    def forward(self, x: Float[Tensor, "batch pos *head d_model"]) -> Float[Tensor, "batch pos d_model"]:
        q, k, v = self.project(x)
        return self.output(self.hook_z(self.mix(q, k, v)))

    def project(self, x: Float[Tensor, "batch pos *head d_model"]) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, each `[batch, pos, head, d_head]`, positions rotated in."""
        inputs = (x, x, x)
        if self.cfg.use_split_qkv_input:
            split = x if x.ndim == 4 else repeat(x, "b p d -> b p h d", h=self.cfg.n_heads)
            inputs = (self.hook_q_input(split), self.hook_k_input(split), self.hook_v_input(split))
        q = self.hook_q(_per_head(inputs[0], self.W_Q, self.b_Q))
        k = self.hook_k(_per_head(inputs[1], self.W_K, self.b_K))
        v = self.hook_v(_per_head(inputs[2], self.W_V, self.b_V))
        if self.rotary is not None:
            q, k = self.hook_rot_q(self.rotary(q)), self.hook_rot_k(self.rotary(k))
        return q, k, v

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Float[Tensor, "batch pos head d_head"]:
        """Values mixed by attention."""
        q, k, v = (rearrange(t, "b p h e -> b h p e") for t in (q, k, v))
        dropout = self.cfg.dropout if self.training else 0.0
        if not is_heard(self.hook_attn_scores, self.hook_pattern):
            allowed = None if self.severed is None else ~self.severed
            z = F.scaled_dot_product_attention(q, k, v, attn_mask=allowed, dropout_p=dropout)
        else:
            scores = q @ k.transpose(-1, -2) / math.sqrt(self.cfg.d_head)
            if self.severed is not None:
                scores = scores.masked_fill(self.severed, -torch.inf)
            pattern = self.hook_attn_scores(scores).softmax(dim=-1)
            pattern = self.hook_pattern(torch.where(pattern.isnan(), torch.zeros_like(pattern), pattern))
            z = F.dropout(pattern, dropout) @ v
        return rearrange(z, "b h p e -> b p h e")

    def output(self, z: Float[Tensor, "batch pos head d_head"]) -> Float[Tensor, "batch pos d_model"]:
        """Sum over heads of z @ W_O, plus the bias."""
        if self.cfg.use_attn_result:
            result = self.hook_result(torch.einsum("bphe,hed->bphd", z, self.W_O))
            return result.sum(dim=2) + self.b_O
        return F.linear(z.flatten(2), self.W_O.flatten(0, 1).T, self.b_O)

    @property
    def QK(self) -> "FactoredMatrix":  # noqa: F821, N802
        """`W_Q @ W_K^T` of each head, factored (Elhage et al. 2021)."""
        from transformer_lens import FactoredMatrix

        return FactoredMatrix(self.W_Q, self.W_K.transpose(-1, -2))

    @property
    def OV(self) -> "FactoredMatrix":  # noqa: F821, N802
        """`W_V @ W_O` of each head, factored (Elhage et al. 2021)."""
        from transformer_lens import FactoredMatrix

        return FactoredMatrix(self.W_V, self.W_O)


def _per_head(x: Tensor, weight: Float[Tensor, "head d_model d_head"], bias: Float[Tensor, "head d_head"]) -> Tensor:
    if x.ndim == 4:  # one input a head
        return torch.einsum("bphd,hde->bphe", x, weight) + bias
    flat = F.linear(x, weight.transpose(1, 2).flatten(0, 1), bias.flatten())
    return flat.unflatten(-1, bias.shape)


class MLP(nn.Module):
    """Two linear maps with a non-linearity between them."""

    def __init__(self, cfg: EncoderConfig) -> None:
        super().__init__()
        self.act_fn = F.gelu if cfg.act_fn == "gelu" else F.relu
        self.W_in = nn.Parameter(torch.empty(cfg.d_model, cfg.d_mlp))
        self.b_in = nn.Parameter(torch.zeros(cfg.d_mlp))
        self.W_out = nn.Parameter(torch.empty(cfg.d_mlp, cfg.d_model))
        self.b_out = nn.Parameter(torch.zeros(cfg.d_model))
        nn.init.xavier_uniform_(self.W_in)
        nn.init.xavier_uniform_(self.W_out)
        self.hook_pre = HookPoint()  # [batch, pos, d_mlp]
        self.hook_post = HookPoint()  # [batch, pos, d_mlp]

    def forward(self, x: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos d_model"]:
        pre = self.hook_pre(F.linear(x, self.W_in.T, self.b_in))
        return F.linear(self.hook_post(self.act_fn(pre)), self.W_out.T, self.b_out)


class Block(nn.Module):
    """Attention and MLP around the residual stream, LayerNorm before (`"pre"`) or after (`"post"`) each.

    Post-LN: `resid_mid = resid_pre + attn_out`, `resid_post = ln1(resid_mid) + mlp_out`, and the block's output is
    `ln2(resid_post)`, under the hook names of TransformerLens's BERT block.
    """

    hook_out_is_single_residual_stream = True  # read by transformer_lens.tools logit lens

    def __init__(
        self, cfg: EncoderConfig, layer: int, severed: Bool[Tensor, "head dest src"] | None = None
    ) -> None:
        super().__init__()
        self.cfg = cfg
        self.drop_path = cfg.drop_path * layer / max(cfg.n_layers - 1, 1)
        self.ln1 = LayerNorm(cfg)
        self.attn = Attention(cfg, severed)
        self.ln2 = LayerNorm(cfg)
        self.mlp = MLP(cfg)
        self.hook_resid_pre = HookPoint()  # all [batch, pos, d_model]
        self.hook_attn_in = HookPoint()  # [batch, pos, head, d_model], gated by cfg.use_attn_in
        self.hook_attn_out = HookPoint()
        self.hook_resid_mid = HookPoint()
        self.hook_mlp_in = HookPoint()  # gated by cfg.use_hook_mlp_in
        self.hook_mlp_out = HookPoint()
        self.hook_resid_post = HookPoint()
        if cfg.norm == "post":
            self.hook_normalized_resid_mid = HookPoint()
            self.hook_normalized_resid_post = HookPoint()

    def forward(self, resid: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos d_model"]:
        pre_norm = self.cfg.norm == "pre"
        resid_pre = self.hook_resid_pre(resid)
        attn_in = resid_pre
        if self.cfg.use_attn_in:
            attn_in = self.hook_attn_in(repeat(attn_in, "b p d -> b p h d", h=self.cfg.n_heads))
        attn_out = self.attn(self.ln1(attn_in) if pre_norm else attn_in)
        return self.after_attention(resid_pre, attn_out)

    def after_attention(
        self, resid_pre: Float[Tensor, "batch pos d_model"], attn_out: Float[Tensor, "batch pos d_model"]
    ) -> Float[Tensor, "batch pos d_model"]:
        """The rest of the block, position by position: residual sum, MLP, norms."""
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
        x = F.dropout(x, self.cfg.dropout)
        if self.drop_path:
            kept = torch.rand(len(x), 1, 1, device=x.device) >= self.drop_path
            x = x * kept / (1 - self.drop_path)
        return x


class Unembed(nn.Module):
    """Linear map from a residual vector to logits, `W_U [d_model, class]`."""

    def __init__(self, cfg: EncoderConfig) -> None:
        super().__init__()
        self.W_U = nn.Parameter(torch.empty(cfg.d_model, cfg.n_classes))
        self.b_U = nn.Parameter(torch.zeros(cfg.n_classes))
        nn.init.xavier_uniform_(self.W_U)

    def forward(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch class"]:
        return F.linear(x, self.W_U.T, self.b_U)
