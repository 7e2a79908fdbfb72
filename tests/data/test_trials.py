import os
from dataclasses import replace

import h5py
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from emg_lens.data import DataError, TrialSet, subjects
from emg_lens.io.checksums import PLACEHOLDER, insert_checksum


def arrays(n=24, width=5, time=7, seed=0, **changes):
    """Two subjects, three classes, four repetitions, one trial each."""
    i = np.arange(n)
    made = {
        "x": np.random.default_rng(seed).normal(3, 2, (n, width, time)),
        "y": i % 3 + 1,
        "subject": np.array(["A", "B"])[i // 12 % 2],
        "repetition": i // 3 % 4 + 1,
        "channels": {"emg": 2, "acc": 3},
        "fs": 100.0,
    }
    return {**made, **changes}


def trials(**changes):
    return TrialSet.from_arrays(**arrays(**changes))


def same(a: TrialSet, b: TrialSet):
    for name in ("x", "y", "subject", "repetition", "repetition_id", "targets", "source", "start_s"):
        first, second = getattr(a, name), getattr(b, name)
        assert (first is None) == (second is None), name
        if first is not None:
            np.testing.assert_array_equal(first, second)
            assert first.dtype == second.dtype, name
    pd.testing.assert_frame_equal(a.channels, b.channels)
    for name in ("fs", "classes", "notes", "modalities", "target_names"):
        assert getattr(a, name) == getattr(b, name)


# --- a user's own arrays ------------------------------------------------------------------------------------


def test_arrays_become_trials_with_named_channels_and_classes():
    made = trials(y=np.array(["open", "fist", "pinch"] * 8))
    assert made.classes == ("fist", "open", "pinch") and made.y[:3].tolist() == [1, 0, 2]
    assert made.x.dtype == np.float32 and made.y.dtype == np.int64
    assert made.channels["name"].tolist() == ["emg.0", "emg.1", "acc.0", "acc.1", "acc.2"]
    assert (len(made), made.n_samples, made.n_classes) == (24, 7, 3)
    assert repr(made) == "TrialSet(24 trials of 2 subjects, 2 emg + 3 acc channels, 7 samples at 100 Hz, 3 classes)"


def test_stated_classes_may_be_more_than_those_performed():
    made = trials(classes=[1, 2, 3, 4])
    assert made.n_classes == 4 and made.y.max() == 2
    with pytest.raises(DataError, match=r"y contains the label 3, which is not in classes \(1, 2\)"):
        trials(classes=[1, 2])


def test_trials_of_one_subject_class_and_repetition_number_are_windows_of_one_repetition():
    given = arrays() | {"y": [1, 1, 2, 2] * 6, "repetition": [1, 1, 1, 1, 2, 2, 2, 2] * 3, "subject": ["A"] * 24}
    made = TrialSet.from_arrays(**given)
    assert made.repetition_id.tolist() == [0, 0, 1, 1, 2, 2, 3, 3] * 3
    assert made.notes[-1].startswith("24 trials count as windows of 4 repetitions")
    own = TrialSet.from_arrays(**given, repetition_id=range(24))
    assert own.repetition_id.tolist() == list(range(24)) and own.notes == ()


def nan_at(trial, channel):
    x = arrays()["x"].copy()
    x[trial, channel, 2] = np.nan
    return x


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"x": nan_at(5, 3)}, r"NaN or infinity in trial 5, channel 3 \(acc acc.1\)"),
        ({"x": np.zeros((24, 5))}, r"x must be float32 \[trial, channel, time\]"),
        ({"y": np.arange(23)}, r"y must be one label per trial, 24 labels, got shape \(23,\)"),
        ({"y": np.eye(3)[np.arange(24) % 3]}, r"y must be one label per trial, 24 labels, got shape \(24, 3\)"),
        (
            {"x": np.zeros((24, 7, 5))},
            r"x is \[trial, channel, time\] and has 7 channels .* lists 5: {'emg': 2, 'acc': 3}",
        ),
        ({"x": [np.zeros((5, 7)), np.zeros((5, 6))]}, "all trials of one length and at one rate; got list"),
        ({"x": {"emg": np.zeros((24, 2, 7))}}, "all trials of one length and at one rate; got dict"),
        (
            {"channels": ["emg"] * 5},
            r"channels must give the number of channels of each modality, such as {'emg': 8, 'acc': 3}; got \[",
        ),
        ({"fs": {"emg": 1000, "acc": 100}}, "fs must be one positive number"),
        ({"subject": ["A"] * 3}, r"subject must be one label per trial, 24 labels"),
        ({"repetition": np.full(24, 1.5)}, "repetition must contain whole numbers"),
        ({"channels": {"emg": 4}}, "has 5 channels .* lists 4"),
        (
            {"channels": pd.DataFrame({"modality": ["emg"] * 5})},
            "the columns modality, name, units, native_fs",
        ),
        ({"fs": 0}, "fs must be one positive number"),
        ({"classes": [1, 2, 3, "3"]}, "class names must be unique"),
        ({"targets": np.zeros((24, 2)), "target_names": ["a"]}, r"got float32 \(24, 2\) and 1 names"),
        ({"targets": np.zeros((23, 1)), "target_names": ["a"]}, "24 trials, with one name per target"),
        ({"targets": np.full((24, 1), np.nan), "target_names": ["a"]}, "target a is NaN or infinite in trial 0"),
        ({"targets": np.zeros((24, 2)), "target_names": ["a", "a"]}, "target names must be unique"),
        ({"target_names": ["a"]}, "1 target_names but no targets"),
    ],
)
def test_arrays_that_cannot_be_trials_are_rejected(changes, message):
    with pytest.raises(DataError, match=message):
        trials(**changes)


