import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emg_lens.data import DataError, Segment, TrialSet
from emg_lens.data.leakage import Leakage, leakage_report
from emg_lens.data.pre_onset import Decodability, pre_onset_trials
from emg_lens.data.splits import BlockSplit, RepetitionSplit, SubjectSplit


def windows(make_recording, stride=0.25):
    recordings = [make_recording("A"), make_recording("A", seed=1), make_recording("B", seed=2)]
    return recordings, TrialSet.from_recordings(recordings, Segment(window_s=0.5, stride_s=stride))


def test_a_split_by_repetition_shares_recordings_and_subjects_only(make_recording):
    _, trials = windows(make_recording)
    (fold,) = RepetitionSplit(train=(1,), test=(2,)).folds(("A",))
    report = leakage_report(*fold.divide(trials), fold=fold)
    n = report.n_test
    assert report.shared == {"samples": 0, "repetition_id": 0, "repetition": 0, "recording": n, "subject": n}
    assert report.sentences()[:4] == [
        f"None of the {n} test trials contain raw samples of a training trial (overlapping windows).",
        f"None of the {n} test trials come from a repetition that is also in the training set.",
        f"None of the {n} test trials have the same class, repetition number and recording as a training trial.",
        f"All {n} test trials come from a recording that is also in the training set.",
    ]


def test_a_split_by_subject_shares_nothing(make_recording):
    _, trials = windows(make_recording)
    for fold in SubjectSplit(leave_out=1).folds(("A", "B")):
        assert set(leakage_report(*fold.divide(trials)).shared.values()) == {0}


def test_blocks_of_pieces_share_no_sample_but_the_recording(make_recording):
    made = make_recording(labels=(1,), repetitions=1)
    trials = TrialSet.from_recordings([made], Segment(piece_s=0.2, window_s=0.1, stride_s=0.05))
    for fold in BlockSplit(folds=5).folds(("A",)):
        shared = leakage_report(*fold.divide(trials)).shared
        assert (shared["samples"], shared["repetition_id"], shared["recording"]) == (0, 0, 3)


def test_a_random_split_of_windows_shares_samples_and_repetitions(make_recording):
    _, trials = windows(make_recording)
    odd = np.arange(len(trials)) % 2 == 1
    report = leakage_report(trials.select(~odd), trials.select(odd))
    assert report.shared["samples"] == report.shared["repetition_id"] == report.shared["repetition"] == odd.sum()


@settings(deadline=None)
@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 12), st.sampled_from([200.0, 99.7, 7.3]), st.data())
def test_overlapping_windows_are_those_that_have_a_sample_in_common(n_train, n_test, length, fs, data):
    def drawn(n):
        first = np.array(data.draw(st.lists(st.integers(0, 400), min_size=n, max_size=n)))
        source = np.array(data.draw(st.lists(st.integers(0, 2), min_size=n, max_size=n)))
        made = TrialSet(
            x=np.random.default_rng(0).normal(size=(n, 1, length)).astype(np.float32),
            y=np.zeros(n, int),
            subject=np.array(["A"] * n),
            repetition=np.ones(n, int),
            repetition_id=np.arange(n),
            channels=TrialSet.from_arrays(np.zeros((1, 1, 1)), [0], ["A"], [1], {"emg": 1}, fs).channels,
            fs=fs,
            classes=("a",),
            source=source,
            start_s=first / fs,
        )
        return made, [{(s, f + k) for k in range(length)} for s, f in zip(source, first, strict=True)]

    (train, trained), (test, tested) = drawn(n_train), drawn(n_test)
    expected = sum(bool(one & set().union(*trained)) for one in tested)
    assert leakage_report(train, test).shared["samples"] == expected


