"""Helpers for tests of hooks: a tiny encoder with hooks, and random edge sets with the edges that they select."""

import math
from collections.abc import Callable
from random import Random
from types import SimpleNamespace

import torch
from torch import nn
from transformer_lens.hook_points import HookPoint
from transformer_lens.HookedRootModule import HookedRootModule

from emg_lens.hooks import edges as e
from emg_lens.hooks.algebra import EdgeSet
from emg_lens.hooks.hook_points import resolve_layout
from emg_lens.hooks.verification.probe import find_intervention_point
from emg_lens.layout import TokenLayout

Edge = tuple[int, int, int, int]


class ToyAttention(nn.Module):
    def __init__(self, d_model: int, n_heads: int, *, zero_nan: bool, live: bool | str) -> None:
        super().__init__()
        self.n_heads, self.zero_nan, self.live = n_heads, zero_nan, live
        self.qkv, self.out = nn.Linear(d_model, 3 * d_model), nn.Linear(d_model, d_model)
        self.hook_attn_scores, self.hook_pattern, self.hook_z = HookPoint(), HookPoint(), HookPoint()

    def forward(self, x):
        q, k, v = (t.unflatten(-1, (self.n_heads, -1)).transpose(1, 2) for t in self.qkv(x).chunk(3, -1))
        scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
        if not self.live:  # as a bridge does: compute first, fire hooks on what is already consumed
            pattern = scores.softmax(-1)
            self.hook_attn_scores(pattern), self.hook_pattern(pattern)
            return self.out((pattern @ v).transpose(1, 2).flatten(2))
        hooked = self.hook_attn_scores(scores)
        pattern = (scores if self.live == "pattern" else hooked).softmax(-1)
        if self.zero_nan:
            pattern = pattern.nan_to_num()
        z = self.hook_z((self.hook_pattern(pattern) @ v).transpose(1, 2))
        return self.out(z.flatten(2))


class ToyBlock(nn.Module):
    def __init__(self, d_model: int, n_heads: int, **options: bool | str) -> None:
        super().__init__()
        self.attn = ToyAttention(d_model, n_heads, **options)
        self.mlp = nn.Sequential(nn.Linear(d_model, 8), nn.GELU(), nn.Linear(8, d_model))
        self.hook_resid_pre, self.hook_mlp_out = HookPoint(), HookPoint()

    def forward(self, x):
        x = self.hook_resid_pre(x)
        x = x + self.attn(x)
        return x + self.hook_mlp_out(self.mlp(x))


class Toy(HookedRootModule):
    """Channels as tokens.

    `live=False` fires its hooks too late, `live="pattern"` only those on scores; `zero_nan=False` leaves NaN
    in empty rows.
    """

    def __init__(
        self, layout: TokenLayout, n_layers=3, n_heads=2, d_model=8, *, std=0.4, **options: bool | str
    ) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layout, self.n_tokens = layout, len(layout)
        self.cfg = SimpleNamespace(n_layers=n_layers, n_heads=n_heads)
        self.embed, self.hook_embed = nn.Linear(4, d_model), HookPoint()
        self.blocks = nn.ModuleList(
            ToyBlock(d_model, n_heads, **{"zero_nan": True, "live": True, **options}) for _ in range(n_layers)
        )
        self.setup()
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=std)

    def example_input(self, batch=1):
        return torch.randn(batch, self.n_tokens, 4, generator=torch.Generator().manual_seed(1))

    def forward(self, x):
        x = self.hook_embed(self.embed(x))
        for block in self.blocks:
            x = block(x)
        return x


def hooks_left(model: nn.Module) -> list[str]:
    """Everything that a hook, an edit or a flag could have left on a model."""
    left = []
    for name, module in model.named_modules():
        kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks")
        left += [f"{name}.{kind}" for kind in kinds if module.__dict__[kind]]
        left += [f"{name}.{kind}" for kind in ("fwd_hooks", "bwd_hooks") if getattr(module, kind, None)]
        left += [f"{name}.forward"] if "forward" in module.__dict__ else []
    return left


def intervention_point(model, layout=None, inputs=None) -> str:
    """Where `cutting` cuts: "scores" or "attention_mask"."""
    return find_intervention_point(model, resolve_layout(model, layout), inputs).name


