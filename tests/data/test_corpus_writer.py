"""Shards of registered data sets: their windows, the table of counts, and errors."""

import h5py
import numpy as np
import pytest

from emg_lens.data import DataError, Recipe, load_dataset, preprocess
from emg_lens.data.corpus import Corpus
from emg_lens.data.corpus_writer import CorpusPart, corpus_digest, write_corpus

EMG_ONLY = Recipe.model_validate({"signals": {"emg": [{"step": "highpass", "cutoff_hz": 20}], "acc": []}, "fs": 200})
DB5 = CorpusPart(
    dataset="ninapro-db5",
    folder="ninapro_db5",
    subjects=(1, 3),
    modalities=("emg",),
    recipe=EMG_ONLY,
    window_s=1.0,
    stride_s=0.5,
)


@pytest.fixture
def data(real):
    return real("ninapro_db5").parent


def test_windows_are_those_of_the_filtered_recordings(tmp_path, data):
    table = write_corpus({"db5": DB5}, data, tmp_path)
    assert table["subject"].tolist() == ["S1", "S3"] and sorted(f.name for f in tmp_path.glob("*.h5")) == [
        "db5-S1.h5",
        "db5-S3.h5",
    ]
    (recording,) = (preprocess(r, EMG_ONLY) for r in load_dataset("ninapro-db5", data / "ninapro_db5", subjects=["S1"]))
    samples = recording.signals["emg"].data.T
    with h5py.File(tmp_path / "db5-S1.h5") as file:
        assert file["data"].shape == (table["windows"][0], 16, 200) and file["data"].dtype == np.float32
        assert file["data"].shape[0] == (samples.shape[1] - 200) // 100 + 1
        for i in (0, 7, len(file["data"]) - 1):
            assert np.array_equal(file["data"][i], samples[:, 100 * i : 100 * i + 200].astype("f4"))
            assert file["label"][i] == recording.label[100 * i + 100]
        assert dict(file.attrs)["fs"] == 200 and file.attrs["modalities"] == '{"emg": 16}'
    corpus = Corpus.open([tmp_path])
    assert len(corpus) == table["windows"].sum() and corpus.subjects == ("db5/S1", "db5/S3") and corpus.fs == 200


def test_windows_inside_repetitions_have_one_label(tmp_path, data):
    part = DB5.model_copy(update={"inside_repetitions": True, "subjects": (1,)})
    table = write_corpus({"db5": part}, data, tmp_path)
    whole = write_corpus({"db5": DB5.model_copy(update={"subjects": (1,)})}, data, tmp_path / "whole")
    assert 0 < table["windows"][0] < whole["windows"][0]
    with h5py.File(tmp_path / "db5-S1.h5") as file:
        assert (file["label"][:] > 0).all()


def test_a_folder_is_continued_and_belongs_to_one_corpus(tmp_path, data):
    first = write_corpus({"db5": DB5}, data, tmp_path)
    (tmp_path / "db5-S3.h5").unlink()
    kept = (tmp_path / "db5-S1.h5").stat().st_mtime_ns
    again = write_corpus({"db5": DB5}, data, tmp_path)
    assert again.equals(first) and (tmp_path / "db5-S1.h5").stat().st_mtime_ns == kept
    other = DB5.model_copy(update={"window_s": 2.0})
    with pytest.raises(DataError, match="contains shards of other parts"):
        write_corpus({"db5": other}, data, tmp_path)
    assert corpus_digest({"db5": other}, data) != corpus_digest({"db5": DB5}, data)
    (tmp_path / "corpus.json").unlink()
    with pytest.raises(DataError, match="unknown origin"):
        write_corpus({"db5": DB5}, data, tmp_path)


def test_a_shard_that_was_changed_later_is_rejected(tmp_path, data):
    write_corpus({"db5": DB5}, data, tmp_path)
    with h5py.File(tmp_path / "db5-S1.h5", "r+") as file:
        file["data"][0, 0, 0] += 1
    with pytest.raises(DataError, match="db5-S1.h5 was changed after it was written: .*; delete it"):
        write_corpus({"db5": DB5}, data, tmp_path)
    (tmp_path / "db5-S1.h5").write_bytes((tmp_path / "db5-S1.h5").read_bytes()[:3000])
    with pytest.raises(DataError, match="db5-S1.h5: cannot be read .* delete it"):
        write_corpus({"db5": DB5}, data, tmp_path)
    (tmp_path / "db5-S1.h5").unlink()
    write_corpus({"db5": DB5}, data, tmp_path)
    listed = (tmp_path / "checksums.json").read_text()
    (tmp_path / "checksums.json").write_text(listed.replace("db5-S1", "db5-S2"))
    with pytest.raises(DataError, match="checksums.json was changed after it was written: .*; delete"):
        write_corpus({"db5": DB5}, data, tmp_path)


