"""NinaPro data bases except DB5: small files with every known problem (docs/data-sets.md §2.3)."""

import os

import numpy as np
import pytest
from scipy.io import savemat

from emg_lens.data import DataError, Recipe, Segment, load_dataset, load_trials
from emg_lens.data.sources.axis_order import electrode_major, order_from_gravity
from emg_lens.data.sources.ninapro_bases import DB1, DB2, DB3, DB6, DB7, DB8, DOA, FORCE_CODES

ROWS = 60


def gravity(n_rows, n_electrodes, order="electrode_major", seed=0):
    """Accelerometers turned each its own way, at rest: 1 g each."""
    rng = np.random.default_rng(seed)
    turned = rng.normal(size=(n_electrodes, 3))
    turned /= np.linalg.norm(turned, axis=1, keepdims=True)
    flat = turned.ravel() if order == "electrode_major" else turned.T.ravel()
    return (flat + rng.normal(scale=0.005, size=(n_rows, flat.size))).astype(np.float32)


def labels(gestures, repetitions, rows=ROWS):
    """Each gesture and repetition for `rows` rows after as many rows of rest, which keep the repetition number."""
    runs = [(of, r) for of in gestures for r in range(1, repetitions + 1)]
    label = np.concatenate([np.repeat([0, of], rows) for of, _ in runs])
    repetition = np.concatenate([np.repeat([r, r], rows) for _, r in runs])
    return label.astype(np.int8)[:, None], repetition.astype(np.int8)[:, None]


def content(gestures=range(1, 18), repetitions=6, n_emg=12, order="electrode_major", rows=ROWS, **changes):
    label, repetition = labels(gestures, repetitions, rows)
    n = len(label)
    emg = np.random.default_rng(1).normal(scale=1e-5, size=(n, n_emg)).astype(np.float32)
    fields = {
        **{"emg": emg, "acc": gravity(n, n_emg, order), "restimulus": label, "rerepetition": repetition},
        **{"stimulus": np.roll(label, -20), "repetition": repetition, "subject": np.uint8(1), "exercise": np.uint8(1)},
    }
    return {key: value for key, value in {**fields, **changes}.items() if value is not None}


def write(folder, name="S1_E1_A1.mat", **changes):
    folder.mkdir(parents=True, exist_ok=True)
    savemat(folder / name, content(**changes), do_compression=True)
    return folder


def one(name, folder, **options):
    (recording,) = load_dataset(name, folder, **options)
    return recording


# --- DB2 ----------------------------------------------------------------------------------------------------


def test_db2_has_named_electrodes_each_with_an_accelerometer(tmp_path):
    r = one("ninapro-db2", write(tmp_path / "DB2_s1"))
    emg, acc = r.signals["emg"], r.signals["acc"]
    assert emg.ch_names[:2] == ("ring 1", "ring 2") and emg.ch_names[-2:] == ("biceps", "triceps")
    assert acc.ch_names[:4] == ("ring 1 x", "ring 1 y", "ring 1 z", "ring 2 x") and len(acc.ch_names) == 36
    assert (emg.fs, emg.native_fs, acc.fs, acc.native_fs) == (2000, 2000, 2000, 148)
    assert len(r.trials) == 17 * 6 and r.meta["class_names"][13] == "wrist flexion"
    assert not any("complete" in note for note in r.notes) and any("148 Hz" in note for note in r.notes)


@pytest.mark.parametrize("written", ["electrode_major", "axis_major"])
def test_the_order_of_the_accelerometers_columns_is_found_from_gravity(tmp_path, written):
    folder = write(tmp_path, order=written)
    r = one("ninapro-db2", folder)
    np.testing.assert_allclose(r.signals["acc"].data, gravity(len(r.label), 12, "electrode_major"), atol=0.05)
    assert any(f"column order {written}" in note for note in r.notes)
    given = one("ninapro-db2", folder, acc_order=written)
    np.testing.assert_array_equal(given.signals["acc"].data, r.signals["acc"].data)
    assert not any("column order" in note for note in given.notes)


def test_an_order_that_is_not_clear_from_gravity_is_assumed_and_noted(tmp_path):
    noise = np.random.default_rng(0).normal(size=(17 * 6 * 2 * ROWS, 36)).astype(np.float32)
    r = one("ninapro-db2", write(tmp_path, acc=noise))
    assert any("not clear from gravity" in note and "electrode_major assumed" in note for note in r.notes)
    np.testing.assert_array_equal(r.signals["acc"].data, noise)


def test_the_order_is_taken_from_rest_alone():
    rows = np.arange(4000)
    acc = gravity(4000, 6, "axis_major")
    moving = rows % 2 == 1
    acc[moving] = gravity(2000, 6, "electrode_major", seed=5) * 1.0
    assert order_from_gravity(acc, ~moving)[0] == "axis_major"
    assert electrode_major(acc, "axis_major")[0, :3].tolist() == acc[0, [0, 6, 12]].tolist()


