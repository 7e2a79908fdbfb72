"""Masked reconstruction: which tokens are hidden, and what the loss of a reconstruction is (docs/pretraining.md §10.2)."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from einops import reduce, repeat
from jaxtyping import Bool, Float
from torch import Tensor

from emg_lens.validation import ArgumentError

TRAINING, VALIDATION = 0, 1
"""Streams that masks are drawn from."""


def draw_mask(real: Bool[np.ndarray, " token"], share: float, seed: Sequence[int]) -> Bool[np.ndarray, " token"]:
    """Exactly `int(share * n)` of the `n` real tokens, without replacement, the same for the same seed.

    Args:
        real: Tokens that may be masked.
        share: Which part of them.
        seed: Numbers that stand for the window and the epoch.

    Raises:
        ArgumentError: No token would be masked, or none visible.
    """
    may = np.flatnonzero(real)
    n = int(share * len(may))
    if not 0 < n < len(may):
        raise ArgumentError(f"masked_fraction={share:g} masks {n} of {len(may)} tokens; some must be masked, some visible")
    found = np.zeros(len(real), bool)
    found[np.random.default_rng(seed).permutation(may)[:n]] = True
    return found


def token_errors(
    found: Float[Tensor, "window channel time"], wanted: Float[Tensor, "window channel time"], patches: int, beta: float
) -> Float[Tensor, "window token"]:
    """Mean Smooth-L1 error of each token's samples; tokens channel-major. Samples behind the last patch do not count.

    Args:
        found: Reconstruction.
        wanted: The signal.
        patches: Tokens of a channel.
        beta: See `torch.nn.functional.smooth_l1_loss`.
    """
    length = wanted.shape[-1] // patches * patches
    errors = F.smooth_l1_loss(found[..., :length].float(), wanted[..., :length].float(), reduction="none", beta=beta)
    return reduce(errors, "window channel (patch sample) -> window (channel patch)", "mean", patch=patches)


def masked_and_visible(
    errors: Float[Tensor, "window token"], masked: Bool[Tensor, "window token"], real: Bool[Tensor, "window token"]
) -> tuple[Float[Tensor, " window"], Float[Tensor, " window"]]:
    """Mean error of the masked and of the visible real tokens of each window."""
    visible = real & ~masked
    return tuple((errors * of).sum(1) / of.sum(1).clamp(min=1) for of in (masked, visible))  # pyright: ignore


def reconstruction_losses(
    found: Float[Tensor, "window channel time"],
    wanted: Float[Tensor, "window channel time"],
    masked: Bool[Tensor, "window token"],
    real: Bool[Tensor, "window token"],
    patches: int,
    beta: float,
) -> tuple[Float[Tensor, " window"], Float[Tensor, " window"]]:
    """Masked and visible loss of each window; arguments as in `token_errors` and `masked_and_visible`."""
    return masked_and_visible(token_errors(found, wanted, patches, beta), masked, real)


def total_loss(
    masked: Float[Tensor, " window"], visible: Float[Tensor, " window"], visible_weight: float
) -> Float[Tensor, " window"]:
    """What is learned from: the masked loss, and the visible one with its weight."""
    return masked + visible_weight * visible


def of_samples(
    masked: Bool[Tensor, "window token"], channels: int, samples: int
) -> Bool[Tensor, "window channel time"]:
    """Which samples masked tokens stand for; samples behind the last patch are visible."""
    patches = masked.shape[1] // channels
    size = samples // patches
    found = repeat(masked, "window (channel patch) -> window channel (patch sample)", channel=channels, sample=size)
    return F.pad(found, (0, samples - patches * size))


def of_tokens(real: Bool[np.ndarray, "window channel"], patches: int) -> Bool[np.ndarray, "window token"]:
    """What is said of channels, of their tokens."""
    return repeat(real, "window channel -> window (channel patch)", patch=patches)


def n_patches(model: torch.nn.Module) -> int:
    """Tokens of a channel of a model whose tokens are patches of channels.

    Raises:
        ArgumentError: Its tokens are something else.
    """
    signals: Any = model
    n_tokens, n_channels = len(signals.layout), signals.cfg.n_channels
    if n_tokens % n_channels or n_tokens < n_channels:
        raise ArgumentError(
            f"{type(model).__name__} has {n_tokens} tokens for {n_channels} channels; masked reconstruction needs"
            " tokens that are patches of channels"
        )
    return n_tokens // n_channels
