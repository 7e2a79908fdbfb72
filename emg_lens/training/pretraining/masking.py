"""Masked reconstruction: random masks of tokens, and the loss of a reconstruction (docs/pretraining.md §10.2)."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from einops import reduce, repeat
from jaxtyping import Bool, Float
from torch import Tensor

from emg_lens.layout import TokenLayout
from emg_lens.validation import ArgumentError, short

TRAINING, VALIDATION = 0, 1
"""Streams of random numbers for the masks."""


def random_mask(real: Bool[np.ndarray, " token"], fraction: float, seed: Sequence[int]) -> Bool[np.ndarray, " token"]:
    """Mask exactly `int(fraction * n)` of the `n` real tokens (no padding) at random, without replacement.

    The same seed (numbers of the window and the epoch) gives the same mask. At least one token must be masked, and one
    visible.
    """
    candidates = np.flatnonzero(real)
    n = int(fraction * len(candidates))
    if not 0 < n < len(candidates):
        raise ArgumentError(
            f"masked_fraction={fraction:g} masks {n} of {len(candidates)} tokens; at least one must be masked, and one"
            " visible"
        )
    mask = np.zeros(len(real), bool)
    mask[np.random.default_rng(seed).permutation(candidates)[:n]] = True
    return mask


def token_errors(
    reconstruction: Float[Tensor, "window channel time"],
    signal: Float[Tensor, "window channel time"],
    patches: int,
    beta: float,
) -> Float[Tensor, "window token"]:
    """Average the Smooth-L1 error over the samples of each token; tokens are in channel-major order.

    Samples after the last whole patch are left out. `patches` is the number of tokens per channel.
    """
    length = signal.shape[-1] // patches * patches
    pair = (reconstruction[..., :length].float(), signal[..., :length].float())
    errors = F.smooth_l1_loss(*pair, reduction="none", beta=beta)
    return reduce(errors, "window channel (patch sample) -> window (channel patch)", "mean", patch=patches)


def masked_and_visible_errors(
    errors: Float[Tensor, "window token"], masked: Bool[Tensor, "window token"], real: Bool[Tensor, "window token"]
) -> tuple[Float[Tensor, " window"], Float[Tensor, " window"]]:
    """Average the errors over the masked real tokens, and over the visible real tokens, of each window."""
    visible = real & ~masked
    return tuple((errors * of).sum(1) / of.sum(1).clamp(min=1) for of in (masked, visible))  # pyright: ignore


def reconstruction_losses(
    reconstruction: Float[Tensor, "window channel time"],
    signal: Float[Tensor, "window channel time"],
    masked: Bool[Tensor, "window token"],
    real: Bool[Tensor, "window token"],
    patches: int,
    beta: float,
) -> tuple[Float[Tensor, " window"], Float[Tensor, " window"]]:
    """Masked and visible loss of each window; arguments as in `token_errors` and `masked_and_visible_errors`."""
    return masked_and_visible_errors(token_errors(reconstruction, signal, patches, beta), masked, real)


def total_loss(
    masked: Float[Tensor, " window"], visible: Float[Tensor, " window"], visible_weight: float
) -> Float[Tensor, " window"]:
    """The loss that is minimised: the masked loss plus the weighted visible loss."""
    return masked + visible_weight * visible


def masked_samples(
    masked: Bool[Tensor, "window token"], channels: int, samples: int
) -> Bool[Tensor, "window channel time"]:
    """Expand a mask of tokens to samples. Samples after the last whole patch are visible."""
    patches = masked.shape[1] // channels
    size = samples // patches
    mask = repeat(masked, "window (channel patch) -> window channel (patch sample)", channel=channels, sample=size)
    return F.pad(mask, (0, samples - patches * size))


def tokens_of_channels(real: Bool[np.ndarray, "window channel"], patches: int) -> Bool[np.ndarray, "window token"]:
    """Expand a mask of channels to their tokens."""
    return repeat(real, "window channel -> window (channel patch)", patch=patches)


def n_patches(model: torch.nn.Module) -> int:
    """Return the number of tokens per channel of a model with patches of channels as tokens."""
    signals: Any = model
    if not isinstance(getattr(model, "layout", None), TokenLayout) or not hasattr(model, "check_signals"):
        raise ArgumentError(f"model={short(model)}; expected a pre-trained model, as from build_model('tinymyo', ...)")
    n_tokens, n_channels = len(signals.layout), signals.cfg.n_channels
    if n_tokens % n_channels or n_tokens < n_channels:
        raise ArgumentError(
            f"{type(model).__name__} has {n_tokens} tokens for {n_channels} channels; masked reconstruction needs"
            " tokens that are patches of channels, as in TinyMyo"
        )
    return n_tokens // n_channels
