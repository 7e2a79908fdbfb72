"""Reconstruction error of a pre-trained encoder on masked samples, compared with two methods that need no model.

`mean` replaces the masked samples of a channel by the mean of its visible samples. `interpolation` draws straight lines
between the visible samples next to a gap (constant at the ends of the window). A channel without visible samples gets
the mean of all visible samples of the window. Details: docs/pretraining.md §10.4.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from einops import reduce
from jaxtyping import Bool, Float
from pydantic import NonNegativeInt, PositiveInt
from torch import Tensor

from emg_lens.tables import WholeTable
from emg_lens.training.pretraining.masking import masked_samples, n_patches, random_mask
from emg_lens.validation import ArgumentError, checked

MODEL = "model"
AT_ONCE = 64
"""Windows per forward pass."""
GAPS = 2
"""Stream of random numbers for the positions of gaps."""

Windows = Float[np.ndarray, "window channel time"]
Hidden = Bool[np.ndarray, "window channel time"]


def predict_mean(x: Windows, hidden: Hidden) -> Windows:
    """Replace hidden samples by the mean of the visible samples of their channel."""
    visible = np.where(hidden, 0.0, x)
    n = (~hidden).sum(axis=2, keepdims=True)
    whole = visible.sum(axis=(1, 2), keepdims=True) / np.maximum((~hidden).sum(axis=(1, 2), keepdims=True), 1)
    mean = np.where(n > 0, visible.sum(axis=2, keepdims=True) / np.maximum(n, 1), whole)
    return np.where(hidden, mean, x).astype(x.dtype)


def interpolate(x: Windows, hidden: Hidden) -> Windows:
    """Replace hidden samples by straight lines between the visible samples of their channel."""
    filled, times = predict_mean(x, hidden), np.arange(x.shape[2])
    for window, channel in np.argwhere(hidden.any(axis=2) & ~hidden.all(axis=2)):
        gap = hidden[window, channel]
        filled[window, channel, gap] = np.interp(times[gap], times[~gap], x[window, channel, ~gap])
    return filled


BASELINES: Mapping[str, Callable[[Windows, Hidden], Windows]] = {"mean": predict_mean, "interpolation": interpolate}


@torch.no_grad()
@checked
def reconstruct(
    model: Any, x: Float[Tensor, "window channel time"], masked: Bool[Tensor, "window token"]
) -> Float[Tensor, "window channel time"]:
    """Predict all samples of windows with masked tokens. Afterwards the model is in evaluation mode."""
    patches = n_patches(model)
    model.check_signals(x)
    wanted = [len(x), x.shape[1] * patches]
    if masked.dtype != torch.bool or list(masked.shape) != wanted:
        raise ArgumentError(f"masked is {masked.dtype} {list(masked.shape)}; expected torch.bool {wanted}")
    device = next(model.parameters()).device
    model.eval()
    parts = zip(x.split(AT_ONCE), masked.split(AT_ONCE), strict=True)
    return torch.cat([model(part.to(device), masked=hidden.to(device)).float().cpu() for part, hidden in parts])


@checked
def masked_errors(
    model: Any,
    x: Float[Tensor, "window channel time"],
    *,
    masked_fraction: float = 0.5,
    real: Bool[Tensor, "window channel"] | None = None,
    beta: float = 1.0,
    seed: NonNegativeInt = 0,
) -> pd.DataFrame:
    """Compare the error of the model on masked samples with the two simple methods, on the same masks.

    Args:
        model: A pre-trained model, as for `pretrain`.
        x: Windows `[window, channel, time]`, scaled as in the pre-training (`Corpus.read`).
        masked_fraction: Fraction of tokens to mask at random in each window.
        real: Channels to mask and score `[window, channel]` (`Corpus.real`); default all.
        beta: Threshold of the smooth L1 error.
        seed: Seed of the masks.

    Returns:
        One row per window, channel and method (`model`, `mean`, `interpolation`): smooth_l1, mse and mae of the masked
        samples. Channels without masked samples have no row.

    Raises:
        ArgumentError: Windows that do not fit the model, or a fraction that masks no token or all tokens.
    """
    patches, scored = _checked(model, x, real)
    masks = [random_mask(np.repeat(row, patches), masked_fraction, (seed, i)) for i, row in enumerate(scored)]
    return _errors(model, x, torch.from_numpy(np.stack(masks)), beta)


@checked
def gap_curve(
    model: Any,
    x: Float[Tensor, "window channel time"],
    lengths: Sequence[PositiveInt] | None = None,
    *,
    all_channels: bool = False,
    real: Bool[Tensor, "window channel"] | None = None,
    fs: float | None = None,
    beta: float = 1.0,
    seed: NonNegativeInt = 0,
) -> pd.DataFrame:
    """Compute how the reconstruction error grows with the length of a gap of masked tokens.

    Args:
        model: A pre-trained model, as for `pretrain`.
        x: Windows `[window, channel, time]`, scaled as in the pre-training.
        lengths: Lengths of the gap, in patches; default 1, 2, 4, ... up to all but one.
        all_channels: Whether to mask the gap in all channels at once; default, in one random channel of each window.
        real: Channels to mask and score `[window, channel]`; default all.
        fs: Sampling rate (Hz), for gap lengths in seconds.
        beta: Threshold of the smooth L1 error.
        seed: Seed of channels and positions of gaps. Gaps of different lengths have nearly the same middle.

    Returns:
        One row per window, length and method: patches, seconds (NaN without `fs`), method, window, smooth_l1, mse, mae.

    Raises:
        ArgumentError: Windows that do not fit the model, or gaps that leave no patch visible.
    """
    patches, scored = _checked(model, x, real)
    wanted = list(lengths) if lengths is not None else [2**k for k in range(patches.bit_length()) if 2**k < patches]
    wrong = [length for length in wanted if length >= patches]
    if wrong or not wanted:
        raise ArgumentError(
            f"lengths={wanted}; expected 1 to {patches - 1}: a channel has {patches} patches, and one must stay visible"
        )
    size = x.shape[2] // patches
    tables = []
    for length in wanted:
        masked = np.zeros((len(x), x.shape[1], patches), bool)
        for window, allowed in enumerate(scored):
            rng = np.random.default_rng([seed, GAPS, window])
            channel, middle = rng.choice(np.flatnonzero(allowed)), rng.random()
            first = round(middle * (patches - length))
            masked[window, allowed if all_channels else channel, first : first + length] = True
        table = _errors(model, x, torch.from_numpy(masked.reshape(len(x), -1)), beta)
        table = table.groupby(["window", "method"], sort=False, as_index=False)[["smooth_l1", "mse", "mae"]].mean()
        table.insert(0, "seconds", length * size / fs if fs is not None else np.nan)
        table.insert(0, "patches", length)
        tables.append(table)
    return WholeTable(pd.concat(tables, ignore_index=True))


def _checked(model: Any, x: Tensor, real: Tensor | None) -> tuple[int, Bool[np.ndarray, "window channel"]]:
    """Number of patches per channel, and the channels to score."""
    patches = n_patches(model)
    model.check_signals(x)
    if real is not None and (real.dtype != torch.bool or real.shape != x.shape[:2]):
        raise ArgumentError(f"real is {real.dtype} {list(real.shape)}; expected torch.bool {list(x.shape[:2])}")
    scored = np.ones(x.shape[:2], bool) if real is None else real.cpu().numpy()
    if not scored.any(axis=1).all():
        raise ArgumentError("real selects no channel in a window; expected one or more in every window")
    return patches, scored


def _errors(model: Any, x: Tensor, masked: Bool[Tensor, "window token"], beta: float) -> pd.DataFrame:
    hidden = masked_samples(masked, x.shape[1], x.shape[2]).numpy()
    samples = x.detach().float().cpu().numpy()
    filled = {MODEL: reconstruct(model, x, masked).numpy()}
    filled |= {name: fill(samples, hidden) for name, fill in BASELINES.items()}
    windows, channels = np.nonzero(hidden.any(axis=2))
    n = hidden.sum(axis=2)[windows, channels]
    tables = []
    for name, values in filled.items():
        off = np.abs(values - samples) * hidden
        kinds = {"smooth_l1": np.where(off < beta, 0.5 * off**2 / beta, off - 0.5 * beta), "mse": off**2, "mae": off}
        means = {kind: reduce(e, "w c t -> w c", "sum")[windows, channels] / n for kind, e in kinds.items()}
        tables.append(pd.DataFrame({"window": windows, "channel": channels, "method": name, **means}))
    return WholeTable(pd.concat(tables, ignore_index=True))
