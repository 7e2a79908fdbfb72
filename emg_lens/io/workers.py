"""Run tasks in worker processes, which exit when the process that started them ends for any reason."""

import os
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import resource_tracker
from typing import Any

import joblib
import psutil
from joblib.externals.loky.process_executor import BrokenProcessPool

from emg_lens.errors import EmgLensError

WATCH_SECONDS = 0.5


class WorkerError(EmgLensError, RuntimeError):
    """A worker process was killed from outside."""


def parallel(jobs: int, tasks: Sequence[tuple[Callable, tuple]]) -> list:
    """Run tasks in parallel and return their results. An error in one task stops the others.

    The backend is set by joblib's active configuration: a cluster, threads, or by default processes on this machine.

    Args:
        jobs: Number of tasks at a time.
        tasks: A function and its arguments, for each task.

    Raises:
        WorkerError: A worker process was killed.
    """
    n_workers = min(jobs, max(len(tasks), 1))
    calls = [joblib.delayed(function)(*arguments) for function, arguments in tasks]
    if not isinstance(joblib.parallel.get_active_backend()[0], joblib.parallel.LokyBackend):
        return list(joblib.Parallel(n_workers)(calls) or [])
    own = {"initializer": exit_with_parent, "initargs": (os.getpid(),)}
    answers: Any = None
    try:
        with warnings.catch_warnings():
            # joblib replaces a process that holds much memory, and warns; no task is lost.
            warnings.filterwarnings("ignore", "A worker stopped while some jobs were given", UserWarning)
            with _ctrl_c_deferred():
                answers = joblib.Parallel(n_workers, return_as="generator", **own)(calls)
            return list(answers)
    except BrokenProcessPool:
        raise WorkerError(
            "a worker process was killed from outside (often because of too little memory); finished fits are kept;"
            " run again with fewer --jobs"
        ) from None
    finally:
        if answers is not None:  # after a deferred Ctrl-C, only this stops the workers
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "[0-9]+ tasks", UserWarning)  # were cancelled, as intended
                answers.close()


def exit_with_parent(parent: int) -> None:
    """Initialise a worker: exit when the process with this number ends. Ctrl-C is handled by that process only."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_watch, args=(parent,), daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent and psutil.pid_exists(parent):  # on Windows, getppid does not change
        time.sleep(WATCH_SECONDS)
    os._exit(1)


@contextmanager
def _ctrl_c_deferred() -> Iterator[None]:
    """Inside, Ctrl-C is deferred to the end of the block. Processes that are started inside never receive it.

    They inherit the signal mask. The mask does not block Ctrl-C in this process, because older threads do not have it.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    came: list[int] = []
    handler = signal.getsignal(signal.SIGINT)
    can_wait = callable(handler) and threading.current_thread() is threading.main_thread()
    resource_tracker.ensure_running()  # if it were started later, it would unblock Ctrl-C
    if can_wait:
        signal.signal(signal.SIGINT, lambda number, _: came.append(number))
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        if can_wait:
            signal.signal(signal.SIGINT, handler)
    if came and callable(handler):
        handler(signal.SIGINT, None)
