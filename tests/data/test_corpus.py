"""Windows of shards: finding, padding, scaling and dividing them; the order of an epoch; constant memory."""

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import h5py
import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given
from safetensors.numpy import load_file

from emg_lens.data import DataError, TrialSet
from emg_lens.data.corpus import Corpus, HeldOut, scaled
from emg_lens.data.shards import ShardReader, find_shards, read_shard
from emg_lens.data.window_order import WindowOrder

RNG = np.random.default_rng(0)
FIXTURES = Path(os.environ.get("EMG_LENS_FIXTURES", Path(__file__).parents[3] / "shared" / "fixtures"))
NUMBERS = FIXTURES / "tinymyo" / "small_unmasked_v1.safetensors"


def write(path, n=6, channels=3, samples=20, dtype="f4", **about):
    values = RNG.normal(size=(n, channels, samples)).astype(dtype)
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file["data"] = values
        file["label"] = np.zeros(n, int)
        file.attrs.update(about)
    return values


def trials(n=6, channels=None, subject="a", fs=200.0):
    channels = channels or {"emg": 3}
    x = RNG.normal(size=(n, sum(channels.values()), 20)).astype("f4")
    subjects = subject if isinstance(subject, list) else [subject] * n
    return TrialSet.from_arrays(x=x, y=[0] * n, subject=subjects, repetition=[0] * n, channels=channels, fs=fs)


# --- shards -----------------------------------------------------------------------------------------------


def test_windows_come_as_they_were_written_whatever_type_and_order(tmp_path):
    one, two = write(tmp_path / "b.h5", n=5), write(tmp_path / "sub" / "a.h5", n=3, dtype="f8")
    corpus = Corpus.open([tmp_path], scale="none")
    assert len(corpus) == 8 and corpus.modalities == {"emg": 3}
    numbers = np.array([7, 0, 5, 5, 1, 6, 2])
    assert np.array_equal(corpus.read(numbers), np.concatenate([one, two.astype("f4")])[numbers])


def test_trials_are_read_from_memory_and_from_their_file(tmp_path):
    some = trials(subject=["a", "a", "b", "b", "a", "a"])
    some.save(tmp_path / "t.h5")
    for corpus in (Corpus.open([tmp_path], scale="none"), Corpus.of_trials(some, scale="none")):
        assert np.array_equal(corpus.read(np.arange(6)), some.x)
        assert corpus.subjects == ("a", "b") and corpus.fs == 200
        assert [run[:2] for run in corpus.shards[0].subjects] == [(0, 2), (2, 4), (4, 6)]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lambda f: None, "contains nothing"),
        (lambda f: f.create_dataset("data", data=np.zeros((3, 4))), "expected numbers"),
        (lambda f: f.create_dataset("data", data=np.zeros((0, 4, 5))), "at least one window"),
        (lambda f: f.create_dataset("data", data=np.array([[["a"]]], dtype="S1")), "expected numbers"),
        (lambda f: f.create_group("data"), "group"),
        (
            lambda f: (f.create_dataset("data", data=np.zeros((1, 2, 3))), f.attrs.update(modalities='{"emg": 3}')),
            "but its modalities are",
        ),
        (
            lambda f: (f.create_dataset("data", data=np.zeros((1, 2, 3))), f.attrs.update(modalities="{")),
            "cannot be read",
        ),
        (
            lambda f: (
                f.create_dataset("data", data=np.zeros((1, 4, 3))),
                f.attrs.update(modalities='{"emg": 6, "acc": -2}'),
            ),
            "but its modalities are",
        ),
        (
            lambda f: (
                f.create_dataset("data", data=np.zeros((1, 2, 3))),
                f.attrs.update(modalities='{"emg": Infinity}'),
            ),
            "cannot be read",
        ),
        (
            lambda f: (f.create_dataset("data", data=np.zeros((1, 2, 3))), f.attrs.update(fs=np.nan)),
            "sampling rate is nan Hz",
        ),
        (lambda f: f.create_group("data"), "expected"),
    ],
)
def test_files_that_are_not_shards_give_a_one_line_error(tmp_path, content, message):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        content(file)
    with pytest.raises(DataError, match=message) as error:
        find_shards([tmp_path])
    assert "a.h5" in str(error.value) and "\n" not in str(error.value)


