"""The data set `simulated-speech`: voiced utterances and silent twins with known truth (docs/silent-speech.md §1).

Eight phones make twelve words; each phone is one letter. A phone has its own pattern of EMG amplitude over the
electrodes and its own spectrum. Only the phones p and b have the same EMG. A marker at the start of an utterance, one
of two other patterns, says which of them all its words have. A model that cannot attend from a p or b back to the
marker confuses the two, and nothing else. The silent twin of an utterance has the same text, other durations and weaker
EMG, and no frames of its own.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Int
from pydantic import ConfigDict, Field
from scipy.ndimage import gaussian_filter1d

from emg_lens.data.files import check_choice, read_option, select_subjects
from emg_lens.data.registry import DataSet
from emg_lens.data.sequences import SequenceSet, SignalSequence
from emg_lens.data.sources.simulated import physiology
from emg_lens.data.trials import TrialSet
from emg_lens.data.utterances import BLANK, SPACE, frame_trials, text_trials
from emg_lens.validation import SpecModel

NAME = "simulated-speech"
PHONES = tuple("pbtsmaiu")
PAIR = ("p", "b")
"""Two phones with the same EMG."""
WORDS = ("pa", "ba", "pit", "bit", "sup", "sub", "tap", "tab", "mis", "tum", "sia", "mat")
SILENCE = "sil"
LABELS = (*PHONES, SILENCE)
"""Names of the labels of frames."""
ALPHABET = (*sorted(PHONES), SPACE, BLANK)
MARKERS = tuple(f"marker {phone}" for phone in PAIR)
AFTER_MARKER = 2
"""Number of the silent segment after the marker, from 0."""
TONE_UV, EFFORT_UV, NOISE_UV = 5.0, 80.0, 3.0
"""Amplitude of a muscle at rest, of the strongest muscle of a phone, and of the noise (uV rms)."""
SAMPLES_PER_FRAME = 8
SMOOTHING_S = 0.015
"""Standard deviation of the transition from one phone to the next."""
PERIODS = 8
"""Values that are averaged in a band of a frame: the spectrum of filtered noise varies as a gamma variable."""
QUIET = -2.0
"""Log power of silence in every band."""


class SpeechSimulation(SpecModel):
    """Settings of simulated speech. Times are in seconds."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    n_subjects: int = Field(default=6, ge=1)
    """Speakers, named `"01"`, `"02"`, ... Each has its own EMG patterns, near those of all."""
    n_sessions: int = Field(default=4, ge=1)
    """Sessions of each speaker."""
    n_utterances: int = Field(default=40, ge=1)
    """Pairs of a voiced and a silent utterance in a session."""
    n_words: int = Field(default=3, ge=1, le=20)
    """Words of an utterance."""
    seed: int = Field(default=0, ge=0)
    """Seed of all random numbers. A speaker does not depend on `n_subjects`."""
    fs: float = Field(default=240.0, ge=200)
    """Sampling rate (Hz). A frame has eight samples."""
    electrodes: int = Field(default=6, ge=4)
    """Electrodes, each over one muscle."""
    bands: int = Field(default=20, ge=2, le=80)
    """Bands of the spectrum of a frame."""
    phone_s: float = Field(default=0.12, ge=0.04, le=1)
    """Median duration of a phone, and of the pauses between words."""
    duration_spread: float = Field(default=0.25, ge=0, le=1)
    """Standard deviation of the log duration."""
    silent_gain: float = Field(default=0.6, gt=0)
    """EMG amplitude of a silent utterance, relative to the voiced one."""
    marker_pause_s: float = Field(default=0.4, ge=0.05, le=5)
    """Median duration of the silence between the marker and the first word."""
    pair: Literal["marked", "equal", "apart"] = "marked"
    """`"marked"`: p and b have the same EMG, and a marker at the start says which it is. `"equal"`: the same EMG and no
    marker. `"apart"`: each has its own EMG, and there is no marker."""


