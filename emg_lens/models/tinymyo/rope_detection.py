"""Detect the rotary positions of a trained TinyMyo from its masked reconstruction of your own windows.

Most files of the published model do not state them (docs/tinymyo-model.md §9.3), and wrong ones lower the accuracy
without an error.
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

from emg_lens.lens.config import Fraction
from emg_lens.models.tinymyo.config import POSITIONS_OF, Rope
from emg_lens.models.tinymyo.encoder import TinyMyo
from emg_lens.validation import ArgumentError, checked

CLEAR = 1e-3
"""Largest p of a clear winner against the second mode; it must also win in three of four windows."""
CLEAR_FRACTION = 0.75
SPAN_TOLERANCE = 1e-3
"""Largest distance of the extremes of a scaled channel from -1 and 1."""


@dataclass(frozen=True)
class RopeDetection:
    """The result of `detect_rope_mode`.

    Attributes:
        winner: The mode with the smallest loss.
        second: The mode with the next smallest loss.
        losses: Mean masked loss of each mode.
        windows: Masked loss of each window (row) under each mode (column).
        won_fraction: Fraction of windows in which the winner's loss is below the second's.
        p: p value of a paired one-sided t test over windows, winner against second; overlapping windows make it too
            small.
        fill_loss: Mean loss without a model: each hidden token is filled with the mean of its channel's visible ones.
        is_clear: Whether `p` is at most 0.001, the winner wins in three of four windows, and its loss is below
            `fill_loss`. A model that is worse than filling gives no clear answer.
        spread: Standard deviation over hidden tokens of their predictions in one window, for each mode. It is 0 in mode
            `"none"`, in which hidden tokens cannot be distinguished.
    """

    winner: Rope
    second: Rope
    losses: dict[str, float]
    windows: pd.DataFrame
    won_fraction: float
    p: float
    fill_loss: float
    is_clear: bool
    spread: dict[str, float]

    def __repr__(self) -> str:
        losses = ", ".join(f"{mode} {loss:.4g}" for mode, loss in self.losses.items())
        how = "clear" if self.is_clear else "not clear"
        return (
            f"RopeDetection(rope={self.winner!r}, {how}: masked loss {losses}, of filling with means"
            f" {self.fill_loss:.4g}; below {self.second!r} in"
            f" {self.won_fraction:.0%} of {len(self.windows)} windows, p={self.p:.2g})"
        )


@checked
def detect_rope_mode(
    model: TinyMyo,
    windows: Float[Tensor, "window channel time"],
    *,
    modes: Sequence[Rope] = get_args(Rope),
    hidden_fraction: Fraction = 0.5,
    seed: NonNegativeInt = 0,
    batch_size: PositiveInt = 32,
) -> RopeDetection:
    """Compare the masked reconstruction loss under each mode of rotary positions, with the same hidden tokens.

    The loss is the same as in pre-training: smooth L1 of the hidden samples. docs/tinymyo-model.md §9.1 describes the
    modes.

    ```python
    detection = detect_rope_mode(TinyMyo.from_published("pretrained.ckpt", modalities={"emg": 8}), windows)
    model = TinyMyo.from_published("pretrained.ckpt", modalities={"emg": 8}, rope=detection.winner)
    ```

    Weights that were trained with a rotation are much worse without it. Weights that were trained without a rotation
    are only a little worse with one, so `"none"` may win without being clear. Then look at `losses`, and use more
    windows.

    Args:
        model: A model with the head of pre-training (`head="reconstruction"`); it is not changed.
        windows: Windows scaled as in pre-training: each channel of each window to -1 to 1, except channels that are
            constant in all windows. Some dozens are enough.
        modes: Two or more modes to compare.
        hidden_fraction: Fraction of the tokens to hide.
        seed: Seed of the random choice of these tokens.
        batch_size: Windows in one forward.

    Returns:
        The mode with the smallest loss, and how clear it is.

    Raises:
        ArgumentError: A model with another head, fewer than three windows, duplicate windows, values that are not
            finite or not scaled, or fewer than two modes.

    Example:
        >>> import torch
        >>> from emg_lens.models import TinyMyo, TinyMyoConfig, detect_rope_mode
        >>> _ = torch.manual_seed(0)
        >>> model = TinyMyo(TinyMyoConfig({"emg": 2}, n_samples=80, n_classes=0, head="reconstruction", n_layers=1))
        >>> windows = torch.randn(6, 2, 80)
        >>> low, high = windows.amin(2, keepdim=True), windows.amax(2, keepdim=True)
        >>> detection = detect_rope_mode(model, 2 * (windows - low) / (high - low) - 1)
        >>> detection.is_clear  # random weights: no mode is better than filling with means
        False
    """
    if model.cfg.head != "reconstruction" or not model.cfg.mask_token:
        raise ArgumentError(
            f"head={model.cfg.head!r}, mask_token={model.cfg.mask_token}; detect_rope_mode needs a model with"
            " head='reconstruction' and mask_token=True"
        )
    if len(set(modes)) < 2 or len(set(modes)) != len(modes):
        raise ArgumentError(f"modes={list(modes)}; expected two or more of {', '.join(get_args(Rope))}, each once")
    model.check_signals(windows)
    if len(windows) < 3 or not windows.isfinite().all() or not _are_scaled(windows):
        raise ArgumentError(
            f"{len(windows)} windows between {float(windows.min()):.3g} and {float(windows.max()):.3g}; expected three"
            " or more finite ones, each channel of each window scaled to -1 to 1, without constant windows"
        )
    n_different = len(windows.unique(dim=0))
    if n_different < len(windows):
        raise ArgumentError(f"only {n_different} of {len(windows)} windows are different; give each window once")
    n_tokens = model.cfg.n_ctx
    n_hidden = int(hidden_fraction * n_tokens)
    if n_hidden < 2:
        raise ArgumentError(
            f"hidden_fraction={hidden_fraction} of {n_tokens} tokens hides {n_hidden}; expected two or more"
        )
    order = torch.rand(len(windows), n_tokens, generator=torch.Generator().manual_seed(seed)).argsort(1)
    hidden = order < n_hidden  # the same number in each window
    by_mode, spread, fill_loss = {}, {}, float(_fill_loss(model, windows, hidden.to(windows.device)))
    for mode in modes:
        twin = TinyMyo(replace(model.cfg, positions=POSITIONS_OF[mode])).to(windows.device, windows.dtype).eval()
        twin.load_state_dict(model.state_dict())
        losses, spreads = [], []
        with torch.no_grad():
            for x, masked in zip(windows.split(int(batch_size)), hidden.split(int(batch_size)), strict=True):
                loss, apart = _of_batch(twin, x, masked.to(x.device))
                losses.append(loss)
                spreads.append(apart)
        by_mode[mode], spread[mode] = torch.cat(losses).double().cpu().numpy(), torch.cat(spreads).mean().item()
    return _decide(pd.DataFrame(by_mode), spread, fill_loss)


def _are_scaled(windows: Float[Tensor, "window channel time"]) -> bool:
    """Whether each channel of each window spans -1 to 1, except channels that are constant in every window."""
    low, high = windows.aminmax(dim=-1)
    spans = ((low + 1).abs() <= SPAN_TOLERANCE) & ((high - 1).abs() <= SPAN_TOLERANCE)
    silent = (low == high).all(0)
    return bool((spans | silent).all() and not silent.all())


def _in_tokens(model: TinyMyo, x: Float[Tensor, "window channel time"]) -> Float[Tensor, "window token sample"]:
    patch = int(model.cfg.patch_samples or 0)
    used = x[..., : model.cfg.n_patches * patch]
    return rearrange(used, "window channel (patch sample) -> window (channel patch) sample", sample=patch)


def _fill_loss(model: TinyMyo, x: Tensor, masked: Tensor) -> Tensor:
    """Compute the masked loss of filling with the mean of the channel's visible tokens (zero if there are none)."""
    wanted, shape = _in_tokens(model, x), (len(x), -1, model.cfg.n_patches)
    visible = (~masked).view(shape).to(x.dtype)
    means = (wanted.mean(-1).view(shape) * visible).sum(-1) / visible.sum(-1).clamp(min=1)
    filled = means[..., None].expand(-1, -1, shape[-1]).flatten(1)[..., None].expand_as(wanted)
    return F.smooth_l1_loss(filled[masked], wanted[masked])


def _of_batch(model: TinyMyo, x: Tensor, masked: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the masked loss of each window, and the spread of its predictions."""
    wanted, out = _in_tokens(model, x), _in_tokens(model, model(x, masked=masked))
    error = F.smooth_l1_loss(out, wanted, reduction="none").mean(-1)
    loss = (error * masked).sum(1) / masked.sum(1)
    of_hidden = out[masked].view(len(x), -1, out.shape[-1])
    return loss, of_hidden.std(1).mean(-1)


def _decide(windows: pd.DataFrame, spread: dict[str, float], fill_loss: float) -> RopeDetection:
    losses = windows.mean().sort_values()
    winner, second = losses.index[:2]
    gap = windows[winner] - windows[second]
    p = float(ttest_rel(windows[winner], windows[second], alternative="less").pvalue) if np.ptp(gap) > 0 else 1.0
    won = float((gap < 0).mean())
    clear = bool(p <= CLEAR and won >= CLEAR_FRACTION and losses.iloc[0] < fill_loss)
    return RopeDetection(winner, second, losses.to_dict(), windows, won, p, fill_loss, clear, spread)
