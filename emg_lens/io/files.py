"""Writing files and folders so that a reader, or a run that is killed, never meets half of one.

What is being written has a name of its own beside its place: host, process and chance are in it, so that writers of
the same file never meet, and what a dead one left is told from what a living one writes.
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

HOST = re.sub(r"\W", "_", platform.node())[:32]
ABANDONED_SECONDS = 3600
"""After so long without a change, what another machine has begun is taken for abandoned."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A new file beside `path` to write to; once the block has ended it is moved into place in one step.

    It is on the disk before it is moved, so that a power cut leaves the old file or the new one.
    """
    partial = _partial(path)
    try:
        yield partial
        _to_disk(partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A new folder beside `folder` to fill; once the block has ended it is moved into place in one step.

    Where `folder` is there by then, because another process was faster, that one stays.
    """
    partial = _partial(folder)
    partial.mkdir(parents=True)
    try:
        yield partial
        for file in partial.rglob("*"):
            if file.is_file():
                _to_disk(file)
        try:
            partial.rename(folder)
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def remove_abandoned(folder: Path) -> None:
    """Remove what writers that are dead have left half written in a folder."""
    for partial in folder.glob(".*.partial"):
        if _is_abandoned(partial):
            remove(partial)


def remove(path: Path) -> None:
    """Remove a file or a folder, if it is there."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes) -> None:
    """Write beside `path`, then move into place in one step."""
    with replacing(path) as partial:
        partial.write_bytes(content)


def write_text(path: Path, content: str) -> None:
    """As `write_bytes`, for UTF-8 text."""
    write_bytes(path, content.encode())


def _partial(path: Path) -> Path:
    return path.with_name(f".{path.name}.{HOST}.{os.getpid()}.{secrets.token_hex(4)}.partial")


def _is_abandoned(partial: Path) -> bool:
    found = re.search(r"\.(\w*)\.(\d+)\.[0-9a-f]{8}\.partial$", partial.name)
    if found is None:  # of a former version
        return True
    if found[1] == HOST:
        return int(found[2]) == os.getpid() or not psutil.pid_exists(int(found[2]))
    try:
        return time.time() - partial.stat().st_mtime > ABANDONED_SECONDS
    except FileNotFoundError:
        return False


def _to_disk(file: Path) -> None:
    with file.open("rb+") as opened:
        os.fsync(opened.fileno())
