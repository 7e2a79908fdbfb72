"""Models of torch, and attention as people write it themselves."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from zoo.libraries.architecture import Architecture, normal

HEADS, WIDTH = 4, 32


class Projected(nn.Module):
    """Query, key and value of every head."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.out = nn.Linear(WIDTH, WIDTH)

    def heads(self, x: Tensor) -> list[Tensor]:
        """Return three tensors [batch, head, position, width]."""
        return [f(x).unflatten(-1, (HEADS, -1)).transpose(1, 2) for f in (self.query, self.key, self.value)]


class EinsumAttention(Projected):
    """Einsum and softmax."""

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.heads(x)
        pattern = (torch.einsum("bhid,bhjd->bhij", q, k) / 8**0.5).softmax(-1)
        return self.out(torch.einsum("bhij,bhjd->bihd", pattern, v).flatten(2))


class Mixer(EinsumAttention):
    """The same; its name does not speak of attention."""


class HeadsFirst(Projected):
    """Scores [head, batch, dest, src]."""

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (t.transpose(0, 1) for t in self.heads(x))
        pattern = F.softmax(q @ k.transpose(-1, -2) / 8**0.5, dim=-1)
        return self.out((pattern @ v).permute(1, 2, 0, 3).flatten(2))


class HeadsInBatch(Projected):
    """Scores [batch * head, dest, src]."""

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (t.flatten(0, 1) for t in self.heads(x))
        pattern = torch.bmm(q, k.transpose(1, 2)).div(8**0.5).softmax(dim=2)
        return self.out(torch.bmm(pattern, v).unflatten(0, (-1, HEADS)).transpose(1, 2).flatten(2))


class SingleHead(Projected):
    """Scores [batch, dest, src]."""

    def forward(self, x: Tensor) -> Tensor:
        pattern = torch.softmax(self.query(x) @ self.key(x).transpose(1, 2) / WIDTH**0.5, -1)
        return self.out(pattern @ self.value(x))


class GroupedQueries(Projected):
    """Scores [batch, group, head in group, dest, src]."""

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (t.unflatten(1, (2, 2)) for t in self.heads(x))
        pattern = (q @ k.transpose(-1, -2) / 8**0.5).softmax(-1)
        return self.out((pattern @ v).flatten(1, 2).transpose(1, 2).flatten(2))


class SpecialSoftmax(Projected):
    """torch.special.softmax."""

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.heads(x)
        pattern = torch.special.softmax(q @ k.transpose(-1, -2) / 8**0.5, -1)
        return self.out((pattern @ v).transpose(1, 2).flatten(2))


class SourceFirst(Projected):
    """Scores [batch, head, src, dest], softmax over dimension 2."""

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.heads(x)
        pattern = (k @ q.transpose(-1, -2) / 8**0.5).softmax(2)
        return self.out((pattern.transpose(-1, -2) @ v).transpose(1, 2).flatten(2))


class HeadsLast(Projected):
    """Scores [batch, dest, src, head], softmax over dimension 2."""

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.heads(x)
        pattern = torch.einsum("bhid,bhjd->bijh", q, k).div(8**0.5).softmax(2)
        return self.out(torch.einsum("bijh,bhjd->bihd", pattern, v).flatten(2))


class OwnSoftmax(Projected):
    """Exponentials divided by their sum."""

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.heads(x)
        weights = (q @ k.transpose(-1, -2) / 8**0.5).exp()
        pattern = weights / weights.sum(-1, keepdim=True)
        return self.out((pattern @ v).transpose(1, 2).flatten(2))


class ScriptedAttention(Projected):
    """torch.baddbmm and log-softmax."""

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.heads(x)
        pattern = (q @ k.transpose(-1, -2) / 8**0.5).log_softmax(-1).exp()
        return self.out((pattern @ v).transpose(1, 2).flatten(2))


class FusedAttention(Projected):
    """torch's fused attention."""

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.heads(x)
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class FusedSingleHead(Projected):
    """torch's fused attention without heads."""

    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.scaled_dot_product_attention(self.query(x), self.key(x), self.value(x)))


class LinearAttention(Projected):
    """No softmax over tokens: keys and values are summed first."""

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.heads(x)
        q, k = q.softmax(-1), k.softmax(-2)
        return self.out((q @ (k.transpose(-1, -2) @ v)).transpose(1, 2).flatten(2))


