"""Simulated cohorts: the experimenter sets the information of each modality about the label.

A class is a combination of three factors (e, a, j). EMG depends on e, and the accelerometer on a. The factor j needs
both modalities: every trial has a random key k with as many values as j. EMG depends on k, and the accelerometer on
(k + j) mod n_j. Each modality alone is therefore independent of j, exactly so in the sample; both together determine j.
An encoder can decode j only if information passes between the tokens of the two modalities, or reaches one readout.

The signals (`emg_lens.data.sources.simulated.physiology`) are EMG in mV and acceleration in g, each at its own rate.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import scipy
from jaxtyping import Float
from pydantic import ConfigDict, Field, model_validator

from emg_lens.data.files import read_option, select_subjects
from emg_lens.data.recording import REST, Recording, Signal
from emg_lens.data.registry import DataSet
from emg_lens.data.sources.simulated import physiology
from emg_lens.validation import SpecModel

NAME = "simulated"
MODALITIES = ("emg", "acc")

TONE_UV, EFFORT_UV = 3.0, 150.0
"""Amplitude of a muscle at rest, and at average activation (uV rms)."""
CONTRAST = 0.7
"""Log amplitude for one unit of an activation pattern."""
UNSTEADINESS = 0.1
"""Coefficient of variation of the amplitude during a held contraction, below 4 Hz."""
CONTRACTION_S, REACH_S = 0.25, 0.4
"""Duration of a contraction's onset and offset, and of the movement to a posture and back (s)."""
REACH_M = 0.1
"""Distance that accelerometers move to a posture (m); with `REACH_S`, a peak of about 0.4 g."""
RESTING = np.array([[0.0, 0.0, 1.0]])
"""Gravity at rest, in the limb's frame (g)."""


class Simulation(SpecModel):
    """Settings of a simulation. The defaults give an easy but not trivial task with all three factors (12 classes)."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    n_subjects: int = Field(default=10, ge=1)
    """Subjects of the cohort, named `"01"`, `"02"`, ..."""
    seed: int = Field(default=0, ge=0)
    """Seed of all random numbers. A subject does not depend on `n_subjects`."""
    n_repetitions: int = Field(default=6, ge=1)
    """Number of repetitions of every class."""
    trials_per_class: int = Field(default=0, ge=0)
    """Trials of every class for each repetition number; 0 = `joint_classes`, which balances the key in each. The
    product with `n_repetitions` must be a multiple of `joint_classes`."""

    emg_classes: int = Field(default=3, ge=1, le=100)
    """Number of values of the factor that EMG alone determines."""
    acc_classes: int = Field(default=2, ge=1, le=100)
    """Number of values of the factor that the accelerometer alone determines."""
    joint_classes: int = Field(default=2, ge=1, le=100)
    """Number of values of the factor that needs both modalities; 1 = no such factor."""

    emg_channels: int = Field(default=8, ge=1)
    """Number of electrodes on a ring around the forearm, each over one muscle."""
    acc_channels: int = Field(default=6, ge=3)
    """Number of axes of all accelerometers, three each."""
    fs: float = Field(default=200.0, ge=120)
    """Sampling rate of EMG and labels (Hz)."""
    acc_fs: float = Field(default=50.0, ge=30)
    """Sampling rate of the accelerometers (Hz), at most `fs`."""
    trial_s: float = Field(default=2.0, ge=1)
    """Duration of a trial (s), from the onset of the movement to the return to rest."""
    rest_s: float = Field(default=1.0, ge=0.1)
    """Rest before, between and after trials (s)."""

    crosstalk: float = Field(default=0.3, ge=0, lt=1)
    """Relative amplitude of a muscle at the next electrode; its square at the one after, and so on."""
    emg_noise_uv: float = Field(default=4.0, ge=0)
    """White noise of each electrode (uV rms)."""
    mains_uv: float = Field(default=1.0, ge=0)
    """Amplitude of the 50 Hz mains hum at each electrode (uV)."""
    acc_noise_g: float = Field(default=0.01, ge=0)
    """White noise of each accelerometer axis (g rms)."""
    tremor_g: float = Field(default=0.01, ge=0)
    """Physiological tremor of the limb, 8 to 12 Hz, along each axis (g rms)."""
    effort_spread: float = Field(default=0.2, ge=0)
    """Standard deviation between trials of the log amplitude of all muscles together."""
    pattern_spread: float = Field(default=0.3, ge=0)
    """Standard deviation between trials of each muscle's own log amplitude."""
    posture_spread_deg: float = Field(default=10.0, ge=0, le=60)
    """Standard deviation between trials of the posture, about each axis (degrees)."""
    subject_spread: float = Field(default=0.3, ge=0, le=1)
    """How much activation patterns and sensor orientations differ between subjects: 0 = not at all, 1 = fully."""

    @property
    def n_classes(self) -> int:
        """Number of classes."""
        return self.emg_classes * self.acc_classes * self.joint_classes

    @property
    def n_trials(self) -> int:
        """Trials of one subject."""
        return self.n_repetitions * self.n_classes * self.n_trials_each

    @property
    def n_trials_each(self) -> int:
        """Trials of one class in one repetition."""
        return self.trials_per_class or self.joint_classes

    @property
    def subjects(self) -> tuple[str, ...]:
        """Names of the subjects."""
        return tuple(f"{k:02d}" for k in range(1, self.n_subjects + 1))

    @model_validator(mode="after")
    def _consistent(self) -> "Simulation":
        if self.acc_channels % 3:
            raise ValueError(f"acc_channels must be a multiple of 3 (x, y, z each), got {self.acc_channels}")
        if self.emg_channels < 2 and min(self.emg_classes, self.joint_classes) > 1:
            raise ValueError("emg_channels must be at least 2 for both emg_classes and joint_classes, got 1")
        if self.acc_fs > self.fs:
            raise ValueError(f"acc_fs must not exceed fs, got {self.acc_fs:g} and {self.fs:g} Hz")
        if self.n_trials_each * self.n_repetitions % self.joint_classes:
            raise ValueError(
                "trials_per_class * n_repetitions must be a multiple of joint_classes, so that no modality alone has"
                f" information about it; got {self.n_trials_each} * {self.n_repetitions} and {self.joint_classes}"
            )
        return self


