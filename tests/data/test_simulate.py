from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import signal as dsp
from scipy.stats import binomtest
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.metrics import mutual_info_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from emg_lens.data.recording import DataError
from emg_lens.data.registry import describe_dataset
from emg_lens.data.sources.simulated import physiology
from emg_lens.data.sources.simulated.simulation import (
    Simulation,
    expected_accuracy,
    find,
    mutual_information_bits,
    simulate,
)
from emg_lens.validation import ArgumentError

TRAIN = (1, 3, 4, 6)
SMALL = Simulation(n_subjects=2, n_repetitions=2)


@cache
def cohort(simulation):
    """(subject) -> features by modality, truth, and whether a trial is for training."""
    return [
        (*features(r), r.meta["trials"], r.trials["repetition"].isin(TRAIN).to_numpy()) for r in simulate(simulation)
    ]


def features(recording):
    """Log-RMS of each electrode and mean of each axis, by trial."""

    def trials(signal, statistic):
        table = recording.trials
        bounds = zip((table["start"] * signal.fs).round(), (table["stop"] * signal.fs).round(), strict=True)
        return np.array([statistic(signal.data[int(start) : int(stop)]) for start, stop in bounds])

    emg = trials(recording.signals["emg"], lambda x: np.log(x.std(axis=0)))
    return emg, trials(recording.signals["acc"], lambda x: x.mean(axis=0))


def outcomes(simulation, modalities, factor, classifier):
    """Whether each test trial of the cohort was right, classifiers fitted within subjects."""
    right = []
    for emg, acc, truth, train in cohort(simulation):
        x = np.hstack([{"emg": emg, "acc": acc}[m] for m in modalities])
        y = factor(truth)
        model = make_pipeline(StandardScaler(), classifier()).fit(x[train], y[train])
        right.append(model.predict(x[~train]) == y[~train])
    return np.concatenate(right)


def whole_label(truth):
    return truth["label"].to_numpy()


def column(name):
    return lambda truth: truth[name].to_numpy()


def differs_from(right, chance):
    return binomtest(int(right.sum()), len(right), chance).pvalue < 1e-3


# The label and its keys


@given(
    n_j=st.integers(1, 5),
    n_e=st.integers(1, 3),
    n_a=st.integers(1, 3),
    repetitions=st.integers(1, 3),
    each=st.integers(0, 2),
)
@settings(max_examples=15, deadline=None)
def test_each_modality_alone_has_no_information_on_the_joint_factor_and_both_have_all(n_j, n_e, n_a, repetitions, each):
    simulation = Simulation(
        joint_classes=n_j,
        emg_classes=n_e,
        acc_classes=n_a,
        n_repetitions=repetitions,
        trials_per_class=each * n_j,
    )
    (recording,) = simulate(simulation, [1])
    for _, truth in recording.meta["trials"].groupby("repetition"):
        shown = {"emg": truth["emg"] * n_j + truth["emg_key"], "acc": truth["acc"] * n_j + truth["acc_key"]}
        for modality, other in (("emg", "acc"), ("acc", "emg")):
            both_factors = truth["joint"] * n_a * n_e + truth[other]
            assert mutual_info_score(both_factors, shown[modality]) == pytest.approx(0, abs=1e-12)
            bits = mutual_info_score(truth["label"], shown[modality]) / np.log(2)
            assert bits == pytest.approx(mutual_information_bits([modality], simulation), abs=1e-9)
        together = mutual_info_score(truth["joint"], shown["emg"] * n_a * n_j + shown["acc"])
        assert together == pytest.approx(np.log(n_j))
        assert ((truth["acc_key"] - truth["emg_key"]) % n_j == truth["joint"]).all()


def test_one_trial_a_class_balances_the_key_over_the_repetitions_of_training_and_of_test():
    (recording,) = simulate(Simulation(trials_per_class=1), [1])
    truth = recording.meta["trials"]
    assert len(truth) == 12 * 6
    for part in (truth["repetition"].isin(TRAIN), ~truth["repetition"].isin(TRAIN)):
        for key in ("emg_key", "acc_key"):
            assert mutual_info_score(truth["joint"][part], truth[key][part]) == pytest.approx(0, abs=1e-12)


