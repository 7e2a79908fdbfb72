import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from emg_lens.data import DataError, Recipe, Segment, TrialSet, preprocess
from emg_lens.layout import TokenLayout
from emg_lens.validation import ArgumentError


def test_recordings_become_trials_of_the_rows_the_segment_names(make_recording):
    made = make_recording()
    cut = TrialSet.from_recordings([made], Segment(start_s=0.2, stop_s=0.6))
    assert cut.x.shape == (6, 5, 80) and cut.x.dtype == np.float32 and cut.fs == 200
    onset = 100 + 40  # half a second of rest, then 0.2 s
    np.testing.assert_array_equal(cut.x[0, :2].T, made.signals["emg"].data[onset : onset + 80])
    np.testing.assert_array_equal(cut.x[0, 2:].T, made.signals["acc"].data[onset : onset + 80])
    assert cut.y.tolist() == [0, 1, 2, 0, 1, 2] and cut.classes == ("1", "2", "3")
    assert cut.repetition.tolist() == [1, 1, 1, 2, 2, 2] and cut.repetition_id.tolist() == [0, 1, 2, 3, 4, 5]
    assert cut.modalities == {"emg": 2, "acc": 3} and set(cut.subject) == {"A"}
    assert TokenLayout.channels(cut.modalities).modalities == ("emg", "acc")


def test_the_default_segment_is_the_whole_repetition(make_recording):
    assert TrialSet.from_recordings([make_recording()]).n_samples == 200


def test_windows_of_a_repetition_share_its_number_and_stay_inside(make_recording):
    segment = Segment(start_s=0.1, stop_s=0.9, window_s=0.25, stride_s=0.125)
    cut = TrialSet.from_recordings([make_recording()], segment)
    assert segment.windows(200, 200.0) == [(20 + 25 * k, 70 + 25 * k) for k in range(5)]
    assert len(cut) == 30 and np.bincount(cut.repetition_id).tolist() == [5] * 6 and cut.n_samples == 50


def test_windows_record_their_recording_and_start_time(make_recording):
    segment = Segment(start_s=0.1, window_s=0.25, stride_s=0.125)
    recordings = [make_recording("A"), make_recording("B")]
    cut = TrialSet.from_recordings(recordings, segment)
    for i in (0, 3, 17, len(cut) - 1):
        first = round(cut.start_s[i] * 200)
        np.testing.assert_array_equal(cut.x[i, :2].T, recordings[cut.source[i]].signals["emg"].data[first : first + 50])


def test_a_long_repetition_is_cut_into_pieces_that_are_repetitions_of_their_own(make_recording):
    segment = Segment(start_s=0.1, piece_s=0.4, window_s=0.2, stride_s=0.1)
    cut = TrialSet.from_recordings([make_recording(repetitions=1)], segment)  # three repetitions of 200 rows at 200 Hz
    assert segment.pieces(200, 200.0) == [[(20 + p + w, 60 + p + w) for w in (0, 20, 40)] for p in (0, 80)]
    assert (
        cut.repetition_id.tolist() == np.repeat(np.arange(6), 3).tolist()
        and cut.y.tolist() == [0] * 6 + [1] * 6 + [2] * 6
    )
    whole = TrialSet.from_recordings([make_recording()], Segment(piece_s=0.3))
    assert whole.n_samples == 60 and len(whole) == 18 == len(set(whole.repetition_id))


