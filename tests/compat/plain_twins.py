"""An ordinary encoder that can mask its own attention, and changes that are made to a model and to its twin."""

from collections.abc import Callable
from random import Random
from types import MethodType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from emg_lens.layout import TokenLayout

LAYOUT = TokenLayout.channels({"emg": 3, "acc": 2})
WIDTH, HEADS, LAYERS = 8, 2, 3
Masks = dict[int, Tensor]


class Attention(nn.Module):
    """Self-attention with torch's softmax or fused function; `mask` is -inf inside its softmax."""

    mask: Tensor | None = None
    scale = 1.0

    def __init__(self, fused: bool) -> None:
        super().__init__()
        self.fused, self.qkv, self.out = fused, nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor, scale: float = 1.0) -> Tensor:
        q, k, v = (t.unflatten(-1, (HEADS, -1)).transpose(1, 2) for t in self.qkv(x).chunk(3, -1))
        factor = scale * self.scale * q.shape[-1] ** -0.5
        if self.fused and self.mask is None:
            z = F.scaled_dot_product_attention(q, k, v, scale=factor)
        else:
            scores = factor * q @ k.transpose(-1, -2)
            if self.mask is not None:
                scores = scores.masked_fill(self.mask, -torch.inf)
            z = (scores.softmax(-1) if self.mask is None else scores.softmax(-1).nan_to_num()) @ v
        return self.out(z.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """A pre-norm block."""

    def __init__(self, fused: bool) -> None:
        super().__init__()
        self.norm, self.attention = nn.LayerNorm(WIDTH), Attention(fused)
        self.mlp = nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, WIDTH), nn.GELU(), nn.Linear(WIDTH, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm(x))
        return x + self.mlp(x)


class Model(nn.Module):
    """An ordinary encoder; the mean of the tokens is classified."""

    def __init__(self, fused: bool, seed: int = 0) -> None:
        torch.manual_seed(seed)
        super().__init__()
        self.layers = nn.ModuleList(Block(fused) for _ in range(LAYERS))
        self.head = nn.Linear(WIDTH, 4)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return self.head(x.mean(1))


def expected(twin: Model, x: Tensor, masks: Masks) -> Tensor:
    """Run the twin with masks; a layer without attention keeps its number."""
    attention = [block.attention for block in twin.layers]
    for layer, module in enumerate(attention):
        module.mask = masks.get(layer)  # pyright: ignore
    with torch.no_grad():
        out = twin(x)
    for module in attention:
        module.mask = None  # pyright: ignore
    return out


def cold(self: Attention, x: Tensor) -> Tensor:
    """Another forward of an attention module."""
    return Attention.forward(self, x, scale=3.0)


def swap(model: Model, rng: Random) -> None:
    model.layers[0], model.layers[1] = model.layers[1], model.layers[0]


def one(model: Model, rng: Random) -> Any:
    return model.layers[rng.randrange(len(model.layers))]


def new_block(rng: Random) -> Block:
    return Block(rng.random() < 0.5)


SURGERY: dict[str, Callable[[Model, Random], Any]] = {
    "nothing": lambda model, rng: None,
    "a layer appended": lambda model, rng: model.layers.append(new_block(rng)),
    "a layer put first": lambda model, rng: model.layers.insert(0, new_block(rng)),
    "a layer removed": lambda model, rng: model.layers.__delitem__(rng.randrange(len(model.layers))),
    "two layers swapped": swap,
    "a layer replaced": lambda model, rng: model.layers.__setitem__(rng.randrange(LAYERS), new_block(rng)),
    "one layer twice": lambda model, rng: model.layers.append(model.layers[0]),
    "attention replaced": lambda model, rng: setattr(one(model, rng), "attention", new_block(rng).attention),
    "weights": lambda model, rng: one(model, rng).attention.qkv.weight.data.mul_(2),
    "an edited forward": lambda model, rng: setattr(a := one(model, rng).attention, "forward", MethodType(cold, a)),
    "an attribute": lambda model, rng: setattr(one(model, rng).attention, "scale", 2.5),
    "the function of attention": lambda model, rng: setattr(a := one(model, rng).attention, "fused", not a.fused),
    "eps": lambda model, rng: setattr(one(model, rng).norm, "eps", 0.7),
    "a hook of torch": lambda model, rng: one(model, rng).mlp.register_forward_hook(lambda m, args, out: 0.3 * out),
    "another readout": lambda model, rng: setattr(model, "head", nn.Linear(WIDTH, 4, bias=False)),
}
"""Changes of a model; each is made to the model and to its twin, with the same random numbers."""
