import h5py
import numpy as np
import pytest
import scipy.sparse
from hypothesis import given
from hypothesis import strategies as st
from scipy.io import savemat

from emg_lens.data import DataError, load_dataset, subjects
from emg_lens.data.sources.ninapro_bases import DB5
from emg_lens.data.sources.ninapro_labels import Exercise, label_offset

ROWS = 2400


def content(labels=range(1, 13), rows=ROWS, short=0, **changes):
    """A DB5 file: each label once, half of its rows rest with the repetition number left standing."""
    labels = list(labels)
    run = rows // len(labels)
    restimulus = np.concatenate([np.repeat([0, of], [run // 2, run - run // 2]) for of in labels])
    restimulus = np.pad(restimulus, (0, rows - len(restimulus)))[: rows - short, None].astype(np.int8)
    emg = np.random.default_rng(0).integers(-128, 128, (rows, 16)).astype(np.float32)
    acc = np.tile(np.float32([0.6, 0.0, 0.8]), (rows, 1))
    fields = {
        **{"emg": emg, "acc": acc, "restimulus": restimulus, "stimulus": np.roll(restimulus, -20)},
        **{"rerepetition": np.ones_like(restimulus), "repetition": np.ones_like(restimulus)},
        **{"subject": np.uint8(1), "exercise": np.uint8(1), "frequency": np.uint8(200)},
        **{"laterality": "r", "sensor": "Double Myo"},
    }
    return {k: v for k, v in {**fields, **changes}.items() if v is not None}


def write(folder, name="S1_E1_A1.mat", **changes):
    folder.mkdir(parents=True, exist_ok=True)
    savemat(folder / name, content(**changes), do_compression=True)
    return folder


def one(folder, **options):
    recordings = list(load_dataset("ninapro-db5", folder, **options))
    assert len(recordings) == 1
    return recordings[0]


def test_a_sound_file_keeps_rates_units_names_and_values(tmp_path):
    r = one(write(tmp_path))
    emg, acc = r.signals["emg"], r.signals["acc"]
    np.testing.assert_array_equal(emg.data, content()["emg"])
    assert (emg.data.dtype, emg.fs, emg.native_fs, emg.units, len(emg.ch_names)) == (
        np.float32,
        200,
        200,
        "adc",
        16,
    )
    assert (acc.fs, acc.native_fs, acc.units, acc.ch_names) == (200, 50, "g", ("x", "y", "z"))
    assert r.subject == "S1" and len(r.trials) == 12 and r.fs == 200
    assert r.meta["class_names"][12] == "thumb extension" and len(r.meta["class_names"]) == 12
    assert len(r.notes) == 2 and "50 Hz assumed" in r.notes[0]
    assert r.notes[1] == "12 repetitions, expected 72: is the file complete?"


def test_a_file_with_all_repetitions_has_no_note_about_them(tmp_path):
    runs = np.arange(ROWS) * 72 // ROWS
    labels, repetition = (part[:, None].astype(np.int8) for part in (runs // 6 + 1, runs % 6 + 1))
    r = one(write(tmp_path, restimulus=labels, rerepetition=repetition))
    assert len(r.notes) == 1 and len(r.trials) == 72


def test_uint8_frequency_is_not_doubled_or_wrapped(tmp_path):
    assert one(write(tmp_path)).fs == 200.0  # and no note: 200 agrees with the family's rate


def test_repetition_numbers_on_rest_rows_are_normal_and_make_no_trial_and_no_note(tmp_path):
    r = one(write(tmp_path))
    assert (r.repetition[r.label == 0] == 1).any() and not any("no repetition" in note for note in r.notes)


@pytest.mark.parametrize("field, value", [("subject", 11), ("exercise", 3), ("frequency", 100)])
def test_wrong_scalars_inside_the_file_are_noted_and_not_used(tmp_path, field, value):
    r = one(write(tmp_path, **{field: np.uint8(value)}))
    assert r.subject == "S1" and r.fs == 200 and r.meta["exercise"] == 1
    assert any(f"variable {field!r} is {value}" in note for note in r.notes)


def test_labels_one_row_short_are_padded_with_unlabelled_rows(tmp_path):
    r = one(write(tmp_path, short=1))
    assert len(r.label) == ROWS and r.label[-1] == -1 and r.repetition[-1] == -1 and (r.label[:-1] >= 0).all()
    assert any("restimulus is 1 rows shorter than emg" in note for note in r.notes)


def test_labels_272_of_30000_rows_short_are_padded(tmp_path):
    r = one(write(tmp_path, rows=30_000, short=272))
    assert (r.label == -1).sum() == 272 and any("272 rows shorter" in note for note in r.notes)


def test_labels_five_percent_short_are_rejected(tmp_path):
    with pytest.raises(DataError, match=r"S1_E1_A1.mat: restimulus has 2280 rows and emg 2400; expected .* of 24"):
        one(write(tmp_path, short=120))


def test_labels_longer_than_emg_are_cut_with_a_note(tmp_path):
    longer = np.pad(content()["restimulus"], ((0, 3), (0, 0)))
    r = one(write(tmp_path, restimulus=longer))
    assert len(r.label) == ROWS and any("3 rows longer" in note for note in r.notes)


def test_stimulus_labels_can_be_asked_for(tmp_path):
    folder = write(tmp_path)
    cue, real = one(folder, labels="stimulus"), one(folder)
    np.testing.assert_array_equal(cue.label, content()["stimulus"].ravel())
    assert (cue.label != real.label).any() and cue.meta["labels"] == "stimulus"


def test_local_labels_are_moved_to_global_numbers_with_a_note(tmp_path):
    r = one(write(tmp_path, name="S1_E2_A1.mat", labels=range(1, 18), exercise=np.uint8(2)), exercises=(2,))
    assert sorted(set(r.label)) == [0, *range(13, 30)]
    assert any("12 added" in note for note in r.notes) and list(r.meta["class_names"]) == list(range(13, 30))


def test_global_labels_stay_as_they_are(tmp_path):
    r = one(write(tmp_path, name="S1_E2_A1.mat", labels=range(13, 30), exercise=np.uint8(2)), exercises=(2,))
    assert sorted(set(r.label)) == [0, *range(13, 30)] and not any("added" in note for note in r.notes)


def test_labels_that_fit_both_numberings_need_an_answer(tmp_path):
    folder = write(tmp_path, name="S1_E2_A1.mat", labels=range(13, 18), exercise=np.uint8(2))
    with pytest.raises(DataError, match="13 to 17 fit both numberings .*, or set label_numbering"):
        one(folder, exercises=(2,))
    assert max(one(folder, exercises=(2,), label_numbering="global").label) == 17
    assert max(one(folder, exercises=(2,), label_numbering="local").label) == 29


def test_labels_that_fit_no_numbering_or_not_the_stated_one_are_rejected(tmp_path):
    with pytest.raises(DataError, match="fit no numbering"):
        one(write(tmp_path / "a", labels=[1, 30]))
    folder = write(tmp_path / "b", name="S1_E2_A1.mat", labels=range(1, 18), exercise=np.uint8(2))
    with pytest.raises(DataError, match="1 to 17 are not global"):
        one(folder, exercises=(2,), label_numbering="global")


@given(st.sampled_from([*DB5.exercises.values(), Exercise(23, 18), Exercise(9, 41)]))
def test_either_numbering_of_a_whole_exercise_ends_at_the_same_global_labels(exercise):
    local, whole = np.arange(1, exercise.size + 1), np.arange(exercise.start, exercise.stop + 1)
    for labels in (local, whole):
        np.testing.assert_array_equal(labels + label_offset(labels, exercise, "auto"), whole)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("key, channel, named", [("emg", 9, "lower.2"), ("acc", 1, "y")])
def test_nan_and_infinity_are_rejected_with_key_and_channel(tmp_path, value, key, channel, named):
    data = content()[key].copy()
    data[5, channel] = value
    with pytest.raises(DataError, match=rf"S1_E1_A1.mat: {key} is NaN or infinite in channel {named}, row 6"):
        one(write(tmp_path, **{key: data}))


@pytest.mark.parametrize("key", ["restimulus", "rerepetition", "acc", "emg"])
def test_a_missing_key_is_named(tmp_path, key):
    with pytest.raises(DataError, match=rf"S1_E1_A1.mat: no variable {key!r} \(it has .*subject"):
        one(write(tmp_path, **{key: None}))


@pytest.mark.parametrize("kept", [0.0, 0.001, 0.3, 0.6, 0.97])
def test_a_truncated_file_is_one_line_with_its_name(tmp_path, kept):
    path = write(tmp_path) / "S1_E1_A1.mat"
    path.write_bytes(path.read_bytes()[: int(kept * path.stat().st_size)])
    with pytest.raises(DataError, match="S1_E1_A1.mat: .*is it complete") as error:
        one(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"emg": np.full((1, 3), "text", dtype=object)}, "emg holds cells or objects, expected numbers"),
        ({"emg": {"data": np.zeros((ROWS, 16))}}, "emg holds structures"),
        ({"emg": np.ones((ROWS, 16)) * 1j}, "emg holds complex numbers"),
        ({"emg": "abc"}, "emg holds text"),
        ({"emg": scipy.sparse.eye(16, format="csc")}, "emg is a csc_"),
        ({"emg": np.zeros((0, 16))}, "emg has no rows"),
        ({"emg": np.full((ROWS, 16), 1e300)}, "emg is NaN or infinite in channel upper.1"),
        ({"restimulus": np.ones((ROWS // 2, 2))}, r"restimulus has shape \(1200, 2\), expected one value per row"),
        ({"restimulus": np.full((ROWS, 1), 1e300)}, "restimulus must contain whole numbers"),
        ({"rerepetition": np.full((ROWS, 1), np.nan)}, "rerepetition must contain whole numbers"),
    ],
)
def test_variables_of_another_kind_are_rejected_in_one_line(tmp_path, changes, message):
    with pytest.raises(DataError, match=message) as error:
        one(write(tmp_path, **changes))
    assert "\n" not in str(error.value) and "S1_E1_A1.mat" in str(error.value)


def test_scalars_that_are_no_numbers_are_noted(tmp_path):
    assert any("'subject' is nan" in note for note in one(write(tmp_path, subject=np.nan)).notes)


@pytest.mark.slow
def test_a_small_file_that_decompresses_to_a_large_one_is_rejected(tmp_path):
    savemat(tmp_path / "S1_E1_A1.mat", {"emg": np.zeros((9_000_000, 16))}, do_compression=True)
    assert (tmp_path / "S1_E1_A1.mat").stat().st_size < 2e6
    with pytest.raises(DataError, match="needs more memory than"):
        one(tmp_path)


@pytest.mark.parametrize("put", ["external", "soft", "group"])
def test_links_to_other_files_are_rejected(tmp_path, put):
    with h5py.File(tmp_path / "S1_E1_A1.mat", "w") as file:
        if put == "external":
            file["emg"] = h5py.ExternalLink("secret.h5", "x")
        elif put == "soft":
            file["emg"] = h5py.SoftLink("/acc")
            file["acc"] = np.zeros((3, ROWS))
        else:
            file["emg/data"] = np.zeros((16, ROWS))
    with pytest.raises(DataError, match="emg is a link to another place|emg is a group"):
        one(tmp_path)


def test_the_wrong_number_of_channels_is_rejected(tmp_path):
    with pytest.raises(DataError, match=r"acc has shape \(2400, 36\), expected \[time, 3\]"):
        one(write(tmp_path, acc=np.zeros((ROWS, 36), np.float32)))


def test_matlab_73_files_are_read_with_their_axes_turned(tmp_path):
    write(tmp_path / "v5")
    (tmp_path / "v73").mkdir()
    with h5py.File(tmp_path / "v73" / "S1_E1_A1.mat", "w") as file:
        for key, value in content().items():
            if not isinstance(value, str):
                file[key] = np.atleast_2d(value).T
    old, new = one(tmp_path / "v5"), one(tmp_path / "v73")
    np.testing.assert_array_equal(old.signals["emg"].data, new.signals["emg"].data)
    np.testing.assert_array_equal(old.label, new.label)


def test_names_are_found_at_any_depth_in_any_case_and_in_natural_order(tmp_path):
    for number, name in (("10", "S10_E1_A1.mat"), ("2", "s2_e1_a1.MAT"), ("3", "S3_A1_E1.mat")):
        write(tmp_path / f"zip{number}" / "inner", name, subject=np.uint8(int(number)))
    (tmp_path / "zip2" / "._S2_E1_A1.mat").write_bytes(b"junk of a Mac")
    write(tmp_path, "S2_E2_A1.mat")  # another exercise, not asked for
    assert subjects("ninapro-db5", tmp_path) == ("S2", "S3", "S10")
    assert [r.subject for r in load_dataset("ninapro-db5", tmp_path)] == ["S2", "S3", "S10"]
    assert [r.subject for r in load_dataset("ninapro-db5", tmp_path, subjects=[10, "S2"])] == ["S2", "S10"]


def test_two_files_for_one_subject_are_rejected(tmp_path):
    write(tmp_path / "a"), write(tmp_path / "b")
    with pytest.raises(DataError, match="two files for subject S1, exercise 1: .*keep one"):
        one(tmp_path)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"labels": "cue"}, "labels must be one of restimulus, stimulus, got 'cue'"),
        ({"label_numbering": "guess"}, "label_numbering must be one of auto, local, global"),
        ({"exercises": (4,)}, r"exercises must be a list from \[1, 2, 3\], got \(4,\)"),
        ({"exercises": 1}, "exercises must be a list"),
        (
            {"exercise": (1,)},
            "no option 'exercise'; did you mean 'exercises'. known options: exercises, parts, sensors, labels",
        ),
        ({"subjects": ["S9"]}, "unknown subject 'S9'; known: S1"),
    ],
)
def test_wrong_options_raise_at_the_call(tmp_path, options, message):
    folder = write(tmp_path)
    with pytest.raises(DataError, match=message):
        load_dataset("ninapro-db5", folder, **options)
