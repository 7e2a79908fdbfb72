"""What is known about the real recordings, and that they can be classified."""

import os
from time import perf_counter

import numpy as np
import pytest
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from emg_lens.data import (
    Leakage,
    Recipe,
    RepetitionSplit,
    Segment,
    SubjectSplit,
    TrialSet,
    leakage_report,
    load_dataset,
    load_trials,
    pre_onset_trials,
    subjects,
)


def features(trials: TrialSet) -> np.ndarray:
    """Log mean absolute value and log waveform length of EMG, mean of everything else."""
    emg = trials.keep(["emg"]).x
    mav, length = np.abs(emg).mean(axis=2), np.abs(np.diff(emg, axis=2)).sum(axis=2)
    return np.log(np.concatenate([mav, length], axis=1) + 1e-9)


def accuracy(train: TrialSet, test: TrialSet) -> float:
    fitted = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto").fit(features(train), train.y)
    return float(fitted.score(features(test), test.y))


def test_db5_subject_1_has_the_documented_properties(real):
    (r,) = load_dataset("ninapro-db5", real("ninapro_db5"), subjects=["S1"])
    assert len(r.signals["emg"].data) == 130_267 and len(r.trials) == 72
    counts = r.trials.groupby(["label", "repetition"]).size()
    assert (
        len(counts) == 72
        and set(r.trials["label"]) == set(range(1, 13))
        and set(r.trials["repetition"]) == {*range(1, 7)}
    )
    length = (r.trials["stop"] - r.trials["start"]).describe()
    assert length["min"] >= 2.2 and length["max"] < 5 and length["50%"] == pytest.approx(3.5, abs=0.1)
    norm = np.linalg.norm(r.signals["acc"].data, axis=1)
    np.testing.assert_allclose(np.percentile(norm, [1, 50, 99]), [0.980, 0.997, 1.015], atol=0.01)
    assert any("variable 'exercise' is 3" in note for note in r.notes)
    assert (r.repetition[r.label == 0] > 0).mean() > 0.5


def test_db5_refined_onsets_lag_the_cue(real):
    (cue,) = load_dataset("ninapro-db5", real("ninapro_db5"), subjects=[1], labels="stimulus")
    (refined,) = load_dataset("ninapro-db5", real("ninapro_db5"), subjects=[1])
    lag = refined.trials["start"] - cue.trials["start"]
    np.testing.assert_allclose([lag.min(), lag.median(), lag.max()], [0.40, 0.85, 2.10], atol=0.01)


def test_db5_has_five_subjects_of_72_trials(real):
    assert subjects("ninapro-db5", real("ninapro_db5")) == ("S1", "S3", "S4", "S5", "S7")
    whole = load_trials("ninapro-db5", real("ninapro_db5"), segment=Segment(stop_s=2.0))
    assert whole.x.shape == (360, 19, 400) and whole.modalities == {"emg": 16, "acc": 3}
    assert np.bincount(whole.y).tolist() == [30] * 12


def test_db5_gestures_are_decodable_by_a_linear_classifier(real):
    recipe = Recipe.model_validate({"signals": {"emg": [{"step": "highpass", "cutoff_hz": 10}], "acc": []}})
    scores = []
    for subject in subjects("ninapro-db5", real("ninapro_db5")):
        segment = Segment(start_s=0.0, stop_s=2.0)
        trials = load_trials("ninapro-db5", real("ninapro_db5"), recipe, segment, subjects=[subject])
        scores.append(accuracy(*trials.split([1, 3, 4, 6], [2, 5])))
    assert np.mean(scores) >= 0.85, scores


def test_psl_has_eight_persons_and_eighteen_signs_but_one(real):
    recordings = list(load_dataset("psl-myo", real("psl_myo")))
    assert len(recordings) == 1206
    assert list(dict.fromkeys(r.subject for r in recordings)) == [f"person{i}" for i in (1, 2, 6, 7, 8, 9, 10, 11)]
    signs = {(r.subject, int(r.label[0])) for r in recordings}
    assert len(signs) == 8 * 18 - 1 and ("person6", 12) not in signs
    for subject, sign in signs:
        counted = [int(r.repetition[0]) for r in recordings if (r.subject, r.label[0]) == (subject, sign)]
        assert counted == list(range(1, len(counted) + 1)) and len(counted) >= 4
    assert all(393 <= len(r.signals["emg"].data) <= 406 and 99 <= len(r.signals["acc"].data) <= 102 for r in recordings)
    gravity = np.median([np.linalg.norm(r.signals["acc"].data, axis=1).mean() for r in recordings])
    assert gravity == pytest.approx(1, abs=0.1)
    lengths = np.concatenate([np.linalg.norm(r.signals["quat"].data, axis=1) for r in recordings])
    np.testing.assert_allclose(lengths, 1, atol=0.01)


