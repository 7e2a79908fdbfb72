"""Events as targets of a model: a short pulse after each event, and the way back (docs/sequences.md §2).

The pulse of an event at t covers the output steps in [t + 0.08 s, t + 0.12 s) (Kaifosh et al. 2025). A target holds the
seconds since the event inside its pulse, and 0 elsewhere, so that the exact time of the event can be read from it.
It is -1 where an output does not count: a release while its finger is not held down.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float

from emg_lens.data.recording import DataError
from emg_lens.scoring.detection import PRESS, RELEASE
from emg_lens.validation import short

PULSE_S = (0.08, 0.12)
"""Start and end of the pulse after its event (s)."""
AFTER_RELEASE = 7
"""Steps after the start of a release's pulse in which its finger still counts as held down (Kaifosh et al. 2025)."""
NOT_HELD = -1.0
SAME_S = 0.002
"""Two events of one name that are closer than this are the same event, read from two steps."""


def check_events(events: Sequence[tuple[str, float]], prefix: str = "") -> None:
    """Refuse events that are not (name, time in s).

    Raises:
        DataError: With `prefix` at the start of the message.
    """
    if not isinstance(events, list | tuple):
        raise DataError(f"{prefix}events are a list of (name, time in s), got {short(events)}")
    for one in events:
        if not (isinstance(one, tuple) and len(one) == 2 and isinstance(one[0], str)):
            raise DataError(f"{prefix}events are (name, time in s), got {short(one)}")
        if not isinstance(one[1], float | int | np.floating | np.integer) or not np.isfinite(one[1]):
            raise DataError(f"{prefix}the time of the event {one[0]!r} is {short(one[1])}; expected seconds")


def event_targets(
    events: Sequence[tuple[str, float]], times: Float[np.ndarray, "window step"], names: Sequence[str]
) -> Float[np.ndarray, "window step column"]:
    """Make the targets of windows from events.

    Args:
        events: Name and time (s) of each event.
        times: Time of each output step (s); -1 = the step does not count.
        names: Names of the outputs.

    Returns:
        float32 `[window, step, len(names) + 1]`: seconds since the event inside its pulse, else 0; -1 for a release
        (a name that ends in `_release`) from the start of the window to the pulse of its press (`_press`), and from
        seven steps after the start of its own pulse to the next press. The last column is `times`.

    Raises:
        DataError: An unknown event, or output steps so far apart that a pulse falls between two of them.

    Example:
        >>> import numpy as np
        >>> from emg_lens.data.pulses import event_targets, labels_of
        >>> times = np.arange(0.0, 2.0, 0.01)[None]  # 100 steps a second
        >>> targets = event_targets([("tap", 0.995)], times, ["tap"])
        >>> targets.shape, int((targets[0, :, 0] > 0).sum())
        ((1, 200, 2), 4)
        >>> [(name, round(time, 3)) for name, time in labels_of(targets, ["tap"])]
        [('tap', 0.995)]
    """
    check_events(events)
    unknown = {name for name, _ in events} - {*names}
    if unknown:
        raise DataError(f"the event {min(unknown)!r} is not among the outputs {', '.join(names)}")
    spacing = np.diff(times, axis=1)[(times >= 0)[:, :-1]] if times.shape[1] > 1 else np.zeros(0)
    if len(spacing) and spacing.max() > PULSE_S[1] - PULSE_S[0] + 1e-9:
        raise DataError(
            f"output steps are {1000 * spacing.max():.3g} ms apart; expected at most 40 ms, the length of a pulse"
        )
    targets = np.zeros((*times.shape, len(names) + 1), np.float32)
    targets[..., -1] = times
    order = np.argsort(times, axis=None, kind="stable")
    at = times.ravel()[order]
    for name, time in events:
        # half a microsecond of tolerance: a step at exactly t + 0.08 s is inside, one at t + 0.12 s is not
        first, stop = np.searchsorted(at, time + np.array(PULSE_S) - 5e-7)
        chosen = order[max(first, np.searchsorted(at, 0.0)) : stop]
        targets.reshape(-1, targets.shape[-1])[chosen, names.index(name)] = times.ravel()[chosen] - time
    for column, name in enumerate(names):
        press = name.removesuffix(RELEASE) + PRESS
        if name.endswith(RELEASE) and press in names:
            release = targets[..., column]
            held = _held(targets[..., names.index(press)] > 0, release > 0)
            release[~held & (release == 0)] = NOT_HELD
    return targets


def _held(press: Bool[np.ndarray, "window step"], release: Bool[np.ndarray, "window step"]) -> np.ndarray:
    """Steps in which a finger is held down, as far as its window shows."""
    last = []
    for pulse, after in ((press, 0), (release, AFTER_RELEASE + 1)):
        starts = pulse & ~np.pad(pulse, ((0, 0), (1, 0)))[:, :-1]
        at = np.where(starts, np.arange(pulse.shape[1]), -1)
        at = np.pad(at, ((0, 0), (after, 0)), constant_values=-1)[:, : pulse.shape[1]]
        last.append(np.maximum.accumulate(at, axis=1))
    return last[0] > last[1]


def labels_of(targets: Float[np.ndarray, "window step column"], names: Sequence[str]) -> list[tuple[str, float]]:
    """Read the events back from targets, each once, in order of time.

    Args:
        targets: From `event_targets`, of the windows of one sequence.
        names: Names of the outputs.
    """
    events: list[tuple[str, float]] = []
    times = targets[..., -1].astype(np.float64)
    for column, name in enumerate(names):
        since = targets[..., column]
        inside = since > 0
        found = np.sort(times[inside] - since[inside])
        first = np.diff(found, prepend=-np.inf) > SAME_S
        events += [(name, float(time)) for time in found[first]]
    return sorted(events, key=lambda one: one[1])
