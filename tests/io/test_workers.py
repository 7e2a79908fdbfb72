"""Workers exit with the process that started them. A killed worker is an error of one line."""

import os
import signal
import subprocess
import sys
import time

import joblib
import psutil
import pytest

from emg_lens.io.workers import WATCH_SECONDS, WorkerError, parallel

PARENT = (
    "import os, time; from emg_lens.io.workers import parallel\n"
    "def work(i): os.write(1, b'%d\\n' % os.getpid()); time.sleep(60)\n"  # one write: two workers print at once
    "parallel(2, [(work, (i,)) for i in range(2)])"
)


@pytest.mark.parametrize(
    "number, group", [(signal.SIGKILL, False), (signal.SIGTERM, False), (signal.SIGKILL, True), (signal.SIGINT, True)]
)
def test_all_workers_exit_when_the_parent_ends(number, group):
    process = subprocess.Popen(
        [sys.executable, "-c", PARENT],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        text=True,
    )
    assert process.stdout is not None
    workers = [psutil.Process(int(process.stdout.readline())) for _ in range(2)]
    children = psutil.Process(process.pid).children(recursive=True)
    assert {w.pid for w in workers} <= {c.pid for c in children}
    (os.killpg if group else os.kill)(process.pid, number)
    printed = process.communicate(timeout=30)[1]
    _, alive = psutil.wait_procs(children, timeout=20 * WATCH_SECONDS)
    assert not alive
    assert printed.count("Traceback") <= (number == signal.SIGINT), "only the parent handles Ctrl-C"


SLOW_TO_START = (
    "import joblib, time; start = joblib.Parallel.__call__\n"
    "def slow(self, calls): answers = start(self, calls); time.sleep(2); return answers\n"
    f"joblib.Parallel.__call__ = slow\n{PARENT}"
)


def test_ctrl_c_during_the_start_stops_the_workers_too():
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW_TO_START], stdout=pipe, stderr=pipe, start_new_session=True, text=True
    )
    assert process.stdout is not None
    workers = [psutil.Process(int(process.stdout.readline())) for _ in range(2)]
    os.killpg(process.pid, signal.SIGINT)
    printed = process.communicate(timeout=30)[1]  # a task takes 60 seconds
    assert "KeyboardInterrupt" in printed and printed.count("Traceback") == 1
    assert not psutil.wait_procs(workers, timeout=20 * WATCH_SECONDS)[1]


def kill_myself():
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_worker_is_an_error_of_one_line():
    with pytest.raises(WorkerError, match="a worker process was killed from outside .* fewer --jobs"):
        parallel(2, [(kill_myself, ()), (time.sleep, (0.1,))])
    assert parallel(2, [(abs, (-i,)) for i in range(5)]) == list(range(5))


def test_tasks_run_on_the_backend_of_joblibs_configuration():
    with joblib.parallel_config(backend="threading"):
        assert parallel(2, [(os.getpid, ())] * 3) == [os.getpid()] * 3
    assert os.getpid() not in parallel(2, [(os.getpid, ())] * 3)
    assert parallel(1, [(os.getpid, ())] * 3) == [os.getpid()] * 3
    assert parallel(2, []) == []


def test_ctrl_c_does_not_reach_workers_even_while_they_start():
    blocked = (
        "import signal; from emg_lens.io.workers import parallel\n"
        "masked = (signal.pthread_sigmask, (signal.SIG_BLOCK, ()))\n"
        "print(*(signal.SIGINT in now for now in parallel(2, [masked] * 2)), masked[0](*masked[1]))"
    )
    printed = subprocess.run([sys.executable, "-c", blocked], capture_output=True, text=True, check=True).stdout
    assert printed == "True True set()\n"