def test_psl_signs_of_one_person_share_the_numbering_with_all(real):
    recipe, segment = Recipe(fs=200), Segment(stop_s=1.9)
    six = load_trials("psl-myo", real("psl_myo"), recipe, segment, subjects=["person6"])
    assert six.n_classes == 18 and 11 not in six.y and six.modalities == {"emg": 8, "acc": 3, "gyro": 3, "quat": 4}


def test_uci_has_twenty_subjects_of_four_repetitions_and_a_note_on_its_rate(real):
    recordings = list(load_dataset("uci-emg", real("uci_emg_gestures")))
    assert len(recordings) == 40 and len({r.subject for r in recordings}) == 20
    for r in recordings:
        assert 940 < r.fs < 980 and 90 < r.signals["emg"].native_fs < 115
        assert any("of rows repeat the row before" in note for note in r.notes)
        assert len(r.trials) == 12 and set(r.trials["label"]) == {1, 2, 3, 4, 5, 6}
    repetitions = {s: [] for s in {r.subject for r in recordings}}
    for r in recordings:
        repetitions[r.subject] += r.trials["repetition"].tolist()
    assert all(np.bincount(v).tolist() == [0, 6, 6, 6, 6] for v in repetitions.values())


@pytest.mark.slow
def test_uci_gestures_of_the_second_series_are_decodable_after_training_on_the_first(real):
    trials = load_trials("uci-emg", real("uci_emg_gestures"), Recipe(fs=200), Segment(stop_s=1.0))
    scores = [accuracy(*trials.select(subjects=[s]).split([1, 2], [3, 4])) for s in np.unique(trials.subject)]
    assert np.mean(scores) >= 0.8, scores


@pytest.mark.slow
def test_uci_accuracy_on_new_subjects_is_above_chance_and_twenty_subjects_load_in_seconds(real):
    root, started = real("uci_emg_gestures"), perf_counter()
    trials = load_trials("uci-emg", root, Recipe(fs=200), Segment(stop_s=1.0), classes=range(1, 7))
    if "CI" not in os.environ:
        assert perf_counter() - started < 60
    folds = SubjectSplit(leave_out=1).folds(subjects("uci-emg", root))
    assert len(folds) == 20 and trials.n_classes == 6
    scores = [accuracy(*fold.divide(trials)) for fold in folds]
    assert np.mean(scores) > 0.5, scores


def test_myo_force_has_twelve_recordings_whose_force_follows_the_emg(real):
    recordings = list(load_dataset("myo-force", real("myo_force")))
    names = ["v2", "v3_2", "v5", "v6", "v7", "v8", "v10", "v11", "v11_2", "v12", "v13", "v14"]
    assert [r.subject for r in recordings] == names
    for r in recordings:
        strength = np.abs(r.signals["emg"].data).mean(axis=1)
        smooth = np.convolve(strength, np.ones(100) / 100, "same")
        assert np.corrcoef(smooth, r.signals["force"].data[:, 0])[0, 1] > 0.8, r.subject


def test_db5_gestures_are_decodable_before_onset_and_no_window_is_shared(real):
    root = real("ninapro_db5")
    before = pre_onset_trials(load_dataset("ninapro-db5", root))
    trials = load_trials("ninapro-db5", root, segment=Segment(window_s=1.0, stride_s=0.25))
    folds = RepetitionSplit(train=(1, 3, 4, 6), test=(2, 5)).folds(subjects("ninapro-db5", root))
    report = Leakage.over(leakage_report(*fold.divide(trials), before, fold=fold) for fold in folds)
    assert report.shared["samples"] == report.shared["repetition_id"] == 0
    results = {d.modality: d for d in report.decodability}
    assert results["acc"].n_test == 120 and results["acc"].chance == pytest.approx(1 / 12)
    assert results["acc"].before == pytest.approx(0.52, abs=0.06) and results["acc"].during == pytest.approx(
        0.59, abs=0.06
    )
    assert results["emg"].before == pytest.approx(0.45, abs=0.06) and results["emg"].during > 0.85


def test_psl_signs_were_recorded_one_after_the_other_and_without_rest(real):
    root = real("psl_myo")
    assert pre_onset_trials(load_dataset("psl-myo", root, subjects=[1])) is None
    trials = load_trials("psl-myo", root, Recipe(fs=50), Segment(stop_s=1.9), subjects=[1])
    (fold,) = RepetitionSplit(test=(2, 5, 8, 11)).folds(["person1"])
    report = leakage_report(*fold.divide(trials), fold=fold)
    assert report.class_repeats > 0.85 and report.class_repeats_at_random < 0.1 and report.shared["recording"] == 0
