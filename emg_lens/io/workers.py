"""Tasks in worker processes that end with the process that started them, whatever ends it."""

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
    """A worker process that was killed from outside."""


def parallel(jobs: int, tasks: Sequence[tuple[Callable, tuple]]) -> list:
    """Run the tasks; an error in one stops the run, after the finished ones are safe on disk.

    They run where joblib's active configuration says: on a cluster, in threads, or, by default, in processes here.

    Raises:
        WorkerError: A process was killed.
    """
    n_workers = min(jobs, max(len(tasks), 1))
    calls = [joblib.delayed(function)(*arguments) for function, arguments in tasks]
    if not isinstance(joblib.parallel.get_active_backend()[0], joblib.parallel.LokyBackend):
        return list(joblib.Parallel(n_workers)(calls) or [])
    own = {"initializer": end_with_parent, "initargs": (os.getpid(),)}
    answers: Any = None
    try:
        with warnings.catch_warnings():
            # Of a process that joblib has replaced, because it holds much memory: nothing is lost.
            warnings.filterwarnings("ignore", "A worker stopped while some jobs were given", UserWarning)
            with _ctrl_c_later():
                answers = joblib.Parallel(n_workers, return_as="generator", **own)(calls)
            return list(answers)
    except BrokenProcessPool:
        raise WorkerError(
            "a worker process was killed from outside (often: too little memory); finished fits are kept,"
            " run again with fewer --jobs"
        ) from None
    finally:
        if answers is not None:  # after Ctrl-C that waited nobody has listened yet: only this ends the workers
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "[0-9]+ tasks", UserWarning)  # which were cancelled: as was wanted
                answers.close()


def end_with_parent(parent: int) -> None:
    """What a worker does first: watch from now on that the process of this number lives. Ctrl-C is for that one."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_watch, args=(parent,), daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent and psutil.pid_exists(parent):  # Windows keeps the number of a parent that has ended
        time.sleep(WATCH_SECONDS)
    os._exit(1)


@contextmanager
def _ctrl_c_later() -> Iterator[None]:
    """Inside, Ctrl-C waits; processes that are started inside never hear of it, not even while they start.

    The mask is what they inherit. It does not keep Ctrl-C from this process: threads that began before do not have it.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    came: list[int] = []
    handler = signal.getsignal(signal.SIGINT)
    can_wait = callable(handler) and threading.current_thread() is threading.main_thread()
    resource_tracker.ensure_running()  # which lets Ctrl-C through again when it is started later
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
