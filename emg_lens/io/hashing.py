"""Hashes of files, kept in a cache, so that a large data set is read only once."""

import hashlib
import json
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryFile

from emg_lens.io.files import write_text

MOST_CACHED = 100_000
"""Largest number of files in the cache."""


def content_hashes(paths: Iterable[Path]) -> dict[Path, str]:
    """Return the SHA-256 of each file.

    A file is read again only if its size, its modification or change time, or its inode differs from the last call. A
    program can set the modification time back (`cp -p`, archives), but not the change time. The cache is in the user's
    cache folder. If that cannot be used, files are read every time.

    Raises:
        OSError: A file cannot be read.
    """
    cache_file = _cache_file()
    cache, hashes = _cached(cache_file), {}
    for path in paths:
        stat = path.stat()
        key, state = str(path.resolve()), [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]
        if cache.get(key, [None])[:-1] != state:
            with path.open("rb") as file:
                cache.pop(key, None)  # the newest entries come last
                cache[key] = [*state, hashlib.file_digest(file, "sha256").hexdigest()]
        hashes[path] = cache[key][-1]
    if cache_file is not None and cache != _cached(cache_file):
        with suppress(OSError):
            cache_file.parent.mkdir(parents=True, exist_ok=True)
            write_text(cache_file, json.dumps(dict(list(cache.items())[-MOST_CACHED:])))
    return hashes


def why_not_cached() -> str | None:
    """Return the reason why `content_hashes` cannot use its cache, as a note for the user; None if it can."""
    cache_file, reason = _cache_file(), "this user has no home folder"
    try:
        if cache_file is not None:
            cache_file.parent.mkdir(parents=True, exist_ok=True)
            with TemporaryFile(dir=cache_file.parent):
                return None
    except OSError as error:
        reason = f"{cache_file.parent} cannot be written to ({error.strerror})"  # pyright: ignore[reportOptionalMemberAccess]
    return f"{reason}, so all data files are read at every start; set XDG_CACHE_HOME to a folder that can be written to"


def _cache_file() -> Path | None:
    """The file of the cache; None if the user has no home folder, and no other folder is set."""
    try:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    except RuntimeError:
        return None
    return folder / "emg-lens" / "content_hashes.json"


def _cached(cache_file: Path | None) -> dict[str, list]:
    """The content of the cache; empty if there is none, or the file is damaged."""
    if cache_file is None:
        return {}
    try:
        cache = json.loads(cache_file.read_text(encoding="utf-8"))
        return {key: list(entry) for key, entry in cache.items() if len(entry) == 5 and isinstance(entry[4], str)}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}
