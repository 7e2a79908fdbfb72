import numpy as np
import pytest

from emg_lens.data import DataError, Recording, Signal


def signal(n=10):
    return Signal(np.zeros((n, 1), np.float32), 10.0, 10.0, "V", ("a",))


def recording(label, repetition):
    return Recording("A", {"emg": signal(len(label))}, np.array(label), np.array(repetition), 10.0)


def test_a_performance_is_a_run_of_one_label_and_repetition_above_rest():
    trials = recording([-1, 0, 1, 1, 1, 2, 0, 2, -1, 1], [0, 1, 1, 1, 2, 2, 2, 2, 0, 1]).trials
    assert trials.to_dict("list") == {
        "start": [0.2, 0.4, 0.5, 0.7, 0.9],
        "stop": [0.4, 0.5, 0.6, 0.8, 1.0],
        "label": [1, 1, 2, 2, 1],
        "repetition": [1, 2, 2, 2, 1],
    }


def test_rest_rows_with_a_repetition_number_are_not_listed():
    assert len(recording([0] * 6, [0, 1, 1, 2, 2, 0]).trials) == 0


def test_source_names_subject_and_file():
    made = Recording("S1", {"emg": signal()}, np.zeros(10, int), np.zeros(10, int), 10.0, {"file": "/a/b.mat"})
    assert made.source == "S1 b.mat" and recording([1], [1]).source == "A"


@pytest.mark.parametrize(
    "build, message",
    [
        (lambda: Signal(np.zeros(3), 1, 1, "V", ("a",)), "must be .time, channel."),
        (lambda: Signal(np.zeros((3, 2)), 1, 1, "V", ("a",)), "2 channels but 1 channel names"),
        (lambda: Signal(np.zeros((3, 1), complex), 1, 1, "V", ("a",)), "must be real numbers, got complex128"),
        (lambda: Signal(np.zeros((3, 1)), 0, 1, "V", ("a",)), "rates must be 1e-06 to"),
        (
            lambda: Signal(np.zeros((3, 1)), 5e-324, 1.0, "V", ("a",)),
            "must be 1e-06 to 1e.09 Hz, got fs=5e-324",
        ),
        (lambda: Recording("A", {"emg": signal()}, np.zeros(1, int), np.zeros(1, int), 1e300), "fs must be 1e-06 to"),
        (lambda: Recording("A", {}, np.zeros(1), np.zeros(1), 1.0), "has no signal"),
        (lambda: recording([1, 2], [1]), "vectors of one length"),
        (lambda: recording([1.0, 2.0], [1, 1]), "label must be whole numbers, got float64"),
    ],
)
def test_impossible_recordings_are_rejected(build, message):
    with pytest.raises(DataError, match=message):
        build()


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.uint16, np.int64, np.uint64])
def test_labels_of_any_integer_type_keep_their_values_in_half_the_memory(dtype):
    made = recording(np.array([0, 1, 100, 1], dtype), np.array([0, 1, 1, 2], dtype))
    assert made.label.dtype == made.repetition.dtype == np.int32
    assert made.label.tolist() == [0, 1, 100, 1] and made.repetition.tolist() == [0, 1, 1, 2]
    assert (made.label - 1).tolist() == [-1, 0, 99, 0]  # an unsigned type would wrap around


@pytest.mark.parametrize("large", [2**31, -(2**31) - 1, 20_261_123_155_000])
def test_numbers_that_take_more_than_32_bits_are_kept(large):
    assert recording([1, large], [1, 1]).label.tolist() == [1, large]


def test_too_large_labels_and_recordings_without_a_row_are_rejected():
    with pytest.raises(DataError, match="label contains 9223372036854775808, which is too large"):
        recording(np.array([0, 2**63], np.uint64), [0, 1])
    with pytest.raises(DataError, match="subject A has no row"):
        recording(np.zeros(0, int), np.zeros(0, int))


def test_modalities_that_are_no_texts_are_refused():
    with pytest.raises(DataError, match="has no modality .*; it has emg"):
        recording([1], [1]).keep(np.eye(2))