@given(st.integers(1, 500), st.floats(10, 200), st.floats(0.1, 2), st.floats(0.1, 1), st.booleans(), st.booleans())
def test_pieces_share_no_row_and_hold_their_windows(n, fs, piece, fraction, strided, ended):
    window = piece * fraction
    if window * fs < 1.5:
        return
    stop = 2.5 * piece if ended else None
    segment = Segment(piece_s=piece, window_s=window, stride_s=window / 1.5 if strided else None, stop_s=stop)
    result = segment.pieces(n, fs)
    assert len({b - a for windows in result for a, b in windows}) <= 1
    for k, windows in enumerate(result):
        assert windows and all(k * round(piece * fs) <= a < b <= (k + 1) * round(piece * fs) for a, b in windows)
    rows = n if stop is None else round(stop * fs)
    assert len(result) == (rows // round(piece * fs) if rows <= n else 0)


@given(
    st.integers(1, 2000),
    st.floats(10, 2000),
    st.floats(0, 2),
    st.floats(0.05, 3),
    st.floats(0.02, 1),
    st.booleans(),
)
def test_windows_stay_inside_the_segment_and_the_repetition_and_have_one_length(
    n, fs, start, length, fraction, strided
):
    window = max(length * fraction, 0.05)
    if window * fs < 1.5 or window > length:
        return
    segment = Segment(start_s=start, stop_s=start + length, window_s=window, stride_s=window / 1.5 if strided else None)
    result = segment.windows(n, fs)
    assert all(round(start * fs) <= a < b <= min(n, round((start + length) * fs)) for a, b in result)
    assert len({b - a for a, b in result}) <= 1
    assert bool(result) == (round((start + length) * fs) <= n)


def test_a_note_lists_times_that_were_rounded_to_rows(make_recording):
    """A stride of 0.25 s at 50 Hz became 0.24 s without a word."""
    segment = Segment(start_s=0.1, window_s=0.5, stride_s=0.25)
    made = preprocess(make_recording(), Recipe(fs=50))
    cut = TrialSet.from_recordings([made], segment)
    assert cut.notes[-1] == "times rounded to whole rows at 50 Hz: stride_s 0.25 to 0.24 (12 rows)"
    starts = cut.start_s[cut.repetition_id == cut.repetition_id[0]]
    assert np.diff(starts) == pytest.approx(0.24)
    assert segment.rounding_note(100) == "" and segment.rounding_note(1000.0) == ""
    odd = Segment(start_s=0.1, stop_s=0.9, piece_s=0.3).rounding_note(33)
    assert odd.endswith(
        "at 33 Hz: start_s 0.1 to 0.09091 (3 rows), stop_s 0.9 to 0.9091 (30 rows), piece_s 0.3 to 0.303 (10 rows)"
    )


@given(st.floats(10, 4000), st.lists(st.integers(1, 4000), min_size=2, max_size=2, unique=True))
def test_times_of_whole_rows_give_no_note(fs, rows):
    start, piece, stop = min(rows) / fs, max(rows) / fs, sum(rows) / fs
    assert Segment(start_s=start, piece_s=piece, stop_s=stop).rounding_note(fs) == ""
    assert "piece_s" in Segment(start_s=start, piece_s=piece - 0.4 / fs, stop_s=stop).rounding_note(fs)


def test_repetitions_that_are_too_short_are_dropped_and_counted(make_recording):
    made = make_recording()
    made.label[110:200] = 0  # the first repetition of 1.0 s keeps 10 rows here and 100 after
    cut = TrialSet.from_recordings([made], Segment(stop_s=0.9))
    assert len(cut) == 5
    assert any("2 of 7 repetitions are too short for segment 0 s to 0.9 s: dropped" in note for note in cut.notes)


def test_nothing_long_enough_is_an_error(make_recording):
    with pytest.raises(DataError, match="no trial for segment 0 s to 3 s: of 6 repetitions, 6 are too short"):
        TrialSet.from_recordings([make_recording()], Segment(stop_s=3))


def test_repetitions_of_different_length_need_a_segment(make_recording):
    made = make_recording()
    made.label[100:110] = 0
    with pytest.raises(DataError, match="repetitions last 0.95 to 1 s; give the segment a stop_s or window_s"):
        TrialSet.from_recordings([made])


def test_a_loader_that_names_rest_does_not_make_it_a_class(make_recording):
    cut = TrialSet.from_recordings([make_recording(class_names={-1: "?", 0: "rest", 1: "open", 2: "fist", 3: "pinch"})])
    assert cut.classes == ("open", "fist", "pinch") and sorted(set(cut.y.tolist())) == [0, 1, 2]


def test_declared_class_names_fix_the_numbering_for_subjects_who_lack_a_class(make_recording):
    names = {1: "fist", 2: "open", 3: "pinch"}
    whole = TrialSet.from_recordings([make_recording(class_names=names)])
    lacking = TrialSet.from_recordings([make_recording("B", labels=(1, 3), class_names=names)])
    assert lacking.classes == whole.classes == ("fist", "open", "pinch") and lacking.y.tolist() == [
        0,
        2,
        0,
        2,
    ]


def test_classes_choose_labels_in_their_order_and_count_the_others(make_recording):
    cut = TrialSet.from_recordings([make_recording()], classes=[3, 1, 8])
    assert cut.classes == ("3", "1", "8") and cut.y.tolist() == [1, 0, 1, 0]
    assert any("2 repetitions left out: their labels [2] are not in `classes`" in note for note in cut.notes)
    assert any(
        "no repetition has the labels [8] of `classes`: these classes have no trial" in note for note in cut.notes
    )
    with pytest.raises(DataError, match="classes must be different labels above 0"):
        TrialSet.from_recordings([make_recording()], classes=[1, 1])
    with pytest.raises(DataError, match=r"classes=tensor.*; expected whole numbers above 0, such as \[1, 2\]"):
        TrialSet.from_recordings([make_recording()], classes=torch.zeros(2, 3))
    with pytest.raises(DataError, match=r"6 have labels outside `classes` \[1, 2, 3\]"):
        TrialSet.from_recordings([make_recording()], classes=[9])


def test_repetitions_of_several_recordings_stay_distinct_and_notes_appear_once(make_recording):
    first = make_recording("A", notes=("all alike", "rate 99.5 Hz"), file="a.mat")
    second = make_recording("B", notes=("all alike", "rate 98 Hz", "only here"), file="b.mat")
    cut = TrialSet.from_recordings([first, second])
    assert cut.repetition_id.tolist() == list(range(12)) and list(dict.fromkeys(cut.subject)) == ["A", "B"]
    assert cut.notes == ("all alike", "rate 99.5 Hz [A a.mat; 1 more of this kind]", "only here [B b.mat]")


def test_recordings_that_differ_in_rate_or_channels_are_rejected(make_recording):
    with pytest.raises(DataError, match=r"signals of A differ in rate or length \(emg .* at 200 Hz, acc .* at 50 Hz\)"):
        TrialSet.from_recordings([make_recording(rates=(200.0, 50.0))])
    with pytest.raises(DataError, match=r"recordings have different rates \(200 and 100 Hz\)"):
        TrialSet.from_recordings([make_recording(), make_recording(fs=100.0, rates=(100.0, 100.0))])
    with pytest.raises(DataError, match="B has other channels"):
        other = preprocess(make_recording("B"), Recipe(signals={"acc": (), "emg": ()}))
        TrialSet.from_recordings([make_recording(), other])
    with pytest.raises(DataError, match="no recording to cut"):
        TrialSet.from_recordings([])


@pytest.mark.parametrize(
    "segment, message",
    [
        ({"start_s": 1, "stop_s": 1}, "start_s must be below stop_s"),
        ({"stop_s": 1, "window_s": 2}, "longer than the segment"),
        ({"stride_s": 0.1}, "stride_s needs a window_s"),
        ({"stop_s": 1, "piece_s": 2}, "piece_s=2 is longer than the segment"),
        ({"window_s": 2, "piece_s": 1}, r"window_s=2 is longer than the piece \(1 s\)"),
        ({"start_s": -1}, "greater than or equal to 0"),
        *(({name: 1e9}, "less than or equal to 86400") for name in ("start_s", "stop_s", "window_s", "piece_s")),
        ({"window_s": 1, "stride_s": 1e9}, "less than or equal to 86400"),
        ({"begin": 1}, "begin"),
    ],
)
def test_a_segment_with_a_mistake_is_rejected(segment, message):
    with pytest.raises(ArgumentError, match=message):
        Segment(**segment)


def test_a_window_below_one_row_is_rejected():
    with pytest.raises(DataError, match="shorter than one row at 10 Hz"):
        Segment(window_s=0.01).windows(100, 10.0)
    with pytest.raises(DataError, match="shorter than one row at 10 Hz"):
        Segment(start_s=0.02, stop_s=0.04).windows(100, 10.0)
    with pytest.raises(DataError, match="in pieces of 0.01 s is shorter than one row at 10 Hz"):
        Segment(piece_s=0.01).windows(100, 10.0)
