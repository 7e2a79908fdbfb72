"""Small recordings whose gestures differ in the strength of each channel, to be written in many layouts."""

import numpy as np
import pytest

GESTURES = ("fist", "open hand", "pinch")


def noise(gesture, seconds, fs, channels, seed):
    """Samples `[time, channel]`: each gesture makes another channel strong."""
    random = np.random.default_rng(seed)
    strength = np.where(np.arange(channels) % len(GESTURES) == gesture, 5.0, 1.0)
    return (random.normal(size=(round(seconds * fs), channels)) * strength).round(3)


@pytest.fixture
def emg():
    """`emg(gesture, seconds=1.5, fs=1000, channels=4, seed=0)`: samples `[time, channel]`."""

    def make(gesture, seconds=1.5, fs=1000, channels=4, seed=0):
        return noise(gesture, seconds, fs, channels, seed)

    return make


@pytest.fixture
def acc():
    """`acc(gesture, seconds=1.5, fs=100, seed=0)`: samples `[time, 3]` in g."""

    def make(gesture, seconds=1.5, fs=100, seed=0):
        random = np.random.default_rng(seed)
        return (random.normal(size=(round(seconds * fs), 3)) * 0.02 + np.eye(3)[gesture % 3]).round(4)

    return make