class PoolingQuery(nn.Module):
    """One learned query reads all tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.randn(1, 1, WIDTH))
        self.key, self.value = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (t.unflatten(-1, (HEADS, -1)).transpose(1, 2) for t in (self.query, self.key(x), self.value(x)))
        pattern = (q.expand(len(x), -1, -1, -1) @ k.transpose(-1, -2)).softmax(-1)
        return (pattern @ v).transpose(1, 2).flatten(2)


class ThroughMulti(nn.Module):
    """nn.MultiheadAttention, called in one of several ways."""

    def __init__(self, way: str = "same") -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
        self.norm, self.way = nn.LayerNorm(WIDTH), way

    def forward(self, x: Tensor) -> Tensor:
        if self.way == "norm of each":
            return self.attn(self.norm(x), self.norm(x), self.norm(x), need_weights=False)[0]
        if self.way == "weights":
            return self.attn(x, x, x, average_attn_weights=False)[0]
        if self.way == "positions":
            return self.attn(x + 0.1, x + 0.1, x)[0]
        return self.attn(x, x, x)[0]


class Block(nn.Module):
    """Pre-norm block with any attention."""

    def __init__(self, attention: nn.Module) -> None:
        super().__init__()
        self.norm, self.attention = nn.LayerNorm(WIDTH), attention
        self.mlp = nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, WIDTH), nn.GELU(), nn.Linear(WIDTH, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm(x))
        return x + self.mlp(x)


class PositionsFirst(nn.Module):
    """Runs a module on [position, batch, width]."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x.transpose(0, 1)).transpose(0, 1)


class SequenceFirstAttention(Projected):
    """Einsum over [position, batch, width], as in XLNet."""

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (f(x).unflatten(-1, (HEADS, -1)) for f in (self.query, self.key, self.value))
        pattern = (torch.einsum("ibhd,jbhd->bhij", q, k) / 8**0.5).softmax(-1)
        return self.out(torch.einsum("bhij,jbhd->ibhd", pattern, v).flatten(2))


class ChannelsFirstAttention(nn.Module):
    """Attention on [batch, width, position], with convolutions of one position."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Conv1d(WIDTH, 3 * WIDTH, 1), nn.Conv1d(WIDTH, WIDTH, 1)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(1, (3, HEADS, -1)).unbind(1)
        pattern = (q.transpose(-1, -2) @ k / 8**0.5).softmax(-1)
        return self.out((v @ pattern.transpose(-1, -2)).flatten(1, 2))


class ChannelsFirstBlock(nn.Module):
    """Takes [batch, position, width]; its attention takes [batch, width, position]."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = ChannelsFirstAttention()

    def forward(self, x: Tensor) -> Tensor:
        return x + self.attention(x.transpose(1, 2)).transpose(1, 2)


class GridAttention(EinsumAttention):
    """Attention on [batch, height, width, channel]."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.flatten(1, 2)).unflatten(1, x.shape[1:3])


class GridBlocks(nn.Module):
    """Blocks on a grid of tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([GridAttention(), GridAttention()])

    def forward(self, x: Tensor) -> Tensor:
        x = x.unflatten(1, (2, -1))
        for layer in self.layers:
            x = x + layer(x)
        return x.flatten(1, 2)


class FunctionalModel(nn.Module):
    """Attention of all layers in the model's own forward."""

    def __init__(self) -> None:
        super().__init__()
        self.projections = nn.ModuleList([nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, 3 * WIDTH)])

    def forward(self, x: Tensor) -> Tensor:
        for projection in self.projections:
            q, k, v = (t.unflatten(-1, (HEADS, -1)).transpose(1, 2) for t in projection(x).chunk(3, -1))
            x = x + F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return x


class CrossWithWidths(nn.Module):
    """Cross attention to tokens of another width."""

    def __init__(self) -> None:
        super().__init__()
        self.own = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
        self.other = nn.MultiheadAttention(WIDTH, HEADS, kdim=12, vdim=12, batch_first=True)

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        x = x + self.own(x, x, x)[0]
        return x + self.other(x, memory, memory)[0]


