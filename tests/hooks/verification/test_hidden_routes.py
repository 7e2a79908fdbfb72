"""Routes between tokens that only some tokens, some channels or some weights have, and layers that are almost equal."""

import pytest
import torch
from torch import nn

from emg_lens import TokenLayout, adapt, cross_modal, cutting, every, self_edges
from emg_lens.hooks import DeadHookError

N, D = 8, 12
LAYOUT = TokenLayout.channels({"emg": 4, "acc": 3})
ALL = every() - self_edges()


class Attention(nn.Module):
    """Attention of one head; `moved` edits the values, `order` permutes the tokens that are read."""

    def __init__(self, moved=lambda v: v):
        super().__init__()
        self.qkv, self.out, self.moved = nn.Linear(D, 3 * D), nn.Linear(D, D), moved
        self.register_buffer("order", torch.arange(N))

    def forward(self, x):
        q, k, v = self.qkv(x).chunk(3, -1)
        q, k, v = q, k[:, self.order], self.moved(v)[:, self.order]
        return self.out((q @ k.mT * D**-0.5).softmax(-1) @ v)


class Model(nn.Module):
    """Three layers of attention and MLP, on tokens [batch, token, d_model]; `between` edits the tokens in between."""

    def __init__(self, between=lambda model, x: x, moved=lambda v: v):
        super().__init__()
        self.attention = nn.ModuleList(Attention(moved) for _ in range(3))
        self.mlp = nn.ModuleList(nn.Linear(D, D) for _ in range(3))
        self.gate, self.between, self.open = nn.Parameter(torch.zeros(())), between, False

    def forward(self, x):
        for attention, mlp in zip(self.attention, self.mlp, strict=True):
            x = x + attention(x)
            x = self.between(self, x + mlp(x).relu())
        return x


class Samples(nn.Module):
    """Channels [batch, channel, sample] become tokens, after a change of the signals."""

    def __init__(self, change):
        super().__init__()
        self.change, self.embed, self.model = change, nn.Linear(5, D), Model()
        self.cls = nn.Parameter(torch.randn(1, 1, D))

    def forward(self, x):
        tokens = self.embed(self.change(x))
        return self.model(torch.cat([self.cls.expand(len(x), -1, -1), tokens], 1))


def routes_of(model, x, edges=ALL):
    adapted = adapt(model.eval(), x)
    with cutting(adapted, edges, LAYOUT, allow_routes=True) as report:
        model(x)
    return report.routes


def into(position, of):
    def change(model, x):
        x = x.clone()
        x[:, position] += of(x)
        return x

    return change


def test_a_model_without_other_routes_has_none():
    torch.manual_seed(0)
    assert routes_of(Model(), torch.randn(2, N, D)) == ()


@pytest.mark.parametrize("position", [0, N // 2 - 1, N - 1, 3])
def test_a_mean_that_joins_any_token_is_a_route(position):
    torch.manual_seed(0)
    assert routes_of(Model(into(position, lambda x: x.mean(1))), torch.randn(2, N, D))


@pytest.mark.parametrize("source", [0, 3, N - 1])
def test_a_token_that_joins_all_others_is_a_route(source):
    torch.manual_seed(0)
    assert routes_of(Model(lambda model, x: x + x[:, source : source + 1]), torch.randn(2, N, D))


def test_values_that_hold_another_token_cannot_be_cut():
    torch.manual_seed(0)
    model, x = Model(moved=lambda v: v + v.roll(1, 1)).eval(), torch.randn(2, N, D)
    with pytest.raises(DeadHookError, match="still influence"), cutting(adapt(model, x), ALL, LAYOUT):
        model(x)


@pytest.mark.parametrize(
    "change",
    [
        lambda x: torch.cat([x[:, :4] - x[:, :4].mean(1, keepdim=True), x[:, 4:]], 1),
        lambda x: torch.cat([x[:, :1] - x[:, 1:2], x[:, 1:]], 1),
        lambda x: torch.cat([x[:, :5], x[:, 5:] - x[:, 5:].mean(1, keepdim=True)], 1),
    ],
    ids=["common average of EMG", "one bipolar pair", "common average of ACC"],
)
def test_channels_of_one_modality_that_mix_before_the_first_layer_are_named(change):
    torch.manual_seed(0)
    (route,) = routes_of(Samples(change), torch.randn(2, 7, 5))
    assert "contains other channels before the first layer" in route
    assert routes_of(Samples(lambda x: x), torch.randn(2, 7, 5)) == ()


@pytest.mark.parametrize("way", ["loaded", "trained", "setting"])
def test_a_route_that_opens_after_the_first_cut_is_found(way):
    torch.manual_seed(0)
    model = Model(lambda model, x: x + (model.gate + model.open) * x.mean(1, keepdim=True)).eval()
    x = torch.randn(2, N, D)
    adapted = adapt(model, x)
    with cutting(adapted, cross_modal(), LAYOUT):
        model(x)
    if way == "loaded":
        model.load_state_dict(model.state_dict() | {"gate": torch.tensor(0.5)})
    elif way == "trained":
        model(x)[:, 0].sum().backward()
        torch.optim.SGD(model.parameters(), lr=0.1).step()
    else:
        model.open = True
    with (
        pytest.raises(DeadHookError, match="tokens still influence each other"),
        cutting(adapted, cross_modal(), LAYOUT),
    ):
        model(x)


def test_a_layer_that_reads_tokens_in_another_order_is_not_taken_for_its_neighbour():
    torch.manual_seed(0)
    model, x = Model().eval(), torch.randn(2, N, D)
    model.attention[2].order.copy_(torch.arange(N).roll(1))
    with pytest.raises(DeadHookError), cutting(adapt(model, x), cross_modal(), LAYOUT):
        model(x)
