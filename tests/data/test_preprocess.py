from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import signal as dsp

from emg_lens.data import DataError, Recipe, Recording, Signal, TrialSet, preprocess
from emg_lens.validation import ArgumentError

FS = 1000.0
SECONDS = 4.0


def sine(frequency, fs=FS, seconds=SECONDS, phase=0.3):
    return np.sin(2 * np.pi * frequency * np.arange(round(seconds * fs)) / fs + phase)


def recording(fs=FS, native_fs=None, **channels):
    """Modalities of one channel each (or of an array), all at `fs`."""
    signals = {}
    for name, data in channels.items():
        data = np.atleast_2d(np.asarray(data, np.float64).T).T
        names = tuple(f"{name}{i}" for i in range(data.shape[1]))
        signals[name] = Signal(data, fs, native_fs or fs, "V", names)
    n = len(next(iter(signals.values())).data)
    return Recording("A", signals, np.zeros(n, int), np.zeros(n, int), fs, {"file": "a.mat", "notes": ("old",)})


def run(data, *steps, fs=FS, native_fs=None):
    result = preprocess(recording(fs, native_fs, emg=data), Recipe(signals={"emg": list(steps)}))
    return result.signals["emg"].data[:, 0], result


def amplitude(x, frequency, fs=FS):
    """Amplitude at a frequency, away from the edges."""
    x = x[len(x) // 4 : -len(x) // 4]
    return 2 * abs(np.mean(x * np.exp(-2j * np.pi * frequency * np.arange(len(x)) / fs)))


BANDPASS = {"step": "bandpass", "low_hz": 20, "high_hz": 90}


def test_a_band_pass_keeps_the_band_and_removes_the_rest():
    x, _ = run(sine(2) + sine(50) + sine(300), BANDPASS)
    assert amplitude(x, 50) == pytest.approx(1, abs=0.01)
    assert amplitude(x, 2) < 1e-3 and amplitude(x, 300) < 1e-3


def test_filters_have_no_phase():
    inside = sine(50)
    x, _ = run(inside, BANDPASS)
    middle = slice(1000, -1000)
    np.testing.assert_allclose(x[middle], inside[middle], atol=0.01)


def test_gain_at_a_cut_off_is_minus_six_decibel():
    x, _ = run(sine(100), {"step": "lowpass", "cutoff_hz": 100})
    assert amplitude(x, 100) == pytest.approx(0.5, abs=1e-3)


@pytest.mark.parametrize(
    "step, reference",
    [
        (BANDPASS, dsp.butter(4, (20, 90), "bandpass", fs=FS, output="sos")),
        (
            {"step": "highpass", "cutoff_hz": 30, "order": 2},
            dsp.butter(2, 30, "highpass", fs=FS, output="sos"),
        ),
        ({"step": "lowpass", "cutoff_hz": 30, "order": 3}, dsp.butter(3, 30, "lowpass", fs=FS, output="sos")),
        ({"step": "notch", "frequency_hz": 50, "quality": 10}, dsp.tf2sos(*dsp.iirnotch(50, 10, fs=FS))),
    ],
)
def test_steps_equal_scipy(step, reference):
    noise = np.random.default_rng(0).normal(size=3000)
    np.testing.assert_array_equal(run(noise, step)[0], dsp.sosfiltfilt(reference, noise))


@pytest.mark.parametrize("rows", [28, 100_001])
@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_long_signals_are_filtered_channel_by_channel_to_the_bits_of_scipy(rows, dtype):
    data = np.random.default_rng(1).normal(size=(rows, 2)).astype(dtype)
    signal = Signal(data, FS, FS, "V", ("a", "b"))
    zeros = np.zeros(rows, int)
    result = preprocess(
        Recording("A", {"emg": signal}, zeros, zeros, FS), Recipe.model_validate({"signals": {"emg": [BANDPASS]}})
    ).signals["emg"]
    expected = dsp.sosfiltfilt(dsp.butter(4, (20, 90), "bandpass", fs=FS, output="sos"), data, axis=0)
    np.testing.assert_array_equal(result.data, expected.astype(dtype))


def test_a_notch_removes_its_line_and_leaves_the_neighbours():
    x, _ = run(sine(50, seconds=20) + sine(60, seconds=20), {"step": "notch", "frequency_hz": 50})
    assert amplitude(x, 50) < 0.01 and amplitude(x, 60) == pytest.approx(1, abs=0.05)


def test_steps_run_in_order():
    data = sine(50)
    first, _ = run(data, BANDPASS, {"step": "rectify"})
    last, _ = run(data, {"step": "rectify"}, BANDPASS)
    assert first.min() >= 0 and last.min() < 0


def test_magnitude_is_the_norm_of_each_triad():
    data = np.array([[3.0, 0, 4, 1, 2, 2], [0, 0, 0, 6, 0, 8]])
    result = preprocess(recording(acc=data), Recipe(signals={"acc": [{"step": "magnitude"}]}))  # pyright: ignore
    np.testing.assert_allclose(result.signals["acc"].data, [[5, 3], [0, 10]])
    with pytest.raises(DataError, match="multiple of 3 channels .*got 4"):
        preprocess(recording(acc=data[:, :4]), Recipe(signals={"acc": [{"step": "magnitude"}]}))  # pyright: ignore


@pytest.mark.parametrize(
    "step",
    [
        {"step": "bandpass", "low_hz": 20, "high_hz": 500},
        {"step": "highpass", "cutoff_hz": 500},
        {"step": "notch", "frequency_hz": 600},
    ],
)
def test_cut_offs_at_or_above_nyquist_are_errors(step):
    with pytest.raises(DataError, match=r"A a.mat: emg: .* needs a sampling rate above 1[02]00 Hz, got 1000 Hz"):
        run(sine(50), step)


@pytest.mark.parametrize("native_fs, cutoff", [(148, 90), (148, 74), (1000, 500), (1000, 700)])
def test_a_low_pass_above_half_the_native_rate_is_left_out_with_a_note(native_fs, cutoff):
    data = np.random.default_rng(0).normal(size=2000)
    x, result = run(data, {"step": "lowpass", "cutoff_hz": cutoff}, native_fs=native_fs)
    np.testing.assert_array_equal(x, data)
    assert any(f"no low-pass at {cutoff} Hz was needed" in note for note in result.notes)
    assert result.notes[0] == "old"


def test_a_band_pass_beyond_the_sensors_band_is_noted():
    _, result = run(sine(10), BANDPASS, native_fs=105)
    assert any("exceeds half the sensor's native rate of 105 Hz" in note for note in result.notes)


def test_down_sampling_keeps_the_band_in_phase_and_does_not_alias():
    data = 2 + sine(5) + sine(430)  # 430 Hz would alias to 30 Hz at 200 Hz
    result = preprocess(recording(emg=data), Recipe(fs=200))
    x = result.signals["emg"].data[:, 0]
    assert len(x) == 800 and result.fs == 200 and result.signals["emg"].native_fs == FS
    np.testing.assert_allclose(x[100:-100], (2 + sine(5, fs=200))[100:-100], atol=0.01)
    assert amplitude(x, 30, 200) < 0.01
    assert abs(x[:20] - 2).max() < 1.3  # no edge transient from the offset
    assert any(
        "resampled from 1000 Hz to 200 Hz (anti-aliased, ratio 1/5, no content above 100 Hz)" in note
        for note in result.notes
    )


def test_an_odd_rate_comes_to_the_grid_without_drift():
    fs = 962.4713
    result = preprocess(recording(fs, emg=sine(3, fs, 60)), Recipe(fs=200))
    x = result.signals["emg"].data[:, 0]
    np.testing.assert_allclose(x[-400:-100], sine(3, 200, 60)[-400:-100][: len(x[-400:-100])], atol=0.02)


def test_up_sampling_is_linear_interpolation_and_holds_the_last_value():
    slow = Signal(np.array([[0.0], [4.0], [2.0]]), 50.0, 50.0, "g", ("x",))
    fast = Signal(np.zeros((12, 1)), 200.0, 200.0, "adc", ("a",))
    made = Recording("A", {"emg": fast, "acc": slow}, np.zeros(12, int), np.zeros(12, int), 200.0)
    result = preprocess(made, Recipe(fs=200))
    np.testing.assert_allclose(result.signals["acc"].data[:, 0], [0, 1, 2, 3, 4, 3.5, 3, 2.5, 2, 2, 2, 2])
    assert any("resampled from 50 Hz to 200 Hz (linear interpolation)" in note for note in result.notes)


def test_labels_move_to_the_nearest_row_and_signals_to_the_shortest():
    label, repetition = np.repeat([0, 3, -1], 100), np.repeat([0, 1, 0], 100)
    signals = {
        "emg": Signal(np.zeros((300, 1)), 100.0, 100.0, "V", ("a",)),
        "acc": Signal(np.zeros((140, 1)), 50.0, 50.0, "g", ("x",)),
    }
    result = preprocess(Recording("A", signals, label, repetition, 100.0), Recipe(fs=50))
    assert len(result.label) == 140 == len(result.signals["emg"].data)
    np.testing.assert_array_equal(result.label, label[::2][:140])
    np.testing.assert_array_equal(result.repetition, repetition[::2][:140])


@given(st.integers(20, 400), st.integers(20, 400))
def test_trial_times_survive_a_change_of_rate_to_within_half_a_row(old, new):
    label = np.repeat([0, 1, 0, 2, 0], old)
    made = Recording(
        "A",
        {"emg": Signal(np.zeros((len(label), 1)), float(old), float(old), "V", ("a",))},
        label,
        (label > 0).astype(int),
        float(old),
    )
    after = preprocess(made, Recipe(fs=new)).trials
    np.testing.assert_allclose(after[["start", "stop"]], made.trials[["start", "stop"]], atol=0.5 / old + 1 / new)


def test_labels_shorter_than_signals_leave_unlabelled_rows():
    made = Recording(
        "A",
        {"emg": Signal(np.zeros((10, 1)), 10.0, 10.0, "V", ("a",))},
        np.ones(8, int),
        np.ones(8, int),
        10.0,
    )
    assert preprocess(made, Recipe()).label.tolist() == [1] * 8 + [-1] * 2


def test_an_empty_recipe_keeps_everything_as_it_is(make_recording):
    before = make_recording()
    after = preprocess(before, Recipe())
    assert list(after.signals) == ["emg", "acc"] and after.meta["recipe"] == Recipe().digest()
    for name in before.signals:
        np.testing.assert_array_equal(before.signals[name].data, after.signals[name].data)


def test_a_recipe_that_lists_modalities_puts_them_in_its_order(make_recording):
    made = make_recording()
    assert list(preprocess(made, Recipe(signals={"acc": (), "emg": ()})).signals) == ["acc", "emg"]


def test_a_modality_that_the_recipe_does_not_name_is_rejected_not_dropped(make_recording):
    with pytest.raises(DataError, match=r"A has emg, which the recipe does not list; give emg its steps, or \[\]"):
        preprocess(make_recording(), Recipe(signals={"acc": ()}))


@pytest.mark.parametrize("kind", [np.uint8, np.int8, np.uint16, np.int32, np.uint64, np.int64])
def test_labels_of_any_integer_type_mean_the_same(make_recording, kind):
    made = make_recording()
    longer = {m: replace(s, data=np.pad(s.data, [(0, 50), (0, 0)])) for m, s in made.signals.items()}
    made = Recording("A", longer, made.label.astype(kind), made.repetition.astype(kind), made.fs)
    done = preprocess(made, Recipe(fs=100))
    assert (done.label[-25:] == -1).all() and set(done.trials["label"]) == {1, 2, 3}
    assert set(TrialSet.from_recordings([done]).classes) == {"1", "2", "3"}


@pytest.mark.parametrize("kind", [np.uint8, np.int8, np.uint16, np.int16, np.int32, np.float64])
def test_samples_of_any_type_mean_the_same(kind):
    """Counts of a converter were filtered to floating-point numbers and put back into their own type: -3 became 253."""
    counts = np.random.default_rng(0).integers(0, 128, (400, 1))
    recipe = Recipe(signals={"emg": [{"step": "highpass", "cutoff_hz": 20}, {"step": "rectify"}]})
    label, done = np.ones(400, int), []
    for data in (counts.astype(kind), counts.astype(float)):
        made = Recording("A", {"emg": Signal(data, 200, 200, "adc", ("a",))}, label, label, 200)
        done.append(preprocess(made, recipe).signals["emg"].data)
    assert done[0].dtype.kind == "f"
    np.testing.assert_allclose(*done, rtol=1e-4, atol=1e-4)


def test_an_unknown_modality_is_reported_with_the_known(make_recording):
    with pytest.raises(DataError, match="A has no modality 'force', which the recipe lists; it has emg, acc"):
        preprocess(make_recording(), Recipe(signals={"force": ()}))


def test_rates_that_differ_need_a_common_rate(make_recording):
    made = make_recording(rates=(200.0, 50.0))
    with pytest.raises(DataError, match=r"differ in rate \(emg 200 Hz, acc 50 Hz\); give the recipe an fs"):
        preprocess(made, Recipe())
    assert {s.fs for s in preprocess(made, Recipe(fs=100)).signals.values()} == {100}


def test_nan_is_rejected_before_it_spreads():
    data = sine(50)
    data[7] = np.nan
    with pytest.raises(DataError, match="a.mat: emg: NaN or infinity in channel emg0"):
        run(data, BANDPASS)


def test_a_recording_shorter_than_the_filter_needs_is_rejected():
    with pytest.raises(DataError, match="emg: 5 rows are too few to filter"):
        run(np.arange(5.0), BANDPASS)


@pytest.mark.parametrize(
    ("fs", "step", "message"),
    [
        (1000.0, {"step": "highpass", "cutoff_hz": 1e-9}, "not stable at 1000 Hz"),
        (1000.0, {"step": "bandpass", "low_hz": 1e-12, "high_hz": 499.999999999}, "not stable"),
        (
            200.0,
            {"step": "notch", "frequency_hz": 50, "quality": 0.3},
            "a notch 166.667 Hz wide removes the whole band at 200 Hz",
        ),
    ],
)
def test_filters_that_are_impossible_at_a_rate_are_rejected(fs, step, message):
    with pytest.raises(DataError, match=f"a.mat: emg: .*{message}"):
        run(np.random.default_rng(0).normal(size=2000), step, fs=fs)


def test_samples_that_overflow_in_a_filter_are_rejected():
    with pytest.raises(DataError, match=r"samples up to 1.7e\+308 are too large to filter"):
        run(np.tile([1.7e308, -1.7e308], 500), {"step": "highpass", "cutoff_hz": 20})


@pytest.mark.parametrize(("old", "new"), [(4000, 1.5), (4000, 20.3), (4000, 2.7), (2000, 200), (1925.926, 1000)])
def test_a_lower_rate_is_the_one_that_was_asked_for(old, new):
    times = np.arange(40_000) / old
    result = preprocess(recording(old, emg=times), Recipe(fs=new)).signals["emg"].data[:, 0]
    middle = slice(len(result) // 4, -len(result) // 4)
    slope, start = np.polyfit((np.arange(len(result)) / new)[middle], result[middle], 1)
    assert slope == pytest.approx(1, abs=2e-6) and start == pytest.approx(0, abs=1e-4)


def test_rates_without_a_ratio_of_whole_numbers_are_rejected():
    with pytest.raises(DataError, match="4000 Hz cannot be resampled to 0.00013 Hz, because no ratio .* up to 200000"):
        preprocess(recording(4000.0, emg=np.zeros(100)), Recipe(fs=1.3e-4))
    with pytest.raises(DataError, match="1 rows are too few to change the rate"):
        preprocess(recording(20.0, emg=np.zeros(1)), Recipe(fs=5))


def test_magnitudes_of_magnitudes_are_those_of_all_channels_at_once():
    x = np.random.default_rng(0).normal(size=(50, 18))
    made = recording(emg=x)
    result = preprocess(made, Recipe(signals={"emg": [{"step": "magnitude"}, {"step": "magnitude"}]})).signals["emg"]
    np.testing.assert_allclose(result.data, np.linalg.norm(x.reshape(50, 2, 9), axis=2))


def test_the_digest_differs_exactly_if_recipes_differ():
    base = Recipe.model_validate({"signals": {"emg": [BANDPASS], "acc": []}, "fs": 200})
    assert base.digest() == "9b15b2bd904a"  # the same on every machine, or finished runs could not be continued
    assert base.digest() == Recipe.model_validate({"signals": {"emg": [BANDPASS], "acc": []}, "fs": 200.0}).digest()
    assert base.digest() == Recipe.model_validate_json(base.model_dump_json()).digest()
    others = [
        {"signals": {"acc": [], "emg": [BANDPASS]}, "fs": 200},
        {"signals": {"emg": [BANDPASS], "acc": []}, "fs": 100},
        {"signals": {"emg": [{**BANDPASS, "order": 3}], "acc": []}, "fs": 200},
        {"signals": {"emg": [], "acc": []}, "fs": 200},
    ]
    digests = {Recipe.model_validate(other).digest() for other in others}
    assert len(digests) == 4 and base.digest() not in digests


@pytest.mark.parametrize(
    "recipe, message",
    [
        ({"signals": {"emg": [{"step": "bandpas", "low_hz": 1, "high_hz": 2}]}}, "bandpas"),
        ({"signals": {"emg": [{"step": "bandpass", "low_hz": 1}]}}, "high_hz"),
        ({"signals": {"emg": [{"step": "bandpass", "low_hz": 9, "high_hz": 2}]}}, "low_hz must be below high_hz"),
        ({"signals": {"emg": [{"step": "lowpass", "cutoff_hz": 9, "low": 1}]}}, "low"),
        ({"fs": 0}, "greater than 0"),
        ({"rate": 100}, "rate"),
    ],
)
def test_a_recipe_with_a_mistake_is_rejected(recipe, message):
    with pytest.raises(ArgumentError, match=message):
        Recipe.model_validate(recipe)
