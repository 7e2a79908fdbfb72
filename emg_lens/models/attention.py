"""Hooked multi-head attention with TransformerLens's names, shapes and order; without hooks, torch's fused kernel."""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from emg_lens.hooks.hook_points import needs_scores
from emg_lens.hooks.vmap import is_wrapped, surely
from emg_lens.lens.config import EncoderConfig
from emg_lens.lens.points import GatedPoint, Point, has_hook
from emg_lens.models import mixing
from emg_lens.models.dropout import drop, on_plain_cpu
from emg_lens.transformer_lens_imports import FactoredMatrix


class Rotary(nn.Module):
    """Rotary position embedding (Su et al. 2021, §3): pairs of values rotate by angles that grow with the position.

    The position is that in the layout, or the patch of the channel (`cfg.positions`; CLS is then before the first
    patch). A pair is a value of each half of a head, or two neighbours (`cfg.rotary_adjacent_pairs`).
    """

    mixes_only_by_attention = folds = True

    sin: Float[Tensor, "ctx 1 d_head"]
    cos: Float[Tensor, "ctx 1 d_head"]

    def __init__(self, cfg: EncoderConfig) -> None:
        super().__init__()
        self.cfg, self.adjacent = cfg, cfg.rotary_adjacent_pairs
        over_time = cfg.positions == "rotary_time"
        index = torch.tensor(cfg.layout.patch) + int(cfg.cls_token) if over_time else torch.arange(cfg.n_ctx)
        angle = self._angles(index, torch.float32)
        self.register_buffer("sin", angle.sin(), persistent=False)
        self.register_buffer("cos", angle.cos(), persistent=False)

    def _angles(self, index: Int[Tensor, " pos"], dtype: torch.dtype) -> Float[Tensor, "pos 1 d_head"]:
        every_other = torch.arange(0, self.cfg.d_head, 2, device=index.device, dtype=dtype)
        angle = index[:, None] * self.cfg.rotary_base ** (-every_other / self.cfg.d_head)
        return (angle.repeat_interleave(2, 1) if self.adjacent else angle.repeat(1, 2))[:, None]

    def tables(self, index: Int[Tensor, " pos"]) -> tuple[Float[Tensor, "pos 1 d_head"], Float[Tensor, "pos 1 d_head"]]:
        """Compute sine and cosine of any positions, also of those after the end of the layout."""
        angle = self._angles(index, torch.float64)  # in single precision, angles are inexact after 10,000 positions
        return angle.sin().to(self.sin), angle.cos().to(self.sin)

    def forward(
        self, x: Float[Tensor, "batch pos head d_head"], tables: tuple[Tensor, Tensor] | None = None
    ) -> Float[Tensor, "batch pos head d_head"]:
        """Rotate by the first positions, or by those of the given `tables`."""
        if tables is None and self._is_complex(x):
            return torch.view_as_real(_pairs(x) * self._turn(x.shape[1])).flatten(-2)
        sin, cos = tables or (self.sin[: x.shape[1]], self.cos[: x.shape[1]])
        if self.adjacent:
            even, odd = x[..., ::2], x[..., 1::2]
            turned = torch.stack([-odd, even], dim=-1).flatten(-2)
        else:
            left, right = x.chunk(2, dim=-1)
            turned = torch.cat([-right, left], dim=-1)
        return x * cos + turned * sin

    def all_turned(
        self, x: Float[Tensor, "batch pos several head d_head"]
    ) -> Sequence[Float[Tensor, "batch pos head d_head"]]:
        """Rotate each of several tensors; the content of `x` is overwritten."""
        if self._is_complex(x):
            _pairs(x).mul_(self._turn(x.shape[1])[:, None])
            return x.unbind(2)
        return [self(one) for one in x.unbind(2)]

    def _is_complex(self, x: Tensor) -> bool:
        """Whether pairs of neighbours can rotate as complex numbers, in one product."""
        return self.adjacent and x.stride(-1) == 1 and x.dtype == self.cos.dtype and x.dtype.itemsize >= 4

    def _turn(self, n: int) -> Tensor:
        """Return the complex factors of length 1 `[pos, 1, pair]`."""
        return torch.complex(self.cos[:n, :, ::2], self.sin[:n, :, ::2])


def _pairs(x: Float[Tensor, "*batch d_head"]) -> Tensor:
    """Return neighbouring values as complex numbers; a view."""
    return torch.view_as_complex(x.unflatten(-1, (-1, 2)))