@pytest.mark.parametrize("numbers", [range(18, 41), range(1, 24)], ids=["global", "local"])
def test_db2_exercise_2_is_numbered_18_to_40_whichever_way_the_file_counts(tmp_path, numbers):
    r = one("ninapro-db2", write(tmp_path, "S1_E2_A1.mat", gestures=numbers), exercises=[2])
    assert sorted(set(r.label[r.label > 0])) == list(range(18, 41)) and list(r.meta["class_names"]) == [*range(18, 41)]


def test_old_force_codes_become_movements_41_to_49_in_order(tmp_path):
    r = one("ninapro-db2", write(tmp_path, "S1_E3_A1.mat", gestures=FORCE_CODES), exercises=[3])
    runs = r.trials["label"].to_numpy().reshape(9, 6)
    assert runs[:, 0].tolist() == list(range(41, 50)) and (runs == runs[:, :1]).all()
    assert any("codes of an early release" in note for note in r.notes)
    again = one("ninapro-db2", write(tmp_path / "new", "S1_E3_A1.mat", gestures=range(41, 50)), exercises=[3])
    assert again.trials["label"].tolist() == r.trials["label"].tolist()


@pytest.mark.parametrize("short", [1, 272])
def test_short_labels_are_padded_and_noted(tmp_path, short):
    label, repetition = labels(range(1, 18), 20)
    rows = {"rerepetition": repetition[:-short], "restimulus": label[:-short]}
    r = one("ninapro-db2", write(tmp_path, repetitions=20, **rows))
    assert (r.label[-short:] == -1).all() and any(f"{short} rows shorter than emg" in note for note in r.notes)


def test_labels_five_percent_short_are_rejected(tmp_path):
    label, _ = labels(range(1, 18), 6)
    with pytest.raises(DataError, match="restimulus has .* rows and emg 12240; expected a difference of 122 at most"):
        one("ninapro-db2", write(tmp_path, restimulus=label[: int(len(label) * 0.95)]))


def test_other_sensors_are_read_where_they_are_asked_for(tmp_path):
    n = len(content()["emg"])
    folder = write(tmp_path, glove=np.ones((n, 22), np.float32))
    assert list(one("ninapro-db2", folder, sensors=["glove", "emg"]).signals) == ["glove", "emg"]
    with pytest.raises(DataError, match="sensors must be a list of values from .*'glove', 'force'.*, got 'emg'"):
        one("ninapro-db2", folder, sensors="emg")
    with pytest.raises(DataError, match="no variable 'force'"):
        one("ninapro-db2", folder, sensors=["force"])


def test_a_file_becomes_trials_of_the_papers_steady_state(tmp_path):
    write(tmp_path, gestures=[1, 2], repetitions=6)
    recipe = Recipe(signals={"emg": [], "acc": [{"step": "lowpass", "cutoff_hz": 90}]})
    made = load_trials("ninapro-db2", tmp_path, recipe, Segment(start_s=0.005, stop_s=0.025))
    assert made.modalities == {"emg": 12, "acc": 36} and made.x.shape == (12, 48, 40)


# --- the others ---------------------------------------------------------------------------------------------


def test_db1_has_ten_repetitions_and_no_accelerometer(tmp_path):
    r = one("ninapro-db1", write(tmp_path, "S3_A1_E2.mat", n_emg=10, repetitions=10, acc=None), exercises=[2])
    assert r.subject == "S3" and r.fs == 100 and list(r.signals) == ["emg"] and r.signals["emg"].data.shape[1] == 10
    assert r.trials["label"].min() == 13 and not any("complete" in note for note in r.notes)


def test_db3_takes_people_with_ten_electrodes(tmp_path):
    r = one("ninapro-db3", write(tmp_path, n_emg=10))
    assert len(r.signals["emg"].ch_names) == 10 and len(r.signals["acc"].ch_names) == 30
    with pytest.raises(DataError, match="emg has shape .*, 9.*, expected"):
        one("ninapro-db3", write(tmp_path / "nine", n_emg=9))


def test_db6_drops_columns_of_no_electrode_and_numbers_repetitions_through_sessions(tmp_path):
    grasps = (1, 3, 4, 6, 9, 10, 11)
    for name in ("S2_D1_T1.mat", "S2_D1_T2.mat", "S2_D5_T2.mat"):
        made = content(grasps, 12, n_emg=16, daytesting=np.uint8(1))
        made["emg"][:, 8:10] = 0
        savemat(tmp_path / name, made)
    recordings = list(load_dataset("ninapro-db6", tmp_path))
    assert [sorted(set(r.trials["repetition"])) for r in recordings] == [
        list(range(first, first + 12)) for first in (1, 13, 109)
    ]
    assert all(len(r.signals["emg"].ch_names) == 14 and list(r.meta["class_names"]) == list(grasps) for r in recordings)
    assert any("channels of zeros left out: electrode 9, electrode 10" in note for note in recordings[0].notes)
    assert not any("complete" in note for r in recordings for note in r.notes)
    assert [r.repetition.max() for r in load_dataset("ninapro-db6", tmp_path, parts=[2])] == [24]
    with pytest.raises(DataError, match="parts must be a list from .*10.*, got .11."):
        load_dataset("ninapro-db6", tmp_path, parts=[11])


