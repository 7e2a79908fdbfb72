"""Lock files: one process at a time. The operating system releases a lock when its process ends."""

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from emg_lens.errors import EmgLensError
from emg_lens.io.files import write_text


class BusyError(EmgLensError, RuntimeError):
    """Another process holds the lock; the message names it."""


@contextmanager
def exclusive_lock(path: Path, instead: str = "wait until it is done", wait: float = 0) -> Iterator[str | None]:
    """Hold the lock of a file during the block. The file itself stays.

    Args:
        path: The file, in an existing folder.
        instead: What to do if another process holds the lock, for the message.
        wait: Seconds to wait for the other process, before going on without the lock; 0 = raise at once.

    Yields:
        None, or the reason why there is no lock: the file system has no locks, or the folder is read-only.

    Raises:
        BusyError: Another process holds the lock, and `wait` is 0.
    """
    lock = FileLock(path, timeout=wait, fallback_to_soft=False)
    holder = path.with_name(f"{path.name}-holder")
    try:
        lock.acquire()
    except Timeout:
        if wait:
            yield f"another process has held it for {wait:g} s"
            return
        who = holder.read_text(encoding="utf-8", errors="replace") if holder.is_file() else "another process"
        raise BusyError(f"{path.parent} is in use by {who}; {instead}") from None
    except OSError as error:
        yield str(error.strerror or error)
        return
    try:
        if not wait:  # with `wait`, no error names the holder
            with suppress(OSError):  # a full disk; the lock holds without it
                write_text(holder, f"process {os.getpid()} on {platform.node()}")
        yield None
    finally:
        lock.release()
