"""Read files with C libraries in a subprocess that has limits of memory and processor time.

If the library crashes, hangs or needs too much memory, the error here is one line. The process is started on first use
and reads one file after the other. It exits after some idle time, or when its parent has ended.
"""

import atexit
import importlib
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import psutil
from jaxtyping import Shaped

from emg_lens.errors import EmgLensError
from emg_lens.memory import free_memory

NamedPart = tuple[str, Any]
"""A name, and an array of numbers or a value that JSON can hold."""
Reader = Callable[..., Iterable[NamedPart]]
"""`reader(path, **arguments)`, a function at the top of a module. It raises `ValueError` for an invalid file."""

BASE_BYTES, BYTES_PER_BYTE = 1 << 30, 100
"""Limit of memory, and the part of it per byte of the file: biosignals are compressed by a factor of 2 to 20."""
BASE_SECONDS, SECONDS_PER_BYTE = 10, 1 / 1e6
"""Limit of processor time, and the part of it per byte of the file: libraries read about 50 MB per second."""
IDLE_SECONDS = 30
SLAB_BYTES = 1 << 26
LARGE_BYTES = 1 << 27
"""On Linux, larger arrays are sent in a temporary file: with a pipe, both processes would hold them at once."""
NUMBERS = "biuf"
"""Kinds of numpy data types that can be sent."""


class UnreadableError(EmgLensError, ValueError):
    """The reason why a file could not be read. The caller adds the path."""


def read_in_subprocess(reader: Reader, path: Path, **arguments: Any) -> dict[str, Any]:
    """Call `reader(path, **arguments)` in the subprocess, and return what it yields as a dictionary.

    Args:
        reader: A function at the top of a module.
        path: The file.
        **arguments: Values that JSON can hold.

    Raises:
        UnreadableError: The reader raised an error, the process ended, or it could not be started.
        OSError: There is no such file.
    """
    size = path.stat().st_size
    request = {
        "reader": [reader.__module__, reader.__qualname__],
        "path": str(path.absolute()),
        "arguments": arguments,
        "memory": min(BASE_BYTES + BYTES_PER_BYTE * size, free_memory()),
        "seconds": BASE_SECONDS + SECONDS_PER_BYTE * size,
    }
    with _LOCK:
        parts = _answer_to(request)
        if size > SLAB_BYTES:
            _stop()  # it would keep part of its memory while this process works with the arrays
        return parts


