"""Reading files of C libraries in a process of its own, with as much memory and time as such a file can need.

What crashes, hangs or swells there is one line here. The process is started on first use, serves one file after the
other, and ends when it has had nothing to do for a while or its parent has ended.
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
"""A name, and an array of numbers, or something that JSON knows."""
Reader = Callable[..., Iterable[NamedPart]]
"""`reader(path, **arguments)`, a module's own function. It raises `ValueError` about what it does not like."""

LEAST_BYTES, BYTES_A_BYTE = 1 << 30, 100
"""Memory that reading may take, and what a byte of the file may add: biosignals are compressed 2 to 20 times."""
LEAST_SECONDS, SECONDS_A_BYTE = 10, 1 / 1e6
"""The same of processor time: libraries read some 50 MB a second."""
IDLE_SECONDS = 30
SLAB_BYTES = 1 << 26
LARGE_BYTES = 1 << 27
"""Larger arrays are handed over in a file on Linux: through a pipe, both processes would hold them at a time."""
NUMBERS = "biuf"
"""Kinds of numpy's types that are handed over."""


class UnreadableError(EmgLensError, ValueError):
    """Why a file could not be read; without its name, which the caller knows."""


def read_apart(reader: Reader, path: Path, **arguments: Any) -> dict[str, Any]:
    """What `reader(path, **arguments)` yields, read in another process.

    Args:
        reader: A function of a module, that can be imported there.
        path: The file.
        **arguments: What JSON knows.

    Raises:
        UnreadableError: What the reader raised, what became of the process, or why there is none.
        OSError: There is no such file.
    """
    size = path.stat().st_size
    request = {
        "reader": [reader.__module__, reader.__qualname__],
        "path": str(path.absolute()),
        "arguments": arguments,
        "memory": min(LEAST_BYTES + BYTES_A_BYTE * size, free_memory()),
        "seconds": LEAST_SECONDS + SECONDS_A_BYTE * size,
    }
    with _TURN:
        found = _asked(request)
        if size > SLAB_BYTES:
            _end()  # it would keep some of the memory that it took, beside those who work on what was read
        return found


