"""Folders of real recordings, and a small synthetic recording."""

import os
from pathlib import Path

import numpy as np
import pytest

from emg_lens.data import Recording, Signal

DATA = Path(os.environ.get("EMG_LENS_DATA", Path(__file__).parents[2].parent / "shared" / "data"))


@pytest.fixture
def real():
    """`real(name)`: the folder of a real data set, or skip."""

    def folder(name: str) -> Path:
        if not (DATA / name).is_dir():
            pytest.skip(f"no {name} in {DATA}; set EMG_LENS_DATA")
        return DATA / name

    return folder


@pytest.fixture
def make_recording():
    """`make_recording(...)`: three gestures, two repetitions, 1.0 s each, with 0.5 s of rest before each."""

    def make(subject="A", fs=200.0, labels=(1, 2, 3), repetitions=2, seed=0, rates=(200.0, 200.0), **meta):
        rows = [(label, r) for r in range(1, repetitions + 1) for label in labels]
        rest, active = round(0.5 * fs), round(fs)
        label = np.concatenate([np.repeat([0, of], [rest, active]) for of, _ in rows])
        repetition = np.concatenate([np.repeat([0, r], [rest, active]) for _, r in rows])
        random, seconds = np.random.default_rng(seed), len(label) / fs

        def signal(rate, names, units):
            data = random.normal(size=(round(seconds * rate), len(names))).astype(np.float32)
            return Signal(data, rate, rate, units, names)

        signals = {"emg": signal(rates[0], ("a", "b"), "V"), "acc": signal(rates[1], ("x", "y", "z"), "g")}
        return Recording(subject, signals, label, repetition, fs, meta)

    return make
