"""The high-density data set, written small in its own layout: MATLAB 7.3, time last, float64."""

import h5py
import numpy as np
import pytest

from emg_lens.data import DataError, Segment, load_dataset, load_trials, subjects
from emg_lens.data.pre_onset import pre_onset_trials

REST_ROWS, ROWS, LAG = 400, 600, 100


def write(
    folder, name="s1.mat", gestures=(1, 58, 60, 3), repetitions=2, without=(), rest=REST_ROWS, rows=ROWS, **changes
):
    """Cues of 600 rows between 400 of rest; adjusted labels begin 100 rows later."""
    folder.mkdir(exist_ok=True)
    runs = [(of, r) for r in range(1, repetitions + 1) for of in gestures]
    label = np.concatenate([np.repeat([0, of], [rest, rows]) for of, _ in runs] + [np.zeros(rest)])
    repetition = np.concatenate([np.repeat([0, r], [rest, rows]) for _, r in runs] + [np.zeros(rest)])
    n, rng = len(label), np.random.default_rng(0)
    fields = {
        "emg_extensors": rng.normal(size=(8, 8, n)),
        "emg_flexors": rng.normal(size=(8, 8, n)),
        "force": rng.uniform(0, 5, size=(9, n)),
        "class": label[None],
        "repetition": repetition[None],
        "adjusted_class": np.roll(label, LAG)[None],
        "adjusted_repetition": np.roll(repetition, LAG)[None],
        **changes,
    }
    with h5py.File(folder / name, "w") as file:
        for key, values in fields.items():
            if key not in without:
                file[key] = values
    return folder, fields


def test_each_repetition_is_a_recording_with_rest_on_both_sides(tmp_path):
    folder, fields = write(tmp_path)
    recordings = list(load_dataset("hd-semg", folder, margin_s=0.1, merge_duplicates=False))
    assert [(int(r.label.max()), int(r.repetition.max())) for r in recordings] == [
        *((1, 1), (58, 1), (60, 1), (3, 1), (1, 2), (58, 2), (60, 2), (3, 2)),
    ]
    margin, (second, start) = 205, (recordings[1], 2 * REST_ROWS + ROWS)
    assert len(second.label) == ROWS + 2 * margin and (second.label[margin : margin + ROWS] == 58).all()
    assert (second.label == 0).sum() == 2 * margin and second.fs == 2048
    emg, force = second.signals["emg"], second.signals["force"]
    part = slice(start - margin, start + ROWS + margin)
    expected = np.concatenate([fields[f"emg_{s}"].T[part].reshape(-1, 64) for s in ("extensors", "flexors")], axis=1)
    np.testing.assert_allclose(emg.data, expected, rtol=1e-6)
    np.testing.assert_allclose(force.data, fields["force"].T[part], rtol=1e-6)
    assert emg.ch_names[:2] == ("extensor 0.0", "extensor 0.1") and emg.ch_names[64] == "flexor 0.0"
    assert (force.native_fs, force.fs, len(force.ch_names)) == (200, 2048, 9)


def test_rows_of_a_neighbouring_repetition_in_the_margin_are_not_rest(tmp_path):
    folder, fields = write(tmp_path, gestures=(1, 3), repetitions=1)
    margin = 1024  # longer than the rest of 400 rows
    first, second = load_dataset("hd-semg", folder, margin_s=0.5, sensors=["force"])
    truth = fields["class"].ravel()
    for recording, start, gesture in ((first, REST_ROWS, 1), (second, 2 * REST_ROWS + ROWS, 3)):
        begin = max(0, start - margin)
        rows = truth[begin : begin + len(recording.label)]
        np.testing.assert_array_equal(recording.label == 0, rows == 0)
        np.testing.assert_array_equal(recording.label == gesture, rows == gesture)
        np.testing.assert_array_equal(recording.label == -1, (rows != 0) & (rows != gesture))
        assert len(recording.trials) == 1 and (recording.repetition[recording.label <= 0] == 0).all()
    assert any("600 rows of the margin belong to other repetitions" in note for note in second.notes)
    # 0.6 s before the second onset reach into the first gesture
    assert pre_onset_trials([first, second], window_s=0.25) is None
    assert len(pre_onset_trials([first, second], window_s=0.15)) == 2


