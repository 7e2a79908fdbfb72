"""The data set `simulated-gestures`: streams of discrete gestures with a planted pair (docs/sequences.md §4).

Fingers are pressed, held and released, and the thumb moves. Every gesture is a burst of EMG with its own pattern over
the electrodes, except for one planted pair: `thumb_in` and `thumb_out` have the same burst. Only a weaker burst, the
marker, distinguishes them: it comes a known time before the gesture. A model that cannot attend that far back confuses
the pair, and nothing else.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from jaxtyping import Float
from pydantic import ConfigDict, Field, model_validator

from emg_lens.data.files import read_option, select_subjects
from emg_lens.data.registry import DataSet
from emg_lens.data.sequences import SequenceSet, SignalSequence
from emg_lens.data.sources.simulated import physiology
from emg_lens.data.trials import TrialSet
from emg_lens.data.windowing import read_windows
from emg_lens.validation import SpecModel, checked

GESTURES = (
    *("index_press", "index_release", "middle_press", "middle_release"),
    *("thumb_click", "thumb_in", "thumb_out", "thumb_up"),
)
"""Names of the gestures, as in Kaifosh et al. (2025), without `thumb_down`."""
PAIR = ("thumb_in", "thumb_out")
"""Two gestures with the same burst."""
ACTIONS = ("index", "middle", "thumb_click", *PAIR, "thumb_up")
TONE_UV, BURST_UV, MARKER_UV = 4.0, 90.0, 60.0
"""Amplitude of a muscle at rest, of the strongest muscle of a burst, and of a marker (uV rms)."""
N_CANDIDATES = 200
"""Random patterns from which those of the gestures are chosen, far from each other."""


class GestureSimulation(SpecModel):
    """Settings of simulated streams. Times are in seconds."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    n_subjects: int = Field(default=6, ge=1)
    """Subjects, named `"01"`, `"02"`, ... Each has its own patterns of muscles, near those of all."""
    n_sessions: int = Field(default=4, ge=1)
    """Sessions of each subject; a session is one stream."""
    session_s: float = Field(default=60.0, gt=4, le=3600)
    """Length of a session."""
    seed: int = Field(default=0, ge=0)
    """Seed of all random numbers. A subject does not depend on `n_subjects`."""
    fs: float = Field(default=500.0, ge=200)
    """Sampling rate (Hz)."""
    electrodes: int = Field(default=8, ge=4)
    """Electrodes around the forearm, each over one muscle."""
    marker_s: float = Field(default=0.35, ge=0.1, le=2)
    """Time from the centre of the marker to its gesture."""
    burst_s: float = Field(default=0.12, gt=0.02, le=0.5)
    """Length of a burst, centred on its gesture. A marker is half as long."""
    pause_s: tuple[float, float] = (0.7, 1.3)
    """Shortest and longest time from the end of an action to the next one."""
    hold_s: tuple[float, float] = (0.3, 0.8)
    """Shortest and longest time between press and release."""

    @model_validator(mode="after")
    def _apart(self) -> "GestureSimulation":
        if not self.marker_s + self.burst_s < self.pause_s[0] <= self.pause_s[1]:
            raise ValueError(
                f"pause_s={self.pause_s} is too short: a marker comes {self.marker_s:g} s before its gesture; expected"
                f" more than marker_s + burst_s = {self.marker_s + self.burst_s:g} s"
            )
        if not self.burst_s < self.hold_s[0] <= self.hold_s[1]:
            raise ValueError(f"hold_s={self.hold_s} must be rising and longer than a burst, {self.burst_s:g} s")
        return self


@checked
def simulated_gestures(simulation: Mapping[str, Any] | GestureSimulation | None = None) -> SequenceSet:
    """Simulate streams of gestures.

    Args:
        simulation: Fields of `GestureSimulation`; default: all defaults.

    Returns:
        One sequence per session, with its events; EMG in mV.

    Example:
        >>> from emg_lens.data import simulated_gestures
        >>> simulated_gestures({"n_subjects": 2, "n_sessions": 1, "session_s": 20})
        SequenceSet(2 sequences of 2 subjects, 40.0 s in all, 8 emg channels at 500 Hz, events: index_press,
        index_release, middle_press, middle_release, thumb_click, thumb_in, thumb_out, thumb_up)
    """
    return _simulated(read_option("simulation", simulation, GestureSimulation), find(simulation=simulation))


