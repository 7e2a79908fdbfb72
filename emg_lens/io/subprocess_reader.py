"""Read files with C libraries in a subprocess that has limits of memory and processor time.

If the library crashes, hangs or needs too much memory, the error here is one line. The process is started on first use
and reads one file after the other. It exits after some idle time, or when its parent has ended.
"""

import atexit
import importlib
import json
import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import psutil

from emg_lens.errors import EmgLensError
from emg_lens.memory import free_memory

Reader = Callable[..., Iterable[tuple[str, Any]]]
"""`reader(path, **arguments)`, a function at the top of a module, yields names, each with an array of numbers or a
plain value. It raises `ValueError` for an invalid file."""

BASE_BYTES, BYTES_PER_BYTE = 1 << 30, 100
"""Limit of memory, and the part of it per byte of the file: biosignals are compressed by a factor of 2 to 20."""
BASE_SECONDS, SECONDS_PER_BYTE = 10, 1 / 1e6
"""Limit of processor time, and the part of it per byte of the file: libraries read about 50 MB per second."""
IDLE_SECONDS = 30
LARGE_BYTES = 1 << 26
"""After a larger file the process ends: it would keep part of its memory while the arrays are used."""
NOT_NUMBERS = {"O": "cells or objects", "V": "structures", "c": "complex numbers", "U": "text", "S": "text"}
"""Kinds of numpy data types that are refused, in words."""


class UnreadableError(EmgLensError, ValueError):
    """The reason why a file could not be read. The caller adds the path."""


def read_in_subprocess(reader: Reader, path: Path, **arguments: Any) -> dict[str, Any]:
    """Call `reader(path, **arguments)` in the subprocess, and return what it yields as a dictionary.

    The arguments are values that JSON can hold. The arrays arrive in a temporary file: with a pipe, both processes
    would hold them at once.

    Raises:
        UnreadableError: The reader raised an error, the process ended, or it could not be started.
        OSError: There is no such file.
    """
    size = path.stat().st_size
    with _LOCK, TemporaryDirectory() as folder:
        parts = Path(folder, "parts")
        request = {
            "reader": [reader.__module__, reader.__qualname__],
            "path": str(path.absolute()),
            "arguments": arguments,
            "memory": min(BASE_BYTES + BYTES_PER_BYTE * size, free_memory()),
            "seconds": BASE_SECONDS + SECONDS_PER_BYTE * size,
            "parts": str(parts),
        }
        answer = _answer_to(request)
        if size > LARGE_BYTES:
            _stop()
        if "error" in answer:
            raise UnreadableError(answer["error"])
        try:
            with parts.open("rb") as file:
                return dict(pickle.load(file) for _ in range(answer["n_parts"]))
        except MemoryError:
            raise UnreadableError("its content does not fit into this process's memory") from None


# --- this process -----------------------------------------------------------------------------------------

_LOCK = threading.Lock()
_process: subprocess.Popen | None = None


def _answer_to(request: Mapping[str, Any], *, again: bool = True) -> dict[str, Any]:
    process = _running_process()
    assert process.stdin is not None and process.stdout is not None
    try:
        process.stdin.write(json.dumps(request).encode() + b"\n")
        process.stdin.flush()
        answer = process.stdout.readline()
    except BrokenPipeError:
        answer = b""
    except BaseException:  # Ctrl-C: the answer is not read
        _stop()
        raise
    if answer.endswith(b"\n"):
        return json.loads(answer)
    code = process.wait()
    if code == 0 and again:  # it had just exited after its idle time
        return _answer_to(request, again=False)
    if code == -getattr(signal, "SIGXCPU", 0):
        raise UnreadableError(f"reading took longer than {request['seconds']:.0f} s of processor time")
    if code >= 0:
        raise UnreadableError(f"the subprocess that reads it ended with exit code {code}")
    raise UnreadableError(f"the library that reads it crashed with signal {-code}")


def _running_process() -> subprocess.Popen:
    global _process
    if _process is None or _process.poll() is not None:
        _stop()
        paths = os.pathsep.join(path for path in sys.path if path)
        environment = {**os.environ, "PYTHONPATH": paths, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-P", "-c", f"from {__name__} import serve; serve()"]
        pipe, nowhere = subprocess.PIPE, subprocess.DEVNULL  # crashing libraries print on stderr
        try:
            _process = subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe, stderr=nowhere)
        except OSError as error:
            raise UnreadableError(f"no process can be started to read it: {error}") from None
    return _process


@atexit.register
def _stop() -> None:
    global _process
    if _process is not None:
        _process.kill()
        _process.wait()
        for pipe in (_process.stdin, _process.stdout):
            with suppress(OSError):
                pipe.close()  # pyright: ignore[reportOptionalMemberAccess]
        _process = None


def _forget() -> None:
    """In a forked process: do not use the pipes of the parent."""
    global _process, _LOCK
    _process, _LOCK = None, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


# --- the other process ------------------------------------------------------------------------------------


def serve() -> None:
    """Answer requests from standard input, until it closes or no request arrives within the idle time."""
    with os.fdopen(os.dup(1), "w") as answers, suppress(queue.Empty):
        os.dup2(2, 1)  # libraries may print to standard output
        requests: queue.Queue[bytes] = queue.Queue()
        threading.Thread(target=_listen, args=(requests,), daemon=True).start()
        while True:
            answer = _answer(json.loads(requests.get(timeout=IDLE_SECONDS)))
            print(json.dumps(answer), file=answers, flush=True)
    os._exit(0)  # a normal exit would wait for the listening thread, and abort


def _listen(requests: "queue.Queue[bytes]") -> None:
    for line in sys.stdin.buffer:
        requests.put(line)
    os._exit(0)  # the parent has ended


def _answer(request: Mapping[str, Any]) -> dict[str, Any]:
    """Write what the reader yields into the file of parts; return their number, or an error."""
    module, name = request["reader"]
    reader = getattr(importlib.import_module(module), name)
    _limit(request["memory"], request["seconds"])
    n_parts = 0
    try:
        with open(request["parts"], "wb") as file:
            for part, value in reader(Path(request["path"]), **request["arguments"]):
                if hasattr(value, "dtype"):  # an array, or a data set of an HDF5 file
                    if value.dtype.kind not in "biuf":
                        kind = NOT_NUMBERS.get(value.dtype.kind, value.dtype)
                        raise ValueError(f"{part} holds {kind}, expected numbers")
                    value = np.asarray(value)
                pickle.dump((part, value), file, protocol=5)
                n_parts += 1
                del value  # before the next part is read
        return {"n_parts": n_parts}
    except MemoryError:
        limit = f"{request['memory'] / 1e9:.1f} GB"
        return {"error": f"it needs more memory than {limit}, the limit for a file of its size"}
    except Exception as error:  # libraries raise many types for damaged files
        return {"error": str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__}


def _limit(n_bytes: int, seconds: float) -> None:
    """Limit memory and processor time, in addition to what is already used. Windows has no such limits."""
    try:
        import resource
    except ImportError:  # Windows
        return
    process = psutil.Process()
    used, spent = getattr(process.memory_info(), "data", 0), sum(process.cpu_times()[:2])
    for kind, limit in ((resource.RLIMIT_DATA, used + n_bytes), (resource.RLIMIT_CPU, spent + seconds + 1)):
        most = resource.getrlimit(kind)[1]
        with suppress(ValueError, OSError):  # a lower limit is already set
            resource.setrlimit(kind, (int(limit) if most < 0 else min(int(limit), most), most))
