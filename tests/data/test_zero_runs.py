"""Stretches of zeros in every channel get a note; zeros of one channel, short ones and forces at rest do not."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from emg_lens.data import DataSet, Recording, Signal, load_dataset, load_trials, register
from emg_lens.data.preprocessing import Recipe, preprocess
from emg_lens.data.zero_runs import with_zero_notes

FS = 200.0


def recording(zeros=(), name="emg", n=400, channels=3):
    data = np.random.default_rng(0).normal(size=(n, channels))
    for first, last in zeros:
        data[first:last] = 0
    signal = Signal(data, FS, FS, "mV", tuple("abcdefgh"[:channels]))
    label = np.repeat([1, 2], n // 2)
    return Recording("A", {name: signal}, label, np.ones(n, int), FS, {"notes": ("read",)})


def test_a_note_says_where_all_channels_are_zero():
    noted = with_zero_notes(recording([(100, 140), (300, 320)]))
    assert noted.notes == (
        "read",
        "emg: all channels are exactly 0 in 2 stretches, 0.3 s in total, the longest from 0.5 s to 0.7 s: data may be"
        " lost there",
    )
    assert np.array_equal(noted.signals["emg"].data, recording([(100, 140), (300, 320)]).signals["emg"].data)


@given(first=st.integers(0, 399), length=st.integers(0, 60), name=st.sampled_from(["emg", "acc", "gyro", "force"]))
def test_exactly_stretches_of_a_tenth_of_a_second_are_noted(first, length, name):
    lost = min(length, 400 - first) >= 0.1 * FS
    noted = with_zero_notes(recording([(first, first + length)], name))
    assert (len(noted.notes) == 2) == (lost and name != "force")


def test_zeros_of_one_channel_are_no_loss():
    one = recording()
    one.signals["emg"].data[50:350, 0] = 0
    assert with_zero_notes(one) is one


def test_loaded_recordings_and_trials_have_the_note():
    register(DataSet("with a gap", lambda *, subjects=None: iter([recording([(10, 60)])]), "a gap of zeros"))  # noqa: ARG005
    (loaded,) = load_dataset("with a gap")
    assert "exactly 0 in 1 stretch, 0.25 s" in loaded.notes[-1]
    assert any("exactly 0 in 1 stretch" in note for note in load_trials("with a gap").notes)


@pytest.mark.parametrize("folder, name", [("ninapro_db5", "ninapro-db5"), ("uci_emg_gestures", "uci-emg")])
def test_real_recordings_without_gaps_have_no_note(real, folder, name):
    assert not [note for r in load_dataset(name, real(folder)) for note in r.notes if "exactly 0" in note]


def test_signals_and_labels_that_end_early_are_noted():
    whole = recording()
    short = Signal(np.ones((300, 1)), FS, FS, "g", ("x",))
    cut = preprocess(
        Recording("A", {**whole.signals, "acc": short}, whole.label[:200], whole.repetition[:200], FS), Recipe()
    )
    assert len(cut.label) == 300 and (cut.label[200:] == -1).all()
    assert cut.notes == (
        "emg: its last 0.5 s are left out, because another signal ends earlier",
        "the labels end 0.5 s before the signals: the rest is unlabelled",
    )