def test_the_grid_holds_the_planned_trials_between_rests():
    simulation = Simulation(n_subjects=1, n_repetitions=3, trial_s=1.5, rest_s=0.5)
    (recording,) = simulate(simulation)
    truth = recording.meta["trials"]
    for name in ("start", "label", "repetition"):
        np.testing.assert_allclose(recording.trials[name], truth[name])
    np.testing.assert_allclose(recording.trials["stop"] - recording.trials["start"], 1.5)
    assert (truth["label"] == 1 + (truth["emg"] * 2 + truth["acc"]) * 2 + truth["joint"]).all()
    assert truth.groupby(["label", "repetition"]).size().eq(2).all()
    assert sorted(truth["label"].unique()) == list(range(1, 13)) == list(recording.meta["class_names"])
    assert recording.meta["class_names"][12] == "emg 2, acc 1, joint 1"
    assert recording.label[0] == recording.label[-1] == 0
    assert (recording.repetition[recording.label == 0] == 0).all()
    for signal in recording.signals.values():
        assert signal.duration == pytest.approx(len(recording.label) / recording.fs, abs=1 / signal.fs)


def test_trials_come_in_another_order_in_every_repetition():
    (recording,) = simulate(SMALL, [1])
    first, second = (t["label"].tolist() for _, t in recording.meta["trials"].groupby("repetition"))
    assert first != second and sorted(first) == sorted(second)


# What the modalities know


def test_expected_accuracy_follows_from_the_number_of_factor_values():
    simulation = Simulation(emg_classes=5, acc_classes=4, joint_classes=3)
    assert simulation.n_classes == 60
    assert expected_accuracy(["emg", "acc"], simulation) == 1
    assert expected_accuracy(["emg"], simulation) == expected_accuracy("emg", simulation) == 1 / 12
    assert expected_accuracy(["acc"], simulation) == 1 / 15
    assert expected_accuracy([], simulation) == 1 / 60
    declared = describe_dataset("simulated").expected_accuracy
    fields = {"emg_classes": 5, "acc_classes": 4, "joint_classes": 3, "n_repetitions": 3}
    assert declared(["emg"], simulation=fields) == 1 / 12 and declared(["emg"]) == 1 / 4
    assert mutual_information_bits(["emg", "acc"], simulation) == pytest.approx(np.log2(60))
    with pytest.raises(ValueError, match="unknown modality 'gyro'; a simulation has emg, acc"):
        expected_accuracy(["emg", "gyro"], simulation)


def test_by_default_a_linear_classifier_nearly_reads_the_unimodal_factors():
    right = outcomes(
        Simulation(), ("emg", "acc"), lambda t: t["emg"].to_numpy() * 2 + t["acc"], LinearDiscriminantAnalysis
    )
    assert 0.92 < right.mean() < 0.995


@pytest.mark.parametrize("modality", ["emg", "acc"])
def test_a_modality_determines_its_own_factor_and_no_other(modality):
    simulation, other = Simulation(), "acc" if modality == "emg" else "emg"
    own = outcomes(simulation, [modality], column(modality), LinearDiscriminantAnalysis)
    assert own.mean() > 0.93
    for name, chance in ((other, 1 / {"emg": 3, "acc": 2}[other]), ("joint", 1 / 2), (f"{other}_key", 1 / 2)):
        for classifier in (LinearDiscriminantAnalysis, KNeighborsClassifier, SVC):
            right = outcomes(simulation, [modality], column(name), classifier)
            assert not differs_from(right, chance), (name, classifier, right.mean())