def test_folders_without_shards_and_broken_files_are_rejected(tmp_path):
    with pytest.raises(DataError, match="contains no shard"):
        find_shards([tmp_path])
    with pytest.raises(DataError, match="does not exist"):
        find_shards([tmp_path / "x"])
    (tmp_path / "a.h5").write_bytes(b"no")
    with pytest.raises(DataError, match="a.h5: cannot be read"):
        find_shards([tmp_path])
    write(tmp_path / "b" / "b.h5")
    with pytest.raises(DataError, match="twice"):
        find_shards([tmp_path / "b", tmp_path / "b"])


def test_chunks_that_are_too_large_are_rejected(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        data = file.create_dataset("data", (70, 100, 10_000), "f4", chunks=(70, 100, 10_000), compression="gzip")
        data[:] = 0
    with pytest.raises(DataError, match="a.h5: cannot be read .*chunks of 280 MB; write it with chunks of at most"):
        find_shards([tmp_path])


def test_linked_folders_and_endings_in_capitals_belong_to_a_corpus(tmp_path):
    write(tmp_path / "elsewhere" / "b.h5")
    write(tmp_path / "corpus" / "A.H5")
    (tmp_path / "corpus" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "corpus" / "circle").symlink_to(tmp_path / "corpus")
    assert [shard.path.name for shard in find_shards([tmp_path / "corpus"])] == ["A.H5", "b.h5"]


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e300, -3e38])
def test_a_nan_is_reported_with_file_window_and_channel(tmp_path, bad):
    values = write(tmp_path / "a.h5", dtype="f8")
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        file["data"][4, 1, 7] = bad
    corpus = Corpus.open([tmp_path])
    corpus.read(np.arange(4))
    with pytest.raises(DataError, match=r"a\.h5: window 4, channel 1 holds NaN, infinity or values beyond"):
        corpus.read(np.arange(len(values)))


def test_a_reader_holds_few_files_open_and_works_in_a_copy(tmp_path):
    for i in range(12):
        write(tmp_path / f"{i}.h5", n=2)
    corpus = Corpus.open([tmp_path])
    every = corpus.read(np.arange(24))
    assert corpus._reader._opened.cache_info().currsize == 8
    with h5py.File(tmp_path / "11.h5") as file:  # a notebook may look at a file that is being read
        assert len(file["data"]) == 2
    again = pickle.loads(pickle.dumps(corpus))
    assert not again._reader._opened.cache_info().currsize
    assert np.array_equal(again.read(np.arange(24)), every)


def test_a_file_that_changes_while_it_is_read_is_reported(tmp_path):
    write(tmp_path / "a.h5")
    shard = read_shard(tmp_path / "a.h5")
    write(tmp_path / "a.h5", n=9)
    with pytest.raises(DataError, match="was changed"):
        ShardReader().read(shard, np.arange(3))
    (tmp_path / "a.h5").unlink()
    with pytest.raises(DataError, match="cannot be read"):
        ShardReader().read(shard, np.arange(3))


# --- padding and scale ------------------------------------------------------------------------------------


@pytest.mark.skipif(not NUMBERS.is_file(), reason=f"no numbers of the authors' code at {NUMBERS}")
def test_min_max_is_the_published_one_and_makes_padded_channels_minus_one():
    published = load_file(NUMBERS)
    assert np.abs(scaled(published["input_raw"]) - published["input"]).max() < 1e-6
    assert (published["input"][:, 5] == -1).all() and (scaled(np.zeros((1, 20), "f4")) == -1).all()