def pieces(array: Any) -> Iterator[Shaped[np.ndarray, "..."]]:
    """An array, or a data set of an HDF5 file, in parts of some megabytes along its first axis, each C-contiguous."""
    rows = max(1, SLAB_BYTES // max(1, array.dtype.itemsize * int(np.prod(array.shape[1:]))))
    if not array.shape:
        yield np.ascontiguousarray(array[()])
        return
    for first in range(0, array.shape[0], rows):
        yield np.ascontiguousarray(array[first : first + rows])


# --- this process -----------------------------------------------------------------------------------------

_TURN = threading.Lock()
_process: subprocess.Popen | None = None


def _asked(request: Mapping[str, Any], *, again: bool = True) -> dict[str, Any]:
    process = _running()
    assert process.stdin is not None and process.stdout is not None
    try:
        process.stdin.write(json.dumps(request).encode() + b"\n")
        process.stdin.flush()
        return dict(_answers(process.stdout))  # pyright: ignore[reportArgumentType]
    except UnreadableError:
        raise
    except (EOFError, BrokenPipeError):
        code = process.wait()
        if code == 0 and again:  # it had just ended, with nothing to do
            return _asked(request, again=False)
        raise UnreadableError(_what_became(code, request)) from None
    except MemoryError:
        _end()
        raise UnreadableError("what is in it does not fit into this process's memory") from None
    except BaseException:  # Ctrl-C: the rest of the answer is of no use
        _end()
        raise


def _answers(stream: BinaryIO) -> Iterator[NamedPart]:
    while head := _head(stream):
        if "dtype" not in head:
            yield head["name"], head["value"]
            continue
        if "file" in head:
            array = np.fromfile(head["file"], head["dtype"]).reshape(head["shape"])
            yield head["name"], array.T if head["turned"] else array
            continue
        array = np.empty(head["shape"], head["dtype"])
        view = array.reshape(-1).view(np.uint8).data
        while view.nbytes:
            view = _filled(view, _head(stream)["bytes"], stream)
        yield head["name"], array.T if head["turned"] else array


def _head(stream: BinaryIO) -> dict[str, Any]:
    line = stream.readline()
    if not line.endswith(b"\n"):
        raise EOFError
    head = json.loads(line)
    if "error" in head:
        raise UnreadableError(head["error"])
    return head


def _filled(view: memoryview, n_bytes: int, stream: BinaryIO) -> memoryview:
    """Fill the first bytes; what is left to be filled."""
    rest = view[n_bytes:]
    view = view[:n_bytes]
    while view.nbytes:
        n = stream.readinto(view)  # pyright: ignore[reportAttributeAccessIssue]
        if not n:
            raise EOFError
        view = view[n:]
    return rest


def _running() -> subprocess.Popen:
    global _process
    if _process is None or _process.poll() is not None:
        _end()
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
def _end() -> None:
    global _process
    if _process is not None:
        _process.kill()
        _process.wait()
        for pipe in (_process.stdin, _process.stdout):
            with suppress(OSError):
                pipe.close()  # pyright: ignore[reportOptionalMemberAccess]
        _process = None


def _forget() -> None:
    """A process that was forked must not talk through its parent's pipes."""
    global _process, _TURN
    _process, _TURN = None, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


def _what_became(code: int, request: Mapping[str, Any]) -> str:
    import signal

    if code == -getattr(signal, "SIGXCPU", 0):
        return f"reading took longer than {request['seconds']:.0f} s of processor time"
    if code > 0:
        return f"the process that reads it ended with exit code {code}"
    return f"the library that reads it crashed with signal {-code}"


# --- the other process ------------------------------------------------------------------------------------


def serve() -> None:
    """Answer requests on standard input until it ends, or none comes for a while."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print is no answer
    requests: queue.Queue[bytes] = queue.Queue()
    threading.Thread(target=_listen, args=(requests,), daemon=True).start()
    with suppress(queue.Empty):
        while True:
            _serve_one(json.loads(requests.get(timeout=IDLE_SECONDS)), answers)
    os._exit(0)  # Python would wait for the thread that listens, and abort


def _listen(requests: "queue.Queue[bytes]") -> None:
    for line in sys.stdin.buffer:
        requests.put(line)
    os._exit(0)  # the parent has ended, whatever is being read


def _serve_one(request: Mapping[str, Any], answers: BinaryIO) -> None:
    module, name = request["reader"]
    reader = getattr(importlib.import_module(module), name)
    _HANDED_OVER.clear()
    _limit(request["memory"], request["seconds"])
    try:
        for part, value in reader(Path(request["path"]), **request["arguments"]):
            if hasattr(value, "dtype"):
                head = _send(answers, part, value)
                del value  # before the other process takes a large one
                if "file" in head:
                    _tell(answers, head)
            else:
                _tell(answers, {"name": part, "value": value})
        end: dict[str, str] = {}
    except MemoryError:
        end = {"error": f"it needs more memory than the {request['memory'] / 1e9:.1f} GB a file of its size may take"}
    except Exception as error:  # libraries raise a dozen kinds on damaged files
        end = {"error": str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__}
    _tell(answers, end)


_HANDED_OVER: list[Any] = []
"""Files without a name, open until the next request: by then they are read."""


def _send(answers: BinaryIO, name: str, array: Any) -> dict[str, Any]:
    """Send an array; a large one, of which the answer tells the file, is not told of yet."""
    if array.dtype.kind not in NUMBERS:
        raise ValueError(f"{name} holds {_kind(array.dtype)}, expected numbers")
    turned = isinstance(array, np.ndarray) and array.flags.f_contiguous and not array.flags.c_contiguous
    array = array.T if turned else array
    head = {"name": name, "dtype": array.dtype.str, "shape": array.shape, "turned": turned}
    if array.size * array.dtype.itemsize > LARGE_BYTES and sys.platform == "linux":
        _HANDED_OVER.append(tempfile.TemporaryFile())  # noqa: SIM115 - it stays open
        for piece in pieces(array):
            piece.tofile(_HANDED_OVER[-1])
        return head | {"file": f"/proc/{os.getpid()}/fd/{_HANDED_OVER[-1].fileno()}"}
    _tell(answers, head)
    for piece in pieces(array):
        if piece.nbytes:
            _tell(answers, {"bytes": piece.nbytes})
            answers.write(piece.reshape(-1).view(np.uint8).data)
    return head


def _tell(answers: BinaryIO, head: Mapping[str, Any]) -> None:
    answers.write(json.dumps(head).encode() + b"\n")
    answers.flush()


def _limit(n_bytes: int, seconds: float) -> None:
    """Of memory and processor time, beside what is in use; where the system knows such limits."""
    try:
        import resource
    except ImportError:  # Windows
        return
    process = psutil.Process()
    used, spent = getattr(process.memory_info(), "data", 0), sum(process.cpu_times()[:2])
    for kind, limit in ((resource.RLIMIT_DATA, used + n_bytes), (resource.RLIMIT_CPU, spent + seconds + 1)):
        most = resource.getrlimit(kind)[1]
        with suppress(ValueError, OSError):  # a lower limit is in force
            resource.setrlimit(kind, (int(limit) if most < 0 else min(int(limit), most), most))


def _kind(dtype: np.dtype) -> str:
    kinds = {"O": "cells or objects", "V": "structures", "c": "complex numbers", "U": "text", "S": "text"}
    return kinds.get(dtype.kind, str(dtype))