def test_only_both_modalities_together_determine_the_joint_factor():
    both, simulation = ("emg", "acc"), Simulation()
    assert outcomes(simulation, both, column("joint"), lambda: SVC(C=10)).mean() > 0.75
    assert outcomes(simulation, both, column("joint"), LinearDiscriminantAnalysis).mean() < 0.6  # an exclusive or
    keys = [outcomes(simulation, [m], column(f"{m}_key"), LinearDiscriminantAnalysis) for m in both]
    assert (keys[0] == keys[1]).mean() > 0.93  # two linear readings and one subtraction (with two values) do


@pytest.mark.parametrize("modalities", [("emg", "acc"), ("emg",), ("acc",)])
@pytest.mark.parametrize(
    "factors", [(3, 2, 2), (4, 1, 1), (1, 4, 1), (1, 1, 3), (3, 3, 1)], ids=lambda f: "e{}a{}j{}".format(*f)
)
def test_accuracy_on_the_label_is_the_expected_one(factors, modalities):
    n_e, n_a, n_j = factors
    simulation = Simulation(
        n_subjects=4,
        emg_classes=n_e,
        acc_classes=n_a,
        joint_classes=n_j,
        effort_spread=0.05,
        pattern_spread=0.05,
        posture_spread_deg=3,
    )
    expected = expected_accuracy(modalities, simulation)
    right = outcomes(simulation, modalities, whole_label, lambda: KNeighborsClassifier(1))
    if expected == 1:
        assert right.mean() > 0.98
    else:
        assert not differs_from(right, expected), (right.mean(), expected)


def test_more_variability_makes_the_task_harder():
    def accuracy(**fields):
        simulation = Simulation(n_subjects=4, **fields)
        return outcomes(
            simulation, ("emg", "acc"), lambda t: t["emg"] * 2 + t["acc"], LinearDiscriminantAnalysis
        ).mean()

    assert accuracy(pattern_spread=0.05) > 0.99
    assert accuracy(pattern_spread=1.0) < 0.8
    assert accuracy(posture_spread_deg=50) < 0.9


# EMG


def test_the_spectrum_is_that_of_a_forearm_muscle():
    noise = physiology.coloured_noise(np.random.default_rng(0), 200_000, 2, 2000.0, physiology.emg_power)
    frequency, power = dsp.welch(noise, 2000.0, nperseg=1024, axis=0)
    cumulative = power.sum(axis=1).cumsum() / power.sum()
    assert 80 < frequency[np.searchsorted(cumulative, 0.5)] < 100
    assert cumulative[frequency < 10][-1] < 0.02 and cumulative[frequency < 450][-1] > 0.97
    np.testing.assert_allclose(noise.std(axis=0), 1, atol=0.02)
    band = (frequency > 20) & (frequency < 400)
    expected = physiology.emg_power(frequency[band])
    measured = power[band].mean(axis=1)
    np.testing.assert_allclose(measured / measured.mean(), expected / expected.mean(), rtol=0.3)


def test_band_noise_stays_in_its_band_and_has_unit_variance():
    noise = physiology.coloured_noise(np.random.default_rng(1), 9_999, 3, 50.0, physiology.band_power(8, 12))
    frequency, power = dsp.welch(noise, 50.0, nperseg=500, axis=0)
    assert power[(frequency > 7.5) & (frequency < 12.5)].sum() / power.sum() > 0.99
    np.testing.assert_allclose(noise.std(axis=0), 1, atol=0.05)


@pytest.mark.parametrize("fs", [200.0, 1000.0])
def test_emg_amplitudes_are_realistic_and_contractions_stand_out_of_rest(fs):
    (recording,) = simulate(Simulation(n_subjects=1, n_repetitions=1, fs=fs))
    emg = recording.signals["emg"]
    assert (emg.units, emg.data.dtype, emg.fs) == ("mV", np.float32, fs)
    rest = emg.data[recording.label == 0].std(axis=0)
    active = emg.data[recording.label > 0].std(axis=0)
    assert ((rest > 0.003) & (rest < 0.008)).all()
    assert ((active > 0.08) & (active < 0.5)).all()
    assert abs(emg.data.mean(axis=0)).max() < 0.005


