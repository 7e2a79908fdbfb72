import numpy as np
import pytest
from sklearn.preprocessing import StandardScaler

from emg_lens.data import DataError, TrialSet
from emg_lens.data.standardization import InputStatistics, TargetStatistics


def trials(seed=0, n=12):
    x = np.random.default_rng(seed).normal(3, [[2], [5], [0.1]], (n, 3, 7))
    return TrialSet.from_arrays(x, np.arange(n) % 2, ["A"] * n, np.arange(n), {"emg": 2, "acc": 1}, 100.0)


def test_inputs_are_scaled_as_scikit_learn_scales_them():
    train, test = trials(), trials(1)
    scaler = StandardScaler().fit(train.x.transpose(0, 2, 1).reshape(-1, 3))
    expected = scaler.transform(test.x.transpose(0, 2, 1).reshape(-1, 3)).reshape(12, 7, 3).transpose(0, 2, 1)
    done = InputStatistics.of(train).apply(test.x)
    assert done.dtype == np.float32
    np.testing.assert_allclose(done, expected, atol=1e-5)


def test_a_trial_set_is_standardised_by_the_same_statistics_to_the_bit():
    train, test = trials(), trials(1)
    np.testing.assert_array_equal(InputStatistics.of(train, ["acc"]).apply(test.x), test.standardised(train, ["acc"]).x)


def test_standardising_in_place_gives_the_same_bits_and_leaves_no_overwritten_samples_in_the_set():
    test, n = trials(1, n=1030), 1030  # more than one block of trials
    statistics = InputStatistics.of(trials(), ["emg"])
    expected, x = statistics.apply(test.x), test.take_samples()
    assert statistics.apply(x, out=x) is x
    np.testing.assert_array_equal(x, expected)
    assert len(test) == n and test.n_samples == 7 and test.modalities == {"emg": 2, "acc": 1}
    assert np.isnan(test.x).all() and test.x.shape == x.shape
    with pytest.raises(DataError, match="x holds NaN"):
        test.select(repetitions=[1])


def test_a_set_without_its_samples_is_not_saved_over_a_good_file(tmp_path):
    given = trials()
    given.save(tmp_path / "mine.h5")
    before = (tmp_path / "mine.h5").read_bytes()
    given.take_samples()
    with pytest.raises(DataError, match="save it before take_samples"):
        given.save(tmp_path / "mine.h5")
    assert (tmp_path / "mine.h5").read_bytes() == before


def test_saved_input_statistics_give_the_same_numbers(tmp_path):
    made = InputStatistics.of(trials(), ["emg"])
    made.save(tmp_path / "new" / "input.safetensors")
    read = InputStatistics.load(tmp_path / "new" / "input.safetensors")
    assert read.modalities == {"emg": 2, "acc": 1} and list(read.modalities) == ["emg", "acc"]
    assert read.rectify == ("emg",)
    np.testing.assert_array_equal(read.apply(trials(1).x), made.apply(trials(1).x))


def test_the_same_statistics_are_the_same_bytes(tmp_path):
    written = set()
    for _ in range(12):  # the order of a file's metadata is random
        InputStatistics.of(trials(), ["emg"]).save(tmp_path / "input.safetensors")
        written.add((tmp_path / "input.safetensors").read_bytes())
    assert len(written) == 1


def test_changed_statistics_are_refused_also_where_the_mark_of_the_checksum_was_changed(tmp_path):
    path = tmp_path / "input.safetensors"
    InputStatistics.of(trials()).save(path)
    content = bytearray(path.read_bytes().replace(b"emg-lens-sha256:", b"emg-lens-sha255:"))
    content[-1] ^= 8
    path.write_bytes(content)
    with pytest.raises(DataError, match="its checksum is missing; save it again"):
        InputStatistics.load(path)


def test_targets_come_back_in_their_units(tmp_path):
    targets = np.random.default_rng(0).normal([10, -3], [4, 0.1], (50, 2)).astype(np.float32)
    targets[:, 1] = 0.3
    made = TargetStatistics(targets.mean(0), np.array([targets[:, 0].std(), 0.0]), ("force", "constant"))
    scaled = made.apply(targets)
    np.testing.assert_allclose(scaled[:, 0], StandardScaler().fit_transform(targets)[:, 0], atol=1e-5)
    assert (scaled[:, 1] == 0).all() and scaled.dtype == np.float32
    made.save(tmp_path / "t.safetensors")
    read = TargetStatistics.load(tmp_path / "t.safetensors")
    np.testing.assert_allclose(read.undo(scaled), targets, atol=1e-5)
    assert read.names == made.names


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda made, path: InputStatistics.of(trials(), ["gyro"]), "unknown modality 'gyro'; known: acc, emg"),
        (lambda made, path: InputStatistics.of(trials(), "emg"), "must list modalities, got 'emg'"),
        (
            lambda made, path: made.apply(np.zeros((2, 4, 7))),
            r"a numpy array \[trial, 3 channels, time\] of numbers, got ndarray of float64, \[2, 4, 7\]",
        ),
        (lambda made, path: InputStatistics({"emg": 2}, np.zeros(2), np.array([1.0, -1])), "std must be 2 finite"),
        (lambda made, path: InputStatistics({"emg": 2}, np.array([0, np.nan]), np.ones(2)), "mean must be 2 finite"),
        (
            lambda made, path: made.apply(trials().x, out=np.empty((2, 2, 2), "f4")),
            "out must be a float32 array of the shape",
        ),
        (
            lambda made, path: made.apply(trials().x, out=np.empty(trials().x.shape)),
            "out must be a float32 array of the shape",
        ),
        (lambda made, path: InputStatistics.load(path / "none"), "no such file; expected a file of input statistics"),
        (lambda made, path: TargetStatistics.of(trials()), "no targets"),
        (lambda made, path: TargetStatistics.load(path / "input"), "not a file of target statistics"),
        (lambda made, path: InputStatistics.load(path / "text"), "cannot be read as input statistics"),
    ],
)
def test_invalid_input_gives_a_one_line_error(tmp_path, call, message):
    made = InputStatistics.of(trials())
    made.save(tmp_path / "input")
    (tmp_path / "text").write_text("hello")
    with pytest.raises(DataError, match=message) as error:
        call(made, tmp_path)
    assert "\n" not in str(error.value)
