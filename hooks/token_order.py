"""Change the order of tokens within a trial, to measure how much a model uses their position."""

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
    """Make hooks that change the order of some tokens, in the same way for all trials.

    At `"hook_embed"`, before position information is added, the tokens keep their values and lose their positions. A
    model without position information gives the same output for every order to which its readout is invariant.

    Args:
        model: A TransformerLens model.
        tokens: Group names, token names or positions.
        within: Which of these tokens exchange places: `"all"`; `"channel"`: the patches of each channel (the order in
            time is lost); `"patch"`: the channels of each patch (the places of the electrodes are lost).
        at: Hook point with activations `[batch, pos, ...]`.
        layout: The layout of the positions; default `model.layout`.
        seed: Random seed of the order.
        inputs: A small input to test the hook point, where none can be made from the model's configuration.

    Returns:
        Hooks for `model.run_with_hooks(x, fwd_hooks=hooks)`.

    Example:
        >>> import torch
        >>> from emg_lens import IsoNet, IsoNetConfig
        >>> from emg_lens.hooks import shuffle
        >>> model = IsoNet(IsoNetConfig(modalities={"emg": 4, "acc": 3}, n_samples=8, n_classes=3, n_layers=1))
        >>> model.run_with_hooks(torch.randn(2, 7, 8), fwd_hooks=shuffle(model, "emg")).shape
        torch.Size([2, 3])
    """
    layout = own_layout(resolve_layout(model, layout), at)
    order = shuffled(layout, tokens, within, seed)
    check_live(model, at, inputs if inputs is not None else example_inputs(model, len(layout)))

    def reorder(x: Activation, hook: Any) -> Activation:  # noqa: ARG001
        check_shape(x, layout, at)
        return x[:, order.to(x.device)]

    return [(at, reorder)]


def shuffled(layout: TokenLayout, tokens: Tokens, within: Within, seed: int) -> Int[Tensor, " pos"]:
    """Return, for each position, the old position of the token that is moved there."""
    alike: dict[object, list[int]] = defaultdict(list)
    for position in find_tokens(layout, tokens).tolist():
        group, channel, patch = layout.group[position], layout.channel[position], layout.patch[position]
        if within != "all" and (channel if within == "channel" else patch) == NO_INDEX:
            raise EdgeError(f"token {layout.names[position]!r} has no {within}; use within='all', or other tokens")
        alike[{"all": None, "channel": (group, channel), "patch": patch}[within]].append(position)
    if all(len(places) < 2 for places in alike.values()):
        n_tokens = sum(map(len, alike.values()))
        raise EdgeError(f"within={within!r}: fewer than two of these {n_tokens} tokens can exchange places; add tokens")
    order, random = torch.arange(len(layout)), torch.Generator().manual_seed(seed)
    for places in alike.values():
        moved = torch.randperm(len(places), generator=random)
        if torch.equal(moved, torch.arange(len(places))):  # at least two tokens exchange places
            moved = moved.roll(1)
        order[places] = torch.tensor(places)[moved]
    return order