def test_padding_counts_or_is_left_out(tmp_path):
    values = write(tmp_path / "a.h5")
    counted = Corpus.open([tmp_path], {"emg": 5})
    left_out = Corpus.open([tmp_path], {"emg": 5}, padding="left out")
    numbers = np.array([2, 0])
    assert np.array_equal(counted.read(numbers)[:, :3], scaled(values[numbers]))
    assert (counted.read(numbers)[:, 3:] == -1).all() and counted.real(numbers).all()
    assert np.array_equal(left_out.read(numbers)[:, :3], scaled(values[numbers]))
    assert (left_out.read(numbers)[:, 3:] == 0).all()
    assert np.array_equal(left_out.real(numbers), [[True] * 3 + [False] * 2] * 2)
    raw = Corpus.open([tmp_path], {"emg": 5}, scale="none")
    assert (raw.read(numbers)[:, 3:] == 0).all()


def test_modalities_are_padded_each_at_its_own_end():
    some = [trials(channels={"emg": 3, "acc": 1}), trials(channels={"acc": 2})]
    corpus = Corpus.of_trials(some, {"emg": 4, "acc": 2}, scale="none", padding="left out")
    x, real = corpus.read(np.array([0, 6])), corpus.real(np.array([0, 6]))
    assert np.array_equal(x[0, [0, 1, 2, 4]], some[0].x[0]) and np.array_equal(x[1, 4:], some[1].x[0])
    assert real.tolist() == [[True, True, True, False, True, False], [False] * 4 + [True] * 2]
    assert Corpus.of_trials(some).modalities == {"emg": 3, "acc": 2}


def test_shards_that_differ_in_length_rate_or_channels_are_rejected(tmp_path):
    write(tmp_path / "a.h5", fs=200.0)
    write(tmp_path / "b.h5", samples=30)
    with pytest.raises(DataError, match="differ in length: 20 samples"):
        Corpus.open([tmp_path])
    write(tmp_path / "b.h5", fs=1000.0)
    with pytest.raises(DataError, match="sampling rates differ"):
        Corpus.open([tmp_path])
    write(tmp_path / "b.h5", channels=4)
    with pytest.raises(DataError, match="has 4 channels of emg, more than the corpus has \\(3"):
        Corpus.open([tmp_path], {"emg": 3})
    with pytest.raises(DataError, match="channels of unknown modality"):
        Corpus.open([tmp_path / "b.h5"], {"emg": 3, "acc": 3})
    with pytest.raises(DataError, match="acc"):
        Corpus.of_trials(trials(channels={"acc": 3}), {"emg": 3})
    with pytest.raises(DataError, match="0"):
        Corpus.open([tmp_path / "b.h5"]).read(np.array([6]))


# --- parts ------------------------------------------------------------------------------------------------


@pytest.fixture
def many(tmp_path):
    for dataset, n in (("x", 10), ("y", 3)):
        for i in range(n):
            write(tmp_path / f"{dataset}-{i}.h5", n=4 + i, subject=f"{dataset}/{i}")
    return Corpus.open([tmp_path])


def test_held_out_subjects_are_in_one_set_and_come_from_every_data_set(many):
    training, validation = many.divide(HeldOut(fraction=0.2))
    assert not set(training.subjects) & set(validation.subjects)
    assert {*training.subjects, *validation.subjects} == {*many.subjects} and len(many.subjects) == 13
    assert [sum(name.startswith(d) for name in validation.subjects) for d in "xy"] == [2, 1]
    assert len(training) + len(validation) == len(many)
    both = np.concatenate([part.read(np.arange(len(part))) for part in (training, validation)])
    assert len(np.unique(both.reshape(len(both), -1), axis=0)) == len(many)
    other = many.divide(HeldOut(fraction=0.2, seed=1))[1]
    assert other.subjects != validation.subjects and other.fingerprint() != validation.fingerprint()
    named = many.divide(HeldOut(subjects=("x/3", "y/0")))[1]
    assert named.subjects == ("x/3", "y/0") and len(named) == 7 + 4


def test_windows_drawn_alone_are_the_share_exactly(many):
    training, validation = many.divide(HeldOut(by="windows", fraction=0.25))
    assert len(validation) == round(0.25 * len(many)) and len(training) + len(validation) == len(many)
    assert set(training.subjects) & set(validation.subjects)  # which is why it is not the default
    both = np.concatenate([part.read(np.arange(len(part))) for part in (training, validation)])
    assert len(np.unique(both.reshape(len(both), -1), axis=0)) == len(many)