class RandomEdges:
    """Makes random edge sets, each with the set of (layer, head, dest, src) that it selects."""

    def __init__(self, rng: Random, layout: TokenLayout, n_layers: int, n_heads: int) -> None:
        self.rng, self.layout, self.n_layers, self.n_heads = rng, layout, n_layers, n_heads
        n = range(len(layout))
        self.universe = {(a, b, d, s) for a in range(n_layers) for b in range(n_heads) for d in n for s in n}
        self.names = list(layout.modalities)

    def draw(self, depth: int = 3) -> tuple[EdgeSet, set[Edge]]:
        if depth == 0 or self.rng.random() < 0.25:
            return self.leaf()
        left, meant_left = self.draw(depth - 1)
        kind = self.rng.choice(["|", "&", "-", "~", "at"])
        if kind == "~":
            return ~left, self.universe - meant_left
        if kind == "at":
            return self.at(left, meant_left)
        right, meant_right = self.draw(depth - 1)
        if kind == "|":
            return left | right, meant_left | meant_right
        if kind == "&":
            return left & right, meant_left & meant_right
        return left - right, meant_left - meant_right

    def at(self, edges: EdgeSet, meant: set[Edge]) -> tuple[EdgeSet, set[Edge]]:
        layer = self.rng.randrange(-self.n_layers, self.n_layers)
        heads = self.rng.sample(range(self.n_heads), self.rng.randint(1, self.n_heads))
        start = self.rng.randrange(self.n_layers)
        layers, chosen = self.rng.choice(
            [
                (layer, {layer % self.n_layers}),
                (slice(start, None), set(range(start, self.n_layers))),
                (None, None),
            ]
        )
        chosen = set(range(self.n_layers)) if chosen is None else chosen
        return edges.at(layers=layers, heads=heads), {m for m in meant if m[0] in chosen and m[1] in set(heads)}

    def leaf(self) -> tuple[EdgeSet, set[Edge]]:
        group, channel, patch = self.layout.group, self.layout.channel, self.layout.patch
        some = self.rng.sample(self.names, self.rng.randint(0, len(self.names)))
        places = self.rng.sample(range(len(self.layout)), 2)
        known = [*self.names, *("cls",) * self.layout.has_cls]
        src, dest = self.rng.choice(known), self.rng.choice(known)
        low = self.rng.randint(-2, 1)
        named = set(some or self.names)
        options: list[tuple[EdgeSet, Callable[[int, int], bool]]] = [
            (e.unimodal(*some), lambda d, s: group[d] == group[s] and group[d] in named),
            (e.flow(src, dest), lambda d, s: group[d] == dest and group[s] == src),
            (e.self_edges(), lambda d, s: d == s),
            (e.positions(dest=places), lambda d, s: d in places),
            (e.positions(src=[places[0], self.layout.names[places[1]]]), lambda d, s: s in places),
            (e.every(), lambda d, s: True),
            (e.none(), lambda d, s: False),
        ]
        if self.layout.has_cls:
            options.append((e.cls_edges(), lambda d, s: (group[d] == "cls") != (group[s] == "cls")))
        if len(some) != 1:
            apart = e.cross_modal(*some)
            options.append((apart, lambda d, s: group[d] != group[s] and {group[d], group[s]} <= named))
        if max(channel) >= 0:
            same = lambda d, s: group[d] == group[s] and channel[d] == channel[s] != -1  # noqa: E731
            options.append((e.same_channel(), same))
        if max(patch) >= 0:
            both = lambda d, s: patch[d] >= 0 and patch[s] >= 0  # noqa: E731
            options.append((e.same_patch(), lambda d, s: both(d, s) and patch[d] == patch[s]))
            options.append((e.lag(low, low + 1), lambda d, s: both(d, s) and low <= patch[d] - patch[s] <= low + 1))
        edges, holds = self.rng.choice(options)
        return edges, {m for m in self.universe if holds(m[2], m[3])}


def as_tuples(mask: torch.Tensor) -> set[Edge]:
    return {tuple(index) for index in mask.nonzero().tolist()}
