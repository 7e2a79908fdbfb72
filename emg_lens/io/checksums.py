"""SHA-256 checksums: refuse a file that was changed after it was written.

A file of our own formats holds its checksum. A folder whose files have other formats (csv, files of several libraries)
lists their checksums in `checksums.json`.
"""

import hashlib
import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from emg_lens.errors import EmgLensError
from emg_lens.io.files import replacing
from emg_lens.io.hashing import content_hashes
from emg_lens.io.os_errors import check_regular, remedy

MARK = b"emg-lens-sha256:"
DIGITS = 64
PLACEHOLDER = (MARK + b"0" * DIGITS).decode()
"""The writer of a file puts this text into the metadata, once, within the first `HEAD` bytes."""
HEAD = 1 << 20
CHECKSUMS = "checksums.json"
"""The list of a folder: file name -> checksum. It also holds its own."""


class DamagedFileError(EmgLensError, ValueError):
    """A file that was changed after it was written."""


class UnreadableFileError(EmgLensError, RuntimeError):
    """A file that this user or process cannot read. Its content may be right."""


# --- one file that holds its checksum ---------------------------------------------------------------------


@contextmanager
def replacing_with_checksum(path: Path) -> Iterator[Path]:
    """Replace a file in one step, as `replacing` does, and insert the checksum first."""
    with replacing(path) as partial:
        yield partial
        insert_checksum(partial)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file that holds its checksum under the key `checksum`, in one step."""
    with replacing_with_checksum(path) as partial:
        partial.write_text(json.dumps({"checksum": PLACEHOLDER, **content}, indent=1), encoding="utf-8")


def read_json(path: Path) -> dict[str, Any]:
    """Read what `write_json` wrote.

    Raises:
        DamagedFileError: The file was changed, or it holds no checksum.
        OSError: The file cannot be read.
    """
    if not check_file(path):
        raise DamagedFileError(f"{path} was changed after it was written: its checksum is missing")
    content = json.loads(path.read_text(encoding="utf-8"))
    return {key: value for key, value in content.items() if key != "checksum"}


def insert_checksum(path: Path) -> None:
    """Replace the zeros of the placeholder by the checksum of the file with these zeros."""
    with path.open("rb+") as file:
        head = file.read(HEAD)
        if head.count(PLACEHOLDER.encode()) != 1:
            raise ValueError(f"{path} holds {head.count(PLACEHOLDER.encode())} placeholders for a checksum, expected 1")
        start = head.index(MARK) + len(MARK)
        file.seek(start)
        file.write(_checksum(path, start))


def check_file(path: Path) -> bool:
    """Check a file against the checksum that it holds; return whether it holds one. Files of other programs do not.

    Raises:
        DamagedFileError: The checksum does not belong to this content.
        OSError: The file cannot be read.
    """
    check_regular(path)
    with path.open("rb") as file:
        head = file.read(HEAD)
    if MARK not in head:
        return False
    start = head.index(MARK) + len(MARK)
    if head[start : start + DIGITS] != _checksum(path, start):
        raise DamagedFileError(f"{path} was changed after it was written: its checksum is wrong")
    return True


def _checksum(path: Path, start: int) -> bytes:
    """The checksum of a file with zeros in the place of the checksum, which begins at byte `start`."""
    with path.open("rb") as file:
        sha256 = hashlib.sha256(file.read(start))
        file.seek(start + DIGITS)
        sha256.update(b"0" * DIGITS)
        while block := file.read(HEAD):
            sha256.update(block)
    return sha256.hexdigest().encode()


# --- the files of a folder --------------------------------------------------------------------------------


def write_checksums(folder: Path, names: Iterable[str] | None = None, *, large: bool = False) -> None:
    """Write the checksums of files of a folder (default: all that are directly in it) into its list.

    With `large`, files that did not change since the last call are not read again (`content_hashes`).
    """
    if names is None:
        names = (path.name for path in folder.iterdir() if path.is_file() and path.name != CHECKSUMS)
    write_json(folder / CHECKSUMS, {"files": _checksums(folder, sorted(names), large)})


def check_checksums(
    folder: Path, names: Iterable[str] | None = None, *, large: bool = False, but: Collection[str] = ()
) -> None:
    """Check files of a folder (default: all that are listed) against its list; others and `but` are left out.

    Raises:
        DamagedFileError: A file is missing or was changed, or the list is missing or damaged.
        UnreadableFileError: A file or the list cannot be read for another reason, such as permissions.
    """
    try:
        listed = read_json(folder / CHECKSUMS)["files"]
        checked = [name for name in (listed if names is None else names) if name in listed and name not in but]
        for name, checksum in _checksums(folder, checked, large).items():
            if listed[name] != checksum:
                raise DamagedFileError(f"{folder / name} was changed after it was written: its checksum is wrong")
    except OSError as error:
        if advice := remedy(error, ""):
            raise UnreadableFileError(
                f"{error.filename or folder} cannot be read ({error.strerror}); {advice}"
            ) from None
        raise DamagedFileError(f"{folder} is damaged ({error})") from None


def _checksums(folder: Path, names: Iterable[str], large: bool) -> dict[str, str]:
    if large:
        return {path.name: checksum for path, checksum in content_hashes(folder / name for name in names).items()}
    checksums = {}
    for name in names:
        check_regular(folder / name)
        with (folder / name).open("rb") as file:
            checksums[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return checksums