def test_a_contraction_swells_and_fades_within_its_trial():
    (recording,) = simulate(Simulation(n_subjects=1, n_repetitions=6))
    emg = recording.signals["emg"]
    starts = (recording.trials["start"] * emg.fs).round().astype(int)
    trials = np.stack([emg.data[start : start + 400] for start in starts])
    course = np.sqrt(np.square(trials).mean(axis=(0, 2)))
    plateau = course[80:320].mean()
    assert course[:8].max() < 0.15 * plateau and course[-8:].max() < 0.15 * plateau
    assert abs(course[100:200].mean() / course[200:300].mean() - 1) < 0.1


def test_crosstalk_raises_the_correlation_of_neighbours_and_less_that_of_opposite_electrodes():
    near, far = [], []
    for crosstalk in (0.0, 0.2, 0.4, 0.6, 0.8):
        (recording,) = simulate(Simulation(n_subjects=1, n_repetitions=1, crosstalk=crosstalk))
        r = np.corrcoef(recording.signals["emg"].data[recording.label > 0].T)
        near.append(np.mean([r[i, (i + 1) % 8] for i in range(8)]))
        far.append(np.mean([r[i, (i + 4) % 8] for i in range(8)]))
    assert abs(near[0]) < 0.05
    assert (np.diff(near) > 0.05).all()
    assert (np.array(near) >= np.array(far) - 0.02).all()


@given(n=st.integers(1, 12), crosstalk=st.floats(0, 0.95))
def test_crosstalk_is_an_invertible_mixing_around_the_ring_that_keeps_amplitudes(n, crosstalk):
    mixing = physiology.crosstalk_matrix(n, crosstalk)
    np.testing.assert_allclose(np.linalg.norm(mixing, axis=1), 1)
    np.testing.assert_allclose(np.roll(mixing, (1, 1), axis=(0, 1)), mixing)
    assert np.linalg.matrix_rank(mixing) == n
    if crosstalk == 0:
        np.testing.assert_array_equal(mixing, np.eye(n))


def test_muscle_patterns_lie_apart_and_the_key_shifts_every_factor_pattern_alike():
    for seed in range(20):
        patterns = physiology.synergies(np.random.default_rng(seed), 3, 2, 8).reshape(3, 2, 8)
        shift = patterns[:, 1] - patterns[:, 0]
        np.testing.assert_allclose(shift, shift[:1].repeat(3, axis=0))
        steps = patterns[1:, 0] - patterns[:1, 0]
        np.testing.assert_allclose(steps @ shift[0], 0, atol=1e-12)
        flat = patterns.reshape(-1, 8)
        distance = np.linalg.norm(flat[:, None] - flat, axis=2)[~np.eye(6, dtype=bool)]
        assert distance.min() > 1
    assert physiology.synergies(np.random.default_rng(0), 1, 4, 1).shape == (4, 1)


def test_spread_out_takes_the_farthest_candidates():
    line = np.array([[0.0], [0.1], [0.9], [1.0], [0.5]])
    np.testing.assert_array_equal(physiology.spread_out(line, 3).ravel(), [0, 1, 0.5])


# Accelerometer


def sensors(recording):
    return recording.signals["acc"].data.reshape(len(recording.signals["acc"].data), -1, 3)


def label_at_acc(recording):
    rows = np.arange(len(sensors(recording))) * recording.fs / recording.signals["acc"].fs
    return recording.label[rows.astype(int)]


def test_every_accelerometer_reads_one_g_at_rest_and_in_a_held_posture():
    (recording,) = simulate(Simulation(n_subjects=1, n_repetitions=2, acc_channels=9))
    acc = recording.signals["acc"]
    assert (acc.units, acc.fs, acc.ch_names[3]) == ("g", 50.0, "sensor 2 x")
    magnitude = np.linalg.norm(sensors(recording), axis=2)
    assert magnitude.shape[1] == 3
    assert abs(magnitude[label_at_acc(recording) == 0].mean(axis=0) - 1).max() < 0.005
    assert abs(magnitude[label_at_acc(recording) == 0] - 1).max() < 0.1
    middle = (recording.trials["start"] * 50 + 50).astype(int)
    assert abs(magnitude[middle].mean() - 1) < 0.01
    assert abs(magnitude - 1).max() > 0.15  # getting there is not free of force


