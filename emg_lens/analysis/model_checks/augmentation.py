"""Check which axis an augmentation moves."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from pydantic import PositiveInt
from torch import Tensor

from emg_lens.analysis.model_checks.check_report import CheckReport, Finding, judged
from emg_lens.validation import ArgumentError, checked

USUAL_AXES = {1: ("time",), 2: ("channel", "time"), 3: ("trial", "channel", "time")}
LARGEST = 2**24
"""Whole numbers up to this one are exact in float32."""


@checked
def check_augmentation(
    function: Callable[[Any], Any],
    x: Tensor | np.ndarray,
    *,
    moves: str | Sequence[str] = (),
    axes: Sequence[str] | None = None,
    calls: PositiveInt = 32,
) -> CheckReport:
    """Find out along which axes an augmentation moves values, and by how much.

    The function is called on an input of the shape of `x` in which every value occurs once, so the origin of every
    value is known. Values that the function makes itself (zeros at a border) are left out.

    Args:
        function: The augmentation; it gets an array like `x` and returns one of the same shape.
        x: An example; only its shape and type are used.
        moves: Axes that the augmentation is meant to move. Empty = it is meant to move none, as noise or a gain.
        axes: Names of the axes of `x`; default: `("channel", "time")`, with three axes `("trial", "channel", "time")`.
        calls: Number of calls; an augmentation is usually random.

    Returns:
        One check for each axis. `number` is the largest shift, in elements of this axis. An axis fails if it moves and
        should not, or the other way round.

    Raises:
        ArgumentError: An unknown axis, another shape, an `x` too large to number its values, or a function that changes
            the values, so that their origin is unknown.

    Example:
        >>> import torch
        >>> from emg_lens.analysis import check_augmentation
        >>> def rotate_electrodes(x):  # meant for [channel, time]
        ...     return torch.roll(x, 2, dims=-1)
        >>> check_augmentation(rotate_electrodes, torch.zeros(16, 200), moves="channel")
        rotate_electrodes, 32 calls on [16, 200]: 2 checks, 2 failed
          FAIL  axis 0 (channel)  0         does not move; expected a shift along this axis
          FAIL  axis 1 (time)     2         moves by 2; expected no shift along this axis
    """
    names = tuple(axes) if axes is not None else USUAL_AXES.get(x.ndim, ())
    meant = {moves} if isinstance(moves, str) else set(moves)
    if len(names) != x.ndim:
        raise ArgumentError(f"axes={list(names)} for x of shape {list(x.shape)}; give one name for each axis")
    if unknown := meant - set(names):
        raise ArgumentError(f"moves={sorted(unknown)[0]!r}; expected one of the axes {list(names)}")
    size = int(np.prod(x.shape))
    if not 0 < size < LARGEST:
        raise ArgumentError(f"x of shape {list(x.shape)} has {size} values; expected 1 to {LARGEST - 1}: crop it")
    shifts: list[set[int]] = [set() for _ in names]
    for call in range(calls):
        # Number k + 1 is at a random place, and 0 is free for values that the function makes.
        place = np.random.default_rng(call).permutation(size)
        numbered = np.empty(size)
        numbered[place] = np.arange(1, size + 1)
        given = torch.as_tensor(numbered).reshape(x.shape).to(x) if isinstance(x, Tensor) else numbered.reshape(x.shape)
        moved = torch.as_tensor(function(given)).detach().cpu().double().numpy()
        if moved.shape != tuple(x.shape):
            raise ArgumentError(
                f"{_name(function)} returns shape {list(moved.shape)} for {list(x.shape)}; expected the same shape"
            )
        known = (moved >= 1) & (moved <= size) & (moved == np.round(moved))
        if known.mean() < 0.5:
            raise ArgumentError(
                f"{_name(function)} changes {1 - known.mean():.0%} of the values, so their origin is unknown; check the"
                " part that moves values alone"
            )
        origin = np.unravel_index(place[moved[known].astype(int) - 1], x.shape)
        for axis, (here, there) in enumerate(zip(np.nonzero(known), origin, strict=True)):
            n = x.shape[axis]
            shifts[axis] |= set(np.unique((here - there + n // 2) % n - n // 2).tolist())
    findings = {
        f"axis {axis} ({name})": _judged(found - {0}, name in meant)
        for axis, (name, found) in enumerate(zip(names, shifts, strict=True))
    }
    return CheckReport(f"{_name(function)}, {calls} calls on {list(x.shape)}", findings)


def _judged(found: set[int], meant: bool) -> Finding:
    ordered = sorted(found)
    listed = ", ".join(map(str, ordered if len(ordered) <= 6 else [*ordered[:3], "...", *ordered[-3:]]))
    what = f"moves by {listed}" if found else "does not move"
    expected = "" if bool(found) == meant else f"; expected {'a' if meant else 'no'} shift along this axis"
    return judged(not expected, max(map(abs, found), default=0), what + expected)


def _name(function: Any) -> str:
    return getattr(function, "__name__", type(function).__name__)
