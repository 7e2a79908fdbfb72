import os
import subprocess
import sys

import pytest
import torch

from emg_lens.io.checkpoint import CheckpointError, CheckpointFile
from emg_lens.io.checksums import replacing_with_checksum
from emg_lens.io.files import (
    HOST,
    NotAFileError,
    check_replaceable,
    new_folder,
    remove_abandoned,
    replacing,
    write_bytes,
    write_text,
)


def test_a_file_is_written_in_one_step_and_no_temporary_file_remains(tmp_path):
    write_text(tmp_path / "a.txt", "müller\n")
    write_bytes(tmp_path / "a.txt", b"new")
    assert (tmp_path / "a.txt").read_bytes() == b"new"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_a_failure_while_writing_leaves_the_old_file_and_nothing_else(tmp_path):
    write_text(tmp_path / "a.txt", "old")
    with pytest.raises(RuntimeError, match="killed"), replacing(tmp_path / "a.txt") as partial:
        partial.write_text("ne")
        raise RuntimeError("killed")
    assert (tmp_path / "a.txt").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_a_pipe_is_not_replaced_by_a_file(tmp_path):
    pipe, link = tmp_path / "pipe", tmp_path / "link"
    os.mkfifo(pipe)
    link.symlink_to(pipe)
    for target in (pipe, link):
        with pytest.raises(NotAFileError, match=f"{target} is a pipe or a device; expected .*give another path"):
            write_text(target, "new")
        with pytest.raises(NotAFileError), replacing_with_checksum(target):
            pass
    assert pipe.is_fifo() and link.is_symlink()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["link", "pipe"]


def test_a_reader_sees_the_old_file_until_the_new_one_is_complete(tmp_path):
    write_text(tmp_path / "a.txt", "old")
    with replacing(tmp_path / "a.txt") as partial:
        partial.write_text("new")
        assert (tmp_path / "a.txt").read_text() == "old"
    assert (tmp_path / "a.txt").read_text() == "new"


def test_a_checkpoint_returns_tensors_and_facts(tmp_path):
    tensors = {"a": torch.randn(3, 2), "b": torch.arange(4)}
    CheckpointFile(tmp_path / "c", "fit", {"model": "x"}).save(tensors, {"epoch": "3"})
    loaded = CheckpointFile(tmp_path / "c", "fit", {"model": "x"})
    assert loaded.facts["epoch"] == "3" and all(torch.equal(loaded.tensors[k], v) for k, v in tensors.items())


@pytest.mark.parametrize(
    "open_it, message",
    [
        (lambda path: CheckpointFile(path, "sweep", {"model": "x"}), "is not a checkpoint of a sweep"),
        (
            lambda path: CheckpointFile(path, "fit", {"model": "y"}),
            r"belongs to another fit \(model: x, now y\); delete it",
        ),
    ],
)
def test_a_checkpoint_of_other_work_is_refused_and_not_changed(tmp_path, open_it, message):
    path = tmp_path / "c"
    CheckpointFile(path, "fit", {"model": "x"}).save({"a": torch.ones(2)}, {})
    before = path.read_bytes()
    with pytest.raises(CheckpointError, match=message):
        open_it(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("damage", [lambda raw: raw[:-3], lambda raw: raw[:-1] + bytes([raw[-1] ^ 1]), lambda _: b"x"])
def test_a_damaged_checkpoint_is_refused(tmp_path, damage):
    path = tmp_path / "c"
    CheckpointFile(path, "fit", {}).save({"a": torch.randn(8)}, {})
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(CheckpointError, match="cannot be read|its checksum is wrong"):
        CheckpointFile(path, "fit", {})


def test_a_folder_is_written_in_one_step_and_no_temporary_folder_remains(tmp_path):
    with pytest.raises(RuntimeError, match="killed"), new_folder(tmp_path / "a") as partial:
        (partial / "one").write_text("1")
        raise RuntimeError("killed")
    assert not list(tmp_path.iterdir())
    with new_folder(tmp_path / "a") as partial:
        (partial / "one").write_text("1")
        assert not (tmp_path / "a").exists()
    assert [p.name for p in tmp_path.rglob("*")] == ["a", "one"]


def test_two_writers_of_one_folder_or_file_do_not_see_each_others_incomplete_content(tmp_path):
    """For example a new run, and a worker of a killed run that still writes."""
    with new_folder(tmp_path / "a") as second, new_folder(tmp_path / "a") as first:
        (first / "one").write_text("first")
        (second / "one").write_text("second")
    assert (tmp_path / "a" / "one").read_text() == "first"
    with replacing(tmp_path / "b") as second, replacing(tmp_path / "b") as first:
        first.write_text("first")
        second.write_text("second")
    assert (tmp_path / "b").read_text() == "second"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b"]


def test_temporary_files_of_ended_processes_are_removed_and_others_are_kept(tmp_path):
    living = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    names = {
        f".01.{HOST}.{living.pid}.0123abcd.partial": True,
        f".01.{HOST}.{dead.pid}.0123abcd.partial": False,
        f".01.{HOST}.{os.getpid()}.0123abcd.partial": False,  # this process is writing nothing here
        ".01.another_machine.1.0123abcd.partial": True,
        ".01.partial": True,  # not a temporary name of this package
        "01": True,
    }
    for name in names:
        (tmp_path / name).mkdir()
        (tmp_path / name / "fit.csv").write_text("epoch")
    remove_abandoned(tmp_path)
    left = {p.name for p in tmp_path.iterdir()}
    os.utime(tmp_path / ".01.another_machine.1.0123abcd.partial", (0, 0))
    living.communicate()
    assert left == {name for name, stays in names.items() if stays}
    remove_abandoned(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == [".01.partial", "01"]


def test_a_name_that_no_file_can_have_is_one_line(tmp_path):
    with pytest.raises(NotAFileError, match="cannot be a file: File name too long; give another path"):
        check_replaceable(tmp_path / ("a" * 5000))