def test_sensors_measure_the_same_gravity_each_in_its_own_frame():
    (recording,) = simulate(Simulation(n_subjects=1, n_repetitions=1, acc_noise_g=0))
    first, second = sensors(recording).transpose(1, 0, 2)
    assert np.linalg.norm(first - second, axis=1).mean() > 0.1
    mapping = np.linalg.lstsq(first, second, rcond=None)[0]
    np.testing.assert_allclose(first @ mapping, second, atol=1e-5)
    np.testing.assert_allclose(mapping @ mapping.T, np.eye(3), atol=1e-4)
    assert np.linalg.det(mapping) == pytest.approx(1, abs=1e-4)


def test_tremor_lies_between_8_and_12_hz():
    (recording,) = simulate(Simulation(n_subjects=1, n_repetitions=1, acc_noise_g=0, tremor_g=0.05, rest_s=20))
    at_rest = recording.signals["acc"].data[: 19 * 50]
    frequency, power = dsp.welch(at_rest, 50.0, nperseg=400, axis=0)
    assert power[(frequency > 7.5) & (frequency < 12.5)].sum() / power[frequency > 1].sum() > 0.98
    assert at_rest.std(axis=0).mean() == pytest.approx(0.05, rel=0.2)


def test_postures_are_distinct_unit_vectors_and_never_upside_down():
    for n_roll, n_pitch in ((1, 1), (2, 2), (5, 3), (12, 1)):
        gravity = physiology.postures(n_roll, n_pitch)
        np.testing.assert_allclose(np.linalg.norm(gravity, axis=1), 1)
        cosine = gravity @ gravity.T - 2 * np.eye(len(gravity))
        assert np.degrees(np.arccos(cosine.max())) > 15
        assert gravity[:, 2].min() > -0.75


def test_turning_goes_along_the_great_circle():
    x, z = np.eye(3)[[0]], np.eye(3)[[2]]
    half = physiology.turn(x, z, np.array([0.5]))
    np.testing.assert_allclose(half, [[np.sqrt(0.5), 0, np.sqrt(0.5)]])
    np.testing.assert_allclose(physiology.turn(x, z, np.array([1.0])), z, atol=1e-12)
    np.testing.assert_allclose(physiology.turn(x, x, np.array([0.7])), x)


def test_a_movement_leaves_arrives_and_returns_and_its_bend_is_its_second_derivative():
    time = np.linspace(-0.5, 2.5, 30_001)
    position, bend = physiology.move_and_return(time, 2.0, 0.4)
    assert (position[(time < 0) | (time > 2)] == 0).all()
    np.testing.assert_allclose(position[(time > 0.4) & (time < 1.6)], 1)
    twice = np.gradient(np.gradient(position, time), time)
    np.testing.assert_allclose(bend[2:-2], twice[2:-2], atol=0.1)


# Cohorts


def test_the_same_seed_gives_the_same_cohort_and_another_seed_another():
    first, again = list(simulate(SMALL)), list(simulate(SMALL))
    other = list(simulate(SMALL.model_copy(update={"seed": 1})))
    for a, b, c in zip(first, again, other, strict=True):
        for modality in ("emg", "acc"):
            np.testing.assert_array_equal(a.signals[modality].data, b.signals[modality].data)
            assert abs(a.signals[modality].data - c.signals[modality].data).max() > 1e-3
        np.testing.assert_array_equal(a.label, b.label)


