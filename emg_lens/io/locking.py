"""One process at a time: locks that end with the process that holds them, however it ends."""

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from emg_lens.errors import EmgLensError
from emg_lens.io.files import write_text


class BusyError(EmgLensError, RuntimeError):
    """Another process holds the lock; the message says which."""


@contextmanager
def one_at_a_time(path: Path, instead: str = "wait until it is done", wait: float = 0) -> Iterator[str | None]:
    """Hold the lock of a file, which stays and may be left by anybody: the operating system knows who holds it.

    Args:
        path: The file, in a folder that exists.
        instead: What to do while another process holds the lock, for its message.
        wait: Seconds to wait for that process, and then to go on without the lock; 0: not at all.

    Yields:
        None, or why there is no lock: some file systems have none, or the folder is read-only.

    Raises:
        BusyError: Another process holds it, and nobody waits.
    """
    lock = FileLock(path, timeout=wait, fallback_to_soft=False)
    holder = path.with_name(f"{path.name}-holder")
    try:
        lock.acquire()
    except Timeout:
        if wait:
            yield f"another process has held it for {wait:g} s"
            return
        who = holder.read_text(encoding="utf-8") if holder.exists() else "another process"
        raise BusyError(f"{path.parent} is in use by {who}; {instead}") from None
    except OSError as error:
        yield str(error.strerror or error)
        return
    try:
        if not wait:  # nobody is sent away
            write_text(holder, f"process {os.getpid()} on {platform.node()}")
        yield None
    finally:
        lock.release()
