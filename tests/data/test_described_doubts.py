"""What was once accepted in silence: swapped axes, a rate in kHz, a dead channel, equal numbers in two sessions."""

import numpy as np
import pandas as pd
import pytest

from emg_lens import TrialSet
from emg_lens.data import DataError, RepetitionSplit, load_dataset

ARRAY = "files: '{subject}.npy'\nfs: 100\nsignals: {emg: {%s}}\n"


def samples(rows=200, channels=6):
    return np.random.default_rng(0).normal(size=(rows, channels)).astype(np.float32)


def test_an_array_with_more_columns_than_rows_needs_its_axes(tmp_path):
    np.save(tmp_path / "A.npy", samples().T)
    (tmp_path / "dataset.yaml").write_text(ARRAY % "")
    with pytest.raises(
        DataError, match=r"float32 \[6, 200\], which would be 6 samples of 200 channels; .*channel, time"
    ):
        list(load_dataset("folder", tmp_path))
    for axes, shape in (("channel, time", (200, 6)), ("time, channel", (6, 200))):
        (tmp_path / "dataset.yaml").write_text(ARRAY % f"axes: [{axes}]")
        (recording,) = load_dataset("folder", tmp_path)
        assert recording.signals["emg"].data.shape == shape


@pytest.mark.parametrize("axes", ["[channel]", "[time, time]", "[time, sample]"])
def test_axes_that_mean_nothing_are_rejected(tmp_path, axes):
    (tmp_path / "dataset.yaml").write_text(ARRAY % f"axes: {axes}")
    with pytest.raises(DataError, match="axes"):
        load_dataset("folder", tmp_path)


def test_a_rate_that_may_be_in_khz_is_noted(tmp_path):
    np.save(tmp_path / "A.npy", samples())
    (tmp_path / "dataset.yaml").write_text((ARRAY % "").replace("fs: 100", "fs: 0.2"))
    (recording,) = load_dataset("folder", tmp_path)
    assert "fs is 0.2 Hz, one row every 5 s; fs is in Hz: write 200 if you mean kHz" in recording.notes


def test_a_channel_of_one_value_is_noted(tmp_path):
    dead = samples()
    dead[:, 2] = 0
    np.save(tmp_path / "A.npy", dead)
    (tmp_path / "dataset.yaml").write_text(ARRAY % "")
    (recording,) = load_dataset("folder", tmp_path)
    assert "emg: channel emg.2 has one value in the whole recording: is it connected?" in recording.notes
    trials = TrialSet.from_arrays(
        dead.reshape(4, 50, 6).transpose(0, 2, 1), y=[0, 1, 0, 1], subject=["A"] * 4, repetition=[1, 1, 2, 2],
        channels={"emg": 6}, fs=100.0,
    )  # fmt: skip
    assert "constant in all trials: emg emg.2 (0); is it connected?" in trials.notes


def test_equal_repetition_numbers_in_two_sessions_are_noted_and_stay_apart(tmp_path):
    text = "files: '{subject}_day{day}_{label}_{rep}.csv'\nfs: 100\nsignals: {emg: {columns: [a, b]}}\n"
    text += "label: {field: label, classes: {fist: closed fist}}\nrepetition: {field: rep}\n"
    (tmp_path / "dataset.yaml").write_text(text)
    for day in (1, 2):
        frame = pd.DataFrame(samples(50, 2), columns=["a", "b"])
        frame.to_csv(tmp_path / f"A_day{day}_fist_1.csv", index=False)
    first, second = load_dataset("folder", tmp_path)
    assert first.notes == () and "gesture 1, repetition 1 stands in an earlier recording" in second.notes[0]
    trials = TrialSet.from_recordings([first, second])
    assert len(set(trials.repetition_id.tolist())) == 2


def test_trials_of_different_lengths_are_shown_the_way():
    x = [samples(50, 4).T, samples(60, 4).T]
    with pytest.raises(DataError, match="of different lengths; .*emg-lens new --data FOLDER"):
        TrialSet.from_arrays(x, y=[0, 1], subject=["A"] * 2, repetition=[1, 1], channels={"emg": 4}, fs=100.0)


def test_a_fold_without_training_trials_of_a_class_says_which_repetitions_there_are():
    x = np.stack([samples(50, 2).T] * 5)
    trials = TrialSet.from_arrays(
        x, y=["fist", "fist", "open", "fist", "open"], subject=["A"] * 5, repetition=[1, 2, 2, 3, 2],
        channels={"emg": 2}, fs=100.0, repetition_id=[0, 1, 2, 3, 4],
    )  # fmt: skip
    (fold,) = RepetitionSplit(test=(2,)).folds(["A"])
    with pytest.raises(
        DataError, match="test trials of open, but no training trial; open has repetition 2: change test"
    ):
        fold.divide(trials)
