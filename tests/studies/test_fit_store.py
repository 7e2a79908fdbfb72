"""Outputs and targets of a fit are read as they were written, also if trials differ in length."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis.extra.numpy import arrays

from emg_lens.studies.fits.fit_store import read_outputs, write_outputs
from emg_lens.studies.spec.errors import StudyError

LENGTHS = st.lists(st.integers(1, 7), min_size=1, max_size=5)


@settings(max_examples=50, deadline=None)
@given(data=st.data(), lengths=LENGTHS, n_conditions=st.integers(1, 3), target=st.sampled_from([(), (2,)]))
def test_outputs_of_different_lengths_come_back(tmp_path_factory, data, lengths, n_conditions, target):
    folder = tmp_path_factory.mktemp("fit")
    outputs = [data.draw(arrays(np.float32, (n_conditions, n, 3), elements=st.floats(width=32))) for n in lengths]
    targets = [data.draw(arrays(np.int64, (n, *target))) for n in lengths]
    write_outputs(folder, outputs, targets)
    read, read_targets = read_outputs(folder)
    for mine, theirs in zip([*outputs, *targets], [*read, *read_targets], strict=True):
        assert mine.dtype == theirs.dtype
        np.testing.assert_array_equal(mine, theirs)


def test_outputs_of_different_lengths_may_have_one_target_a_trial(tmp_path):
    outputs, targets = [np.ones((2, 3, 4), np.float32), np.zeros((2, 1, 4), np.float32)], np.array([1, 0])
    write_outputs(tmp_path, outputs, targets)
    read, read_targets = read_outputs(tmp_path)
    assert [part.shape for part in read] == [(2, 3, 4), (2, 1, 4)]
    np.testing.assert_array_equal(read_targets, targets)


def test_outputs_of_one_length_are_one_array(tmp_path):
    outputs, targets = np.random.default_rng(0).normal(size=(2, 5, 3)).astype(np.float32), np.arange(5)
    write_outputs(tmp_path, outputs, targets)
    read, read_targets = read_outputs(tmp_path)
    np.testing.assert_array_equal(read, outputs)
    np.testing.assert_array_equal(read_targets, targets)


def test_missing_outputs_are_one_line(tmp_path):
    with pytest.raises(StudyError, match="logits.safetensors cannot be read .* run again"):
        read_outputs(tmp_path)