def test_an_impossible_division_is_rejected(many, tmp_path):
    with pytest.raises(DataError, match="no windows of subject 'z'"):
        many.divide(HeldOut(subjects=("z",)))
    with pytest.raises(DataError, match="no window is left for training"):
        many.divide(HeldOut(subjects=many.subjects))
    write(tmp_path / "nobody" / "a.h5")
    alone = Corpus.open([tmp_path / "nobody"])
    with pytest.raises(DataError, match="does not name its subjects"):
        alone.divide(HeldOut())
    with pytest.raises(DataError, match="no window is left"):
        alone.divide(HeldOut(by="file"))
    assert len(many.divide(HeldOut(by="file", fraction=0.5))[1].table()) in (6, 7)
    with pytest.raises(ValueError, match="only be listed with by: subject"):
        HeldOut(by="file", subjects=("a",))


def test_a_fingerprint_changes_with_content_scale_and_padding(tmp_path):
    write(tmp_path / "a.h5")
    hashes = {Corpus.open([tmp_path], {"emg": 4}, *how).fingerprint() for how in ((), ("none",), ("none", "left out"))}
    write(tmp_path / "a.h5")
    assert len({*hashes, Corpus.open([tmp_path], {"emg": 4}).fingerprint()}) == 4


# --- order ------------------------------------------------------------------------------------------------


@given(n=st.integers(1, 300), block=st.integers(1, 20), pool=st.integers(1, 9), data=st.data())
def test_an_epoch_has_every_window_once_and_any_stretch_is_that_of_the_whole(n, block, pool, data):
    order = WindowOrder(n, 3, 1, block, pool)
    whole = order.stretch(0, n)
    assert sorted(whole.tolist()) == list(range(n))
    first = data.draw(st.integers(0, n))
    last = data.draw(st.integers(first, n))
    assert np.array_equal(WindowOrder(n, 3, 1, block, pool).stretch(first, last), whole[first:last])


def test_seeds_and_epochs_have_orders_of_their_own_and_shuffle_far():
    orders = [WindowOrder(20_000, seed, epoch).stretch(0, 20_000) for seed, epoch in ((0, 0), (0, 1), (1, 0))]
    for i, one in enumerate(orders):
        assert abs(np.corrcoef(one, np.arange(20_000))[0, 1]) < 0.15
        assert all((one != other).mean() > 0.99 for other in orders[:i])


# --- memory -----------------------------------------------------------------------------------------------

PEAK = """
import json, resource, sys
import numpy as np
from emg_lens.data.corpus import Corpus
from emg_lens.data.window_order import WindowOrder
corpus = Corpus.open([sys.argv[1]], {"emg": 16})
order = WindowOrder(len(corpus), 0, 0)
start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for first in range(0, 1536, 64):
    corpus.read(order.stretch(first, min(first + 64, len(corpus))) % len(corpus))
print(json.dumps([len(corpus), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024]))
"""


def test_memory_does_not_grow_with_the_corpus(tmp_path):
    peaks = {}
    for name, n in (("small", 1600), ("large", 32_000)):  # 20 MB and 410 MB
        (tmp_path / name).mkdir()
        for i in range(4):
            with h5py.File(tmp_path / name / f"{i}.h5", "w") as file:
                data = file.create_dataset("data", (n // 4, 16, 200), "f4", chunks=(16, 16, 200))
                for first in range(0, n // 4, 400):
                    data[first : first + 400] = RNG.normal(size=(min(400, n // 4 - first), 16, 200))
        printed = subprocess.run(
            [sys.executable, "-c", PEAK, str(tmp_path / name)], capture_output=True, text=True, check=True
        ).stdout
        size, peaks[name] = json.loads(printed)
        assert size == n
    assert peaks["large"] - peaks["small"] < 40, peaks  # 390 MB more are on disk
