"""How muscles and limbs look to sensors: the signal models behind `emg_lens.data.sources.simulated.simulation`.

Nothing here knows about labels, trials or subjects; every function is a small physical model. Surface EMG is
Gaussian noise of a known spectral shape, modulated by each muscle's drive and mixed by crosstalk; an
accelerometer sees gravity turned by a posture, the acceleration of getting there, and tremor.
"""

from collections.abc import Callable

import numpy as np
import scipy
from jaxtyping import Float

GRAVITY = 9.81
"""Acceleration (m/s^2) that one g stands for."""
MAINS_HZ = 50.0
ROLL_DEG, PITCH_DEG = 270.0, 120.0
"""Ranges over which postures are spread, about the posture at rest."""
N_CANDIDATES = 1000
"""Random activation patterns of which the most distant are taken."""

Vector = Float[np.ndarray, " row"]
Power = Callable[[Vector], Vector]
"""Power spectral density over frequency (Hz), up to a factor."""


def emg_power(frequency: Vector, low_hz: float = 50.0, high_hz: float = 110.0) -> Vector:
    """Spectral density of a surface EMG, up to a factor: f^2 / ((f^2 + low^2) (f^2 + high^2)^2).

    The shape of Shwedyk et al. (1977) that Stulen and De Luca (1981) use: it rises with f^2, falls with f^-4.
    The default corners put the median frequency between 80 and 100 Hz, where forearm muscles have theirs.
    """
    squared = np.square(frequency)
    return squared / ((squared + low_hz**2) * np.square(squared + high_hz**2))


def band_power(low_hz: float, high_hz: float) -> Power:
    """A flat spectral density from `low_hz` to `high_hz`, zero outside."""
    return lambda frequency: ((frequency >= low_hz) & (frequency <= high_hz)).astype(float)


def coloured_noise(
    rng: np.random.Generator, n_rows: int, n_channels: int, fs: float, power: Power
) -> Float[np.ndarray, "row channel"]:
    """Stationary Gaussian noise of a given spectrum, unit variance, independent between channels.

    Nothing aliases: the noise is what an ideal anti-aliasing device delivers at `fs`, and all its power lies
    below Nyquist. The unit variance is the process's; a short stretch scatters about it, as real ones do.

    Raises:
        ValueError: The spectrum has no power at any frequency that so many rows can hold.
    """
    n = n_rows + n_rows % 2
    density = power(np.fft.rfftfreq(n, 1 / fs))
    density[[0, -1]] = 0  # neither an offset nor a component at Nyquist, whose phase cannot be random
    if not density.any():
        raise ValueError(f"{n_rows} rows at {fs:g} Hz hold no frequency of this spectrum; take more, or faster")
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
    """EMG (mV) of a ring of electrodes, one over each muscle.

    Args:
        rng: Source of the muscles' noise, the electrodes' noise and the phases of the hum.
        drive: Amplitude of every muscle (uV rms) over time.
        fs: Rate (Hz).
        crosstalk: See `crosstalk_matrix`.
        noise_uv: White noise of each electrode (uV rms).
        mains_uv: Amplitude of the hum (uV), in a phase of its own at each electrode.
    """
    n_rows, n_muscles = drive.shape
    muscles = coloured_noise(rng, n_rows, n_muscles, fs, emg_power) * drive
    electrodes = muscles @ crosstalk_matrix(n_muscles, crosstalk).T
    electrodes += noise_uv * rng.standard_normal(electrodes.shape)
    phase = MAINS_HZ / fs * np.arange(n_rows)[:, None] + rng.uniform(0, 1, n_muscles)
    return (electrodes + mains_uv * np.sin(2 * np.pi * phase)) / 1000


def crosstalk_matrix(n_electrodes: int, crosstalk: float) -> Float[np.ndarray, "electrode muscle"]:
    """Mixing of muscles into a ring of electrodes: `crosstalk` to the power of their distance along the ring.

    Rows have unit norm, so that equally active, independent muscles give every electrode their own amplitude.
    The matrix is invertible below 1; at 1 every electrode would see one and the same sum.
    """
    index = np.arange(n_electrodes)
    apart = np.abs(index[:, None] - index)
    mixing = float(crosstalk) ** np.minimum(apart, n_electrodes - apart)
    return mixing / np.linalg.norm(mixing, axis=1, keepdims=True)


