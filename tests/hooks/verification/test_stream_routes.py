"""Attention and token mixing that `adapt` does not see: the cut is refused, and the route has a name."""

import pytest
import torch
from torch import nn

from emg_lens.hooks import DeadHookError, adapt, cross_modal, cut, cutting, flow
from emg_lens.hooks.verification.joined_tokens import mixed_token
from emg_lens.layout import TokenLayout

LAYOUT = TokenLayout.groups({"emg": [0, 1, 2], "acc": [3, 4, 5]}, n_tokens=6)
WIDTH = 8


class Hidden(nn.Module):
    """Attention of one head without a torch function that `adapt` knows."""

    def __init__(self, width=WIDTH):
        super().__init__()
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x):
        q, k, v = self.qkv(x).chunk(3, -1)
        weights = torch.einsum("bid,bjd->bij", q, k).exp()
        return self.proj(torch.einsum("bij,bjd->bid", weights / weights.sum(-1, keepdim=True), v))


class TokenMLP(nn.Module):
    def __init__(self, tokens=6):
        super().__init__()
        self.mix = nn.Sequential(nn.Linear(tokens, 12), nn.GELU(), nn.Linear(12, tokens))

    def forward(self, x):
        return self.mix(x.mT).mT


class Neighbours(nn.Module):
    """A convolution over tokens."""

    def __init__(self, width=WIDTH):
        super().__init__()
        self.conv = nn.Conv1d(width, width, 3, padding=1)

    def forward(self, x):
        return self.conv(x.mT).mT


class WeakMean(nn.Module):
    """A very small dependence on all tokens."""

    def forward(self, x):
        return x + 1e-4 * x.mean(1, keepdim=True)


class Block(nn.Module):
    def __init__(self, other, width=WIDTH):
        super().__init__()
        self.norm, self.other = nn.LayerNorm(width), other

    def forward(self, x):
        return x + self.other(self.norm(x))


class Network(nn.Module):
    """torch's encoder layers with one other block before, between or behind them."""

    def __init__(self, other, place, width=WIDTH):
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Linear(4, width)
        layers = [nn.TransformerEncoderLayer(width, 2, 16, batch_first=True) for _ in range(2)]
        self.layers = nn.ModuleList(layers)
        if other is not None:
            self.layers.insert(place, Block(other(), width))
        self.head = nn.Linear(width, 3)

    def forward(self, x):
        x = self.embed(x)
        for layer in self.layers:
            x = layer(x)
        return self.head(x.mean(1))


class InCode(Network):
    """The model's own forward mixes tokens between two modules."""

    def forward(self, x):
        x = self.layers[0](self.embed(x))
        return self.head(self.layers[1](x + 0.1 * x.roll(1, 1)).mean(1))


def network(other=None, place=1, kind=Network):
    return kind(other, place).eval(), torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("place", [0, 1, 2], ids=["before", "between", "behind"])
@pytest.mark.parametrize("other", [Hidden, TokenMLP, Neighbours, WeakMean])
def test_what_mixes_tokens_outside_the_attention_is_named_and_refused(other, place):
    model, x = network(other, place)
    name = f"layers.{place}.other{ {Neighbours: '.conv', TokenMLP: '.mix'}.get(other, '') }"
    with (
        pytest.raises(DeadHookError, match=f"still influence each other through {name}.*pass allow_routes=True"),
        cutting(adapt(model, x), cross_modal(), LAYOUT),
    ):
        raise AssertionError("not reached")
    with pytest.raises(DeadHookError, match=name):
        cut(adapt(model, x), cross_modal(), LAYOUT)
    assert cut(adapt(model, x), cross_modal(), LAYOUT, allow_routes=True)
    adapted = adapt(model, x)
    adapted.allow_routes = True  # pyright: ignore
    with cutting(adapted, cross_modal(), LAYOUT) as report:
        model(x)
    assert report.routes == (f"information also passes between tokens through {name}; this is not cut",)


def test_a_network_of_torchs_layers_has_no_other_route():
    model, x = network()
    with cutting(adapt(model, x), cross_modal(), LAYOUT) as report:
        model(x)
    assert report.routes == ()


def test_code_that_mixes_tokens_between_modules_is_refused():
    model, x = network(kind=InCode)
    with pytest.raises(DeadHookError, match="through the code of InCode before layers.1"):
        cut(adapt(model, x), cross_modal(), LAYOUT)


class ClassReader(nn.Module):
    """One query reads all tokens; its vector joins them again with a small factor, as in CaiT."""

    def __init__(self):
        super().__init__()
        self.query, self.read = nn.Parameter(torch.randn(1, 1, WIDTH)), nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        query = self.query.expand(len(x), -1, -1)
        return self.read((query @ x.mT).exp() @ x)


