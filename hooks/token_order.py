"""Tokens that change places within a trial: what a model makes of where they stand, and not of what they carry."""

from collections import defaultdict
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from emg_lens.hooks.algebra import EdgeError
from emg_lens.hooks.cuts import Hook
from emg_lens.hooks.hook_points import resolve_layout
from emg_lens.hooks.model_inputs import Inputs, example_inputs
from emg_lens.hooks.replacement_options import Seed, Within
from emg_lens.hooks.values import Activation, Tokens, check_live, check_shape, find_tokens, own_layout
from emg_lens.layout import NO_INDEX, TokenLayout
from emg_lens.validation import checked


@checked
def shuffle(
    model: nn.Module,
    tokens: Tokens,
    within: Within = "all",
    at: str = "hook_embed",
    layout: TokenLayout | None = None,
    *,
    seed: Seed = 0,
    inputs: Inputs | None = None,
) -> list[Hook]:
    """Hooks that let some tokens change places: `model.run_with_hooks(x, fwd_hooks=shuffle(model, "emg", "channel"))`.

    Before positions are added or rotated in (`"hook_embed"`) the tokens keep what they carry and lose where they stood.
    A model that knows nothing of positions gives the same for every order that its readout does not tell apart.

    Args:
        model: A TransformerLens model.
        tokens: Group names, token names or positions.
        within: Among which of these tokens: `"all"`; `"channel"`, the patches of each channel (time loses its order);
            `"patch"`, the channels of each patch (electrodes lose their places).
        at: Hook point with activations `[batch, pos, ...]`.
        layout: What the positions stand for; default `model.layout`.
        seed: Of the order, which is the same for all trials.
        inputs: A small input to check the hook point with, where none can be made from the model's configuration.

    Raises:
        EdgeError: Unknown tokens or hook point, tokens without a channel or patch, no two tokens that could change
            places, or (in the forward) activations of another shape.
        DeadHookError: An edit at `at` does not reach the model's output.
    """
    layout = own_layout(resolve_layout(model, layout), at)
    order = shuffled(layout, tokens, within, seed)
    check_live(model, at, inputs if inputs is not None else example_inputs(model, len(layout)))

    def reorder(x: Activation, hook: Any) -> Activation:  # noqa: ARG001
        check_shape(x, layout, at)
        return x[:, order.to(x.device)]

    return [(at, reorder)]


def shuffled(layout: TokenLayout, tokens: Tokens, within: Within, seed: int) -> Int[Tensor, " pos"]:
    """Which position each position takes its token from.

    Raises:
        EdgeError: As `shuffle`.
    """
    alike: dict[object, list[int]] = defaultdict(list)
    for position in find_tokens(layout, tokens).tolist():
        group, channel, patch = layout.group[position], layout.channel[position], layout.patch[position]
        if within != "all" and (channel if within == "channel" else patch) == NO_INDEX:
            raise EdgeError(f"token {layout.names[position]!r} has no {within}; give within='all', or other tokens")
        alike[{"all": None, "channel": (group, channel), "patch": patch}[within]].append(position)
    if all(len(places) < 2 for places in alike.values()):
        raise EdgeError(f"within={within!r} leaves none of these {sum(map(len, alike.values()))} tokens another place")
    order, random = torch.arange(len(layout)), torch.Generator().manual_seed(seed)
    for places in alike.values():
        order[places] = torch.tensor(places)[_moved(len(places), random)]
    return order


def _moved(n: int, random: torch.Generator) -> Int[Tensor, " place"]:
    """A random order that is not the one there is, where there is another."""
    order = torch.randperm(n, generator=random)
    return order.roll(1) if n > 1 and torch.equal(order, torch.arange(n)) else order