def simulate(
    simulation: Simulation | Mapping | None = None, subjects: Iterable[str | int] | None = None
) -> Iterator[Recording]:
    """Simulate the cohort: one continuous recording per subject, trials of a repetition number in random order.

    `meta["trials"]` is a table with one row per trial: `start` (s), `label`, `repetition`, the factors `emg`, `acc` and
    `joint` (from 0), and `emg_key` and `acc_key`, on which the signals of each modality depend. The label is
    1 + (e * n_a + a) * n_j + j.

    Args:
        simulation: Settings: a `Simulation`, or its fields as a mapping; default `Simulation()`.
        subjects: Simulate only these subjects, by name (`"03"`) or number (`3`); default all. A subject does not depend
            on the others.
    """
    settings = read_option("simulation", simulation, Simulation)
    names = select_subjects(dict.fromkeys(settings.subjects, ()), subjects)
    return (_record(settings, int(name)) for name in names)


def find(simulation: Simulation | Mapping | None = None) -> dict[str, list[Path]]:
    """List the subjects, each with no file."""
    return {subject: [] for subject in read_option("simulation", simulation, Simulation).subjects}


def expected_accuracy(modalities: Iterable[str], simulation: Simulation | Mapping | None = None) -> float:
    """Compute the accuracy of the best classifier that knows these modalities without noise.

    The classifier decodes the factors that these modalities show, and guesses the others, whose values are equally
    likely.

    Args:
        modalities: Of `"emg"` and `"acc"`: one, both, or none.
        simulation: The cohort: a `Simulation`, or its fields as a mapping; default `Simulation()`.

    Returns:
        A fraction from 1 / `n_classes` to 1.
    """
    simulation, known = (
        read_option("simulation", simulation, Simulation),
        {modalities} if isinstance(modalities, str) else set(modalities),
    )
    unknown = sorted(known - set(MODALITIES))
    if unknown:
        raise ValueError(f"unknown modality {unknown[0]!r}; a simulation has {', '.join(MODALITIES)}")
    n_distinguishable = simulation.emg_classes if "emg" in known else 1
    n_distinguishable *= simulation.acc_classes if "acc" in known else 1
    n_distinguishable *= simulation.joint_classes if len(known) == len(MODALITIES) else 1
    return n_distinguishable / simulation.n_classes