def test_channels_of_a_modality_must_stand_together():
    table = trials().channels.iloc[[0, 2, 1, 3, 4]].reset_index(drop=True)
    with pytest.raises(DataError, match="must stand together"):
        trials(channels=table)


# --- parts --------------------------------------------------------------------------------------------------


def test_select_takes_trials_that_meet_every_condition():
    made = trials()
    part = made.select(subjects=["B"], repetitions=[1, 4])
    assert set(part.subject) == {"B"} and set(part.repetition) == {1, 4} and len(part) == 6
    np.testing.assert_array_equal(part.x, made.x[(made.subject == "B") & np.isin(made.repetition, [1, 4])])
    same(made.select(made.y == 1), made.select(np.flatnonzero(made.y == 1)))


def test_select_rejects_unknown_subjects_and_repetitions():
    with pytest.raises(DataError, match="unknown subject 'C'; known: A, B"):
        trials().select(subjects=["C"])
    with pytest.raises(DataError, match="unknown repetition 9; known: 1, 2, 3, 4"):
        trials().select(repetitions=[1, 9])
    with pytest.raises(DataError, match="contains no trial"):
        trials().select(np.zeros(24, bool))
    with pytest.raises(DataError, match="one boolean per trial"):
        trials().select(np.zeros(3, bool))
    with pytest.raises(DataError, match="expected a list"):
        trials().select(subjects="A")


@given(st.sets(st.integers(1, 4), min_size=1, max_size=3))
def test_a_split_parts_the_trials_without_loss_or_overlap(train):
    made = trials()
    parts = made.split(train, set(range(1, 5)) - train)
    assert set(parts[0].repetition) == train and not set(parts[0].repetition_id) & set(parts[1].repetition_id)
    assert sorted([*parts[0].repetition_id, *parts[1].repetition_id]) == sorted(made.repetition_id)


def test_split_refuses_overlap_absent_repetitions_and_classes_on_one_side_only():
    made = trials()
    with pytest.raises(DataError, match=r"repetitions \[2\] are in the training and in the test split"):
        made.split([1, 2], [2, 3])
    with pytest.raises(DataError, match="unknown repetition 7; known: 1, 2, 3, 4"):
        made.split([1, 2], [7])
    with pytest.raises(DataError, match="selects no repetition"):
        made.split([1, 2], [])
    partial = made.select(~((made.y == 2) & (made.repetition == 4)))
    with pytest.raises(DataError, match="the test repetitions contain no trial of 3"):
        partial.split([1, 2], [4])
    with pytest.raises(DataError, match="the training repetitions contain no trial of 3"):
        partial.split([4], [1])


