"""The checksums of a folder's files, in a file of its own: for text, and files of several libraries."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

from emg_lens.io.files import write_text
from emg_lens.io.seals import DamagedFileError

MANIFEST = "checksums.json"


def write_manifest(folder: Path, names: Iterable[str] | None = None) -> None:
    """Note what files hold now: those named, or all that lie in the folder."""
    every = (path.name for path in folder.iterdir() if path.is_file() and path.name != MANIFEST)
    found = {name: _sha256(folder / name) for name in sorted(every if names is None else names)}
    write_text(folder / MANIFEST, json.dumps(found, indent=1))


def check_manifest(folder: Path, names: Iterable[str] | None = None) -> None:
    """Check files, those named or all that were noted; a folder of a former version has no notes.

    Raises:
        DamagedFileError: A file is missing or does not hold what was written, or the notes cannot be read.
    """
    place = folder / MANIFEST
    if not place.exists():
        return
    try:
        known = json.loads(place.read_text(encoding="utf-8"))
        for name in known if names is None else [name for name in names if name in known]:
            if known[name] != _sha256(folder / name):
                raise DamagedFileError(f"{folder / name} was changed after it was written: its checksum is wrong")
    except (OSError, ValueError, TypeError, RecursionError) as error:
        if isinstance(error, DamagedFileError):
            raise
        raise DamagedFileError(f"{folder} is damaged ({error})") from None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