def test_db7_turns_gyroscope_and_magnetometer_as_the_accelerometer(tmp_path):
    n = len(content()["emg"])
    others = {name: np.tile(np.arange(36, dtype=np.float32), (n, 1)) for name in ("gyro", "mag")}
    folder = write(tmp_path, order="axis_major", **others)
    r = one("ninapro-db7", folder, sensors=["emg", "acc", "gyro", "mag"])
    assert r.signals["gyro"].data[0, :6].tolist() == [0, 12, 24, 1, 13, 25] == r.signals["mag"].data[0, :6].tolist()
    alone = one("ninapro-db7", folder, sensors=["gyro"])
    assert any("read acc to determine it" in note for note in alone.notes)


def test_db8_excludes_rows_of_a_glove_that_lost_contact_and_gives_degrees_of_actuation(tmp_path):
    for part, repetitions in ((1, 10), (2, 10), (3, 2)):
        label, _ = labels(range(1, 10), repetitions)
        glove = np.random.default_rng(part).normal(size=(len(label), 18)).astype(np.float32)
        glove[5:9, 3], glove[100, 7] = np.nan, np.nan
        made = content(range(1, 10), repetitions, n_emg=16, glove=glove)
        savemat(tmp_path / f"S1_E1_A{part}.mat", made)
    recordings = list(load_dataset("ninapro-db8", tmp_path))
    assert [sorted(set(r.trials["repetition"])) for r in recordings] == [
        list(range(1, 11)),
        list(range(11, 21)),
        [21, 22],
    ]
    r, glove = recordings[2], glove.astype(float)
    assert np.flatnonzero(r.label == -1).tolist() == [5, 6, 7, 8, 100]
    assert any("doa: 5 rows with NaN are excluded" in note for note in r.notes)
    expected = np.stack([sum(w * glove[:, c] for c, w in of.items()) for of in DOA], axis=1)
    sound = ~np.isnan(glove).any(axis=1)
    np.testing.assert_allclose(r.signals["doa"].data[sound], expected[sound], atol=1e-5)
    assert np.isfinite(r.signals["doa"].data).all() and r.signals["emg"].native_fs == 1111
    taken = next(iter(load_dataset("ninapro-db8", tmp_path, fs=1111)))
    assert taken.fs == taken.signals["emg"].fs == 1111 and any("1111 Hz instead of" in note for note in taken.notes)


@pytest.mark.parametrize("rows", [-1, 1])
def test_a_glove_of_a_row_more_or_less_than_the_labels_keeps_its_holes(tmp_path, rows):
    for part, repetitions in ((1, 10), (2, 10), (3, 2)):
        label, _ = labels(range(1, 10), repetitions)
        glove = np.ones((len(label) + rows, 18), np.float32)
        glove[[5, -1], 3] = np.nan
        savemat(tmp_path / f"S1_E1_A{part}.mat", content(range(1, 10), repetitions, n_emg=16, glove=glove))
    *_, r = load_dataset("ninapro-db8", tmp_path)
    holes = [5, len(glove) - 1] if rows < 0 else [5]
    assert np.flatnonzero(r.label == -1).tolist() == holes and np.isfinite(r.signals["doa"].data).all()
    assert any("doa: 2 rows with NaN" in note for note in r.notes) and any("doa has" in note for note in r.notes)


@pytest.mark.parametrize("family", [DB1, DB2, DB3, DB6, DB7, DB8], ids=lambda family: family.name)
def test_every_table_agrees_with_itself(family):
    assert set(family.default) <= set(family.sensors)
    numbers = [i for exercise in family.exercises.values() for i in range(exercise.start, exercise.stop + 1)]
    assert numbers == list(range(1, len(numbers) + 1)) and len(family.gestures) in (0, len(numbers))
    assert len(set(family.gestures)) == len(family.gestures)


@pytest.mark.parametrize("name", ["db1", "db2", "db3", "db6", "db7", "db8"])
def test_real_files(name):
    """Runs for those who have them: `EMG_LENS_NINAPRO_DB2=/path`."""
    folder = os.environ.get(f"EMG_LENS_NINAPRO_{name.upper()}")
    if folder is None:
        pytest.skip(f"set EMG_LENS_NINAPRO_{name.upper()}")
    recording = next(load_dataset(f"ninapro-{name}", folder))
    assert len(recording.trials) and all(np.isfinite(s.data).all() for s in recording.signals.values())