def test_a_class_without_trials_does_not_prevent_a_split():
    train, test = trials(classes=[1, 2, 3, 4]).split([1, 2], [3])
    assert train.n_classes == test.n_classes == 4


def test_keep_selects_whole_modalities_in_their_order():
    made = trials()
    assert made.keep(["acc"]).modalities == {"acc": 3}
    np.testing.assert_array_equal(made.keep(["acc"]).x, made.x[:, 2:])
    same(made.keep(["acc", "emg"]), made)
    with pytest.raises(DataError, match="unknown modality 'gyro'; known: acc, emg"):
        made.keep(["gyro"])


# --- targets ------------------------------------------------------------------------------------------------


def test_modalities_become_targets_the_mean_over_each_trial():
    table = trials().channels.assign(units=["V", "V", "g", "g", ""])
    made = trials(channels=table)
    done = made.with_targets(["acc"])
    assert done.modalities == {"emg": 2} and done.target_names == ("acc.0 (g)", "acc.1 (g)", "acc.2")
    np.testing.assert_allclose(done.targets, made.x[:, 2:].mean(axis=2), rtol=1e-6)
    assert done.targets.dtype == np.float32
    np.testing.assert_array_equal(done.x, made.x[:, :2])


def test_targets_stay_with_their_trials_through_everything(tmp_path):
    made = trials().with_targets(["acc"])
    part = made.select(subjects=["B"], repetitions=[2])
    np.testing.assert_array_equal(part.targets, made.targets[(made.subject == "B") & (made.repetition == 2)])
    both = TrialSet.concatenate([part, made])
    np.testing.assert_array_equal(both.targets, np.concatenate([part.targets, made.targets]))
    both.save(tmp_path / "t.h5")
    same(TrialSet.load(tmp_path / "t.h5"), both)
    np.testing.assert_array_equal(made.standardised(made).targets, made.targets)
    with pytest.raises(DataError, match="differ in target_names"):
        TrialSet.concatenate([made, trials(width=2, channels={"emg": 2})])


def test_invalid_targets_are_rejected():
    made = trials()
    with pytest.raises(DataError, match="unknown modality 'force'; known: acc, emg"):
        made.with_targets(["force"])
    with pytest.raises(DataError, match="emg, acc as targets leaves no modality as input"):
        made.with_targets(["emg", "acc"])
    with pytest.raises(DataError, match="have targets already"):
        made.with_targets(["acc"]).with_targets(["emg"])


def rewritten(path, without=(), change=lambda file, path: None, **attributes):
    """A copy of a file with another content and a valid checksum (unless it is in `without`)."""
    other = path.with_name("rewritten.h5")
    with h5py.File(path) as old, h5py.File(other, "w") as new:
        new.attrs.update({"checksum": PLACEHOLDER} if "checksum" not in without else {})
        for name in old:
            if name not in without:
                old.copy(name, new)
        known = {**old.attrs, **attributes}
        new.attrs.update({name: known[name] for name in known if name not in ("checksum", *without)})
        change(new, other)
    if "checksum" not in without:
        insert_checksum(other)
    return other


# --- standardising ------------------------------------------------------------------------------------------


def test_z_scores_equal_scipys_on_the_reference():
    made = trials()
    flat = made.x.transpose(1, 0, 2).reshape(5, -1)
    expected = stats.zscore(flat.astype(float), axis=1).reshape(5, 24, 7).transpose(1, 0, 2)
    np.testing.assert_allclose(made.standardised(made).x, expected, atol=1e-5)


def test_test_trials_are_scaled_by_the_training_trials_only():
    train, test = trials().split([1, 2], [3, 4])
    done = test.standardised(train)
    mean, deviation = train.x.mean(axis=(0, 2)), train.x.std(axis=(0, 2))
    np.testing.assert_allclose(done.x, (test.x - mean[:, None]) / deviation[:, None], atol=1e-5)
    assert any("statistics of repetitions 1, 2" in note for note in done.notes)


