"""Handles: integer stand-ins for signals, for TransformerLens utilities that take tokens `[batch, pos]`.

Utilities that sweep positions (`transformer_lens.patching.get_act_patch_*`, attribution patching, faithfulness, the
training loop) use the last axis of the input as the number of positions, and slice the first. With signals
`[batch, channel, time]` they would use samples as positions. A handle has one row per trial and one column per
position; the model replaces it by the signals when it runs. `HookedBiosignalEncoder.handles` makes handles.
"""

import inspect
import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

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


_numbers = itertools.count(1)
"""Numbers of contexts; they are never used again, so a handle outside its context is recognised."""
_SPAN = 2**32
_open: dict[int, _Trials] = {}


@contextmanager
def open_handles(signals: Signals, n_positions: int, labels: Labels | None = None) -> Iterator[Handles]:
    """Make handles `[batch, n_positions]` of trials, with their class indices, that are valid inside the context."""
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
    """Return the signals and labels of handles; labels are `None` if some trial has none."""
    if handles.ndim != 2 or handles.shape[1] != n_positions or bool((handles != handles[:, :1]).any()):
        raise ArgumentError(
            f"integer input {list(handles.shape)} ({handles.dtype}) are not handles; expected complete rows"
            f" [batch, {n_positions}] of model.handles(x)"
        )
    ids = handles[:, 0]
    parts = []
    for trials in _open.values():
        rows = ((ids >= trials.first) & (ids < trials.first + len(trials.signals))).nonzero()[:, 0]
        if len(rows):
            own = (ids[rows] - trials.first).to(trials.signals.device)
            labels = None if trials.labels is None else trials.labels[own.to(trials.labels.device)]
            parts.append((rows, trials.signals[own], labels))
    if not parts or sum(len(rows) for rows, _, _ in parts) < len(ids):
        raise ArgumentError(
            "these integers are not handles of an open context; run the model inside `with model.handles(x) as tokens:`"
        )
    order = torch.cat([rows for rows, _, _ in parts]).argsort()
    signals = torch.cat([signals for _, signals, _ in parts])
    labels = [labels for _, _, labels in parts if labels is not None]
    known = torch.cat(labels)[order.to(labels[0].device)] if len(labels) == len(parts) else None
    return signals[order.to(signals.device)], known


def check_positions(inputs: Sequence[Any]) -> None:
    """Refuse signals as the input of a TransformerLens helper that takes its last axis for positions.

    Hooks receive one position at a time, so only the arguments of the calling helper show the number of positions.
    """
    frame = inspect.currentframe()
    while frame is not None:
        if frame.f_code.co_name == "generic_activation_patch":
            given = frame.f_locals.get("corrupted_tokens")
            axes = frame.f_locals.get("index_axis_names") or ()  # none if the user gave a table of positions
            swept = any("pos" in axis for axis in axes) and any(given is x for x in inputs)
            if isinstance(given, Tensor) and given.is_floating_point() and swept:
                raise ArgumentError(
                    f"this patching helper takes the last axis of its input {list(given.shape)} for positions, and"
                    " these are samples; give handles: `with model.handles(x) as tokens: ...`"
                )
        frame = frame.f_back