def mutual_information_bits(modalities: Iterable[str], simulation: Simulation | Mapping | None = None) -> float:
    """Compute the information about the class in these modalities without noise (bits).

    It is the log2 of the number of distinguishable groups of classes. The joint factor is synergy: both modalities
    together give log2(`joint_classes`) bits more than the sum of each.
    """
    return math.log2(
        expected_accuracy(modalities, simulation) * read_option("simulation", simulation, Simulation).n_classes
    )


def _trials(simulation: Simulation, rng: np.random.Generator) -> pd.DataFrame:
    """The trials of one subject; `simulate` describes the columns.

    Keys are cycled, not random: every class has every key equally often. This holds for each repetition number if
    `n_trials_each` is a multiple of `joint_classes`, otherwise over all of them together.
    """
    n_a, n_j, each = simulation.acc_classes, simulation.joint_classes, simulation.n_trials_each
    emg, acc, joint, turn = np.indices((simulation.emg_classes, n_a, n_j, each)).reshape(4, -1)
    parts = []
    for repetition in range(1, simulation.n_repetitions + 1):
        key = ((repetition - 1) * each + turn) % n_j
        columns = {
            "label": REST + 1 + (emg * n_a + acc) * n_j + joint,
            "repetition": np.full(len(key), repetition),
            "emg": emg,
            "acc": acc,
            "joint": joint,
            "emg_key": key,
            "acc_key": (key + joint) % n_j,
        }
        parts.append(pd.DataFrame(columns).iloc[rng.permutation(len(key))])
    trials = pd.concat(parts, ignore_index=True)
    trial_rows, rest_rows = _rows(simulation)
    trials.insert(0, "start", (rest_rows + trials.index * (trial_rows + rest_rows)) / simulation.fs)
    return trials


