"""With which rotary positions a TinyMyo was trained: by its masked reconstruction under each, on windows of one's own.

Files of the published model mostly do not say (docs/tinymyo-model.md §9.3), and the wrong ones cost accuracy without a
word.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import get_args

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from pydantic import NonNegativeInt, PositiveInt
from scipy.stats import ttest_rel
from torch import Tensor

from emg_lens.lens.config import Share
from emg_lens.models.tinymyo.config import POSITIONS_OF, Rope
from emg_lens.models.tinymyo.encoder import TinyMyo
from emg_lens.validation import ArgumentError, checked

CLEAR = 1e-3
"""Largest p of a winner that is called clear, against the second; and it must win in three of four windows."""
CLEAR_SHARE = 0.75
SPAN_TOLERANCE = 1e-3
"""How far from -1 and 1 the extremes of a scaled channel may lie."""


@dataclass(frozen=True)
class RopeDetection:
    """What `detect_rope_mode` found.

    Attributes:
        winner: What rotary positions run over in the mode of least loss.
        second: The same of the next.
        losses: Mean masked loss of each mode.
        windows: Masked loss of each window (row) under each mode (column).
        won: Share of windows in which the winner's loss is below the second's.
        p: Of a paired one-sided t test over windows, winner against second; windows that overlap make it too small.
        filling: Mean loss of what needs no model: each hidden token filled with the mean of its channel's visible ones.
        is_clear: Whether `p` is at most 0.001, three of four windows are won, and the winner's loss is below `filling`:
            of a model that fills in nothing, no mode is told.
        spread: In each mode, how far predictions of hidden tokens of one window lie apart (standard deviation over
            tokens); 0 in mode `"none"`, where tokens that are hidden cannot be told apart.
    """

    winner: Rope
    second: Rope
    losses: dict[str, float]
    windows: pd.DataFrame
    won: float
    p: float
    filling: float
    is_clear: bool
    spread: dict[str, float]

    def __repr__(self) -> str:
        told = ", ".join(f"{mode} {loss:.4g}" for mode, loss in self.losses.items())
        how = "clear" if self.is_clear else "not clear"
        return (
            f"RopeDetection(rope={self.winner!r}, {how}: masked loss {told}, of the mean"
            f" {self.filling:.4g}; below {self.second!r} in"
            f" {self.won:.0%} of {len(self.windows)} windows, p={self.p:.2g})"
        )


@checked
def detect_rope_mode(
    model: TinyMyo,
    windows: Float[Tensor, "window channel time"],
    *,
    modes: Sequence[Rope] = get_args(Rope),
    share: Share = 0.5,
    seed: NonNegativeInt = 0,
    batch_size: PositiveInt = 32,
) -> RopeDetection:
    """Masked reconstruction loss under each mode of rotary positions, on the same windows with the same tokens hidden.

    The loss is that of pre-training: smooth L1 of the hidden samples (docs/tinymyo-model.md §9.1 says what the modes
    are).

    ```python
    found = detect_rope_mode(TinyMyo.from_published("pretrained.ckpt", modalities={"emg": 8}), windows)
    model = TinyMyo.from_published("pretrained.ckpt", modalities={"emg": 8}, rope=found.winner)
    ```

    Weights that were trained with a rotation lose much without it. Those that were trained without lose little by one,
    so that `"none"` may win by a small margin that is not called clear: look at `losses`, and give more windows.

    Args:
        model: With the head of pre-training (`head="reconstruction"`); it is left as it is.
        windows: Scaled as for pre-training: each channel of each window to -1 to 1, but those that are constant in all
            of them. Dozens will do; each counts once.
        modes: Those to compare, two or more.
        share: Of tokens to hide.
        seed: Of the draw of these tokens.
        batch_size: Windows a forward.

    Raises:
        ArgumentError: A model with another head, fewer than three windows, windows that are there twice, values that
            are not finite or not scaled, or fewer than two modes.
    """
    if model.cfg.head != "reconstruction" or not model.cfg.mask_token:
        raise ArgumentError(
            f"detect_rope_mode compares masked reconstructions: expected head='reconstruction' and mask_token=True, got"
            f" {model.cfg.head!r} and {model.cfg.mask_token}"
        )
    if len(set(modes)) < 2 or len(set(modes)) != len(modes):
        raise ArgumentError(f"modes={list(modes)}; expected two or more of {', '.join(get_args(Rope))}, each once")
    model.check_signals(windows)
    if len(windows) < 3 or not windows.isfinite().all() or not _are_scaled(windows):
        raise ArgumentError(
            f"{len(windows)} windows between {float(windows.min()):.3g} and {float(windows.max()):.3g}; expected three"
            " or more, finite, each channel of each window scaled to -1 to 1 (silent windows left out)"
        )
    n_different = len(windows.unique(dim=0))
    if n_different < len(windows):
        raise ArgumentError(f"{len(windows)} windows, of which {n_different} are different; give each once")
    n_tokens = model.cfg.n_ctx
    n_hidden = int(share * n_tokens)
    if n_hidden < 2:
        raise ArgumentError(f"share={share} of {n_tokens} tokens hides {n_hidden}; expected two or more")
    order = torch.rand(len(windows), n_tokens, generator=torch.Generator().manual_seed(seed)).argsort(1)
    hidden = order < n_hidden  # a random permutation: so many of each window
    found, spread, filling = {}, {}, float(_filling_loss(model, windows, hidden.to(windows.device)))
    for mode in modes:
        twin = TinyMyo(replace(model.cfg, positions=POSITIONS_OF[mode])).to(windows.device, windows.dtype).eval()
        twin.load_state_dict(model.state_dict())
        losses, spreads = [], []
        with torch.no_grad():
            for x, masked in zip(windows.split(batch_size), hidden.split(batch_size), strict=True):
                loss, apart = _of_batch(twin, x, masked.to(x.device))
                losses.append(loss)
                spreads.append(apart)
        found[mode], spread[mode] = torch.cat(losses).double().cpu().numpy(), torch.cat(spreads).mean().item()
    return _decide(pd.DataFrame(found), spread, filling)


def _are_scaled(windows: Float[Tensor, "window channel time"]) -> bool:
    """Whether each channel of each window spans -1 to 1, those aside that are constant in every window."""
    low, high = windows.aminmax(dim=-1)
    spans = ((low + 1).abs() <= SPAN_TOLERANCE) & ((high - 1).abs() <= SPAN_TOLERANCE)
    silent = (low == high).all(0)
    return bool((spans | silent).all() and not silent.all())


def _in_tokens(model: TinyMyo, x: Float[Tensor, "window channel time"]) -> Float[Tensor, "window token sample"]:
    patch = int(model.cfg.patch_samples or 0)
    used = x[..., : model.cfg.n_patches * patch]
    return rearrange(used, "window channel (patch sample) -> window (channel patch) sample", sample=patch)


def _filling_loss(model: TinyMyo, x: Tensor, masked: Tensor) -> Tensor:
    """Masked loss of the mean of what is visible of a channel; zero where nothing is."""
    wanted, shape = _in_tokens(model, x), (len(x), -1, model.cfg.n_patches)
    visible = (~masked).view(shape).to(x.dtype)
    means = (wanted.mean(-1).view(shape) * visible).sum(-1) / visible.sum(-1).clamp(min=1)
    filled = means[..., None].expand(-1, -1, shape[-1]).flatten(1)[..., None].expand_as(wanted)
    return F.smooth_l1_loss(filled[masked], wanted[masked])


def _of_batch(model: TinyMyo, x: Tensor, masked: Tensor) -> tuple[Tensor, Tensor]:
    """Masked loss of each window, and how far its predictions lie apart."""
    wanted, out = _in_tokens(model, x), _in_tokens(model, model(x, masked=masked))
    error = F.smooth_l1_loss(out, wanted, reduction="none").mean(-1)
    loss = (error * masked).sum(1) / masked.sum(1)
    of_hidden = out[masked].view(len(x), -1, out.shape[-1])
    return loss, of_hidden.std(1).mean(-1)


def _decide(windows: pd.DataFrame, spread: dict[str, float], filling: float) -> RopeDetection:
    losses = windows.mean().sort_values()
    winner, second = losses.index[:2]
    gap = windows[winner] - windows[second]
    p = float(ttest_rel(windows[winner], windows[second], alternative="less").pvalue) if np.ptp(gap) > 0 else 1.0
    won = float((gap < 0).mean())
    clear = bool(p <= CLEAR and won >= CLEAR_SHARE and losses.iloc[0] < filling)
    return RopeDetection(winner, second, losses.to_dict(), windows, won, p, filling, clear, spread)