@dataclass(frozen=True)
class SimulatedSpeech:
    """Simulated utterances and their truth.

    Attributes:
        sequences: The utterances; those named `...-silent` have the voiced one as twin.
        boundaries: Starts and ends of all segments `[boundary]` of each utterance (s). A time in the voiced utterance
            corresponds to `np.interp(time, boundaries[voiced], boundaries[silent])` in the silent one.
    """

    sequences: SequenceSet
    boundaries: Mapping[str, Float[np.ndarray, " boundary"]]


def simulated_speech(
    simulation: Mapping[str, Any] | SpeechSimulation | None = None, subjects: Iterable[str | int] | None = None
) -> SimulatedSpeech:
    """Simulate pairs of voiced and silent utterances.

    Args:
        simulation: Fields of `SpeechSimulation`; default: all defaults.
        subjects: Speakers; default all.

    Returns:
        EMG in mV, texts, and for voiced utterances log spectra and phones as frames.

    Example:
        >>> from emg_lens.data import simulated_speech
        >>> speech = simulated_speech({"n_subjects": 1, "n_sessions": 1, "n_utterances": 2})
        >>> speech.sequences.names
        ('01-1-001', '01-1-001-silent', '01-1-002', '01-1-002-silent')
        >>> voiced, silent = speech.sequences.sequences[:2]
        >>> voiced.text == silent.text, silent.twin, silent.frames
        (True, '01-1-001', None)
    """
    settings = read_option("simulation", simulation, SpeechSimulation)
    sequences, boundaries = [], {}
    for subject in select_subjects(dict.fromkeys(_subjects(settings), ()), subjects):
        patterns, spectra = _speaker(settings, int(subject))
        for session in range(1, settings.n_sessions + 1):
            rng = np.random.default_rng([settings.seed, int(subject), session])
            for number in range(1, settings.n_utterances + 1):
                name = f"{subject}-{session}-{number:03d}"
                for one, ends in _pair(settings, name, patterns, spectra, rng):
                    sequences.append(one)
                    boundaries[one.name] = ends
    names = {"frame_names": tuple(f"band {i}" for i in range(1, settings.bands + 1)), "label_names": LABELS}
    channels = {"emg": settings.electrodes}
    notes = (f"simulated, not recorded (seed {settings.seed})",)
    return SimulatedSpeech(SequenceSet.of(sequences, channels, settings.fs, notes=notes, **names), boundaries)


def _subjects(settings: SpeechSimulation) -> tuple[str, ...]:
    return tuple(f"{number:02d}" for number in range(1, settings.n_subjects + 1))


def _speaker(settings: SpeechSimulation, number: int) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """EMG amplitude of each phone and marker (uV), and log spectrum of each phone."""
    shared, own = np.random.default_rng([settings.seed]), np.random.default_rng([settings.seed, number])
    names = [*PHONES, *MARKERS]
    common = physiology.spread_out(shared.normal(size=(physiology.N_CANDIDATES, settings.electrodes)), len(names))
    active = np.exp(common + 0.2 * own.normal(size=common.shape))
    patterns = dict(zip(names, EFFORT_UV * active / active.max(axis=1, keepdims=True), strict=True))
    if settings.pair != "apart":
        patterns[PAIR[1]] = patterns[PAIR[0]]
    spectra = dict(zip(PHONES, shared.normal(size=(len(PHONES), settings.bands)), strict=True))
    return patterns | {SILENCE: np.zeros(settings.electrodes)}, spectra | {SILENCE: np.full(settings.bands, QUIET)}


