"""One person's samples under two names are never in both parts of a corpus; whole numbers are not rounded unseen."""

import h5py
import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from emg_lens.data import DataError, DataSet, Recording, Segment, Signal, TrialSet, register, write_corpus
from emg_lens.data.corpus import Corpus, HeldOut
from emg_lens.data.corpus_writer import CorpusPart
from emg_lens.data.recording import rounded_by_float32

SIZES = (5, 1, 40, 2, 17)
"""Windows of each subject."""


def corpus(values: list[np.ndarray]) -> Corpus:
    sets = [
        TrialSet.from_arrays(x, [0] * len(x), [f"s{i}"] * len(x), [0] * len(x), {"emg": 2}, 100.0)
        for i, x in enumerate(values)
    ]
    return Corpus.of_trials(sets)


def windows(seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.normal(size=(n, 2, 12)).astype("f4") for n in SIZES]


@settings(max_examples=60)
@given(one=st.integers(0, 4), other=st.integers(0, 4), held=st.sampled_from(["one", "other", "both"]), data=st.data())
def test_copies_of_a_subject_or_of_its_end_are_found_whichever_part_they_are_in(one, other, held, data):
    values = windows()
    is_copy = one != other and data.draw(st.booleans())
    if is_copy:  # alone, or before or after other windows of the other name
        own = values[other][: data.draw(st.integers(0, 3))]
        parts = [values[one], own] if data.draw(st.booleans()) else [own, values[one]]
        values[other] = np.concatenate(parts)
    names = {"one": (f"s{one}",), "other": (f"s{other}",), "both": (f"s{one}", f"s{other}")}[held]
    divide = lambda: corpus(values).divide(HeldOut(subjects=tuple(dict.fromkeys(names))))  # noqa: E731
    alone = len(values[one]) == 1 and is_copy and len(values[other]) > 1  # one equal window may be chance
    if is_copy and held != "both" and not alone:
        with pytest.raises(DataError, match=f"s{one if held == 'one' else other} .*has the same samples as s"):
            divide()
    elif not alone:
        training, validation = divide()
        assert len(training) + len(validation) == sum(map(len, values))


def test_files_whose_bytes_differ_but_whose_samples_agree_are_one_person(tmp_path):
    x = windows()[2]
    for name, kind, options in (("a", "f4", {}), ("b", "f8", {"compression": "gzip"})):
        with h5py.File(tmp_path / f"{name}.h5", "w") as file:
            file.create_dataset("data", data=x.astype(kind), **options)
            file.attrs["subject"] = name
    for by in ("subject", "file"):
        with pytest.raises(DataError, match=r"a\.h5.*has the same samples|has the same samples.*a\.h5"):
            Corpus.open([tmp_path]).divide(HeldOut(by=by, fraction=0.5))


def test_constant_windows_and_one_equal_window_are_no_copy():
    values = windows()
    values[0][:], values[4][:] = 0, 0
    values[2][3] = values[3][0]
    training, validation = corpus(values).divide(HeldOut(subjects=("s0", "s3")))
    assert (len(training), len(validation)) == (58, 7)


# --- whole numbers that float32 rounds --------------------------------------------------------------------


@given(
    value=st.integers(-(2**60), 2**60),
    kind=st.sampled_from(["i8", "f8", "i4", "u4", "i2", "f4"]),
)
def test_exactly_whole_numbers_that_change_are_rounded(value, kind):
    with np.errstate(all="ignore"):
        samples = np.array([0, value, 1]).astype(kind)
    stored = samples.astype(object)
    lost = any(int(np.float32(one)) != int(one) for one in stored)
    within = max(abs(int(one)) for one in stored) <= 2**53
    assert rounded_by_float32(samples) == (lost and within)
    assert not rounded_by_float32(samples[:0]) and not rounded_by_float32(np.array([0.5, 2.0**25 + 1]))


def counting(offset: int) -> Recording:
    data = offset + np.arange(400).reshape(200, 2)
    label = np.repeat([1, 2], 100)
    return Recording("A", {"emg": Signal(data, 100, 100, "adc", ("a", "b"))}, label, np.ones(200, int), 100)


def test_trials_of_large_whole_numbers_have_a_note_and_corpora_refuse_them(tmp_path):
    segment = Segment(stop_s=0.5)
    assert not TrialSet.from_recordings([counting(0)], segment).notes
    (note,) = TrialSet.from_recordings([counting(2**25)], segment).notes
    assert note.startswith("emg: whole numbers beyond 16777216 are rounded")
    register(DataSet("counting", lambda *, subjects=None: iter([counting(2**25)]), "large whole numbers"))  # noqa: ARG005
    with pytest.raises(DataError, match="emg has whole numbers beyond 16777216, which float32 rounds"):
        write_corpus({"a": CorpusPart(dataset="counting", window_s=0.5)}, None, tmp_path / "out")


def test_a_shard_of_large_whole_numbers_is_refused(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["data"] = 2**25 + np.arange(24).reshape(2, 3, 4)
    with pytest.raises(DataError, match="whole numbers beyond 16777216, which float32 rounds"):
        Corpus.open([tmp_path]).read(np.arange(2))
