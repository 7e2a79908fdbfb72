"""What a pre-trained encoder fills in: its masked error beside two that need no model, and the length of gaps.

`mean` fills the masked samples of a channel with the mean of its visible ones, `interpolation` with straight lines
between the visible samples next to a gap (level at the ends of the window). A channel without a visible sample gets the
mean of the window's visible ones. Facts: docs/pretraining.md §10.4.
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

from emg_lens.training.pretraining.masking import draw_mask, n_patches, of_samples
from emg_lens.validation import ArgumentError, checked

MODEL = "model"
AT_ONCE = 64
"""Windows of a forward pass."""
GAPS = 2
"""Stream of the random numbers that places of gaps are drawn from."""

Windows = Float[np.ndarray, "window channel time"]
Hidden = Bool[np.ndarray, "window channel time"]


def predict_mean(x: Windows, hidden: Hidden) -> Windows:
    """Hidden samples become the mean of the visible ones of their channel."""
    seen = np.where(hidden, 0.0, x)
    n = (~hidden).sum(axis=2, keepdims=True)
    whole = seen.sum(axis=(1, 2), keepdims=True) / np.maximum((~hidden).sum(axis=(1, 2), keepdims=True), 1)
    mean = np.where(n > 0, seen.sum(axis=2, keepdims=True) / np.maximum(n, 1), whole)
    return np.where(hidden, mean, x).astype(x.dtype)


def interpolate(x: Windows, hidden: Hidden) -> Windows:
    """Hidden samples become straight lines between the visible ones of their channel."""
    found, times = predict_mean(x, hidden), np.arange(x.shape[2])
    for window, channel in np.argwhere(hidden.any(axis=2) & ~hidden.all(axis=2)):
        gap = hidden[window, channel]
        found[window, channel, gap] = np.interp(times[gap], times[~gap], x[window, channel, ~gap])
    return found


BASELINES: Mapping[str, Callable[[Windows, Hidden], Windows]] = {"mean": predict_mean, "interpolation": interpolate}


@torch.no_grad()
def reconstruct(
    model: Any, x: Float[Tensor, "window channel time"], masked: Bool[Tensor, "window token"]
) -> Float[Tensor, "window channel time"]:
    """What the model gives for windows with masked tokens, visible samples included; it is left in evaluation mode."""
    device = next(model.parameters()).device
    model.eval()
    parts = zip(x.split(AT_ONCE), masked.split(AT_ONCE), strict=True)
    return torch.cat([model(part.to(device), masked=hidden.to(device)).float().cpu() for part, hidden in parts])


@checked
def masked_errors(
    model: Any,
    x: Float[Tensor, "window channel time"],
    *,
    masked_share: float = 0.5,
    real: Bool[Tensor, "window channel"] | None = None,
    beta: float = 1.0,
    seed: NonNegativeInt = 0,
) -> pd.DataFrame:
    """Error of masked samples by the model and by the two simple fillings, with the same masks.

    Args:
        model: A pre-trained model, as for `pretrain`.
        x: Windows, scaled as in its pre-training (`Corpus.read`).
        masked_share: Of the tokens, drawn for each window.
        real: Channels that are masked and counted (`Corpus.real`); default all.
        beta: Of the Smooth-L1 error.
        seed: Of the masks.

    Returns:
        One row a window, channel and method (`model`, `mean`, `interpolation`): smooth_l1, mse and mae of its masked
        samples. Channels of which nothing was masked have no row.

    Raises:
        ArgumentError: Windows that do not fit the model, or a share that masks no token or all.
    """
    patches, counted = _checked(model, x, real)
    drawn = [draw_mask(np.repeat(row, patches), masked_share, (seed, i)) for i, row in enumerate(counted)]
    return _errors(model, x, torch.from_numpy(np.stack(drawn)), beta)


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
    """Error of one gap of masked tokens against its length.

    Args:
        model: A pre-trained model, as for `pretrain`.
        x: Windows, scaled as in its pre-training.
        lengths: Of the gap, in patches; default 1, 2, 4, ... up to all but one.
        all_channels: Whether the gap is in all channels at the same time; else in one channel of each window.
        real: Channels that are masked and counted; default all.
        fs: Samples per second (Hz), for the gap in seconds.
        beta: Of the Smooth-L1 error.
        seed: Of channels and places of gaps; a longer gap of a window has its middle near the shorter one's.

    Returns:
        One row a window, length and method: patches, seconds (NaN without `fs`), method, window, smooth_l1, mse, mae.

    Raises:
        ArgumentError: Windows that do not fit the model, or gaps that leave no patch visible.
    """
    patches, counted = _checked(model, x, real)
    wanted = list(lengths) if lengths is not None else [2**k for k in range(patches.bit_length()) if 2**k < patches]
    wrong = [length for length in wanted if length >= patches]
    if wrong or not wanted:
        raise ArgumentError(f"lengths={wanted}; a channel has {patches} patches, and one must stay visible")
    size = x.shape[2] // patches
    tables = []
    for length in wanted:
        masked = np.zeros((len(x), x.shape[1], patches), bool)
        for window, may in enumerate(counted):
            rng = np.random.default_rng([seed, GAPS, window])
            channel, middle = rng.choice(np.flatnonzero(may)), rng.random()
            first = round(middle * (patches - length))
            masked[window, may if all_channels else channel, first : first + length] = True
        table = _errors(model, x, torch.from_numpy(masked.reshape(len(x), -1)), beta)
        table = table.groupby(["window", "method"], sort=False, as_index=False)[["smooth_l1", "mse", "mae"]].mean()
        table.insert(0, "seconds", length * size / fs if fs is not None else np.nan)
        table.insert(0, "patches", length)
        tables.append(table)
    return pd.concat(tables, ignore_index=True)


def _checked(model: Any, x: Tensor, real: Tensor | None) -> tuple[int, Bool[np.ndarray, "window channel"]]:
    """Patches of a channel, and the channels that count."""
    patches = n_patches(model)
    model.check_signals(x)
    if real is not None and (real.dtype != torch.bool or real.shape != x.shape[:2]):
        raise ArgumentError(f"real is {real.dtype} {list(real.shape)}; expected torch.bool {list(x.shape[:2])}")
    found = np.ones(x.shape[:2], bool) if real is None else real.cpu().numpy()
    if not found.any(axis=1).all():
        raise ArgumentError("a window has no channel that counts")
    return patches, found


def _errors(model: Any, x: Tensor, masked: Bool[Tensor, "window token"], beta: float) -> pd.DataFrame:
    hidden = of_samples(masked, x.shape[1], x.shape[2]).numpy()
    samples = x.cpu().numpy()
    filled = {MODEL: reconstruct(model, x, masked).numpy()}
    filled |= {name: fill(samples, hidden) for name, fill in BASELINES.items()}
    windows, channels = np.nonzero(hidden.any(axis=2))
    n = hidden.sum(axis=2)[windows, channels]
    tables = []
    for name, found in filled.items():
        off = np.abs(found - samples) * hidden
        kinds = {"smooth_l1": np.where(off < beta, 0.5 * off**2 / beta, off - 0.5 * beta), "mse": off**2, "mae": off}
        means = {kind: reduce(e, "w c t -> w c", "sum")[windows, channels] / n for kind, e in kinds.items()}
        tables.append(pd.DataFrame({"window": windows, "channel": channels, "method": name, **means}))
    return pd.concat(tables, ignore_index=True)
