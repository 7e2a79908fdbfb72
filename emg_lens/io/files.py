"""Write files and folders in one step: a reader, or a killed run, never sees an incomplete one.

A file is written under a temporary name in the same folder, then renamed. The temporary name contains the host, the
process and a random part, so two writers of one file do not collide. It also shows whether the writer still runs.
"""

import errno
import os
import platform
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from emg_lens.errors import EmgLensError
from emg_lens.validation import short

HOST = re.sub(r"\W", "_", platform.node())[:32]
ABANDONED_SECONDS = 3600
"""A temporary file of another machine counts as abandoned after this time without a change."""


class NotAFileError(EmgLensError, RuntimeError):
    """A file cannot be written at this path: a pipe or a device has this name, or no file can have it."""


def check_replaceable(path: Path) -> None:
    """Check that a path is free, or belongs to a file (or to a folder, for which the operating system has an error).

    Raises:
        NotAFileError: It is a pipe or a device, or the operating system refuses such a path (a name that is too long).
    """
    try:
        exists = path.exists()
    except OSError as error:
        raise NotAFileError(f"{short(str(path))} cannot be a file: {error.strerror}; give another path") from None
    if exists and not (path.is_file() or path.is_dir()):
        raise NotAFileError(f"{path} is a pipe or a device; expected a file or a new name: give another path")


@contextmanager
def replacing(path: Path, flush: bool = True) -> Iterator[Path]:
    """Yield a temporary path in the folder of `path`; after the block, rename it to `path` in one step.

    With `flush`, the content is on the disk before the renaming, so a power cut leaves the old file or the new one. The
    file gets the permissions of the umask; some libraries write files that only their owner can read.

    Raises:
        NotAFileError: `path` is a pipe or a device, which stays as it is.
    """
    check_replaceable(path)
    partial = _partial(path)
    try:
        partial.touch()
        mode = partial.stat().st_mode
        yield partial
        partial.chmod(mode)
        if flush:
            _to_disk(partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder next to `folder`; after the block, rename it to `folder` in one step.

    If another process has made `folder` in the meantime, that one is kept.
    """
    partial = _partial(folder)
    partial.mkdir(parents=True)
    try:
        yield partial
        for file in partial.rglob("*"):
            if file.is_file():
                file.chmod(partial.stat().st_mode & 0o666)
                _to_disk(file)
        try:
            partial.rename(folder)
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def remove_abandoned(folder: Path) -> None:
    """Remove the temporary files in a folder that belong to processes that have ended."""
    for partial in folder.glob(".*.partial"):
        if _is_abandoned(partial):
            remove(partial)


def remove(path: Path) -> None:
    """Remove a file or a folder, if it exists."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file in one step."""
    with replacing(path) as partial:
        partial.write_bytes(content)


def write_text(path: Path, content: str) -> None:
    """Write a text file (UTF-8) in one step."""
    write_bytes(path, content.encode())


def _partial(path: Path) -> Path:
    return path.with_name(f".{path.name}.{HOST}.{os.getpid()}.{secrets.token_hex(4)}.partial")


def _is_abandoned(partial: Path) -> bool:
    writer = re.search(r"\.(\w*)\.(\d+)\.[0-9a-f]{8}\.partial$", partial.name)
    if writer is None:  # another program wrote it
        return False
    if writer[1] == HOST:
        return int(writer[2]) == os.getpid() or not psutil.pid_exists(int(writer[2]))
    try:
        return time.time() - partial.stat().st_mtime > ABANDONED_SECONDS
    except FileNotFoundError:
        return False


def _to_disk(file: Path) -> None:
    with file.open("rb+") as opened:
        os.fsync(opened.fileno())
