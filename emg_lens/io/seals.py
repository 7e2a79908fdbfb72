"""A checksum inside a file of our own formats, over every byte of it: what was changed on its way is refused.

The writer puts `BLANK` into the file's metadata, and `seal` replaces its zeros by the SHA-256 of the file as it was
with them. No reader of the format needs to know; `check_seal` does, before another library reads the file.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from emg_lens.errors import EmgLensError
from emg_lens.io.files import replacing

MARK = b"emg-lens-sha256:"
DIGITS = 64
BLANK = (MARK + b"0" * DIGITS).decode()
"""What a file's metadata must hold, once, among the first `HEAD` bytes."""
HEAD = 1 << 20


class DamagedFileError(EmgLensError, ValueError):
    """A file whose bytes are not those that were written."""


@contextmanager
def sealing(path: Path) -> Iterator[Path]:
    """As `replacing`; the new file gets its checksum before it is moved into place."""
    with replacing(path) as partial:
        yield partial
        seal(partial)


def write_sealed(path: Path, text: str) -> None:
    """Write a text that holds `BLANK`, with its checksum, in one step."""
    with sealing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def seal(path: Path) -> None:
    """Put the checksum of a file that was just written into it.

    Raises:
        ValueError: The file holds no `BLANK`, or several.
    """
    with path.open("rb+") as file:
        head = file.read(HEAD)
        if head.count(BLANK.encode()) != 1:
            raise ValueError(f"{path} holds {head.count(BLANK.encode())} places for a checksum, expected 1")
        start = head.index(MARK) + len(MARK)
        file.seek(start)
        file.write(_checksum(path, start))


def check_seal(path: Path) -> bool:
    """Whether a file carries a checksum; one of other people, or of a former version, has none.

    Raises:
        DamagedFileError: The checksum is not that of the file.
        OSError: It cannot be read.
    """
    with path.open("rb") as file:
        head = file.read(HEAD)
    if MARK not in head:
        return False
    start = head.index(MARK) + len(MARK)
    if head[start : start + DIGITS] != _checksum(path, start):
        raise DamagedFileError(f"{path} was changed after it was written: its checksum is wrong; make it again")
    return True


def _checksum(path: Path, start: int) -> bytes:
    """Of the file with zeros from `start` on, where the checksum stands."""
    with path.open("rb") as file:
        whole = hashlib.sha256(file.read(start))
        file.seek(start + DIGITS)
        whole.update(b"0" * DIGITS)
        while block := file.read(HEAD):
            whole.update(block)
    return whole.hexdigest().encode()
