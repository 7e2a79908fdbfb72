"""Events from the probabilities of every step of a stream (docs/events-and-text.md §2.2)."""

from collections.abc import Sequence
from typing import Annotated, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from pydantic import Field

from emg_lens.scoring.detection import PRESS, RELEASE
from emg_lens.scoring.event_matching import Seconds, Timed
from emg_lens.validation import ArgumentError, checked, short

Threshold = Annotated[float, Field(gt=0)]
THRESHOLD, DEBOUNCE_S = 0.35, 0.05
"""The values of Kaifosh et al. (2025)."""
ABOVE_ONE = float(np.nextafter(1, 2))
"""A threshold that no probability reaches."""


@checked
def decode_events(
    probabilities: np.ndarray,
    times: np.ndarray,
    names: Sequence[str],
    threshold: Threshold = THRESHOLD,
    debounce_s: Seconds = DEBOUNCE_S,
    lone_releases: bool = True,
) -> list[tuple[str, float]]:
    """Detect an event wherever the probability of a gesture rises to the threshold.

    An event is a step at which a probability is at or above the threshold and was below it one step earlier. The first
    step counts as a rise. Then events are debounced in order of time (at the same time, in the order of `names`): an
    event less than `debounce_s` after the last event that was kept is removed if neither is a release, or if both are
    the same release (Kaifosh et al. 2025). The names of releases end in `_release`.

    Args:
        probabilities: Probability of each gesture at each step `[step, class]`, 0 to 1.
        times: Time of each step `[step]` in s, not decreasing: the time of the last sample that the step uses.
        names: Name of each gesture.
        threshold: Probability at which an event is detected.
        debounce_s: Shortest time from one event to the next, in s.
        lone_releases: Whether to keep the release of a finger without a detected press before it (a name that ends in
            `_press`). A model that is trained on releases of fingers that are held down gives no meaningful output
            elsewhere; False removes these events.

    Returns:
        The events (name, time in s) in order of time.

    Raises:
        ArgumentError: Values are no probabilities, or the arguments do not belong together.

    Example:
        >>> import numpy as np
        >>> from emg_lens.decoding import decode_events
        >>> probabilities = np.array([[0.1, 0.1], [0.9, 0.2], [0.9, 0.6], [0.1, 0.1], [0.4, 0.1]])
        >>> decode_events(probabilities, np.array([0.0, 0.1, 0.12, 0.2, 0.3]), ["thumb_up", "thumb_down"])
        [('thumb_up', 0.1), ('thumb_up', 0.3)]
    """
    rises = find_rises(probabilities, times, names)
    return rises.named(times, check_threshold(threshold), round(debounce_s * 1e6), lone_releases)


def check_threshold(threshold: float) -> float:
    """Refuse a threshold above 1; the next number after 1 means that no event is detected."""
    if threshold > ABOVE_ONE:
        raise ArgumentError(f"threshold={threshold}; expected a probability, more than 0 and at most 1")
    return threshold


class Rises(NamedTuple):
    """All steps at which a probability rises, in order of time. Events of any threshold are a part of them."""

    step: Int[np.ndarray, " rise"]
    kind: Int[np.ndarray, " rise"]
    time: Int[np.ndarray, " rise"]
    """In microseconds."""
    low: Float[np.ndarray, " rise"]
    """Probability one step earlier; -inf at the first step."""
    high: Float[np.ndarray, " rise"]
    peak: Bool[np.ndarray, " rise"]
    """Whether the next step does not rise further."""
    names: tuple[str, ...]

    def kept(self, threshold: float, debounce_us: int, lone_releases: bool) -> Int[np.ndarray, " event"]:
        """Return the rises that are events at a threshold, debounced."""
        found = np.flatnonzero((self.low < threshold) & (threshold <= self.high))
        times, kinds = self.time[found].tolist(), self.kind[found].tolist()
        releases, kept = [name.endswith(RELEASE) for name in self.names], []
        for k, kind in enumerate(kinds):
            last = kept[-1] if kept else k
            same = kind == kinds[last] if releases[kind] else not releases[kinds[last]]
            if last == k or not same or times[k] - times[last] >= debounce_us:
                kept.append(k)
        if lone_releases:
            return found[kept]
        held, paired = set(), []
        for k in kept:
            name = self.names[kinds[k]]
            if name.endswith(PRESS):
                held.add(name.removesuffix(PRESS))
            elif releases[kinds[k]]:
                if (finger := name.removesuffix(RELEASE)) not in held:
                    continue
                held.remove(finger)
            paired.append(k)
        return found[paired]

    def named(
        self, times: np.ndarray, threshold: float, debounce_us: int, lone_releases: bool
    ) -> list[tuple[str, float]]:
        """Return the events at a threshold: names and times in s."""
        chosen = self.kept(threshold, debounce_us, lone_releases)
        kinds, seconds = self.kind[chosen].tolist(), times[self.step[chosen]].tolist()
        return [(self.names[kind], float(time)) for kind, time in zip(kinds, seconds, strict=True)]

    def events(self, chosen: Int[np.ndarray, " event"], numbers: Int[np.ndarray, " class"]) -> Timed:
        """Return events in the form that is matched with labels; `numbers` are those of the names of the classes."""
        return Timed(chosen, self.time[chosen], numbers[self.kind[chosen]])


def find_rises(probabilities: np.ndarray, times: np.ndarray, names: Sequence[str]) -> Rises:
    """Check the outputs of a model, and find every rise."""
    if not names or len(set(names)) < len(names):
        raise ArgumentError(f"names={short(list(names))}; expected a different name for each class")
    if probabilities.ndim != 2 or probabilities.dtype.kind != "f" or probabilities.shape[1] != len(names):
        raise ArgumentError(
            f"probabilities={short(probabilities)}; expected floats [step, class] of {len(names)} classes"
        )
    if times.dtype.kind not in "iuf" or times.shape != probabilities.shape[:1]:
        raise ArgumentError(f"times={short(times)}; expected one time in s for each of {len(probabilities)} steps")
    if not np.isfinite(times).all() or (np.diff(times) < 0).any():
        raise ArgumentError("times decrease or are not finite; expected the time of each step in s, in order")
    if not ((probabilities >= 0) & (probabilities <= 1)).all():
        outside = probabilities[~((probabilities >= 0) & (probabilities <= 1))][0]
        raise ArgumentError(f"a probability is {outside}; expected 0 to 1; apply a sigmoid to logits first")
    values = probabilities.T.astype(np.float64)
    before = np.concatenate([np.full((len(values), 1), -np.inf), values[:, :-1]], axis=1)
    after = np.concatenate([values[:, 1:], np.full((len(values), 1), -np.inf)], axis=1)
    kind, step = np.nonzero(values > before)
    time = np.rint(times.astype(np.float64) * 1e6).astype(np.int64)[step]
    order = np.argsort(time, kind="stable")
    kind, step, time = kind[order], step[order], time[order]
    peak = after[kind, step] <= values[kind, step]
    return Rises(step, kind, time, before[kind, step], values[kind, step], peak, tuple(names))
