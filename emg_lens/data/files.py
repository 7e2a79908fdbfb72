"""Finding a data set's files: an index (subject -> files), and errors that say what was expected.

Loaders are read-only. They take the subject from the place of a file, never from scalars inside it.
"""

import hashlib
import os
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from emg_lens.data.recording import DataError
from emg_lens.io.hashing import content_hashes
from emg_lens.io.subprocess_reader import Reader, UnreadableError, read_apart

Index = Mapping[str, Sequence[Path]]
"""Files of each subject, subjects and files in natural order."""


def natural(text: str) -> tuple[tuple[int, int | str], ...]:
    """Sort key that puts `"S2"` before `"S10"`."""
    return tuple((0, int(part)) if part.isdecimal() else (1, part) for part in re.split(r"(\d+)", text) if part)


def check_folder(root: str | Path, expected: str) -> Path:
    """`root` as a path.

    Raises:
        DataError: It is no folder; `expected` says what the folder should hold.
    """
    folder = Path(root).expanduser()
    if not folder.is_dir():
        kind = "is a file, not a folder" if folder.exists() else "does not exist"
        raise DataError(f"{folder} {kind}; expected a folder with {expected}")
    return folder


def files_below(folder: Path) -> list[Path]:
    """All files below a folder, sorted; folders that are linked into it are searched too, but for circles."""
    found: list[Path] = []
    for place, folders, names in os.walk(folder, followlinks=True):
        here = Path(place).resolve()
        folders[:] = [name for name in folders if not here.is_relative_to((here / name).resolve())]
        found += [path for path in (Path(place, name) for name in names) if path.is_file()]
    return sorted(found)


def index_files(
    root: str | Path, pattern: re.Pattern, key: Callable[[re.Match, Path], tuple[str, str]], expected: str
) -> dict[str, list[Path]]:
    """Find the files below `root` whose name matches `pattern` (whole name), grouped by subject.

    Args:
        root: Folder, searched at every depth.
        pattern: Regular expression of the file name.
        key: Maps the match and the path to (subject, what the file is); the latter orders a subject's files
            and must be unique within the subject. An empty subject passes the file over.
        expected: The layout in words, for errors.

    Raises:
        DataError: No such folder, no matching file, or two files for the same thing.
    """
    folder = check_folder(root, expected)
    seen: dict[tuple[str, str], Path] = {}
    names = files_below(folder)
    for path in names:
        match = pattern.fullmatch(path.name)
        place = key(match, path) if match else ("", "")
        if not place[0]:
            continue
        if place in seen:
            raise DataError(f"two files for subject {place[0]}, {place[1]}: {seen[place]} and {path}; keep one")
        seen[place] = path
    if not seen:
        found = ", ".join(str(p.relative_to(folder)) for p in names[:3]) or "no file at all"
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        raise DataError(f"nothing to load in {folder}: expected {expected}; found {found}{more}")
    index: dict[str, list[Path]] = {}
    for place in sorted(seen, key=lambda p: (natural(p[0]), natural(p[1]))):
        index.setdefault(place[0], []).append(seen[place])
    return index


def select_subjects(index: Index, subjects: Iterable[str | int] | None) -> dict[str, Sequence[Path]]:
    """The part of an index that belongs to some subjects, in natural order; `None` = all.

    A subject is given by its name, or by the number in it (`3` or `"3"` for `"S3"`).

    Raises:
        DataError: A subject the index does not have; the message lists those it has.
    """
    if subjects is None:
        return dict(index)
    if isinstance(subjects, str | int):
        raise DataError(f"subjects must be a list such as [{subjects!r}], got {subjects!r}")
    wanted = set()
    for subject in subjects:
        same = [s for s in index if s == subject] or [s for s in index if _number(s) == _number(str(subject), True)]
        if len(same) != 1:
            raise DataError(f"unknown subject {subject!r}; known: {', '.join(index)}")
        wanted.add(same[0])
    if not wanted:
        raise DataError("subjects=[] selects nothing; leave it out to mean every subject")
    return {s: files for s, files in index.items() if s in wanted}


def check_choice(dataset: str, option: str, value: object, known: Collection[str]) -> None:
    """Refuse a loader's option that is none of its words.

    Raises:
        DataError: It is none.
    """
    if value not in known:
        raise DataError(f"{dataset}: {option} must be one of {', '.join(known)}, got {value!r}")


def check_choices(dataset: str, option: str, values: Sequence[str], known: Collection[str]) -> None:
    """Refuse a loader's option that is no list of its words.

    Raises:
        DataError: It is none, or empty.
    """
    if isinstance(values, str) or not values or any(value not in known for value in values):
        raise DataError(f"{dataset}: {option} must be a list out of {[*known]}, got {values!r}")


def read_parts(reader: Reader, path: Path, what: str, **arguments: Any) -> dict[str, Any]:
    """What a reader finds in a file, in a process of its own (`emg_lens.io.subprocess_reader`).

    Args:
        reader: Of `emg_lens.io.binary`.
        path: The file.
        what: What it should be, for the message: `"a MATLAB file"`.
        **arguments: The reader's.

    Raises:
        DataError: It cannot be read.
    """
    try:
        return read_apart(reader, path, **arguments)
    except (UnreadableError, OSError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise DataError(f"{path}: cannot be read as {what} ({reason}); is it complete?") from None


def listing_hash(name: str, folder: Path | None, index: Index) -> str:
    """Short hash of a data set's name and its files' names, relative to their folder, and contents.

    Raises:
        DataError: A file that cannot be read.
    """
    files = {file for files in index.values() for file in files} if folder else ()
    try:
        contents = content_hashes(sorted(files))
    except OSError as error:
        raise DataError(f"{error.filename}: cannot be read ({error.strerror}); is it still there?") from None
    lines = [f"{file.relative_to(folder)} {content}" for file, content in contents.items() if folder]
    return hashlib.sha256("\n".join([name, *sorted(lines)]).encode()).hexdigest()[:16]


def _number(text: str, digits_only: bool = False) -> int | str:
    """The one number in a subject's name; the name itself where there is none."""
    found = re.fullmatch(r"\d+" if digits_only else r"\D*\d+", text)
    return int(re.sub(r"\D", "", text)) if found else text