def test_a_constant_channel_becomes_zero_and_is_noted():
    x = arrays()["x"].copy()
    x[:, 1] = 0.1
    x[:12, 3] = 7  # constant in the reference only
    made = trials(x=x)
    done = made.standardised(made.select(subjects=["A"]))
    assert (done.x[:, [1, 3]] == 0).all() and np.isfinite(done.x).all()
    assert any("channel 1 (emg emg.1) is constant in the reference" in note for note in done.notes)


def test_rectifying_comes_after_the_z_score():
    made = trials()
    plain, done = made.standardised(made), made.standardised(made, rectify=["emg"])
    np.testing.assert_array_equal(done.x[:, :2], np.abs(plain.x[:, :2]))
    np.testing.assert_array_equal(done.x[:, 2:], plain.x[:, 2:])
    with pytest.raises(DataError, match="unknown modality 'force'"):
        made.standardised(made, rectify=["force"])


def test_a_reference_with_other_channels_is_rejected():
    with pytest.raises(DataError, match="the reference has other channels"):
        trials().standardised(trials().keep(["emg"]))


# --- together, and on disk ----------------------------------------------------------------------------------


def test_concatenation_keeps_repetitions_distinct():
    made = trials()
    a, b = made.select(subjects=["A"]), made.select(subjects=["B"])
    both = TrialSet.concatenate([b, a, b])
    assert len(both) == 36 and len(set(both.repetition_id)) == 36
    np.testing.assert_array_equal(both.x[12:24], a.x)


def test_concatenation_keeps_recordings_apart(make_recording):
    made = TrialSet.from_recordings([make_recording("A"), make_recording("A", seed=1)])
    both = TrialSet.concatenate([made, made.select(made.source == 1)])
    assert both.source.tolist() == [0] * 6 + [1] * 6 + [2] * 6
    np.testing.assert_array_equal(both.start_s[12:], made.start_s[6:])
    assert TrialSet.concatenate([made, replace(made, source=None, start_s=None)]).source is None


@pytest.mark.parametrize(
    "other, message",
    [
        (lambda: trials(fs=50.0), "differ in fs: 100.0 and 50.0"),
        (lambda: trials(time=8), "differ in n_samples: 7 and 8"),
        (lambda: trials(classes=[1, 2, 3, 4]), "differ in classes"),
        (lambda: trials(channels={"emg": 3, "acc": 2}), "differ in modalities"),
        (lambda: trials(channels=trials().channels.assign(units="g")), "differ in name or units"),
    ],
)
def test_sets_that_differ_cannot_be_concatenated(other, message):
    with pytest.raises(DataError, match=message):
        TrialSet.concatenate([trials(), other()])


def test_nothing_cannot_be_concatenated():
    with pytest.raises(DataError, match="nothing to concatenate"):
        TrialSet.concatenate([])


def test_saving_and_loading_gives_back_every_bit(tmp_path, make_recording):
    sets = [
        trials(),
        trials(subject=["müller", "o'neil"] * 12, notes=["a note", "one more: °"]),
        TrialSet.from_recordings([make_recording(class_names={1: "Faust", 2: "b", 3: "c"}, notes=("n",))]),
    ]
    for made in sets:
        made.save(tmp_path / "new" / "trials.h5")
        same(TrialSet.load(tmp_path / "new" / "trials.h5"), made)
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["trials.h5"]


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "trials.h5"
    trials().save(path)

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(DataError, match="cannot write .*trials.h5: disk full"):
        trials(seed=1).save(path)
    same(TrialSet.load(path), trials())
    assert [p.name for p in tmp_path.iterdir()] == ["trials.h5"]


def test_names_of_subjects_are_not_read_from_a_file_that_was_changed(tmp_path):
    path = tmp_path / "trials.h5"
    trials().save(path)
    assert subjects("trials", path) == tuple(dict.fromkeys(trials().subject))
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(1, 1))
    with pytest.raises(DataError, match="its checksum is wrong"):
        subjects("trials", path)