class SelfWithWidths(nn.Module):
    """Self attention whose keys have another width."""

    def __init__(self) -> None:
        super().__init__()
        self.narrow = nn.Linear(WIDTH, 12)
        self.attn = nn.MultiheadAttention(WIDTH, HEADS, kdim=12, vdim=12, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.attn(x, self.narrow(x), self.narrow(x))[0]


class SharedLayer(nn.Module):
    """One block, run twice."""

    def __init__(self) -> None:
        super().__init__()
        self.block = Block(EinsumAttention())

    def forward(self, x: Tensor) -> Tensor:
        return self.block(self.block(x))


class MixedBlocks(nn.Module):
    """A layer of attention that torch computes, and one whose softmax is written out."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(Block(FusedAttention()), Block(OwnSoftmax()))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class ConvolutionAfter(nn.Module):
    """Attention, then a convolution over tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.attention, self.conv = Block(EinsumAttention()), nn.Conv1d(WIDTH, WIDTH, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.attention(x)
        return x + self.conv(x.transpose(1, 2)).transpose(1, 2)


def _blocks(attention: Any, *shape: int, **options: Any) -> Architecture:
    build = lambda: nn.Sequential(*[Block(attention()) for _ in range(2)])
    return Architecture(build, normal(*(shape or (2, 8, WIDTH))), **options)


def _encoder(**options: Any) -> Architecture:
    def build() -> nn.Module:
        layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 64, **{"batch_first": True, **options})
        return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    return Architecture(build, normal(2, 8, WIDTH) if options.get("batch_first", True) else normal(8, 2, WIDTH))


def _decoder() -> nn.Module:
    return nn.TransformerDecoder(nn.TransformerDecoderLayer(WIDTH, HEADS, 64, batch_first=True), 2)


DECODER = {"decoder": r"(decoder\.)?layers\.\d+\.self_attn", "cross": r"(decoder\.)?layers\.\d+\.multihead_attn"}
PAIR = lambda: (normal(2, 8, WIDTH)(), normal(2, 6, WIDTH)())

MODELS = {
    "nn.TransformerEncoder": _encoder(),
    "nn.TransformerEncoder, pre-norm": _encoder(norm_first=True),
    "nn.TransformerEncoder, positions first": _encoder(batch_first=False),
    "nn.TransformerDecoder": Architecture(_decoder, PAIR, DECODER),
    "nn.Transformer": Architecture(
        lambda: nn.Transformer(WIDTH, HEADS, 2, 2, 64, batch_first=True),
        PAIR,
        {
            "encoder": r"encoder\.layers\.\d+\.self_attn",
            "decoder": r"decoder\.layers\.\d+\.self_attn",
            "cross": r"decoder\.layers\.\d+\.multihead_attn",
        },
    ),
    "nn.MultiheadAttention": _blocks(ThroughMulti),
    "nn.MultiheadAttention, norm for each argument": _blocks(lambda: ThroughMulti("norm of each")),
    "nn.MultiheadAttention, weights of every head": _blocks(lambda: ThroughMulti("weights")),
    "nn.MultiheadAttention, positions added to queries and keys": _blocks(lambda: ThroughMulti("positions")),
    "nn.MultiheadAttention, keys of another width, cross": Architecture(
        CrossWithWidths, lambda: (normal(2, 8, WIDTH)(), normal(2, 6, 12)()), {"decoder": "own", "cross": "other"}
    ),
    "nn.MultiheadAttention, keys of another width, self": Architecture(SelfWithWidths, normal(2, 8, WIDTH)),
    "einsum and softmax": _blocks(EinsumAttention),
    "einsum and softmax, other name": _blocks(Mixer),
    "fused attention": _blocks(FusedAttention),
    "fused attention without heads": _blocks(FusedSingleHead),
    "heads first": _blocks(HeadsFirst, heads_first=True),
    "heads first, as many trials as heads": _blocks(HeadsFirst, HEADS, 8, WIDTH, heads_first=True),
    "heads first, as many trials and tokens as heads": _blocks(HeadsFirst, HEADS, HEADS, WIDTH, heads_first=True),
    "heads in the batch": _blocks(HeadsInBatch),
    "single head": _blocks(SingleHead),
    "grouped queries, five dimensions": _blocks(GroupedQueries),
    "torch.special.softmax": _blocks(SpecialSoftmax),
    "source before destination": _blocks(SourceFirst),
    "heads last": _blocks(HeadsLast),
    "softmax written out": _blocks(OwnSoftmax),
    "logarithm of the softmax": _blocks(ScriptedAttention),
    "linear attention": _blocks(LinearAttention),
    "one fused layer, one written out": Architecture(MixedBlocks, normal(2, 8, WIDTH)),
    "pooling query": Architecture(lambda: nn.Sequential(Block(EinsumAttention()), PoolingQuery()), normal(2, 8, WIDTH)),
    "positions first, einsum": Architecture(
        lambda: PositionsFirst(nn.Sequential(Block(SequenceFirstAttention()), Block(SequenceFirstAttention()))),
        normal(2, 8, WIDTH),
    ),
    "channels first": Architecture(
        lambda: nn.Sequential(ChannelsFirstBlock(), ChannelsFirstBlock()), normal(2, 8, WIDTH)
    ),
    "a grid of tokens": Architecture(GridBlocks, normal(2, 8, WIDTH)),
    "attention in the model's own forward": Architecture(FunctionalModel, normal(2, 8, WIDTH)),
    "one block run twice": Architecture(SharedLayer, normal(2, 8, WIDTH)),
    "convolution after attention": Architecture(ConvolutionAfter, normal(2, 8, WIDTH)),
}
