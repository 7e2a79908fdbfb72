"""Signal models of surface EMG and accelerometers, used by `emg_lens.data.sources.simulated.simulation`.

Every function is a small physical model, without labels, trials or subjects. Surface EMG is Gaussian noise of a known
spectral shape, modulated by each muscle's drive and mixed by crosstalk. An accelerometer measures gravity, turned by a
posture, the acceleration of the movement to that posture, and tremor.
"""

from collections.abc import Callable

import numpy as np
import scipy
from jaxtyping import Float

GRAVITY = 9.81
"""Acceleration of one g (m/s^2)."""
MAINS_HZ = 50.0
ROLL_DEG, PITCH_DEG = 270.0, 120.0
"""Ranges of roll and pitch angles of postures, about the posture at rest."""
N_CANDIDATES = 1000
"""Number of random activation patterns; the most distant ones are used."""

Vector = Float[np.ndarray, " row"]
Power = Callable[[Vector], Vector]
"""Power spectral density as a function of frequency (Hz), up to a factor."""


def emg_power(frequency: Vector, low_hz: float = 50.0, high_hz: float = 110.0) -> Vector:
    """Spectral density of surface EMG, up to a factor: f^2 / ((f^2 + low^2) (f^2 + high^2)^2).

    Shape of Shwedyk et al. (1977), also used by Stulen and De Luca (1981): it rises with f^2 and falls with f^-4. The
    default corners give a median frequency of 80 to 100 Hz, as in forearm muscles.
    """
    squared = np.square(frequency)
    return squared / ((squared + low_hz**2) * np.square(squared + high_hz**2))


def band_power(low_hz: float, high_hz: float) -> Power:
    """Make a flat spectral density from `low_hz` to `high_hz`, zero outside."""
    return lambda frequency: ((frequency >= low_hz) & (frequency <= high_hz)).astype(float)


def coloured_noise(
    rng: np.random.Generator, n_rows: int, n_channels: int, fs: float, power: Power
) -> Float[np.ndarray, "row channel"]:
    """Generate stationary Gaussian noise with a given spectrum and unit variance, independent between channels.

    All power is below half the sampling rate, as after an ideal anti-aliasing filter. The process has unit
    variance; the variance of a short signal differs from 1.
    """
    n = n_rows + n_rows % 2
    density = power(np.fft.rfftfreq(n, 1 / fs))
    density[[0, -1]] = 0  # no offset, and no component at half the rate, which has no random phase
    amplitude = n / 2 * np.sqrt(density / density.sum())
    real, imaginary = rng.standard_normal((2, len(density), n_channels))
    return np.fft.irfft((real + 1j * imaginary) * amplitude[:, None], n, axis=0)[:n_rows]


def surface_emg(
    rng: np.random.Generator,
    drive: Float[np.ndarray, "row muscle"],
    fs: float,
    *,
    crosstalk: float,
    noise_uv: float,
    mains_uv: float,
) -> Float[np.ndarray, "row electrode"]:
    """Generate EMG (mV) of a ring of electrodes, one over each muscle.

    Args:
        rng: Random generator.
        drive: Amplitude of every muscle over time (uV rms).
        fs: Sampling rate (Hz).
        crosstalk: See `crosstalk_matrix`.
        noise_uv: White noise of each electrode (uV rms).
        mains_uv: Amplitude of the mains hum (uV); its phase differs between electrodes.
    """
    n_rows, n_muscles = drive.shape
    muscles = coloured_noise(rng, n_rows, n_muscles, fs, emg_power) * drive
    electrodes = muscles @ crosstalk_matrix(n_muscles, crosstalk).T
    electrodes += noise_uv * rng.standard_normal(electrodes.shape)
    phase = MAINS_HZ / fs * np.arange(n_rows)[:, None] + rng.uniform(0, 1, n_muscles)
    return (electrodes + mains_uv * np.sin(2 * np.pi * phase)) / 1000


def crosstalk_matrix(n_electrodes: int, crosstalk: float) -> Float[np.ndarray, "electrode muscle"]:
    """Mixing matrix from muscles to a ring of electrodes: `crosstalk` to the power of the distance along the ring.

    Rows have unit norm, so that equally active, independent muscles give every electrode their amplitude. The matrix is
    invertible for `crosstalk` below 1.
    """
    index = np.arange(n_electrodes)
    distance = np.abs(index[:, None] - index)
    mixing = float(crosstalk) ** np.minimum(distance, n_electrodes - distance)
    return mixing / np.linalg.norm(mixing, axis=1, keepdims=True)