def test_files_that_are_not_trial_sets_give_a_one_line_error(tmp_path):
    path = tmp_path / "trials.h5"
    with pytest.raises(DataError, match="no such file"):
        TrialSet.load(path)
    path.write_text("hello")
    with pytest.raises(DataError, match="cannot be read as a trial set"):
        TrialSet.load(path)
    trials().save(path)
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(DataError, match="was changed after it was written: its checksum is wrong") as error:
        TrialSet.load(path)
    assert "\n" not in str(error.value)
    with h5py.File(path, "w") as file:
        file["x"] = 1
    with pytest.raises(DataError, match="not one that TrialSet.save wrote"):
        TrialSet.load(path)
    trials().save(path)
    with pytest.raises(DataError, match="version 99, expected 3"):
        TrialSet.load(rewritten(path, version=99))
    with pytest.raises(DataError, match="has no checksum"):
        TrialSet.load(rewritten(path, without=("checksum",)))
    with pytest.raises(DataError, match="has no repetition_id"):
        TrialSet.load(rewritten(path, without=("repetition_id",)))


def test_one_changed_byte_anywhere_in_a_file_is_rejected(tmp_path):
    made, path = trials(), tmp_path / "trials.h5"
    made.save(path)
    content = path.read_bytes()
    for at in np.random.default_rng(0).integers(len(content), size=40):
        path.write_bytes(content[:at] + bytes([content[at] ^ 0xFF]) + content[at + 1 :])
        with pytest.raises(DataError):
            TrialSet.load(path)


def external(path):
    with h5py.File(path.with_name("elsewhere.h5"), "w") as file:
        file["x"] = np.zeros((24, 5, 7), np.float32)
    return h5py.ExternalLink("elsewhere.h5", "x")


def outside(file, path):
    path.with_name("secret").write_bytes(bytes(24 * 5 * 7 * 4))
    file.create_dataset("x", (24, 5, 7), "f4", external=[(str(path.with_name("secret")), 0, 24 * 5 * 7 * 4)])


def virtual(file, path):
    external(path)
    layout = h5py.VirtualLayout((24, 5, 7), "f4")
    layout[:] = h5py.VirtualSource(str(path.with_name("elsewhere.h5")), "x", (24, 5, 7))
    file.create_virtual_dataset("x", layout)


@pytest.mark.parametrize(
    "put, message",
    [
        (lambda file, path: file.__setitem__("x", external(path)), "x is a link to another place"),
        (lambda file, path: file.__setitem__("x", h5py.SoftLink("/y")), "x is a link to another place"),
        (outside, "the values of x are in other files"),
        (virtual, "the values of x are in other files"),
        (lambda file, path: file.create_group("x"), "x is a group"),
        (lambda file, path: file.create_dataset("x", (10**7, 5, 70), "f4"), "x declares 14000.0 MB"),
        (lambda file, path: file.create_dataset("x", (10**7, 5, 70), "f4", compression=9), "x declares 14000.0 MB"),
        (lambda file, path: file.__setitem__("x", np.float32(1)), "x must be float32 .trial, channel, time."),
        (lambda file, path: file.__setitem__("x", ["a", "b"]), "x holds cells or objects"),
        (lambda file, path: file.__setitem__("x", np.zeros((24, 5, 7), complex)), "x holds complex"),
        (lambda file, path: file.attrs.__setitem__("channels", '{"modality": ["emg"], "name": []}'), "channels cannot"),
        (lambda file, path: file.attrs.__setitem__("channels", "[" * 50_000), "channels cannot be read"),
        (
            lambda file, path: file.attrs.__setitem__(
                "channels", '{"modality": [[]], "name": [""], "units": [""], "native_fs": [1]}'
            ),
            "channels must have 5 rows",
        ),
        (lambda file, path: file.attrs.__setitem__("classes", "[1, 2"), "classes cannot be read"),
        (lambda file, path: file.attrs.__setitem__("classes", "3"), "classes cannot be read"),
        (lambda file, path: file.attrs.__setitem__("fs", "fast"), "fs cannot be read"),
        (lambda file, path: file.attrs.__setitem__("fs", np.nan), "fs=nan"),
    ],
)
def test_links_and_wrong_content_give_a_one_line_error(tmp_path, put, message):
    trials().save(tmp_path / "new.h5")
    path = rewritten(tmp_path / "new.h5", without=("x",) if "x" in message.split()[:4] else (), change=put)
    with pytest.raises(DataError, match=message) as error:
        TrialSet.load(path)
    assert "\n" not in str(error.value) and "rewritten.h5" in str(error.value)