def _record(simulation: Simulation, number: int) -> Recording:
    """Simulate one subject. Order, EMG and accelerometer have separate random streams."""
    rng_order, rng_emg, rng_acc = _streams(simulation, number)
    trials = _trials(simulation, rng_order)
    emg = _emg(simulation, trials, rng_emg).astype(np.float32)
    acc = _acc(simulation, trials, rng_acc).astype(np.float32)
    electrodes = tuple(f"electrode {i}" for i in range(1, simulation.emg_channels + 1))
    axes = tuple(f"sensor {i} {axis}" for i in range(1, simulation.acc_channels // 3 + 1) for axis in "xyz")
    signals = {
        "emg": Signal(emg, simulation.fs, simulation.fs, "mV", electrodes, "ring around the forearm"),
        "acc": Signal(acc, simulation.acc_fs, simulation.acc_fs, "g", axes, "forearm"),
    }
    trial_rows, rest_rows = _rows(simulation)
    held = np.r_[np.ones(trial_rows, np.int64), np.zeros(rest_rows, np.int64)]
    label, repetition = (
        np.r_[np.full(rest_rows, REST), np.kron(trials[column].to_numpy(), held)] for column in ("label", "repetition")
    )
    factors = (simulation.emg_classes, simulation.acc_classes, simulation.joint_classes)
    names = {REST + 1 + i: f"emg {e}, acc {a}, joint {j}" for i, (e, a, j) in enumerate(np.ndindex(factors))}
    meta = {
        "dataset": NAME,
        "class_names": names,
        "trials": trials,
        "simulation": simulation.model_dump(),
        "notes": (f"simulated, not recorded (seed {simulation.seed})",),
    }
    return Recording(simulation.subjects[number - 1], signals, label, repetition, simulation.fs, meta)


def _emg(simulation: Simulation, trials: pd.DataFrame, rng: np.random.Generator) -> Float[np.ndarray, "row electrode"]:
    """EMG (mV). It depends on a trial's `emg` and `emg_key` only."""
    n_j, n_muscles, fs = simulation.joint_classes, simulation.emg_channels, simulation.fs
    shared, own = (
        physiology.synergies(source, simulation.emg_classes, n_j, n_muscles)
        for source in (_streams(simulation, 0)[1], rng)
    )
    part = simulation.subject_spread
    patterns = math.sqrt(1 - part) * shared + math.sqrt(part) * own  # square roots keep the variance
    log_amplitude = CONTRAST * patterns[trials["emg"] * n_j + trials["emg_key"]]
    log_amplitude += simulation.effort_spread * rng.standard_normal((len(trials), 1))
    log_amplitude += simulation.pattern_spread * rng.standard_normal((len(trials), n_muscles))

    n_rows = _n_rows(simulation)
    trial, since_start = _place(simulation, np.arange(n_rows) / fs)
    contraction, _ = physiology.move_and_return(since_start, _rows(simulation)[0] / fs, CONTRACTION_S)
    waver = physiology.coloured_noise(rng, n_rows, n_muscles, fs, physiology.band_power(0, 4))
    steadiness = np.maximum(1 + UNSTEADINESS * waver, 0)
    return physiology.surface_emg(
        rng,
        TONE_UV + EFFORT_UV * contraction[:, None] * np.exp(log_amplitude)[trial] * steadiness,
        fs,
        crosstalk=simulation.crosstalk,
        noise_uv=simulation.emg_noise_uv,
        mains_uv=simulation.mains_uv,
    )


def _acc(simulation: Simulation, trials: pd.DataFrame, rng: np.random.Generator) -> Float[np.ndarray, "row axis"]:
    """Acceleration (g). It depends on a trial's `acc` and `acc_key` only."""
    n_j, n_sensors, fs = simulation.joint_classes, simulation.acc_channels // 3, simulation.acc_fs
    rotation = scipy.spatial.transform.Rotation
    shared, own = (rotation.from_quat(r.standard_normal((n_sensors, 4))) for r in (_streams(simulation, 0)[2], rng))
    frames = shared * own**simulation.subject_spread
    shown = physiology.postures(simulation.acc_classes, n_j)[trials["acc"] * n_j + trials["acc_key"]]
    turns = simulation.posture_spread_deg * rng.standard_normal(shown.shape)
    held = rotation.from_rotvec(turns, degrees=True).apply(shown)
    # The heading is independent of the posture, so that it has no information about the label.
    heading = rng.standard_normal((len(trials), 3))
    heading /= np.linalg.norm(heading, axis=1, keepdims=True)

    n_rows = math.ceil(_n_rows(simulation) * fs / simulation.fs)
    trial, since_start = _place(simulation, np.arange(n_rows) / fs)
    way, bend = physiology.move_and_return(since_start, _rows(simulation)[0] / simulation.fs, REACH_S)
    limb = physiology.turn(RESTING.repeat(n_rows, axis=0), held[trial], way)
    limb += heading[trial] * bend[:, None] * REACH_M / physiology.GRAVITY
    limb += simulation.tremor_g * physiology.coloured_noise(rng, n_rows, 3, fs, physiology.band_power(8, 12))
    axes = np.concatenate([frame.apply(limb) for frame in frames], axis=1)
    return axes + simulation.acc_noise_g * rng.standard_normal(axes.shape)


def _rows(simulation: Simulation) -> tuple[int, int]:
    """Number of rows of a trial and of a rest, at the rate of the labels."""
    return round(simulation.trial_s * simulation.fs), round(simulation.rest_s * simulation.fs)


def _n_rows(simulation: Simulation) -> int:
    trial_rows, rest_rows = _rows(simulation)
    return rest_rows + simulation.n_trials * (trial_rows + rest_rows)


def _place(simulation: Simulation, time: Float[np.ndarray, " row"]) -> tuple[np.ndarray, Float[np.ndarray, " row"]]:
    """Trial of each time (during rest: the trial before), and the time since the start of that trial (s)."""
    trial_rows, rest_rows = _rows(simulation)
    period, first = (trial_rows + rest_rows) / simulation.fs, rest_rows / simulation.fs
    trial = np.clip(np.floor((time - first) / period), 0, simulation.n_trials - 1).astype(int)
    return trial, time - first - trial * period


def _streams(simulation: Simulation, number: int) -> list[np.random.Generator]:
    """Random streams for order, EMG and accelerometer of a subject (from 1); 0 is common to all subjects."""
    source = np.random.SeedSequence(simulation.seed, spawn_key=(number,))
    return [np.random.default_rng(child) for child in source.spawn(3)]


SIMULATED = DataSet(
    NAME,
    simulate,
    "synthetic subjects; the experimenter sets which information each modality has about the label",
    find,
    expected_accuracy=expected_accuracy,
)