def test_a_gesture_with_two_numbers_counts_as_one(tmp_path):
    folder, _ = write(tmp_path)
    recordings = list(load_dataset("hd-semg", folder, sensors=["emg"]))
    assert [int(r.label.max()) for r in recordings] == [1, 58, 58, 3] * 2
    assert [int(r.repetition.max()) for r in recordings] == [1] * 4 + [2] * 4
    assert any("two numbers are merged" in note for note in recordings[0].notes) and list(recordings[0].signals) == [
        "emg"
    ]
    made = load_trials("hd-semg", folder, segment=Segment(stop_s=0.25), sensors=["force"])
    assert made.x.shape == (8, 9, 512) and made.classes == ("gesture 1", "gesture 3", "gesture 58")


def test_the_adjusted_onset_is_another_one(tmp_path):
    folder, fields = write(tmp_path, gestures=(1,), repetitions=1)
    (cue,) = load_dataset("hd-semg", folder, sensors=["force"], margin_s=0)
    (adjusted,) = load_dataset("hd-semg", folder, sensors=["force"], margin_s=0, onset="adjusted")
    np.testing.assert_allclose(adjusted.signals["force"].data[:-LAG], cue.signals["force"].data[LAG:])
    assert cue.notes != adjusted.notes


def test_two_repetitions_without_rest_between_them_are_two(tmp_path):
    label = np.r_[np.zeros(400), np.ones(1200), np.zeros(400)][None]
    repetition = np.r_[np.zeros(400), np.repeat([1, 2], 600), np.zeros(400)][None]
    signals = {
        "emg_extensors": np.ones((8, 8, 2000)),
        "emg_flexors": np.ones((8, 8, 2000)),
        "force": np.ones((9, 2000)),
    }
    folder, _ = write(tmp_path, **{"class": label, "repetition": repetition}, **signals)
    recordings = list(load_dataset("hd-semg", folder, margin_s=0))
    assert [(len(r.label), int(r.repetition[0])) for r in recordings] == [(600, 1), (600, 2)]


def test_subjects_are_in_natural_order(tmp_path):
    for name in ("s10.mat", "S2.mat"):
        write(tmp_path, name)
    assert subjects("hd-semg", tmp_path) == ("s2", "s10")


@pytest.mark.parametrize(
    "changes, options, message",
    [
        ({"without": ["force"]}, {}, "s1.mat: no variable 'force'"),
        ({"without": ["adjusted_class"]}, {"onset": "adjusted"}, "no variable 'adjusted_class'"),
        ({"class": np.full((1, 8400), 0.5)}, {}, "class must contain whole numbers"),
        ({"repetition": np.ones((1, 10))}, {}, "class and repetition differ in length"),
        ({"emg_flexors": np.zeros((8, 8, 500))}, {}, "emg is shorter than the labels"),
        ({"emg_flexors": np.zeros((8, 8, 0))}, {}, "emg is shorter than the labels"),
        ({"emg_flexors": np.full((8, 8, 8400), np.nan)}, {}, "emg is NaN or infinite in channel flexor 0.0"),
        ({"force": np.zeros((6, 8400))}, {}, r"force is float64 \[3048, 6\], expected numbers \[time, 9\]"),
        ({}, {"onset": "start"}, "onset must be one of cue, adjusted, got 'start'"),
        ({}, {"sensors": "emg"}, "sensors must be a list"),
        ({}, {"margin_s": -1}, "margin_s must be 0 to 60 s"),
    ],
)
def test_invalid_content_gives_a_one_line_error(tmp_path, changes, options, message):
    folder, _ = write(tmp_path, **changes)
    with pytest.raises(DataError, match=message) as error:
        list(load_dataset("hd-semg", folder, **options))
    assert "\n" not in str(error.value)


def test_a_truncated_file_is_one_line(tmp_path):
    folder, _ = write(tmp_path)
    path = folder / "s1.mat"
    path.write_bytes(path.read_bytes()[:-5000])
    with pytest.raises(DataError, match="s1.mat: cannot be read as a MATLAB 7.3 file .*is it complete"):
        list(load_dataset("hd-semg", folder))
