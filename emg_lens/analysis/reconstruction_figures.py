"""Figures of masked reconstruction: one window, and the error as a function of the gap length.

The functions return matplotlib `Figure` objects and do not use pyplot.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float
from matplotlib.figure import Figure
from pydantic import NonNegativeInt
from torch import Tensor

from emg_lens.analysis.reconstruction import MODEL, reconstruct
from emg_lens.plotting import plot_curves
from emg_lens.plotting.panels import figure_of, new_figure
from emg_lens.plotting.style import CROSS_MODAL, DARK, GREY, PAGE, UNIMODAL
from emg_lens.training.pretraining.masking import masked_samples, n_patches, random_mask
from emg_lens.validation import ArgumentError, checked

ROW = 0.9
"""Height of a channel, in inches."""
COLOURS = {MODEL: CROSS_MODAL, "mean": GREY, "interpolation": UNIMODAL}
ORIGINAL, HIDDEN = DARK, "#E69F00"


@checked
def plot_reconstruction(
    model: Any,
    x: Float[Tensor, "channel time"],
    *,
    channels: Sequence[int] | None = None,
    masked: Bool[Tensor, " token"] | None = None,
    masked_fraction: float = 0.5,
    fs: float | None = None,
    seed: NonNegativeInt = 0,
) -> Figure:
    """Plot original, masked spans (shaded) and reconstruction of some channels of one window.

    Args:
        model: A pre-trained model, as for `pretrain`.
        x: One window `[channel, time]`, scaled as in the pre-training.
        channels: Channels to show; default the first four.
        masked: Tokens to mask `[token]`, in the layout's order; default a random mask.
        masked_fraction: Fraction of tokens in the random mask.
        fs: Sampling rate (Hz), for an axis in seconds.
        seed: Seed of the random mask.
    """
    patches = n_patches(model)
    model.check_signals(x[None])
    shown = list(channels) if channels is not None else list(range(min(4, len(x))))
    if not shown or not all(isinstance(c, int) and 0 <= c < len(x) for c in shown):
        raise ArgumentError(f"channels={shown}; expected some of the window's channels 0 to {len(x) - 1}")
    if masked is None:
        masked = torch.from_numpy(random_mask(np.ones(len(x) * patches, bool), masked_fraction, (seed,)))
    if masked.dtype != torch.bool or masked.shape != (len(x) * patches,):
        raise ArgumentError(f"masked is {masked.dtype} {list(masked.shape)}; expected torch.bool [{len(x) * patches}]")
    hidden = masked_samples(masked[None], *x.shape)[0].numpy()
    predicted = reconstruct(model, x[None], masked[None])[0].numpy()
    times = np.arange(x.shape[1]) / (fs or 1)
    step = times[1] - times[0] if len(times) > 1 else 1.0
    names = model.layout.to_frame().groupby("channel", sort=False)["group"].first().tolist()
    with new_figure(PAGE, ROW * len(shown) + 0.8) as figure:
        axes = figure.subplots(len(shown), 1, sharex=True, squeeze=False)[:, 0]
        for axis, channel in zip(axes, shown, strict=True):
            edges = np.flatnonzero(np.diff(hidden[channel], prepend=False, append=False))
            for first, last in edges.reshape(-1, 2):
                axis.axvspan(times[first], times[last - 1] + step, color=HIDDEN, alpha=0.2, linewidth=0)
            axis.plot(times, x[channel].detach().float().cpu().numpy(), color=ORIGINAL, linewidth=0.8, label="original")
            filled = np.where(hidden[channel], predicted[channel], np.nan)
            axis.plot(times, filled, color=COLOURS[MODEL], linewidth=1.1, label="reconstruction")
            axis.set_ylabel(f"{names[channel] if channel < len(names) else ''} {channel}".strip())
            axes[0].legend(loc="upper right", ncols=2, frameon=False)
        axes[-1].set_xlabel("time (s)" if fs else "sample")
    return figure


@checked
def plot_gap_curve(curve: pd.DataFrame, error: str = "smooth_l1") -> Figure:
    """Plot the mean error as a function of the gap length, with one line per method.

    Args:
        curve: Table that `gap_curve` returns.
        error: Column to plot: `"smooth_l1"`, `"mse"` or `"mae"`.
    """
    lacking = [name for name in ("patches", "seconds", "method", error) if name not in curve.columns]
    if lacking or curve.empty or not pd.api.types.is_numeric_dtype(curve[error]):
        raise ArgumentError(
            f"curve has no {', '.join(lacking) or 'rows with numbers'}; expected the table that gap_curve returns"
        )
    across = "seconds" if curve["seconds"].notna().all() else "patches"
    means = curve.groupby(["method", across], sort=False)[error].mean().reset_index()
    colours = {str(method): COLOURS.get(str(method), ORIGINAL) for method in means["method"]}
    labels = ("gap (s)" if across == "seconds" else "gap (patches)", f"{error} of masked samples")
    axis = plot_curves(means, across, error, by="method", colours=colours, labels=labels)
    axis.set_ylim(bottom=0)
    return figure_of(axis)
