"""The folder of a run: its files hold checksums, changes are refused, and one process works in it."""

import errno
import os

import pytest

from emg_lens.io import run_folder
from emg_lens.io.locking import BusyError
from emg_lens.io.run_folder import (
    ENVIRONMENT,
    RECORD,
    SPEC,
    RunFolderError,
    check_spec,
    locked_folder,
    read_facts_of_run,
    record_environment,
    write_run_files,
    writing,
)

KINDS = {"fingerprint": str, "folder": str | None}


@pytest.fixture
def folder(tmp_path):
    write_run_files(tmp_path, "name: toy\n", {"fingerprint": "abc", "folder": None, "more": [1]})
    return tmp_path


def test_the_files_are_read_as_they_were_written(folder):
    assert read_facts_of_run(folder, RECORD, KINDS) == {"fingerprint": "abc", "folder": None, "more": [1]}
    assert "torch" in read_facts_of_run(folder, ENVIRONMENT, {"python": str})
    assert check_spec(folder).read_text().endswith("\nname: toy\n")
    assert sorted(path.name for path in folder.iterdir()) == sorted([SPEC, ENVIRONMENT, RECORD])


@pytest.mark.parametrize("name", [SPEC, ENVIRONMENT, RECORD])
@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda path: path.write_text(path.read_text().replace("o", "0", 1)), "its checksum is wrong"),
        (lambda path: path.write_text("{}"), "its checksum is missing"),
        (lambda path: path.unlink(), "holds no spec.yaml|No such file"),
    ],
)
def test_a_changed_or_missing_file_is_refused_and_named(folder, name, damage, message):
    damage(folder / name)
    with pytest.raises(RunFolderError, match=message) as error:
        check_spec(folder) if name == SPEC else read_facts_of_run(folder, name, {})
    assert name in str(error.value) and "\n" not in str(error.value)


def test_a_resumed_run_keeps_all_its_environments(folder, monkeypatch):
    first = read_facts_of_run(folder, ENVIRONMENT, {})
    assert record_environment(folder) is None and read_facts_of_run(folder, ENVIRONMENT, {}) == first
    other = {**first, "torch": "9.9", "machine": "another"}
    monkeypatch.setattr(run_folder, "environment", lambda: other)
    write_run_files(folder, "name: toy\n", {})
    for _ in range(2):
        assert f"(torch {first['torch']}, now 9.9)" in str(record_environment(folder))
        assert read_facts_of_run(folder, ENVIRONMENT, {}) == {**first, "later": [other]}


@pytest.mark.parametrize("record", [{"folder": None}, {"folder": 3, "fingerprint": "abc"}])
def test_a_record_with_other_keys_or_types_is_refused(tmp_path, record):
    write_run_files(tmp_path, "name: toy\n", record)
    with pytest.raises(RunFolderError, match="data.json cannot be read .*; delete"):
        read_facts_of_run(tmp_path, RECORD, KINDS)


def test_one_process_at_a_time_works_in_the_folder(tmp_path):
    with locked_folder(tmp_path / "a" / "run") as reason:
        assert reason is None
        with pytest.raises(BusyError, match="another --out"), locked_folder(tmp_path / "a" / "run"):
            pass


def test_a_folder_that_cannot_be_written_is_an_error_of_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    message = "cannot write to .*; make room, or give another --out"
    with pytest.raises(RunFolderError, match=message), locked_folder(tmp_path / "file" / "run"):
        pass
    with pytest.raises(RunFolderError, match="No space left"), writing(tmp_path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
