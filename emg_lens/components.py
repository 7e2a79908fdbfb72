"""Hooked building blocks of the encoders: embedding, attention, MLP, LayerNorm, block, readout.

Hook names, weight shapes and the order of operations are those of TransformerLens (fact sheet "field survey",
§4.2). Where nobody listens to a hook, the fused torch kernel of the same function runs instead.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn

from emg_lens.config import EncoderConfig
from emg_lens.points import GatedPoint, Point, is_heard


class LayerNorm(nn.Module):
    """Layer normalisation with learned gain `w` and offset `b`."""

    def __init__(self, cfg: EncoderConfig) -> None:
        super().__init__()
        self.eps = cfg.eps
        self.w = nn.Parameter(torch.empty(cfg.d_model))
        self.b = nn.Parameter(torch.empty(cfg.d_model))
        self.hook_scale = Point()  # [batch, pos, 1]
        self.hook_normalized = Point()  # [batch, pos, d_model]
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Fresh weights; `transformer_lens.tools.analysis.reinitialized` calls it."""
        nn.init.ones_(self.w)
        nn.init.zeros_(self.b)

    def forward(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        w = self.w
        if not is_heard(self.hook_scale, self.hook_normalized):
            return F.layer_norm(x, w.shape, w, self.b, self.eps)
        centred = x - x.mean(-1, keepdim=True)
        scale = self.hook_scale((centred.pow(2).mean(-1, keepdim=True) + self.eps).sqrt())
        return self.hook_normalized(centred / scale) * w + self.b


class ChannelEmbed(nn.Module):
    """Linear map from the samples of a channel (or of one of its patches) to a token, CLS prepended.

    `W_E [channel, sample, d_model]`, one map a channel, or `[1, sample, d_model]` where all channels share one.
    """

    def __init__(self, cfg: EncoderConfig) -> None:
        super().__init__()
        n_maps = cfg.n_channels if cfg.embedding == "dedicated" else 1
        self.n_samples = cfg.patch_samples or cfg.n_samples
        self.W_E = nn.Parameter(torch.empty(n_maps, self.n_samples, cfg.d_model))
        self.b_E = nn.Parameter(torch.empty(n_maps, cfg.d_model))
        self.cls = nn.Parameter(torch.empty(cfg.d_model)) if cfg.cls_token else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Fresh weights."""
        nn.init.uniform_(self.W_E, -1 / math.sqrt(self.n_samples), 1 / math.sqrt(self.n_samples))
        nn.init.zeros_(self.b_E)
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
        return torch.cat([self.cls.expand(batch, 1, -1), tokens], dim=1)


class PosEmbed(nn.Module):
    """Position vectors `W_pos [pos, d_model]`, learned or sinusoidal (Vaswani et al. 2017, §3.5)."""

    def __init__(self, cfg: EncoderConfig) -> None:
        super().__init__()
        if cfg.positions == "learned":
            self.W_pos = nn.Parameter(torch.empty(cfg.n_ctx, cfg.d_model))
            self.reset_parameters()
        else:
            rate = torch.exp(-math.log(10000.0) * torch.arange(0, cfg.d_model, 2) / cfg.d_model)
            angle = torch.arange(cfg.n_ctx)[:, None] * rate
            self.register_buffer("W_pos", torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1))

    def reset_parameters(self) -> None:
        """Fresh weights; sinusoidal positions have none."""
        if isinstance(self.W_pos, nn.Parameter):
            nn.init.normal_(self.W_pos, std=0.02)

    def forward(self, tokens: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos d_model"]:
        """A view of `W_pos`: clone it before it can be edited in place."""
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
        # Some versions of the fused kernel give NaN for a row that reads nothing; the explicit path gives zeros.
        self.has_empty_rows = severed is not None and bool(severed.all(-1).any())
        self.W_Q = nn.Parameter(_head_weight(cfg))
        self.W_K = nn.Parameter(_head_weight(cfg))
        self.W_V = nn.Parameter(_head_weight(cfg))
        self.W_O = nn.Parameter(torch.empty(cfg.n_heads, cfg.d_head, cfg.d_model))
        for name in ("b_Q", "b_K", "b_V"):
            bias = torch.zeros(cfg.n_heads, cfg.d_head)
            if cfg.qkv_bias:
                setattr(self, name, nn.Parameter(bias))
            else:  # TransformerLens utilities read the biases of every model
                self.register_buffer(name, bias, persistent=False)
        self.b_O = nn.Parameter(torch.empty(cfg.d_model))
        self.reset_parameters()
        self.rotary = Rotary(cfg) if cfg.positions == "rotary" else None

        self.hook_q_input = GatedPoint(cfg, "use_split_qkv_input")  # [batch, pos, head, d_model], fired by the block
        self.hook_k_input = GatedPoint(cfg, "use_split_qkv_input")
        self.hook_v_input = GatedPoint(cfg, "use_split_qkv_input")
        self.hook_q = Point()  # [batch, pos, head, d_head]
        self.hook_k = Point()
        self.hook_v = Point()
        if self.rotary is not None:
            self.hook_rot_q = Point()  # [batch, pos, head, d_head]
            self.hook_rot_k = Point()
        self.hook_attn_scores = Point()  # [batch, head, dest, src]
        self.hook_pattern = Point()  # [batch, head, dest, src]
        self.hook_z = Point()  # [batch, pos, head, d_head]
        self.hook_result = GatedPoint(cfg, "use_attn_result")  # [batch, pos, head, d_model]

    def reset_parameters(self) -> None:
        """Fresh weights: Xavier's of the [d_model, d_model] maps, no biases."""
        for weight in (self.W_Q, self.W_K, self.W_V, self.W_O):
            nn.init.uniform_(weight, -math.sqrt(3 / self.cfg.d_model), math.sqrt(3 / self.cfg.d_model))
        for bias in (self.b_Q, self.b_K, self.b_V, self.b_O):
            nn.init.zeros_(bias)

    def forward(
        self,
        x: Float[Tensor, "batch pos *head d_model"],
        key_input: Float[Tensor, "batch pos *head d_model"] | None = None,
        value_input: Float[Tensor, "batch pos *head d_model"] | None = None,
    ) -> Float[Tensor, "batch pos d_model"]:
        q, k, v = self.project(x, key_input, value_input)
        return self.output(self.hook_z(self.mix(q, k, v)))

    def project(
        self,
        x: Float[Tensor, "batch pos *head d_model"],
        key_input: Float[Tensor, "batch pos *head d_model"] | None = None,
        value_input: Float[Tensor, "batch pos *head d_model"] | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, each `[batch, pos, head, d_head]`, positions rotated in.

        `x` is the input of all three, or of the queries alone where keys and values have their own.
        """
        alone = key_input is None and value_input is None and x.ndim == 3
        if alone and not is_heard(self.hook_q, self.hook_k, self.hook_v) and _pays_to_pack(x):
            q, k, v = self._project_packed(x)
        else:
            q = self.hook_q(_per_head(x, self.W_Q, self.b_Q))
            k = self.hook_k(_per_head(x if key_input is None else key_input, self.W_K, self.b_K))
            v = self.hook_v(_per_head(x if value_input is None else value_input, self.W_V, self.b_V))
        if self.rotary is not None:
            q, k = self.hook_rot_q(self.rotary(q)), self.hook_rot_k(self.rotary(k))
        return q, k, v

    def _project_packed(self, x: Float[Tensor, "batch pos d_model"]) -> tuple[Tensor, ...]:
        """Queries, keys and values of one matrix product; views of one tensor, so not for hooks that edit in place."""
        weight = torch.cat([self.W_Q.mT, self.W_K.mT, self.W_V.mT]).flatten(0, 1)
        bias = torch.cat([self.b_Q, self.b_K, self.b_V]).flatten()
        packed = F.linear(x, weight, bias)
        return packed.view(*x.shape[:2], 3, self.cfg.n_heads, self.cfg.d_head).unbind(2)

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Float[Tensor, "batch pos head d_head"]:
        """Values mixed by attention."""
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
        dropout = self.cfg.dropout if self.training else 0.0
        severed = self.severed
        if not (self.has_empty_rows or is_heard(self.hook_attn_scores, self.hook_pattern)):
            allowed = None if severed is None else ~severed
            z = F.scaled_dot_product_attention(q, k, v, attn_mask=allowed, dropout_p=dropout)
        else:
            scores = q @ k.transpose(-1, -2) / math.sqrt(self.cfg.d_head)
            if severed is not None:
                scores = scores.masked_fill(severed, -torch.inf)
            pattern = self.hook_attn_scores(scores).softmax(dim=-1)
            pattern = self.hook_pattern(torch.where(pattern.isnan(), torch.zeros_like(pattern), pattern))
            z = F.dropout(pattern, dropout) @ v
        return z.transpose(1, 2)

    def output(self, z: Float[Tensor, "batch pos head d_head"]) -> Float[Tensor, "batch pos d_model"]:
        """Sum over heads of z @ W_O, plus the bias."""
        if self.cfg.use_attn_result:
            result = self.hook_result(torch.einsum("bphe,hed->bphd", z, self.W_O))
            return result.sum(dim=2) + self.b_O
        return F.linear(z.flatten(2), self.W_O.flatten(0, 1).T, self.b_O)

    @property
    def QK(self) -> Any:  # noqa: N802
        """`W_Q @ W_K^T` of each head, as a TransformerLens `FactoredMatrix` (Elhage et al. 2021)."""
        from transformer_lens import FactoredMatrix

        return FactoredMatrix(self.W_Q, self.W_K.transpose(-1, -2))

    @property
    def OV(self) -> Any:  # noqa: N802
        """`W_V @ W_O` of each head, as a TransformerLens `FactoredMatrix` (Elhage et al. 2021)."""
        from transformer_lens import FactoredMatrix

        return FactoredMatrix(self.W_V, self.W_O)


def _head_weight(cfg: EncoderConfig) -> Float[Tensor, "head d_model d_head"]:
    """TransformerLens's shape over the memory of one `[head * d_head, d_model]` matrix, which GEMM reads without a copy."""
    return torch.empty(cfg.n_heads, cfg.d_head, cfg.d_model).transpose(1, 2)


def _per_head(x: Tensor, weight: Float[Tensor, "head d_model d_head"], bias: Float[Tensor, "head d_head"]) -> Tensor:
    if x.ndim == 4:  # one input a head
        return torch.einsum("bphd,hde->bphe", x, weight) + bias
    return F.linear(x, weight.mT.flatten(0, 1), bias.flatten()).view(*x.shape[:2], *bias.shape)


def _pays_to_pack(x: Float[Tensor, "batch pos d_model"]) -> bool:
    """Whether one product over weights copied together beats three: unless large weights meet few tokens."""
    return max(x.shape[0] * x.shape[1], 128) >= x.shape[2]


class MLP(nn.Module):
    """Two linear maps with a non-linearity between them."""

    def __init__(self, cfg: EncoderConfig) -> None:
        super().__init__()
        self.act_fn = F.gelu if cfg.act_fn == "gelu" else F.relu
        self.W_in = nn.Parameter(torch.empty(cfg.d_model, cfg.d_mlp))
        self.b_in = nn.Parameter(torch.empty(cfg.d_mlp))
        self.W_out = nn.Parameter(torch.empty(cfg.d_mlp, cfg.d_model))
        self.b_out = nn.Parameter(torch.empty(cfg.d_model))
        self.hook_pre = Point()  # [batch, pos, d_mlp]
        self.hook_post = Point()  # [batch, pos, d_mlp]
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Fresh weights."""
        for weight, bias in ((self.W_in, self.b_in), (self.W_out, self.b_out)):
            nn.init.xavier_uniform_(weight)
            nn.init.zeros_(bias)

    def forward(self, x: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos d_model"]:
        pre = self.hook_pre(F.linear(x, self.W_in.T, self.b_in))
        return F.linear(self.hook_post(self.act_fn(pre)), self.W_out.T, self.b_out)


class Block(nn.Module):
    """Attention and MLP around the residual stream, LayerNorm before (`"pre"`) or after (`"post"`) each.

    Post-LN: `resid_mid = resid_pre + attn_out`, `resid_post = ln1(resid_mid) + mlp_out`, and the block's output is
    `ln2(resid_post)`, under the hook names of TransformerLens's BERT block.
    """

    hook_out_is_single_residual_stream = True  # read by transformer_lens.tools logit lens

    def __init__(self, cfg: EncoderConfig, layer: int, severed: Bool[Tensor, "head dest src"] | None = None) -> None:
        super().__init__()
        self.cfg = cfg
        self.drop_path = cfg.drop_path * layer / max(cfg.n_layers - 1, 1)
        self.ln1 = LayerNorm(cfg)
        self.attn = Attention(cfg, severed)
        self.ln2 = LayerNorm(cfg)
        self.mlp = MLP(cfg)
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

    def forward(self, resid: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos d_model"]:
        resid_pre = self.hook_resid_pre(resid)
        return self.after_attention(resid_pre, self.attn(*self.attention_inputs(resid_pre)))

    def attention_inputs(self, resid_pre: Float[Tensor, "batch pos d_model"]) -> tuple[Tensor, ...]:
        """What attention reads: one tensor, or one for queries, keys and values each (`cfg.use_split_qkv_input`).

        As in TransformerLens, the copies for single heads are taken, and hooked, before the norm.
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
        if self.cfg.dropout:
            x = F.dropout(x, self.cfg.dropout)
        if self.drop_path:
            kept = torch.rand(len(x), 1, 1, device=x.device) >= self.drop_path
            x = x * kept / (1 - self.drop_path)
        return x

    @property
    def submodules(self) -> Any:
        """Read by TransformerLens's edge tools before they start: here a post-LN block refuses them.

        Direct path patching, edge attribution and faithfulness add one component's output to another's input, which
        is exact only where the residual stream is a plain sum.

        Raises:
            ValueError: This is a post-LN block.
        """
        if self.cfg.norm == "pre":
            raise AttributeError("submodules")  # nothing to object to
        raise ValueError(
            "post-LN blocks normalise the residual stream after every sum, so paths between two components are not"
            " additive; use activation patching, node attribution, or cut their attention edges"
        )


class Unembed(nn.Module):
    """Linear map from a residual vector to logits, `W_U [d_model, class]`."""

    def __init__(self, cfg: EncoderConfig) -> None:
        super().__init__()
        self.W_U = nn.Parameter(torch.empty(cfg.d_model, cfg.n_classes))
        self.b_U = nn.Parameter(torch.empty(cfg.n_classes))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Fresh weights."""
        nn.init.xavier_uniform_(self.W_U)
        nn.init.zeros_(self.b_U)

    def forward(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch class"]:
        return F.linear(x, self.W_U.T, self.b_U)
