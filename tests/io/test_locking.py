"""Locks end with the process that holds them, however it ends."""

import errno
import os
import subprocess
import sys

import pytest

from emg_lens.io.locking import BusyError, one_at_a_time

HOLD = (
    "import sys, time; from pathlib import Path; from emg_lens.io.locking import one_at_a_time\n"
    "with one_at_a_time(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
)


def held_elsewhere(path) -> subprocess.Popen:
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


def test_the_second_process_is_told_who_holds_it_and_the_next_one_is_not_kept_out_by_the_dead(tmp_path):
    process = held_elsewhere(tmp_path / ".lock")
    try:
        told = rf"^{tmp_path} is in use by process {process.pid} on .*; give another$"
        with pytest.raises(BusyError, match=told), one_at_a_time(tmp_path / ".lock", instead="give another"):
            pass
    finally:
        process.kill()
        process.communicate()
    with one_at_a_time(tmp_path / ".lock") as without:
        assert without is None and (tmp_path / ".lock").exists()


def test_children_do_not_inherit_it(tmp_path):
    with one_at_a_time(tmp_path / ".lock"):
        child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, close_fds=False)
    with one_at_a_time(tmp_path / ".lock") as without:
        assert without is None
    child.communicate()


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_where_the_file_system_has_no_locks_it_says_so(tmp_path, monkeypatch, code):
    def refused(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("fcntl.flock", refused)
    with one_at_a_time(tmp_path / ".lock") as without:
        assert without == os.strerror(code)


def test_an_error_inside_frees_it(tmp_path):
    with pytest.raises(OSError, match="full"), one_at_a_time(tmp_path / ".lock"):
        raise OSError(errno.ENOSPC, "full")
    with one_at_a_time(tmp_path / ".lock") as without:
        assert without is None
