"""Handles: integer stand-ins for signals, for TransformerLens utilities that take tokens `[batch, pos]`.

Utilities that sweep positions (`transformer_lens.patching.get_act_patch_*`, attribution patching, faithfulness, the
training loop) use the last axis of the input as the number of positions, and slice the first. With signals
`[batch, channel, time]` they would use samples as positions. A handle has one row per trial and one column per
position; the model replaces it by the signals when it runs. `HookedBiosignalEncoder.handles` makes handles.
"""

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from emg_lens.validation import ArgumentError

Signals = Float[Tensor, "batch channel time"]
Handles = Int[Tensor, "batch pos"]
Labels = Shaped[Tensor, " label"]  # class indices; other values get a message of ours


@dataclass(frozen=True)
class _Trials:
    """Trials with valid handles, numbered from `first`."""

    first: int
    signals: Signals
    labels: Labels | None

    def owns(self, ids: Int[Tensor, " trial"]) -> Tensor:
        return (ids >= self.first) & (ids < self.first + len(self.signals))


_numbers = itertools.count(1)
"""Numbers of contexts; they are never used again, so a handle outside its context is recognised."""
_SPAN = 2**32
_open: dict[int, _Trials] = {}


@contextmanager
def open_handles(signals: Signals, n_positions: int, labels: Labels | None = None) -> Iterator[Handles]:
    """Make handles `[batch, n_positions]` of trials that are valid inside the context.

    Args:
        signals: Trials.
        n_positions: Number of positions of the residual stream.
        labels: Class index of each trial, for `return_type="loss"`.

    Raises:
        ArgumentError: The number of labels differs from the number of trials.
    """
    if labels is not None and labels.shape != signals.shape[:1]:
        raise ArgumentError(f"labels have shape {list(labels.shape)}; expected one per trial, [{len(signals)}]")
    number = next(_numbers)
    trials = _Trials(number * _SPAN, signals, labels)
    ids = trials.first + torch.arange(len(signals), device=signals.device)
    _open[number] = trials
    try:
        yield ids[:, None].repeat(1, n_positions)
    finally:
        del _open[number]


def look_up(handles: Handles, n_positions: int) -> tuple[Signals, Labels | None]:
    """Return the signals and labels of handles; labels are `None` if some trial has none.

    Raises:
        ArgumentError: Not handles of an open context, or not complete rows of them.
    """
    if handles.ndim != 2 or handles.shape[1] != n_positions or bool((handles != handles[:, :1]).any()):
        raise ArgumentError(
            f"integer input {list(handles.shape)} ({handles.dtype}) are not handles; expected complete rows"
            f" [batch, {n_positions}] of model.handles(x)"
        )
    ids = handles[:, 0]
    owners = [trials for trials in _open.values() if bool(trials.owns(ids).any())]
    if not all(bool(trials.owns(ids).all()) for trials in owners) or len(owners) != 1:
        return _gather(ids, owners)
    return _take(owners[0], ids)


def _gather(ids: Int[Tensor, " trial"], owners: list[_Trials]) -> tuple[Signals, Labels | None]:
    """Collect trials of several contexts in the order of `ids`."""
    parts = [(trials, trials.owns(ids).nonzero()[:, 0]) for trials in owners]
    if sum(len(rows) for _, rows in parts) < len(ids):
        raise ArgumentError(
            "these integers are not handles of an open context; run the model inside `with model.handles(x) as tokens:`"
        )
    order = torch.cat([rows for _, rows in parts]).argsort()
    taken = [_take(trials, ids[rows]) for trials, rows in parts]
    signals = torch.cat([signals for signals, _ in taken])[order.to(taken[0][0].device)]
    labels = [labels for _, labels in taken if labels is not None]
    return signals, torch.cat(labels)[order.to(labels[0].device)] if len(labels) == len(taken) else None


def _take(trials: _Trials, ids: Int[Tensor, " trial"]) -> tuple[Signals, Labels | None]:
    rows = (ids - trials.first).to(trials.signals.device)
    return trials.signals[rows], None if trials.labels is None else trials.labels[rows.to(trials.labels.device)]