class RelativeKeys(nn.Module):
    """Relative positions: the product of the query and a vector per head and distance, added to the score.

    Other than in Shaw et al. (2018, §3.2), the product is not divided by √d_head (docs/tinymyo-model.md §9.4).
    `W_rel [head, distance, d_head]` has the distances src - dest from 1 - reach to reach - 1; edges over larger
    distances do not exist (`cfg.permanent_mask`). Time is the patch of a channel or a modality, or the position if
    tokens have no patch; CLS is one patch before the first.
    """

    mixes_only_by_attention = True

    distance: Int[Tensor, "dest src"]

    def __init__(self, cfg: EncoderConfig) -> None:
        super().__init__()
        reach = cfg.relative_reach
        index = torch.tensor(cfg.layout.patch) if cfg.has_times else torch.arange(cfg.n_ctx)
        distance = (index[None, :] - index[:, None]).clamp(1 - reach, reach - 1) + reach - 1
        self.register_buffer("distance", distance, persistent=False)
        vectors = torch.empty(cfg.n_heads, 2 * reach - 1, cfg.d_head)
        self.W_rel = nn.Parameter(vectors, requires_grad=cfg.train_positions)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise with normal values, so that a product with a query of unit values has unit variance."""
        nn.init.normal_(self.W_rel, std=self.W_rel.shape[-1] ** -0.5)

    def forward(self, q: Float[Tensor, "batch head dest d_head"]) -> Float[Tensor, "batch head dest src"]:
        """Compute the term that is added to q @ k / √d_head; `q` may hold only the first positions."""
        products = torch.einsum("bhqe,hre->bhqr", q, self.W_rel)
        return products.gather(-1, self.distance[: q.shape[2]].expand(*q.shape[:2], -1, -1))

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:  # pyright: ignore
        given, own = state_dict.get(f"{prefix}W_rel"), self.W_rel.shape
        if given is not None and given.shape == (own[0], own[1] + 2, own[2]):
            args[-1].append(
                f"{prefix}W_rel has {own[1] + 2} vectors per head, expected {own[1]}: an older version saved it, whose"
                " relative positions computed something else; fit the model anew"
            )
            return
        super()._load_from_state_dict(state_dict, prefix, *args)


class Attention(nn.Module):
    """Multi-head attention over all edges except the edges in `permanent_mask`.

    Order of the explicit path: scores -> `hook_attn_scores` -> softmax -> rows with every score -inf become zero ->
    `hook_pattern` -> z. Without a hook on scores or pattern, `scaled_dot_product_attention` computes the same.
    Edges of `permanent_mask` never have attention; their scores are -inf before the hook, as with a causal mask.
    """

    mixes_only_by_attention = folds = True
    computes_scores = False  # a subclass with another `normalise` sets it, so that the fused kernel does not run

    permanent_mask: Bool[Tensor, "head dest src"] | None
    b_Q: Float[Tensor, "head d_head"]
    b_K: Float[Tensor, "head d_head"]
    b_V: Float[Tensor, "head d_head"]

    def __init__(
        self, cfg: EncoderConfig, permanent_mask: Bool[Tensor, "head dest src"] | None = None, initial_gain: float = 1.0
    ) -> None:
        super().__init__()
        self.cfg, self.initial_gain = cfg, initial_gain
        if permanent_mask is not None and not permanent_mask.any():
            permanent_mask = None
        self.register_buffer("permanent_mask", permanent_mask, persistent=False)
        # Some versions of the fused kernel give NaN for a row without any edge; the explicit path gives zeros.
        self.has_empty_rows = permanent_mask is not None and bool(permanent_mask.all(-1).any())
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
        self.rotary = Rotary(cfg) if cfg.rotates else None
        self.relative = RelativeKeys(cfg) if cfg.positions == "relative" else None

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
        """Initialise as `cfg.initial_weights` says; biases are zero."""
        kind = self.cfg.initial_weights
        as_one = kind == "depth_scaled"
        for weight in (self.W_Q, self.W_K, self.W_V, self.W_O):
            if kind == "normal":
                nn.init.normal_(weight, std=0.02)
                continue
            bound = math.sqrt(6 / ((4 if as_one and weight is not self.W_O else 2) * self.cfg.d_model))
            nn.init.uniform_(weight, -bound, bound)
        if self.initial_gain != 1:
            self.W_O.data.mul_(self.initial_gain)
        for bias in (self.b_Q, self.b_K, self.b_V, self.b_O):
            nn.init.zeros_(bias)

    def forward(
        self,
        x: Float[Tensor, "batch dest *head d_model"],
        key_input: Float[Tensor, "batch src *head d_model"] | None = None,
        value_input: Float[Tensor, "batch src *head d_model"] | None = None,
    ) -> Float[Tensor, "batch dest d_model"]:
        """Compute the sum of the outputs of all heads; inputs as in `project`."""
        q, k, v = self.project(x, key_input, value_input)
        return self.output(self.hook_z(self.mix(q, k, v)))

    def project(
        self,
        x: Float[Tensor, "batch dest *head d_model"],
        key_input: Float[Tensor, "batch src *head d_model"] | None = None,
        value_input: Float[Tensor, "batch src *head d_model"] | None = None,
        tables: tuple[Tensor, Tensor] | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Compute queries, keys and values, each `[batch, pos, head, d_head]`, with rotary positions.

        `x` is the input of all three, or only of the queries if `key_input` and `value_input` are given. `tables` are
        those of `Rotary.tables`, for other positions than the first ones.
        """
        alone = key_input is None and value_input is None and x.ndim == 3
        if alone and not has_hook(self.hook_q, self.hook_k, self.hook_v) and _pays_to_pack(x):
            q, k, v = self._project_packed(x)
        else:
            q = self.hook_q(_per_head(x, self.W_Q, self.b_Q))
            k = self.hook_k(_per_head(x if key_input is None else key_input, self.W_K, self.b_K))
            v = self.hook_v(_per_head(x if value_input is None else value_input, self.W_V, self.b_V))
        if self.rotary is not None:
            q, k = self.hook_rot_q(self.rotary(q, tables)), self.hook_rot_k(self.rotary(k, tables))
        return q, k, v

    def _project_packed(self, x: Float[Tensor, "batch pos d_model"]) -> tuple[Tensor, ...]:
        """Compute all three in one matrix product: views of one tensor, so no hook may edit them in place."""
        weight = torch.cat([self.W_Q.mT, self.W_K.mT, self.W_V.mT]).flatten(0, 1)
        bias = torch.cat([self.b_Q, self.b_K, self.b_V]).flatten()
        if self._mixes_by_position(x):
            return mixing.project(x, weight, bias, self.cfg.d_head).chunk(3, dim=2)
        packed = F.linear(x, weight, bias)
        return packed.view(*x.shape[:2], 3, self.cfg.n_heads, self.cfg.d_head).unbind(2)

    def _mixes_by_position(self, x: Tensor) -> bool:
        """Whether `emg_lens.models.mixing` computes attention."""
        return bool(self.training and self.cfg.dropout) and on_plain_cpu(x)

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Float[Tensor, "batch pos head d_head"]:
        """Mix values by attention."""
        dropout = self.cfg.dropout if self.training else 0.0
        permanent_mask = None if self.permanent_mask is None else self.permanent_mask[:, : q.shape[1]]
        fused = not (self.computes_scores or self.has_empty_rows or needs_scores(self))
        if fused and self.relative is None and self._mixes_by_position(q):
            return mixing.attend(q, k, v, permanent_mask, dropout)
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
        if fused:
            allowed = None if permanent_mask is None else ~permanent_mask
            if self.relative is not None:
                allowed = self.relative(q)
                allowed = allowed if permanent_mask is None else allowed.masked_fill(permanent_mask, -torch.inf)
            z = F.scaled_dot_product_attention(q, k, v, attn_mask=allowed, dropout_p=dropout)
        else:
            scores = q @ k.transpose(-1, -2) / math.sqrt(self.cfg.d_head)
            if self.relative is not None:
                scores = scores + self.relative(q)
            if permanent_mask is not None:
                scores = scores.masked_fill(permanent_mask, -torch.inf)
            pattern = self.hook_pattern(self.normalise(self.hook_attn_scores(scores)))
            z = drop(pattern, dropout) @ v
        return z.transpose(1, 2)

    def normalise(self, scores: Float[Tensor, "batch head dest src"]) -> Float[Tensor, "batch head dest src"]:
        """Turn scores into attention: softmax over src; a row with every score -inf becomes zero.

        NaN in scores stays NaN.
        """
        pattern = scores.softmax(dim=-1)
        if surely(pattern.detach().amax(-1) > 0):  # much faster on a CPU
            return pattern
        fill = pattern.masked_fill if scores.requires_grad or is_wrapped(scores) else pattern.masked_fill_
        return fill(scores.detach().amax(-1, keepdim=True) == -torch.inf, 0.0)

    def output(self, z: Float[Tensor, "batch pos head d_head"]) -> Float[Tensor, "batch pos d_model"]:
        """Compute the sum over heads of z @ W_O, plus the bias."""
        if self.cfg.use_attn_result:
            result = self.hook_result(torch.einsum("bphe,hed->bphd", z, self.W_O))
            return result.sum(dim=2) + self.b_O
        weight = self.W_O.flatten(0, 1)
        if self._mixes_by_position(z):
            return mixing.output(z, weight, self.b_O)
        return F.linear(z.flatten(2), weight.T, self.b_O)

    # Products of each head, as a TransformerLens `FactoredMatrix` (Elhage et al. 2021).
    QK = property(lambda self: FactoredMatrix(self.W_Q, self.W_K.mT), doc="`W_Q @ W_K^T`")
    OV = property(lambda self: FactoredMatrix(self.W_V, self.W_O), doc="`W_V @ W_O`")


def _head_weight(cfg: EncoderConfig) -> Float[Tensor, "head d_model d_head"]:
    """Return a weight in TransformerLens's shape, in memory a `[head * d_head, d_model]` matrix for fast products."""
    return torch.empty(cfg.n_heads, cfg.d_head, cfg.d_model).transpose(1, 2)


def _per_head(x: Tensor, weight: Float[Tensor, "head d_model d_head"], bias: Float[Tensor, "head d_head"]) -> Tensor:
    if x.ndim == 4:  # one input per head
        return torch.einsum("bphd,hde->bphe", x, weight) + bias
    return F.linear(x, weight.mT.flatten(0, 1), bias.flatten()).view(*x.shape[:2], *bias.shape)


def _pays_to_pack(x: Float[Tensor, "batch pos d_model"]) -> bool:
    """Whether one product over joined weights is faster than three; not for large weights and few tokens."""
    return max(x.shape[0] * x.shape[1], 128) >= x.shape[2]
