from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emg_lens.data import DataError, Recipe, Recording, Segment, Signal, TrialSet, preprocess
from emg_lens.data.pre_onset import pre_onset_decodability, pre_onset_trials

LOWPASS = Recipe.model_validate({"signals": {"emg": [{"step": "lowpass", "cutoff_hz": 4}], "acc": []}})


def test_the_windows_are_the_samples_right_before_each_repetition(make_recording):
    recordings = [make_recording("A"), make_recording("B", seed=1)]  # 0.5 s of rest before each repetition of 1 s
    before = pre_onset_trials(recordings, 0.4)
    trials = TrialSet.from_recordings(recordings)
    assert before.x.shape == (12, 5, 80)
    for name in ("y", "subject", "repetition", "repetition_id", "source"):
        np.testing.assert_array_equal(getattr(before, name), getattr(trials, name))
    np.testing.assert_allclose(before.start_s + 0.4, trials.start_s)
    for i, start in enumerate(before.start_s):
        first = round(start * 200)
        expected = np.concatenate([s.data[first : first + 80] for s in recordings[i // 6].signals.values()], axis=1)
        np.testing.assert_array_equal(before.x[i].T, expected)


def test_repetitions_keep_their_numbers_where_others_have_no_rest_or_are_left_out(make_recording):
    made = make_recording()
    made.label[350:360] = -1  # before the second repetition: unknown, not rest
    before = pre_onset_trials([made, make_recording("B")], 0.4)
    assert before.repetition_id.tolist() == [0, 2, 3, 4, 5, *range(6, 12)]
    assert pre_onset_trials([made], 0.4, classes=[3, 2]).repetition_id.tolist() == [2, 4, 5]
    assert pre_onset_trials([made], 0.4, modalities=["acc"]).modalities == {"acc": 3}


def test_without_rest_there_are_no_pre_onset_trials(make_recording):
    made = make_recording()
    assert pre_onset_trials([made], 0.6) is None  # the rest lasts 0.5 s
    made.label[made.label == 0] = -1
    assert pre_onset_trials([made], 0.4) is None
    assert pre_onset_trials([make_recording()], 0.4, classes=[9]) is None


@settings(deadline=None)
@given(st.integers(0, 5), st.sampled_from([200.0, 50.0, 37.0, 400.0]))
def test_no_sample_after_the_onset_is_used(repetition_id, rate):
    """Samples taken at the onset or later are changed: no window before it changes."""
    labels = np.tile(np.repeat([0, 1], [100, 60]), 6)
    repetition = np.repeat(np.arange(1, 7), 160)
    seconds = len(labels) / 200
    emg = np.random.default_rng(0).normal(size=(len(labels), 2)).astype(np.float32)
    acc = np.random.default_rng(1).normal(size=(int(seconds * rate), 3)).astype(np.float32)

    def cut(emg, acc):
        signals = {"emg": Signal(emg, 200, 200, "V", ("a", "b")), "acc": Signal(acc, rate, rate, "g", ("x", "y", "z"))}
        return pre_onset_trials([Recording("A", signals, labels, repetition, 200.0)], 0.4)

    onset = (100 + 160 * repetition_id) / 200
    changed_emg, changed_acc = emg.copy(), acc.copy()
    changed_emg[round(onset * 200) :] += 9
    changed_acc[int(np.ceil(onset * rate)) :] += 9
    one, other = cut(emg, acc), cut(changed_emg, changed_acc)
    np.testing.assert_array_equal(one.x[: repetition_id + 1], other.x[: repetition_id + 1])
    assert (one.x[repetition_id + 1 :] != other.x[repetition_id + 1 :]).all()


def test_a_filter_that_runs_both_ways_would_smear_the_movement_into_the_rest(make_recording):
    made = make_recording()
    changed = replace(made.signals["emg"], data=made.signals["emg"].data + 9 * (made.label > 0)[:, None])
    one, other = (
        pre_onset_trials([preprocess(r, LOWPASS)], 0.4, modalities=["emg"]).x
        for r in (made, replace(made, signals={**made.signals, "emg": changed}))
    )
    assert np.abs(one - other).max() > 1


def planted(where: str) -> Recording:
    """Noise, and a level in `acc` that depends on the class: in the rest before each repetition or in it."""
    random = np.random.default_rng(0)
    order = [(label, r) for r in range(1, 11) for label in (1, 2, 3)]
    label = np.concatenate([np.repeat([0, of], [100, 100]) for of, _ in order])
    repetition = np.repeat([r for _, r in order], 200)
    follows = np.repeat([of for of, _ in order], 200)
    depends = (label == 0) if where == "before" else (label > 0)
    emg = random.normal(size=(len(label), 4)).astype(np.float32)
    acc = (random.normal(size=(len(label), 3)) + 2 * (follows * depends)[:, None]).astype(np.float32)
    signals = {
        "emg": Signal(emg, 200, 200, "V", tuple("abcd")),
        "acc": Signal(acc, 200, 200, "g", ("x", "y", "z")),
    }
    return Recording("A", signals, label, repetition, 200.0)


@pytest.mark.parametrize("where", ["before", "during"])
def test_a_planted_level_is_decodable_only_where_it_was_planted(where):
    recording = planted(where)
    trials = TrialSet.from_recordings([recording], Segment(window_s=0.2, stride_s=0.1))
    train, test = trials.split(range(1, 7), range(7, 11))
    results = {t.modality: t for t in pre_onset_decodability(train, test, pre_onset_trials([recording], 0.4))}
    assert list(results) == ["emg", "acc", "all"]
    for t in results.values():
        assert t.n_test == 12 and t.chance == pytest.approx(1 / 3)
    other = "during" if where == "before" else "before"
    assert getattr(results["acc"], where) == getattr(results["all"], where) == 1
    assert getattr(results["acc"], other) < 0.7
    assert max(results["emg"].before, results["emg"].during) < 0.7


def test_emg_is_decoded_by_its_power_not_its_mean(make_recording):
    recording = planted("before")
    follows = np.repeat([1, 2, 3] * 10, 200)
    emg = recording.signals["emg"]
    louder = replace(emg, data=emg.data * np.exp(follows * (recording.label == 0))[:, None].astype(np.float32))
    recording = replace(recording, signals={"emg": louder})
    train, test = TrialSet.from_recordings([recording]).split(range(1, 7), range(7, 11))
    (result,) = pre_onset_decodability(train, test, pre_onset_trials([recording], 0.4))
    assert result.before == 1 and result.modality == "emg"


def test_rest_of_other_recordings_is_rejected(make_recording):
    recording = planted("before")
    train, test = TrialSet.from_recordings([recording]).split(range(1, 7), range(7, 11))
    before = pre_onset_trials([recording], 0.4)
    with pytest.raises(DataError, match="does not hold the rest before these repetitions; cut both from the same"):
        pre_onset_decodability(train, test, replace(before, repetition_id=before.repetition_id + 1))


def test_repetitions_without_rest_are_left_out_of_the_comparison():
    recording = planted("before")
    train, test = TrialSet.from_recordings([recording]).split(range(1, 7), range(7, 11))
    before = pre_onset_trials([recording], 0.4)
    results = pre_onset_decodability(train, test, before.select(before.repetition_id != test.repetition_id[0]))
    assert {t.n_test for t in results} == {11}
    assert pre_onset_decodability(train, test, before.select(~np.isin(before.repetition_id, test.repetition_id))) == ()


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"window_s": 0.001}, "window_s=0.001 is less than one row at 200 Hz"),
        ({"modalities": ["gyro"]}, "A has no modality 'gyro'; it has emg, acc"),
    ],
)
def test_a_wrong_call_gives_a_one_line_error(make_recording, changes, message):
    with pytest.raises(DataError, match=message):
        pre_onset_trials([make_recording()], **{"window_s": 0.4, **changes})