def _pair(
    settings: SpeechSimulation,
    name: str,
    patterns: Mapping[str, np.ndarray],
    spectra: Mapping[str, np.ndarray],
    rng: np.random.Generator,
) -> Iterable[tuple[SignalSequence, Float[np.ndarray, " boundary"]]]:
    """A voiced utterance and its silent twin, each with the boundaries of its segments."""
    words, segments = [WORDS[k] for k in rng.integers(len(WORDS), size=settings.n_words)], [SILENCE]
    if settings.pair == "marked":
        chosen = int(rng.integers(2))
        words = [word.replace(PAIR[1 - chosen], PAIR[chosen]) for word in words]
        segments += [MARKERS[chosen], SILENCE]
    for word in words:
        segments += [*word, SILENCE]
    subject, session, _ = name.split("-")
    text = " ".join(words)
    for is_silent in (False, True):
        lengths = settings.phone_s * np.exp(settings.duration_spread * rng.standard_normal(len(segments)))
        if settings.pair == "marked":
            lengths[AFTER_MARKER] *= settings.marker_pause_s / settings.phone_s
        ends = np.concatenate([[0.0], np.cumsum(lengths)])
        x = _emg(settings, segments, ends, patterns, settings.silent_gain if is_silent else 1.0, rng)
        labels = _frame_labels(segments, ends, -(-x.shape[1] // SAMPLES_PER_FRAME), settings.fs / SAMPLES_PER_FRAME)
        made: dict[str, Any] = {"twin": name}
        if not is_silent:
            levels = np.array([spectra[label] for label in LABELS])[labels]
            noise = np.log(rng.gamma(PERIODS, 1 / PERIODS, levels.shape))
            rate = settings.fs / SAMPLES_PER_FRAME
            made = {"frames": (levels + noise).astype(np.float32), "frame_labels": labels, "frame_rate": rate}
        yield SignalSequence(f"{name}-silent" if is_silent else name, subject, session, x, text=text, **made), ends


def _emg(
    settings: SpeechSimulation,
    segments: list[str],
    ends: Float[np.ndarray, " boundary"],
    patterns: Mapping[str, np.ndarray],
    gain: float,
    rng: np.random.Generator,
) -> Float[np.ndarray, "channel time"]:
    times = np.arange(round(ends[-1] * settings.fs)) / settings.fs
    at = np.searchsorted(ends, times, side="right").clip(1, len(segments)) - 1
    effort = np.array([patterns[segment] for segment in segments])[at] * np.exp(0.1 * rng.standard_normal())
    drive = TONE_UV + gain * gaussian_filter1d(effort, SMOOTHING_S * settings.fs, axis=0)
    emg = physiology.surface_emg(rng, drive, settings.fs, crosstalk=0.2, noise_uv=NOISE_UV, mains_uv=0.0)
    return np.ascontiguousarray(emg.T, dtype=np.float32)


def _frame_labels(
    segments: list[str], ends: Float[np.ndarray, " boundary"], n_frames: int, rate: float
) -> Int[np.ndarray, " frame"]:
    """Phone in the middle of each frame; a marker is silent."""
    middles = (np.arange(n_frames) + 0.5) / rate
    at = np.searchsorted(ends, middles, side="right").clip(1, len(segments)) - 1
    index = {label: number for number, label in enumerate(LABELS)}
    return np.array([index.get(segment, index[SILENCE]) for segment in segments])[at]


def load(
    *,
    subjects: Iterable[str | int] | None = None,
    task: Literal["text", "audio"] = "text",
    simulation: Mapping[str, Any] | None = None,
) -> TrialSet:
    """Simulate utterances, one trial each.

    Args:
        subjects: Speakers; default all.
        task: Targets: `"text"` = the letters, `"audio"` = log spectra and phones.
        simulation: Fields of `SpeechSimulation`.
    """
    check_choice(NAME, "task", task, ("text", "audio"))
    sequences = simulated_speech(simulation, subjects).sequences
    return text_trials(sequences, ALPHABET) if task == "text" else frame_trials(sequences)


def find(*, simulation: Mapping[str, Any] | None = None) -> dict[str, list]:
    """Return the speakers; there are no files."""
    return {subject: [] for subject in _subjects(read_option("simulation", simulation, SpeechSimulation))}


SIMULATED_SPEECH = DataSet(
    NAME, load, "simulated voiced and silent utterances with known truth; needs no files", find, finished=True
)