def test_what_own_arrays_share_is_reported_as_unknown():
    n = 12
    x = np.random.default_rng(0).normal(size=(n, 2, 5))
    trials = TrialSet.from_arrays(x, np.arange(n) % 3, ["A"] * n, np.arange(n) // 3, {"emg": 2}, 10.0)
    report = leakage_report(*trials.split([0, 1], [2, 3]))
    assert report.shared == {"samples": None, "repetition_id": 0, "repetition": 0, "recording": None, "subject": 6}
    said = report.sentences()
    assert said[0].startswith("It is unknown whether test trials contain raw samples")
    assert any(
        "no repetition has 0.6 s before it that are marked as rest. Unmarked samples are not used" in line
        for line in said
    )
    assert report.to_frame().set_index("of")["value"].isna().tolist()[:1] == [True]


def test_repetitions_of_one_class_in_a_row_are_counted():
    y = np.array([0, 0, 0, 1, 1, 1, 2, 2, 2, 0])
    x = np.random.default_rng(0).normal(size=(10, 2, 5))
    trials = TrialSet.from_arrays(x, y, ["A"] * 10, np.arange(10), {"emg": 2}, 10.0)
    report = leakage_report(trials.select(np.arange(10) % 2 == 0), trials.select(np.arange(10) % 2 == 1))
    assert report.class_repeats == pytest.approx(6 / 9)
    pairs = [(a, b) for a in range(10) for b in range(10) if a != b]
    assert report.class_repeats_at_random == pytest.approx(np.mean([y[a] == y[b] for a, b in pairs]))
    assert (
        report.sentences()[-1] == "67% of consecutive repetitions, in the order of the data, have the same class"
        " (27% expected in random order)."
    )


def test_with_a_single_class_no_decodability_is_reported(make_recording):
    trials = TrialSet.from_recordings([make_recording(labels=(1,), repetitions=3)])
    report = leakage_report(*trials.split([1, 2], [3]))
    said = report.sentences()
    assert len(said) == 4 and not any("decod" in line or "same class" in line for line in said)
    assert report.to_frame()["fact"].tolist() == ["shared"] * 4


def test_reports_on_several_folds_are_combined(make_recording):
    recordings = [make_recording("A", repetitions=3), make_recording("B", repetitions=4, seed=1)]
    trials = TrialSet.from_recordings(recordings, Segment(window_s=0.5, stride_s=0.25))
    before = pre_onset_trials(recordings, 0.4)
    folds = RepetitionSplit(train=(1, 2), test=(3, 4)).folds(("A", "B"))
    reports = [leakage_report(*fold.divide(trials), before) for fold in folds]
    whole = Leakage.over(Leakage.from_dict(json.loads(json.dumps(r.to_dict()))) for r in reports)
    assert whole.n_folds == 2 and whole.n_test == sum(r.n_test for r in reports) == whole.shared["subject"]
    for i, modality in enumerate(("emg", "acc", "all")):
        assert whole.decodability[i].modality == modality and whole.decodability[i].n_test == 9
        assert whole.decodability[i].before == pytest.approx(np.mean([r.decodability[i].before for r in reports]))
    frame = whole.to_frame()
    assert frame["fact"].tolist() == ["shared"] * 5 + ["decodable before onset", "decodable during repetition"] * 3 + [
        "class repeats"
    ]
    assert frame.loc[frame["of"] == "recording", "value"].tolist() == [1.0]
    with pytest.raises(DataError, match="no leakage report"):
        Leakage.over([])


def test_the_sentence_on_pre_onset_decodability_names_every_modality_and_chance():
    results = (Decodability("emg", 0.45, 0.93, 1 / 12, 24), Decodability("all", 0.66, 0.97, 1 / 12, 24))
    report = Leakage(
        1, 24, 12, dict.fromkeys(("samples", "repetition_id", "repetition", "recording", "subject"), 0), results, 0.6
    )
    said = report.sentences()[5]
    assert said.startswith(
        "A linear classifier of all recorded channels decodes the class from the last 0.6 s before movement onset with"
        " accuracy 0.45 from EMG,"
    )
    assert (
        "0.66 from all modalities (chance 0.08). During the repetition, its accuracy is 0.93 from EMG, 0.97 from"
        in said
    )


def test_parts_that_differ_in_classes_or_modalities_are_rejected(make_recording):
    _, trials = windows(make_recording)
    with pytest.raises(DataError, match="fold A: training and test trials differ in classes or modalities"):
        (fold,) = RepetitionSplit(train=(1,), test=(2,)).folds(("A",))
        leakage_report(trials, trials.keep(["emg"]), fold=fold)
