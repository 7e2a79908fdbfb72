"""A lock is released when the process that holds it ends."""

import errno
import os
import subprocess
import sys

import pytest

from emg_lens.io.locking import BusyError, exclusive_lock

HOLD = (
    "import sys, time; from pathlib import Path; from emg_lens.io.locking import exclusive_lock\n"
    "with exclusive_lock(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
)


def held_elsewhere(path) -> subprocess.Popen:
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


def test_a_second_process_gets_an_error_with_the_holder_until_the_holder_ends(tmp_path):
    process = held_elsewhere(tmp_path / ".lock")
    try:
        message = rf"^{tmp_path} is in use by process {process.pid} on .*; give another$"
        with pytest.raises(BusyError, match=message), exclusive_lock(tmp_path / ".lock", instead="give another"):
            pass
    finally:
        process.kill()
        process.communicate()
    with exclusive_lock(tmp_path / ".lock") as without:
        assert without is None and (tmp_path / ".lock").exists()


def test_children_do_not_inherit_it(tmp_path):
    with exclusive_lock(tmp_path / ".lock"):
        child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, close_fds=False)
    with exclusive_lock(tmp_path / ".lock") as without:
        assert without is None
    child.communicate()


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_without_locks_of_the_file_system_the_reason_is_returned(tmp_path, monkeypatch, code):
    def refused(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("fcntl.flock", refused)
    with exclusive_lock(tmp_path / ".lock") as without:
        assert without == os.strerror(code)


def test_an_error_inside_releases_the_lock(tmp_path):
    with pytest.raises(OSError, match="full"), exclusive_lock(tmp_path / ".lock"):
        raise OSError(errno.ENOSPC, "full")
    with exclusive_lock(tmp_path / ".lock") as without:
        assert without is None