def test_a_subject_is_the_same_whichever_others_are_made():
    second = list(simulate(SMALL))[1]
    (alone,) = simulate(SMALL, ["02"])
    (in_larger,) = simulate(SMALL.model_copy(update={"n_subjects": 30}), [2])
    for recording in (alone, in_larger):
        assert recording.subject == "02"
        np.testing.assert_array_equal(recording.signals["emg"].data, second.signals["emg"].data)
        np.testing.assert_array_equal(recording.signals["acc"].data, second.signals["acc"].data)
        np.testing.assert_array_equal(recording.label, second.label)


def test_changing_one_modality_leaves_the_other_as_it_was():
    (before,), (after,) = simulate(SMALL, [1]), simulate(SMALL.model_copy(update={"emg_noise_uv": 50.0}), [1])
    np.testing.assert_array_equal(before.signals["acc"].data, after.signals["acc"].data)
    assert (before.signals["emg"].data != after.signals["emg"].data).any()


@pytest.mark.parametrize("spread, alike", [(0.0, True), (1.0, False)])
def test_subject_spread_sets_whether_a_classifier_carries_over_to_other_subjects(spread, alike):
    simulation = Simulation(n_subjects=3, subject_spread=spread, pattern_spread=0.1)
    (emg, acc, truth, _), *others = cohort(simulation)
    model = LinearDiscriminantAnalysis().fit(np.hstack([emg, acc]), truth["emg"] * 2 + truth["acc"])
    for emg, acc, truth, _ in others:
        score = model.score(np.hstack([emg, acc]), truth["emg"] * 2 + truth["acc"])
        assert score > 0.95 if alike else score < 0.7


def test_subjects_are_chosen_by_name_or_number_in_the_cohorts_order():
    simulation = Simulation(n_subjects=3, n_repetitions=1)
    assert [r.subject for r in simulate(simulation, [3, "01"])] == ["01", "03"]
    for wrong in ([4], ["S1"], [0]):
        with pytest.raises(DataError, match="unknown subject .*; known: 01, 02, 03"):
            simulate(simulation, wrong)
    with pytest.raises(DataError, match="must be a list such as"):
        simulate(simulation, "01")
    with pytest.raises(DataError, match="selects no subject"):
        simulate(simulation, [])


def test_simulations_take_fields_as_a_mapping_and_finds_subjects_without_making_them():
    fields = {"n_subjects": 2, "n_repetitions": 1}
    (recording,) = simulate(fields, [2])
    assert recording.subject == "02" and recording.meta["simulation"]["n_subjects"] == 2
    np.testing.assert_array_equal(
        recording.signals["emg"].data, next(simulate(Simulation(**fields), [2])).signals["emg"].data
    )
    assert find(fields) == {"01": [], "02": []}
    assert list(find()) == list(Simulation().subjects)


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"acc_channels": 4}, "acc_channels must be a multiple of 3 (x, y, z each), got 4"),
        ({"acc_fs": 400.0}, "acc_fs must not exceed fs, got 400 and 200 Hz"),
        ({"joint_classes": 4, "trials_per_class": 1}, "must be a multiple of joint_classes"),
        ({"emg_channels": 1}, "emg_channels must be at least 2"),
        ({"crosstalk": 1.0}, "crosstalk=1.0; expected a number less than 1"),
        ({"fs": float("nan")}, "fs=nan; expected a finite number"),
        ({"emg_classes": 0}, "emg_classes=0; expected a number greater than or equal to 1"),
        ({"electrodes": 8}, "electrodes is not a known key; known keys: n_subjects, seed"),
        ("default", "the content='default'; expected keys and values: {key: value}"),
    ],
)
def test_an_invalid_configuration_gives_a_one_line_error_with_value_and_expectation(fields, message):
    with pytest.raises(DataError) as error:
        simulate(fields)
    assert message in str(error.value) and "\n" not in str(error.value)
    if isinstance(fields, dict):
        with pytest.raises(ArgumentError):
            Simulation(**fields)


def test_every_field_is_documented():
    assert all(field.description for field in Simulation.model_fields.values())