def _simulated(settings: GestureSimulation, subjects: Iterable[str]) -> SequenceSet:
    """Simulate the sessions of some subjects."""
    sequences = [one for subject in subjects for one in _sessions(settings, int(subject))]
    return SequenceSet.of(sequences, {"emg": settings.electrodes}, settings.fs, event_names=GESTURES)


def _sessions(settings: GestureSimulation, number: int) -> Iterable[SignalSequence]:
    """The sessions of a subject."""
    shared, own = np.random.default_rng([settings.seed]), np.random.default_rng([settings.seed, number])
    names = [*GESTURES[:5], "pair", GESTURES[7], *(f"marker_{name}" for name in PAIR)]
    common = physiology.spread_out(shared.normal(size=(N_CANDIDATES, settings.electrodes)), len(names))
    activations = np.exp(common + 0.2 * own.normal(size=common.shape))
    patterns = dict(zip(names, activations / activations.max(axis=1, keepdims=True), strict=True))
    for session in range(1, settings.n_sessions + 1):
        rng = np.random.default_rng([settings.seed, number, session])
        events = _events(settings, rng)
        x = _emg(settings, events, patterns, rng)
        yield SignalSequence(f"{number:02d}-{session}", f"{number:02d}", str(session), x, events=tuple(events))


def _events(settings: GestureSimulation, rng: np.random.Generator) -> list[tuple[str, float]]:
    """Choose actions at random, one after the other, until the session ends."""
    events: list[tuple[str, float]] = []
    time = rng.uniform(*settings.pause_s)
    while time < settings.session_s - 1.0:
        action = ACTIONS[rng.integers(len(ACTIONS))]
        if action in ("index", "middle"):
            held = rng.uniform(*settings.hold_s)
            events += [(f"{action}_press", time), (f"{action}_release", time + held)]
            time += held
        else:
            events.append((action, time))
        time += rng.uniform(*settings.pause_s)
    return [(name, time) for name, time in events if time < settings.session_s - 0.2]


def _emg(
    settings: GestureSimulation, events: list[tuple[str, float]], patterns: dict[str, Any], rng: np.random.Generator
) -> Float[np.ndarray, "channel time"]:
    drive = np.full((round(settings.session_s * settings.fs), settings.electrodes), TONE_UV)
    for name, time in events:
        strength = rng.uniform(0.8, 1.2)
        if name in PAIR:
            marker = strength * MARKER_UV * patterns[f"marker_{name}"]
            _add_burst(drive, time - settings.marker_s, settings.burst_s / 2, settings.fs, marker)
        pattern = strength * BURST_UV * patterns["pair" if name in PAIR else name]
        _add_burst(drive, time, settings.burst_s, settings.fs, pattern)
    emg = physiology.surface_emg(rng, drive, settings.fs, crosstalk=0.2, noise_uv=2.0, mains_uv=0.0)
    return np.ascontiguousarray(emg.T, dtype=np.float32)


def _add_burst(
    drive: Float[np.ndarray, "time muscle"], centre: float, length: float, fs: float, pattern: np.ndarray
) -> None:
    """Add one arch of a squared cosine. Times in s."""
    near = slice(max(0, math.ceil((centre - length / 2) * fs)), math.floor((centre + length / 2) * fs) + 1)
    since = np.arange(near.start, min(near.stop, len(drive))) / fs - centre
    drive[near] += np.cos(np.pi * since / length)[:, None] ** 2 * pattern


def load(
    *,
    subjects: Iterable[str | int] | None = None,
    simulation: Mapping[str, Any] | None = None,
    windowing: Mapping[str, Any] | None = None,
    steps: Mapping[str, int] | None = None,
) -> TrialSet:
    """Simulate streams and cut them into windows."""
    chosen = select_subjects(find(simulation=simulation), subjects)
    sequences = _simulated(read_option("simulation", simulation, GestureSimulation), chosen)
    return sequences.windows(*read_windows(windowing, steps, length_s=4.0))


def find(*, simulation: Mapping[str, Any] | GestureSimulation | None = None) -> dict[str, list]:
    """Return the subjects; there are no files."""
    n_subjects = read_option("simulation", simulation, GestureSimulation).n_subjects
    return {f"{number:02d}": [] for number in range(1, n_subjects + 1)}


SIMULATED_GESTURES = DataSet(
    "simulated-gestures", load, "simulated streams of gestures with a planted pair; needs no files", find, finished=True
)
