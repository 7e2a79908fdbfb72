import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from emg_lens.data import (
    DataError,
    DataSet,
    Recipe,
    Segment,
    TrialSet,
    data_fingerprint,
    dataset_names,
    describe_dataset,
    load_dataset,
    load_trials,
    register,
    subjects,
)
from emg_lens.data.files import natural_key, select_subjects
from emg_lens.data.registry import DATASETS


@pytest.fixture
def toy(monkeypatch, make_recording):
    """A data set of three made-up subjects that notes which of them were read."""
    monkeypatch.setattr(DATASETS, "_known", dict(DATASETS._known))
    read = []

    def load(root, *, subjects=None, gain=1.0):
        return (
            read.append(s) or make_recording(s, seed=i) for i, s in enumerate(select_subjects(find(root), subjects))
        )

    def find(root):
        return {name: sorted(root.glob(f"{name}.*")) for name in ("P1", "P2", "P10")}

    register(DataSet("toy", load, "made up", find))
    return read


def test_names_can_be_taken_only_once(toy):
    assert {"ninapro-db5", "psl-myo", "uci-emg", "trials", "toy"} <= set(dataset_names())
    with pytest.raises(ValueError, match="'toy' is already registered"):
        register(DataSet("toy", lambda: iter(()), "again"))


def test_recordings_are_read_one_at_a_time(toy, tmp_path):
    recordings = load_dataset("toy", tmp_path)
    assert toy == []
    assert next(recordings).subject == "P1" and toy == ["P1"]


def test_subjects_are_listed_without_reading(toy, tmp_path):
    assert subjects("toy", tmp_path) == ("P1", "P2", "P10") and toy == []
    assert describe_dataset("toy").options == ("gain",)


def test_a_data_set_without_an_index_is_read_to_list_its_subjects(toy, make_recording):
    def load(*, subjects=None):
        return iter([make_recording("X"), make_recording("X")])

    register(DataSet("bare", load, "no folder"))
    assert subjects("bare") == ("X",)
    with pytest.raises(DataError, match="'bare' needs no folder, but 'there' was given"):
        load_dataset("bare", "there")
    assert len(data_fingerprint("bare")) == 16


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda root: load_dataset("toys", root), "unknown data set 'toys'; did you mean 'toy'. known: .*toy"),
        (
            lambda root: load_dataset("toy", root, gian=2),
            "'toy' has no option 'gian'; did you mean 'gain'. known options: gain",
        ),
        (lambda _: load_dataset("toy"), r"'toy' needs a folder \(made up\)"),
        (lambda root: load_dataset("toy", root, subjects=["P3"]), "unknown subject 'P3'; known: P1, P2, P10"),
        (lambda root: load_dataset("toy", root, subjects="P1"), r"subjects must be a list such as \['P1'\]"),
        (lambda root: load_dataset("toy", root, subjects=[]), "selects no subject"),
        (lambda root: load_dataset("trials", root), "read it with load_trials"),
        (
            lambda root: subjects("psl-myo", root / "no"),
            "no does not exist; expected a folder with folders person",
        ),
        (lambda root: load_dataset("uci-emg", root), "expected folders 01, 02.*; found no file"),
    ],
)
def test_wrong_calls_raise_at_once(toy, tmp_path, call, message):
    with pytest.raises(DataError, match=message):
        call(tmp_path)


def test_a_folder_without_matching_files_lists_its_files(tmp_path):
    for name in ("a.txt", "b.txt", "c.txt", "d.txt"):
        (tmp_path / name).write_text("")
    with pytest.raises(DataError, match="S<n>_E<1>_A1.mat at any depth; found a.txt, b.txt, c.txt and 1 more"):
        load_dataset("ninapro-db5", tmp_path)
    with pytest.raises(DataError, match="a.txt is a file, not a folder"):
        load_dataset("ninapro-db5", tmp_path / "a.txt")


def test_load_trials_reads_filters_and_cuts(toy, tmp_path):
    made = load_trials("toy", tmp_path, Recipe(fs=100), Segment(stop_s=0.5), subjects=[10, "P1"], classes=[2, 3])
    assert made.x.shape == (8, 5, 50) and list(dict.fromkeys(made.subject)) == ["P1", "P10"]
    assert made.classes == ("2", "3") and made.fs == 100