class WithClassToken(Network):
    def __init__(self, *args):
        super().__init__(*args)
        self.read, self.norm = ClassReader(), nn.LayerNorm(WIDTH)

    def forward(self, x):
        x = self.embed(x)
        for layer in self.layers:
            x = layer(x)
        cls = torch.full_like(x[:, :1], 0.1) + 1e-6 * self.read(x)
        return self.head(self.norm(torch.cat([cls, x], 1))[:, 0])


class Pooled(WithClassToken):
    """A readout by attention alone: its vector is not a token."""

    def forward(self, x):
        x = self.embed(x)
        for layer in self.layers:
            x = layer(x)
        return self.head(self.read(x)[:, 0])


def test_class_attention_is_a_route_and_a_pooled_readout_is_none():
    model, x = network(kind=WithClassToken)
    with pytest.raises(DeadHookError, match="through read, so"):
        cut(adapt(model, x), cross_modal(), LAYOUT)
    model, x = network(kind=Pooled)
    assert cut(adapt(model, x), cross_modal(), LAYOUT)


class SelfAttention(nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)

    def forward(self, x):
        q, k, v = (t.unflatten(-1, (2, -1)).transpose(1, 2) for t in self.qkv(x).chunk(3, -1))
        return x + nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


def test_another_layer_that_is_cut_too_is_no_route():
    model, x = nn.Sequential(SelfAttention(), SelfAttention()).eval(), torch.randn(2, 6, WIDTH)
    with cutting(adapt(model, x), cross_modal(), LAYOUT) as report:
        model(x)
    assert report.routes == ()


class Noisy(nn.TransformerEncoderLayer):
    """A layer whose output is random, so that it cannot be probed."""

    def __init__(self):
        super().__init__(WIDTH, 2, 16, batch_first=True)
        self.self_attn.register_forward_hook(lambda module, args, output: (output[0] + torch.rand(()), output[1]))


def test_a_route_is_named_although_another_layer_could_not_be_probed_before():
    model, x = network(TokenMLP, 1)
    model.layers[2] = Noisy().eval()
    adapted = adapt(model, x)
    with pytest.raises(DeadHookError, match="cannot be probed"), cutting(adapted, cross_modal(), LAYOUT):
        raise AssertionError("not reached")
    with pytest.raises(DeadHookError, match=r"layers\.1\.other"), cutting(adapted, cross_modal().at(layers=0), LAYOUT):
        raise AssertionError("not reached")


class Embedded(nn.Module):
    """An encoder of channels that may mix them before its first layer."""

    def __init__(self, mix):
        super().__init__()
        self.mix, self.embed, self.cls = mix, nn.Linear(20, 16), nn.Parameter(torch.randn(1, 1, 16))
        layer = nn.TransformerEncoderLayer(16, 2, 32, 0.0, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    def forward(self, x):
        return self.encoder(torch.cat([self.cls.expand(len(x), -1, -1), self.mix(self.embed(x))], 1))


class OverTokens(nn.Module):
    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, tokens):
        return self.module(tokens.mT).mT


MIXING = {
    "convolution": OverTokens(nn.Conv1d(16, 16, 3, padding=1)),
    "group norm": OverTokens(nn.GroupNorm(4, 16)),
    "linear": OverTokens(nn.Linear(9, 9)),
}


@pytest.mark.parametrize("name", MIXING)
def test_channels_that_mix_before_the_first_layer_are_named(name):
    layout, x = TokenLayout.channels({"emg": 6, "acc": 3}), torch.randn(2, 9, 20)
    model = Embedded(MIXING[name]).eval()
    with cutting(adapt(model, x), flow("acc", "emg") | flow("acc", "cls"), layout) as report:
        kept, moved = model(x), model(torch.cat([x[:, :6], 5 * x[:, 6:]], 1))
    assert (kept - moved)[:, :7].abs().max() > 1e-3  # the cut is complete, but the tokens contain other channels
    assert "contains other channels before the first layer" in report.routes[0]


def test_channels_that_do_not_mix_are_not_named():
    layout, x = TokenLayout.channels({"emg": 6, "acc": 3}), torch.randn(2, 9, 20)
    model = Embedded(nn.LayerNorm(16)).eval()
    with cutting(adapt(model, x), flow("acc", "emg") | flow("acc", "cls"), layout) as report:
        kept, moved = model(x), model(torch.cat([x[:, :6], 5 * x[:, 6:]], 1))
    assert torch.equal(kept[:, :7], moved[:, :7]) and report.routes == ()


@pytest.mark.parametrize("shape", [(2, 36, 9), (2, 20, 4)])
def test_an_input_without_a_known_axis_of_channels_says_nothing(shape):
    layout = TokenLayout.patches({"emg": 6, "acc": 3}, 4, cls=False)
    assert mixed_token(nn.Identity(), nn.Identity(), layout, torch.randn(shape)) is None
