"""Files below a folder: no file is left out in silence, and links to folders end."""

import os
import re
import tempfile
from contextlib import contextmanager
from pathlib import Path

import pytest

from emg_lens import TrialSet, load_dataset
from emg_lens.data import Corpus, DataError
from emg_lens.data.files import files_below, index_files
from emg_lens.data.registry import subjects
from emg_lens.data.shards import find_shards

DESCRIPTION = 'files: "{subject}/{label}_{repetition}.csv"\nfs: 10\nsignals: {emg: {columns: [a]}}\n'
NOBODY = 65534


@contextmanager
def ordinary_user():
    """Run as a user who needs permissions; root may read everything."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def people():
    """A folder that any user can reach, with two subjects of one described recording each."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        folder.chmod(0o755)
        (folder / "dataset.yaml").write_text(DESCRIPTION)
        for person in ("A", "B"):
            (folder / person).mkdir()
            (folder / person / "fist_1.csv").write_text("a\n" + "1\n2\n" * 10)
        yield folder
        (folder / "B").chmod(0o755)


def test_a_folder_without_read_permission_is_an_error(people):
    (people / "B").chmod(0)
    with ordinary_user(), pytest.raises(DataError, match=r"/B: cannot be read \(Permission denied\)"):
        subjects("folder", people)
    (people / "B").chmod(0o444)  # names can be listed, but files cannot be opened
    with ordinary_user(), pytest.raises(DataError, match=r"cannot be read \(Permission denied\)"):
        subjects("folder", people)


def test_folders_of_file_systems_do_not_count(people):
    (people / "lost+found").mkdir(mode=0)
    with ordinary_user():
        assert subjects("folder", people) == ("A", "B")


@pytest.mark.parametrize(
    ("put", "message"),
    [
        (os.mkfifo, "is not a file but a pipe or device"),
        (lambda path: path.symlink_to("/nowhere/at/all"), "is a link to a file that does not exist"),
        (lambda path: path.symlink_to(path), "cannot be read"),
    ],
)
def test_pipes_and_broken_links_in_place_of_files_are_errors(people, put, message):
    put(people / "B" / "fist_2.csv")
    with pytest.raises(DataError, match=message):
        list(load_dataset("folder", people))
    put(people / "x.h5")
    with pytest.raises(DataError, match=message):
        Corpus.open([people])
    put(people / "S1_E1_A1.mat")
    with pytest.raises(DataError, match=message):
        subjects("ninapro-db5", people)
    put(people / "recording.txt")  # other names are not read


def test_one_pipe_as_a_shard_is_an_error(tmp_path):
    os.mkfifo(tmp_path / "x.h5")
    with pytest.raises(DataError, match="is not a file but a pipe or device"):
        find_shards([tmp_path / "x.h5"])
    with pytest.raises(DataError, match="is not a file but a pipe or device"):
        TrialSet.load(tmp_path / "x.h5")


@pytest.mark.parametrize("n", [2, 3, 6])
def test_folders_that_link_to_each_other_end(tmp_path, n):
    for one in range(n):
        (tmp_path / f"p{one}").mkdir()
        (tmp_path / f"p{one}" / f"S{one + 1}.txt").write_text(str(one))
        for other in range(n):
            if other != one:
                (tmp_path / f"p{one}" / f"to{other}").symlink_to(tmp_path / f"p{other}")
    files = files_below(tmp_path)
    assert {path.resolve() for path in files} == {path.resolve() for path in tmp_path.glob("p*/S*.txt")}
    assert len(files) <= n + n * (n - 1)  # each link is followed once
    index = index_files(tmp_path, re.compile(r"(S\d)\.txt"), lambda m, _: (m[1], "one"), "files")
    assert list(index) == [f"S{one + 1}" for one in range(n)] and all(len(paths) == 1 for paths in index.values())


def test_a_linked_folder_keeps_its_name_as_a_subject(people):
    (people / "pool").mkdir()
    (people / "A").rename(people / "pool" / "A")
    (people / "A").symlink_to(people / "pool" / "A")  # only this path matches the description
    assert subjects("folder", people) == ("A", "B")


def test_a_file_is_not_read_twice_for_one_subject(people):
    (people / "A" / "fist_2.csv").symlink_to(people / "A" / "fist_1.csv")
    with pytest.raises(DataError, match=r"fist_1.csv and .*fist_2.csv are one file"):
        list(load_dataset("folder", people))
