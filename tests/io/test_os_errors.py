"""Full disks, closed streams, pipes, permissions and odd names: one line each, and nothing waits or is lost."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from emg_lens.io.files import new_folder, replacing
from emg_lens.io.hdf5_writing import new_hdf5_file
from emg_lens.io.os_errors import check_regular, reason_of, remedy
from emg_lens.io.run_folder import RunFolderError, writing

EMG_LENS = [sys.executable, "-m", "emg_lens"]


def run(arguments, shell="{command}", **env):
    """Run a command of ours in a shell; return its exit code and standard error."""
    command = shell.format(command=" ".join([*EMG_LENS, *arguments]))
    environment = {key: value for key, value in os.environ.items() if key not in env} | {
        k: v for k, v in env.items() if v
    }
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=120, env=environment)
    return done.returncode, done.stderr


def test_advice_depends_on_the_reason():
    assert remedy(PermissionError(13, "Permission denied"), "delete it") == "ask its owner for the permission"
    assert remedy(OSError(28, "No space left on device"), "delete it") == "make room"
    assert remedy(ValueError("wrong"), "delete it") == "delete it"
    assert reason_of(OSError(28, "something else of a library")) == "No space left on device"


def test_pipes_are_not_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="it is a pipe or device, expected a file"):
        check_regular(tmp_path / "pipe")


def test_a_null_character_in_a_path_is_an_error_of_one_line():
    with pytest.raises(OSError, match="a path holds no null character"):
        check_regular(Path("\0"))
    with pytest.raises(RunFolderError, match="holds a null character; give another --out"), writing(Path("\0")):
        raise AssertionError("nothing is written")
    check_regular(Path(__file__))


def test_files_have_the_permissions_of_the_umask(tmp_path):
    """Libraries that write private files do not decide who can read a run."""
    with replacing(tmp_path / "file") as partial:
        partial.write_text("x")
        partial.chmod(0o600)
    with new_folder(tmp_path / "folder") as partial:
        (partial / "file").write_text("x")
        (partial / "file").chmod(0o600)
    umask = os.umask(0)
    os.umask(umask)
    for file in (tmp_path / "file", tmp_path / "folder" / "file"):
        assert stat.S_IMODE(file.stat().st_mode) == 0o666 & ~umask


@pytest.fixture
def full_disk(tmp_path):
    """A disk of one megabyte."""
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", tmp_path], capture_output=True)
    if mount.returncode:
        pytest.skip("this user may not mount a disk")
    yield tmp_path
    subprocess.run(["umount", tmp_path], check=True)


FILLED = {
    "at once": "file.create_dataset('x', data=np.ones(1 << 20))",
    "in steps": "fill(file)",  # the handles of the data sets are freed before the file is closed
}


@pytest.mark.parametrize("how", FILLED)
def test_hdf5_on_a_full_disk_is_an_error_and_no_crash(full_disk, how):
    program = f"""
from pathlib import Path
import numpy as np
from emg_lens.io.hdf5_writing import new_hdf5_file


def fill(file):
    sets = [file.create_dataset(str(k), (0, 100), maxshape=(None, 100), chunks=(50, 100), dtype="f4") for k in range(4)]
    for step in range(20):
        for one in sets:
            one.resize(50 * (step + 1), axis=0)
            one[-50:] = 1.0


room = Path({str(full_disk)!r}) / "room"
room.write_bytes(bytes((1 << 20) - 80_000))
try:
    with new_hdf5_file(Path({str(full_disk)!r}) / "full.h5") as file:
        {FILLED[how]}
except OSError as error:
    print("one error")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "one error\n", "")


def test_an_hdf5_file_is_written(tmp_path):
    with new_hdf5_file(tmp_path / "file.h5") as file:
        file.create_dataset("x", data=np.arange(3))
    with h5py.File(tmp_path / "file.h5") as file:
        assert file["x"][:].tolist() == [0, 1, 2]
    assert [path.name for path in tmp_path.iterdir()] == ["file.h5"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "shell", "code", "message"),
    [
        (["list"], "{command} > /dev/full", 2, "error: [Errno 28] No space left on device; make room"),
        (["list"], "{command} >&-", 0, "note: standard output is closed, so nothing is printed there"),
        (["run", "quickstart", "--out", "OUT"], "ulimit -n 8; {command}", 2, "raise the limit of open files"),
    ],
)
def test_streams_that_cannot_be_written_and_files_that_cannot_be_opened(arguments, shell, code, message, tmp_path):
    found, printed = run([str(tmp_path) if one == "OUT" else one for one in arguments], shell)
    assert "Traceback" not in printed
    assert message in printed
    assert found == code


@pytest.mark.slow
def test_ascii_terminals_and_users_without_a_home():
    code, printed = run(["list"], PYTHONIOENCODING="ascii", PYTHONUTF8="0", LC_ALL="C")
    assert (code, printed) == (0, "")
    code, printed = run(["list"], HOME="", XDG_CACHE_HOME="")
    assert code == 0 and "Traceback" not in printed