def test_one_subject_at_a_time_gives_the_trials_of_all_at_once(toy, tmp_path):
    whole = load_trials("toy", tmp_path, segment=Segment(stop_s=0.5))
    parts = [load_trials("toy", tmp_path, segment=Segment(stop_s=0.5), subjects=[s]) for s in ("P1", "P2", "P10")]
    np.testing.assert_array_equal(TrialSet.concatenate(parts).repetition_id, whole.repetition_id)
    np.testing.assert_array_equal(TrialSet.concatenate(parts).subject, whole.subject)


def test_finished_trials_are_read_as_they_are(tmp_path):
    path = tmp_path / "mine.h5"
    made = TrialSet.from_arrays(
        x=np.random.default_rng(0).normal(size=(6, 2, 4)),
        y=[0, 1] * 3,
        subject=["S1", "S1", "S2", "S2", "S10", "S10"],
        repetition=[1] * 6,
        channels={"emg": 2},
        fs=10.0,
    )
    made.save(path)
    np.testing.assert_array_equal(load_trials("trials", path).x, made.x)
    np.testing.assert_array_equal(load_trials("trials", path, subjects=[10]).x, made.x[4:])
    assert subjects("trials", path) == ("S1", "S2", "S10")
    assert data_fingerprint("trials", path) == data_fingerprint("trials", str(path))
    for ask in (subjects, data_fingerprint, load_trials):
        with pytest.raises(DataError, match="'trials' has no option 'gain'; known options: none"):
            ask("trials", path, gain=2)
        with pytest.raises(DataError, match=r"'trials' needs a file \(your own trials: .*\); none was given"):
            ask("trials")
        with pytest.raises(DataError, match="a folder; expected a file that TrialSet.save wrote"):
            ask("trials", tmp_path)
    assert data_fingerprint("trials", path) != data_fingerprint("trials", path.rename(tmp_path / "other.h5"))
    path = tmp_path / "other.h5"
    for extra in ({"recipe": Recipe(fs=5)}, {"segment": Segment(stop_s=0.1)}, {"classes": [1]}):
        with pytest.raises(DataError, match=f"finished trials; leave out {next(iter(extra))}"):
            load_trials("trials", path, **extra)


def test_the_fingerprint_knows_names_and_contents_of_the_data_sets_files_only(toy, tmp_path):
    (tmp_path / "P1.dat").write_text("abc")
    first = data_fingerprint("toy", tmp_path)
    (tmp_path / "notes.txt").write_text("not part of it")
    assert data_fingerprint("toy", tmp_path) == first
    (tmp_path / "P1.dat").write_text("abcd")
    grown = data_fingerprint("toy", tmp_path)
    (tmp_path / "P2.dat").write_text("")
    assert len({first, grown, data_fingerprint("toy", tmp_path)}) == 3
    (tmp_path / "P1.dat").write_text("abcx")
    assert data_fingerprint("toy", tmp_path) not in (first, grown), "another content of the same size"


def test_the_fingerprint_does_not_depend_on_where_the_folder_lies(toy, tmp_path):
    for place in ("a", "b"):
        (tmp_path / place).mkdir()
        (tmp_path / place / "P1.dat").write_text("abc")
    assert data_fingerprint("toy", tmp_path / "a") == data_fingerprint("toy", tmp_path / "b")


@given(st.lists(st.integers(0, 10**6), min_size=1, unique=True))
def test_natural_order_is_the_order_of_the_numbers(numbers):
    assert sorted((f"S{n}" for n in numbers), key=natural_key) == [f"S{n}" for n in sorted(numbers)]


@pytest.mark.parametrize("given_as", [3, "3", "S3", "03"])
def test_a_subject_is_known_by_name_or_number(given_as):
    assert list(select_subjects({"S1": (), "S3": (), "S13": ()}, [given_as])) == ["S3"]


def test_a_number_that_fits_two_subjects_is_rejected():
    with pytest.raises(DataError, match="unknown subject 3"):
        select_subjects({"A3": (), "B3": ()}, [3])