def synergies(
    rng: np.random.Generator, n_factor: int, n_key: int, n_muscles: int
) -> Float[np.ndarray, "combination muscle"]:
    """Log activation of the muscles for every combination (factor-major) of a factor and a key.

    Factor and key have muscle synergies that are orthogonal to each other, and their values are far apart along them. A
    linear classifier can therefore decode either from the sum.
    """
    dimensions = n_muscles if n_key == 1 else round(n_muscles * (n_factor - 1) / (n_factor + n_key - 2))
    if n_factor > 1 and n_key > 1:
        dimensions = min(max(dimensions, 1), n_muscles - 1)
    basis = np.linalg.qr(rng.standard_normal((n_muscles, n_muscles)))[0].T
    factor = spread_out(rng.uniform(-1, 1, (N_CANDIDATES, dimensions)), n_factor) @ basis[:dimensions]
    key = spread_out(rng.uniform(-1, 1, (N_CANDIDATES, n_muscles - dimensions)), n_key) @ basis[dimensions:]
    return (factor[:, None] + key).reshape(-1, n_muscles)


def spread_out(candidates: Float[np.ndarray, "candidate axis"], count: int) -> Float[np.ndarray, "count axis"]:
    """Choose candidates that are far from each other: the first, then always the one farthest from those chosen."""
    chosen, nearest = [0], np.full(len(candidates), np.inf)
    while len(chosen) < count:
        nearest = np.minimum(nearest, np.linalg.norm(candidates - candidates[chosen[-1]], axis=1))
        chosen.append(int(np.argmax(nearest)))
    return candidates[chosen]


def postures(n_roll: int, n_pitch: int) -> Float[np.ndarray, "combination 3"]:
    """Direction of gravity for every combination (roll-major) of `n_roll` and `n_pitch` angles of the limb.

    The angles are the centres of equal parts of their ranges, so that no posture is upside down. At rest, gravity
    points along the third axis.
    """
    roll, pitch = (
        np.radians(range_deg) * ((np.arange(count) + 0.5) / count - 0.5)
        for count, range_deg in ((n_roll, ROLL_DEG), (n_pitch, PITCH_DEG))
    )
    roll = roll[:, None]
    axes = np.broadcast_arrays(np.sin(pitch), np.cos(pitch) * np.sin(roll), np.cos(pitch) * np.cos(roll))
    return np.stack(axes, axis=-1).reshape(-1, 3)


def turn(
    start: Float[np.ndarray, "#row 3"], end: Float[np.ndarray, "row 3"], fraction: Vector
) -> Float[np.ndarray, "row 3"]:
    """Turn unit vectors from `start` towards `end`, by a fraction of the angle between them on the great circle.

    Opposite vectors stay where they are, because their great circle is not unique.
    """
    axis = np.cross(start, end)
    sine = np.linalg.norm(axis, axis=1, keepdims=True)
    angle = np.arctan2(sine, np.sum(start * end, axis=1, keepdims=True))
    axis = np.divide(axis, sine, out=np.zeros_like(axis), where=sine > 0)
    return scipy.spatial.transform.Rotation.from_rotvec(axis * angle * fraction[:, None]).apply(start)


def move_and_return(since_start: Vector, duration: float, transition: float) -> tuple[Vector, Vector]:
    """A movement from 0 to 1 and back to 0, each way on a minimum-jerk path (Flash and Hogan, 1985).

    Args:
        since_start: Time since the start of the movement (s); there is no movement before 0 and after `duration`.
        duration: Time from the start to the end of the return (s).
        transition: Duration of each of the two ways (s), at most half of `duration`.

    Returns:
        Position (0 to 1), and its second derivative (1/s^2).
    """
    there = np.clip(since_start / transition, 0, 1)
    back = np.clip((since_start - duration + transition) / transition, 0, 1)
    position = [way**3 * (10 - 15 * way + 6 * way**2) for way in (there, back)]
    bend = [way * (60 - 180 * way + 120 * way**2) for way in (there, back)]
    return position[0] - position[1], (bend[0] - bend[1]) / transition**2
