"""Hashes of what files hold, remembered by size, times and inode, so that a large data set is read once."""

import hashlib
import json
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryFile

from emg_lens.io.files import write_text

MOST_REMEMBERED = 100_000


def content_hashes(paths: Iterable[Path]) -> dict[Path, str]:
    """A hash of each file's bytes.

    A file whose size, times of change and inode are those of the last call is not read again. Of the two times, whoever
    writes a file may set one to what it was (`cp -p`, archives); the system sets the other. What is remembered lies in
    the user's cache folder; where that cannot be read or written, files are read every time.

    Raises:
        OSError: A file cannot be read.
    """
    place = _place()
    known, found = _remembered(place), {}
    for path in paths:
        facts = path.stat()
        key, state = str(path.resolve()), [facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns, facts.st_ino]
        if known.get(key, [None])[:-1] != state:
            with path.open("rb") as file:
                known.pop(key, None)  # the newest stand last
                known[key] = [*state, hashlib.file_digest(file, "sha256").hexdigest()]
        found[path] = known[key][-1]
    if known != _remembered(place):
        with suppress(OSError):
            place.parent.mkdir(parents=True, exist_ok=True)
            write_text(place, json.dumps(dict(list(known.items())[-MOST_REMEMBERED:])))
    return found


def why_nothing_is_remembered() -> str | None:
    """Why every call of `content_hashes` will read whole files, for the user's eyes; None where they are remembered."""
    folder = _place().parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            return None
    except OSError as error:
        return (
            f"{folder} cannot be written to ({error.strerror}), so data files are read whole at every start; let"
            " XDG_CACHE_HOME name a folder that can"
        )


def _place() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "emg-lens" / "content_hashes.json"


def _remembered(place: Path) -> dict[str, list]:
    """What is remembered; nothing where the file holds something else."""
    try:
        known = json.loads(place.read_text(encoding="utf-8"))
        return {key: list(facts) for key, facts in known.items() if len(facts) == 5 and isinstance(facts[4], str)}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}