@pytest.mark.parametrize("name", ["../x", "/x", ".x", "a b", "é/é", ".."])
def test_names_of_parts_cannot_leave_the_folder(tmp_path, data, name):
    out = tmp_path / "in" / "out"
    write_corpus({name: DB5, "a_b": DB5}, data, out)
    assert len(Corpus.open([out]).shards) == 4 and {p.name for p in tmp_path.rglob("*.h5")} == {
        p.name for p in out.glob("*.h5")
    }


def test_simulated_recordings_need_no_folder(tmp_path):
    part = CorpusPart(dataset="simulated", folder=None, window_s=0.4, subjects=(1,), recipe=Recipe(fs=200))
    table = write_corpus({"toy": part}, None, tmp_path)
    corpus = Corpus.open([tmp_path])
    assert len(corpus) == table["windows"].sum() > 0 and len(corpus.modalities) > 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dataset": "ninapro"}, "unknown data set"),
        ({"dataset": "trials"}, "which pre-training reads directly"),
        ({"modalities": ("emgs",)}, "has no modality 'emgs'"),
        ({"window_s": 3000.0}, "no window of 3000 s"),
        ({"subjects": (99,)}, "unknown subject 99"),
        ({"folder": "nowhere"}, "nowhere"),
        ({"recipe": EMG_ONLY.model_copy(update={"signals": {"emg": ()}})}, "the recipe does not list"),
    ],
)
def test_an_invalid_part_gives_a_one_line_error_and_leaves_no_shard(tmp_path, data, change, message):
    with pytest.raises(DataError, match=message):
        write_corpus({"db5": DB5.model_copy(update=change)}, data, tmp_path)
    assert not [*tmp_path.glob("*.h5"), *tmp_path.glob(".*.partial")]


@pytest.mark.parametrize("name", ["x.hdf5", "X.H5", "sub/old.h5"])
def test_a_folder_with_foreign_shards_is_rejected(tmp_path, data, name):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(b"foreign")
    with pytest.raises(DataError, match="unknown origin"):
        write_corpus({"db5": DB5}, data, tmp_path)
    assert not (tmp_path / "corpus.json").exists()


def test_a_folder_without_shards_can_be_used_again(tmp_path, data):
    with pytest.raises(DataError, match="no window of 3000 s"):
        write_corpus({"db5": DB5.model_copy(update={"window_s": 3000.0})}, data, tmp_path)
    assert (tmp_path / "corpus.json").exists()
    table = write_corpus({"db5": DB5}, data, tmp_path)
    assert write_corpus({"db5": DB5}, data, tmp_path).equals(table)


def test_a_part_may_be_anywhere(tmp_path, data, monkeypatch):
    monkeypatch.setenv("HOME", str(data))
    below = corpus_digest({"db5": DB5}, data)
    for place in (str(data / "ninapro_db5"), "~/ninapro_db5"):
        assert corpus_digest({"db5": DB5.model_copy(update={"folder": place})}, None) == below


def test_a_part_needs_its_data_folder(tmp_path):
    with pytest.raises(DataError, match="--data"):
        write_corpus({"db5": DB5}, None, tmp_path)
    with pytest.raises(DataError, match="at least one part"):
        write_corpus({}, None, tmp_path)


def test_the_same_file_under_two_subjects_is_refused(tmp_path, data):
    """A held-out person would be in the training data under another name."""
    folder = tmp_path / "data" / "ninapro_db5"
    folder.mkdir(parents=True)
    for subject, source in (("S1", "S1"), ("S2", "S1"), ("S3", "S3")):
        found = next((data / "ninapro_db5").rglob(f"{source}_E1_A1.mat"))
        (folder / f"{subject}_E1_A1.mat").write_bytes(found.read_bytes())
    part = DB5.model_copy(update={"subjects": None})
    with pytest.raises(DataError, match=r"S1_E1_A1.mat and .*S2_E1_A1.mat are the same file of two subjects"):
        write_corpus({"db5": part}, tmp_path / "data", tmp_path / "out")
    table = write_corpus({"db5": DB5}, tmp_path / "data", tmp_path / "out2")
    assert table["subject"].tolist() == ["S1", "S3"]