def pieces(array: Any) -> Iterator[Shaped[np.ndarray, "..."]]:
    """Split an array or an HDF5 data set along its first axis into C-contiguous parts of at most some megabytes."""
    rows = max(1, SLAB_BYTES // max(1, array.dtype.itemsize * int(np.prod(array.shape[1:]))))
    if not array.shape:
        yield np.ascontiguousarray(array[()])
        return
    for first in range(0, array.shape[0], rows):
        yield np.ascontiguousarray(array[first : first + rows])


# --- this process -----------------------------------------------------------------------------------------

_LOCK = threading.Lock()
_process: subprocess.Popen | None = None


def _answer_to(request: Mapping[str, Any], *, again: bool = True) -> dict[str, Any]:
    process = _running_process()
    assert process.stdin is not None and process.stdout is not None
    try:
        process.stdin.write(json.dumps(request).encode() + b"\n")
        process.stdin.flush()
        return dict(_received(process.stdout))  # pyright: ignore[reportArgumentType]
    except UnreadableError:
        raise
    except (EOFError, BrokenPipeError):
        code = process.wait()
        if code == 0 and again:  # it had just exited after its idle time
            return _answer_to(request, again=False)
        raise UnreadableError(_reason_of_exit(code, request)) from None
    except MemoryError:
        _stop()
        raise UnreadableError("its content does not fit into this process's memory") from None
    except BaseException:  # Ctrl-C: the rest of the answer is not read
        _stop()
        raise


def _received(stream: BinaryIO) -> Iterator[NamedPart]:
    while head := _head(stream):
        if "dtype" not in head:
            yield head["name"], head["value"]
            continue
        if "file" in head:
            array = np.fromfile(head["file"], head["dtype"]).reshape(head["shape"])
            yield head["name"], array.T if head["transposed"] else array
            continue
        array = np.empty(head["shape"], head["dtype"])
        view = array.reshape(-1).view(np.uint8).data
        while view.nbytes:
            view = _fill(view, _head(stream)["bytes"], stream)
        yield head["name"], array.T if head["transposed"] else array


def _head(stream: BinaryIO) -> dict[str, Any]:
    line = stream.readline()
    if not line.endswith(b"\n"):
        raise EOFError
    head = json.loads(line)
    if "error" in head:
        raise UnreadableError(head["error"])
    return head


def _fill(view: memoryview, n_bytes: int, stream: BinaryIO) -> memoryview:
    """Fill the first bytes from the stream, and return the part that is not filled yet."""
    rest = view[n_bytes:]
    view = view[:n_bytes]
    while view.nbytes:
        n = stream.readinto(view)  # pyright: ignore[reportAttributeAccessIssue]
        if not n:
            raise EOFError
        view = view[n:]
    return rest


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


def _reason_of_exit(code: int, request: Mapping[str, Any]) -> str:
    import signal

    if code == -getattr(signal, "SIGXCPU", 0):
        return f"reading took longer than {request['seconds']:.0f} s of processor time"
    if code > 0:
        return f"the subprocess that reads it ended with exit code {code}"
    return f"the library that reads it crashed with signal {-code}"


# --- the other process ------------------------------------------------------------------------------------


def serve() -> None:
    """Answer requests from standard input, until it closes or no request arrives within the idle time."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # libraries may print to standard output
    requests: queue.Queue[bytes] = queue.Queue()
    threading.Thread(target=_listen, args=(requests,), daemon=True).start()
    with suppress(queue.Empty):
        while True:
            _serve_one(json.loads(requests.get(timeout=IDLE_SECONDS)), answers)
    os._exit(0)  # a normal exit would wait for the listening thread, and abort


def _listen(requests: "queue.Queue[bytes]") -> None:
    for line in sys.stdin.buffer:
        requests.put(line)
    os._exit(0)  # the parent has ended


def _serve_one(request: Mapping[str, Any], answers: BinaryIO) -> None:
    module, name = request["reader"]
    reader = getattr(importlib.import_module(module), name)
    _SENT_FILES.clear()
    _limit(request["memory"], request["seconds"])
    try:
        for part, value in reader(Path(request["path"]), **request["arguments"]):
            if hasattr(value, "dtype"):
                head = _send(answers, part, value)
                del value  # before the other process reads a large array
                if "file" in head:
                    _send_head(answers, head)
            else:
                _send_head(answers, {"name": part, "value": value})
        end: dict[str, str] = {}
    except MemoryError:
        end = {"error": f"it needs more memory than {request['memory'] / 1e9:.1f} GB, the limit for a file of its size"}
    except Exception as error:  # libraries raise many types for damaged files
        end = {"error": str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__}
    _send_head(answers, end)


_SENT_FILES: list[Any] = []
"""Temporary files with large arrays. They stay open until the next request, when the parent has read them."""


def _send(answers: BinaryIO, name: str, array: Any) -> dict[str, Any]:
    """Send an array, or write a large one to a file; the caller then sends the header with the file name."""
    if array.dtype.kind not in NUMBERS:
        raise ValueError(f"{name} holds {_kind(array.dtype)}, expected numbers")
    transposed = isinstance(array, np.ndarray) and array.flags.f_contiguous and not array.flags.c_contiguous
    array = array.T if transposed else array
    head = {"name": name, "dtype": array.dtype.str, "shape": array.shape, "transposed": transposed}
    if array.size * array.dtype.itemsize > LARGE_BYTES and sys.platform == "linux":
        _SENT_FILES.append(tempfile.TemporaryFile())  # noqa: SIM115 - it stays open
        for piece in pieces(array):
            piece.tofile(_SENT_FILES[-1])
        return head | {"file": f"/proc/{os.getpid()}/fd/{_SENT_FILES[-1].fileno()}"}
    _send_head(answers, head)
    for piece in pieces(array):
        if piece.nbytes:
            _send_head(answers, {"bytes": piece.nbytes})
            answers.write(piece.reshape(-1).view(np.uint8).data)
    return head


def _send_head(answers: BinaryIO, head: Mapping[str, Any]) -> None:
    answers.write(json.dumps(head).encode() + b"\n")
    answers.flush()


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


def _kind(dtype: np.dtype) -> str:
    kinds = {"O": "cells or objects", "V": "structures", "c": "complex numbers", "U": "text", "S": "text"}
    return kinds.get(dtype.kind, str(dtype))
