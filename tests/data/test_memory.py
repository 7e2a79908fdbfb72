"""Long recordings: additional memory is a fraction of the samples' size, and results have the same bits."""

import tracemalloc

import numpy as np
import pytest

from emg_lens.data import Recipe, Recording, Segment, Signal, TrialSet, preprocess
from emg_lens.data.pre_onset import _features
from emg_lens.data.preprocessing import _prepared
from emg_lens.data.standardization import InputStatistics

ROWS = 200_000
RECIPE = Recipe.model_validate(
    {
        "signals": {
            "emg": [{"step": "highpass", "cutoff_hz": 10}, {"step": "rectify"}, {"step": "lowpass", "cutoff_hz": 4}],
            "acc": [{"step": "lowpass", "cutoff_hz": 4}, {"step": "magnitude"}],
        },
        "fs": 50,
    }
)


@pytest.fixture(scope="module")
def long() -> Recording:
    random, label = np.random.default_rng(0), np.repeat(np.arange(ROWS // 2000) % 5, 2000)
    signals = {
        name: Signal(random.normal(size=(ROWS, n)).astype("f4"), 200.0, 200.0, "V", tuple(map(str, range(n))))
        for name, n in (("emg", 16), ("acc", 6))
    }
    return Recording("A", signals, label, np.ones_like(label), 200.0)


@pytest.fixture(scope="module")
def trials(long) -> TrialSet:
    return TrialSet.from_recordings([preprocess(long, RECIPE)], Segment(window_s=1.0, stride_s=0.25))


def peak_of(call) -> int:
    """Bytes that a call has allocated at most, what it returns included."""
    tracemalloc.start()
    call()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def test_filtering_takes_less_than_the_recording(long, trials):  # libraries are imported by then
    assert peak_of(lambda: preprocess(long, RECIPE)) < 0.8 * sum(s.data.nbytes for s in long.signals.values())


def test_cutting_takes_the_trials_once(long, trials):
    prepared = preprocess(long, RECIPE)
    segment = Segment(window_s=1.0, stride_s=0.25)
    assert peak_of(lambda: TrialSet.from_recordings([prepared], segment)) < 1.6 * trials.x.nbytes


def test_statistics_and_features_take_less_than_the_trials(trials):
    many = TrialSet.concatenate([trials] * 6)
    assert peak_of(lambda: InputStatistics.of(many)) < many.x.nbytes
    assert peak_of(lambda: _features(many)) < many.x.nbytes


def test_channel_by_channel_gives_the_bits_of_all_at_once(long):
    prepared = preprocess(long, RECIPE)
    for name, signal in long.signals.items():
        whole, notes = _prepared(signal, RECIPE, name)
        np.testing.assert_array_equal(prepared.signals[name].data, whole.data)
        assert prepared.signals[name].ch_names == whole.ch_names and set(notes) <= set(prepared.notes)


def test_statistics_of_some_channels_at_a_time_have_the_bits_of_all_at_once(trials):
    statistics, x = InputStatistics.of(trials), trials.x
    mean = x.mean(axis=(0, 2), dtype=np.float64)
    np.testing.assert_array_equal(statistics.std, np.sqrt(np.mean((x - mean[:, None]) ** 2, axis=(0, 2))))
