import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from emg_lens.io import subprocess_reader
from emg_lens.io.subprocess_reader import UnreadableError, read_in_subprocess

# Readers: they run in the subprocess, which imports this file.


def arrays(path, seed):
    rng = np.random.default_rng(seed)
    yield "transposed", np.asfortranarray(rng.normal(size=(7, 3)))
    yield "plain", rng.integers(9, size=(4, 2, 5)).astype(np.int8)
    yield "one", np.float32(3)
    yield "none", np.zeros((0, 4))
    yield "facts", {"path": path.name, "pid": os.getpid()}


def large(path):
    yield "x", np.arange(3 * subprocess_reader.LARGE_BYTES // 8 + 5, dtype=np.int64)


def crashes(path):
    yield "x", np.zeros(3)
    os.kill(os.getpid(), signal.SIGSEGV)


def needs_memory(path):
    yield "x", np.ones((1 << 31) // 8 + 1)


def hangs(path):
    while True:
        pass


def slow(path):
    yield "x", np.zeros(3)
    time.sleep(3)
    yield "y", np.full(3, 7.0)


def busy(path):
    ends = time.process_time() + 0.8
    while time.process_time() < ends:
        pass
    yield "x", np.zeros(3)


def counts(path):
    with path.open("ab") as file:
        file.write(b"!")
    yield "x", np.zeros(3)
    os.kill(os.getpid(), signal.SIGSEGV)


def fails(path):
    yield "x", np.zeros(3)
    raise KeyError("the third of\nseveral lines")


def prints(path):
    os.write(1, b"a library prints\n")
    sys.stdout.write("Python prints\n")
    sys.stdout.flush()
    yield "x", np.zeros(3)


def odd(path):
    yield "x", np.array([{}, None])


@pytest.fixture
def file(tmp_path):
    (tmp_path / "file").write_bytes(b"content")
    return tmp_path / "file"


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    monkeypatch.setattr(sys.modules[__name__], "__name__", "test_subprocess_reader", raising=False)
    for reader in (arrays, large, slow, busy, counts, crashes, needs_memory, hangs, fails, prints, odd):
        monkeypatch.setattr(reader, "__module__", "test_subprocess_reader")
    subprocess_reader._stop()
    yield
    subprocess_reader._stop()


def test_arrays_are_received_unchanged(file):
    received, expected = read_in_subprocess(arrays, file, seed=3), dict(arrays(file, 3))
    for name in ("transposed", "plain", "one", "none"):
        np.testing.assert_array_equal(received[name], expected[name])
        assert received[name].dtype == expected[name].dtype and received[name].shape == expected[name].shape
    assert received["transposed"].flags.f_contiguous
    assert received["facts"]["path"] == "file" and received["facts"]["pid"] != os.getpid()
    assert read_in_subprocess(arrays, file, seed=1)["facts"]["pid"] == received["facts"]["pid"]  # started once


def test_a_large_array(file):
    np.testing.assert_array_equal(read_in_subprocess(large, file)["x"], next(iter(large(file)))[1])


@pytest.mark.parametrize(
    "reader, message",
    [
        (crashes, "crashed with signal 11"),
        (needs_memory, "more memory than 1.1 GB, the limit for a file of its size"),
        (fails, "'the third of"),
        (odd, "x holds cells or objects, expected numbers"),
    ],
)
def test_an_error_in_the_subprocess_is_one_line_and_the_next_file_is_read(file, reader, message):
    with pytest.raises(UnreadableError, match=message) as error:
        read_in_subprocess(reader, file)
    assert "\n" not in str(error.value)
    assert read_in_subprocess(arrays, file, seed=0)["one"] == 3


def test_a_reader_that_hangs_is_stopped(file, monkeypatch):
    monkeypatch.setattr(subprocess_reader, "BASE_SECONDS", 1)
    with pytest.raises(UnreadableError, match="longer than 1 s of processor time"):
        read_in_subprocess(hangs, file)


def test_after_ctrl_c_the_next_file_does_not_get_the_rest_of_the_answer(file):
    timer = threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        read_in_subprocess(slow, file)
    timer.join()
    assert set(read_in_subprocess(prints, file)) == {"x"}


def test_the_limit_of_processor_time_holds_for_each_file(file, monkeypatch):
    monkeypatch.setattr(subprocess_reader, "BASE_SECONDS", 2)
    for _ in range(5):
        read_in_subprocess(busy, file)


def test_a_file_that_crashes_its_reader_is_read_once(file):
    with pytest.raises(UnreadableError):
        read_in_subprocess(counts, file)
    assert file.read_bytes() == b"content!"


def test_python_files_next_to_the_data_are_not_imported(file, monkeypatch):
    (file.parent / "signal.py").write_text("raise RuntimeError('not this one')")
    monkeypatch.chdir(file.parent)
    assert read_in_subprocess(prints, file)["x"].tolist() == [0, 0, 0]


def test_a_subprocess_that_cannot_be_started_is_one_line(file, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(UnreadableError, match="no process can be started to read it: .*nowhere"):
        read_in_subprocess(arrays, file, seed=0)
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(UnreadableError, match="ended with exit code 1"):
        read_in_subprocess(arrays, file, seed=0)


def test_printed_text_of_a_library_is_not_taken_as_data(file):
    assert read_in_subprocess(prints, file)["x"].tolist() == [0, 0, 0]


def test_a_missing_file_is_an_os_error_and_starts_nothing(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_in_subprocess(arrays, tmp_path / "none", seed=0)
    assert subprocess_reader._process is None


def test_after_an_idle_exit_the_subprocess_is_started_again(file):
    first = read_in_subprocess(arrays, file, seed=0)["facts"]["pid"]
    subprocess_reader._process.stdin.close()
    subprocess_reader._process.wait()
    assert read_in_subprocess(arrays, file, seed=0)["facts"]["pid"] != first


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_process_starts_its_own_subprocess(file):
    first = read_in_subprocess(arrays, file, seed=0)["facts"]["pid"]
    readable, writable = os.pipe()
    if not (child := os.fork()):
        os.write(writable, str(read_in_subprocess(arrays, file, seed=0)["facts"]["pid"]).encode())
        subprocess_reader._stop()
        os._exit(0)
    os.waitpid(child, 0)
    assert int(os.read(readable, 100)) != first
    assert read_in_subprocess(arrays, file, seed=0)["facts"]["pid"] == first


def test_the_subprocess_exits_with_its_parent_even_while_it_reads(file):
    code = f"""
import sys, threading, time, os, signal
sys.path.insert(0, {str(Path(__file__).parent)!r})
import test_subprocess_reader
from pathlib import Path
from emg_lens.io import subprocess_reader
read = lambda: subprocess_reader.read_in_subprocess(test_subprocess_reader.hangs, Path({str(file)!r}))
threading.Thread(target=read, daemon=True).start()
while subprocess_reader._process is None:
    time.sleep(0.05)
print(subprocess_reader._process.pid, flush=True)
time.sleep(1)
os.kill(os.getpid(), signal.SIGKILL)
"""
    parent = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    child = int(parent.stdout)
    for _ in range(100):
        if not Path(f"/proc/{child}").exists():
            return
        time.sleep(0.1)
    pytest.fail("the subprocess still runs")


def test_after_a_large_file_the_subprocess_is_replaced(file, monkeypatch):
    monkeypatch.setattr(subprocess_reader, "LARGE_BYTES", file.stat().st_size - 1)
    first = read_in_subprocess(arrays, file, seed=1)
    assert subprocess_reader._process is None
    assert read_in_subprocess(arrays, file, seed=1).keys() == first.keys()


def test_the_file_reading_process_exits_cleanly_when_idle():
    """Python aborts if a thread still waits for input. A request at that moment was reported as a crash."""
    text = "from emg_lens.io import subprocess_reader as reader; reader.IDLE_SECONDS = 0.2; reader.serve()"
    with subprocess.Popen([sys.executable, "-c", text], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.wait(timeout=60) == 0