def synergies(
    rng: np.random.Generator, n_factor: int, n_key: int, n_muscles: int
) -> Float[np.ndarray, "combination muscle"]:
    """Log activation of the muscles for every combination (factor-major) of two things that EMG shows.

    Each of the two has muscle synergies of its own, orthogonal to the other's, along which its values lie far
    apart. The sum therefore tells both, and a linear classifier can read either.

    Raises:
        ValueError: One muscle for two things, or more values than `N_CANDIDATES`.
    """
    dimensions = n_muscles if n_key == 1 else round(n_muscles * (n_factor - 1) / (n_factor + n_key - 2))
    if n_factor > 1 and n_key > 1:
        if n_muscles < 2:
            raise ValueError(f"{n_muscles} muscle cannot show two things; at least 2 are needed")
        dimensions = min(max(dimensions, 1), n_muscles - 1)
    basis = np.linalg.qr(rng.standard_normal((n_muscles, n_muscles)))[0].T
    factor = spread_out(rng.uniform(-1, 1, (N_CANDIDATES, dimensions)), n_factor) @ basis[:dimensions]
    key = spread_out(rng.uniform(-1, 1, (N_CANDIDATES, n_muscles - dimensions)), n_key) @ basis[dimensions:]
    return (factor[:, None] + key).reshape(-1, n_muscles)


def spread_out(candidates: Float[np.ndarray, "candidate axis"], count: int) -> Float[np.ndarray, "count axis"]:
    """Choose candidates far from one another: the first, then always the one farthest from those chosen.

    Patterns drawn at random can fall together by chance, and two classes with them; these do not.

    Raises:
        ValueError: Fewer candidates than `count`.
    """
    if count > len(candidates):
        raise ValueError(f"cannot choose {count} of {len(candidates)} candidates")
    chosen, nearest = [0], np.full(len(candidates), np.inf)
    while len(chosen) < count:
        nearest = np.minimum(nearest, np.linalg.norm(candidates - candidates[chosen[-1]], axis=1))
        chosen.append(int(np.argmax(nearest)))
    return candidates[chosen]


def postures(n_roll: int, n_pitch: int) -> Float[np.ndarray, "combination 3"]:
    """Direction of gravity in a limb held at every combination (roll-major) of `n_roll` and `n_pitch` angles.

    The angles are the middles of equal parts of their ranges, so that no posture is upside down. At rest
    gravity lies along the third axis.
    """
    roll = _middles(n_roll, ROLL_DEG)[:, None]
    pitch = _middles(n_pitch, PITCH_DEG)
    axes = np.broadcast_arrays(np.sin(pitch), np.cos(pitch) * np.sin(roll), np.cos(pitch) * np.cos(roll))
    return np.stack(axes, axis=-1).reshape(-1, 3)


def turn(
    start: Float[np.ndarray, "#row 3"], end: Float[np.ndarray, "row 3"], fraction: Vector
) -> Float[np.ndarray, "row 3"]:
    """Unit vectors `start` turned towards `end` by a fraction of the angle between, on the great circle.

    Opposite vectors have no one great circle between them: they stay where they are.
    """
    axis = np.cross(start, end)
    sine = np.linalg.norm(axis, axis=1, keepdims=True)
    angle = np.arctan2(sine, np.sum(start * end, axis=1, keepdims=True))
    axis = np.divide(axis, sine, out=np.zeros_like(axis), where=sine > 0)
    return scipy.spatial.transform.Rotation.from_rotvec(axis * angle * fraction[:, None]).apply(start)


def jitter(
    rng: np.random.Generator, vectors: Float[np.ndarray, "row 3"], spread_deg: float
) -> Float[np.ndarray, "row 3"]:
    """Vectors turned, each by a random rotation of standard deviation `spread_deg` about each axis."""
    turns = spread_deg * rng.standard_normal(vectors.shape)
    return scipy.spatial.transform.Rotation.from_rotvec(turns, degrees=True).apply(vectors)


def move_and_return(since_start: Vector, duration: float, transition: float) -> tuple[Vector, Vector]:
    """A movement from 0 to 1 and back to 0, each way on a minimum-jerk path (Flash and Hogan, 1985).

    Args:
        since_start: Time since the movement began (s); before 0 and after `duration` nothing moves.
        duration: From the departure to the arrival back (s).
        transition: Duration of each way (s), at most half of `duration`.

    Returns:
        Position (0 to 1), and its second derivative (1/s^2).
    """
    there = np.clip(since_start / transition, 0, 1)
    back = np.clip((since_start - duration + transition) / transition, 0, 1)
    position = [way**3 * (10 - 15 * way + 6 * way**2) for way in (there, back)]
    bend = [way * (60 - 180 * way + 120 * way**2) for way in (there, back)]
    return position[0] - position[1], (bend[0] - bend[1]) / transition**2


def directions(rng: np.random.Generator, n: int) -> Float[np.ndarray, "n 3"]:
    """Unit vectors, uniform on the sphere."""
    vectors = rng.standard_normal((n, 3))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def orientations(rng: np.random.Generator, n: int) -> "scipy.spatial.transform.Rotation":
    """Rotations, uniform over all orientations."""
    return scipy.spatial.transform.Rotation.from_quat(rng.standard_normal((n, 4)))


def _middles(count: int, range_deg: float) -> Float[np.ndarray, " count"]:
    """Middles of `count` equal parts of a range of angles about 0 (rad)."""
    return np.radians(range_deg) * ((np.arange(count) + 0.5) / count - 0.5)
