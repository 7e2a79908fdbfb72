"""Find a data set's files: an index (subject -> files), and errors that state the expected files.

Loaders only read. They take the subject from the path of a file, never from values inside the file.
"""

import hashlib
import os
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from stat import S_ISREG
from typing import Any, TypeVar

from emg_lens.data.recording import DataError
from emg_lens.io.hashing import content_hashes
from emg_lens.io.subprocess_reader import Reader, UnreadableError, read_in_subprocess
from emg_lens.validation import ArgumentError, SpecModel

Fields = TypeVar("Fields", bound=SpecModel)
Index = Mapping[str, Sequence[Path]]
"""Files of each subject; subjects and files are in natural order."""
OF_FILE_SYSTEM = "lost+found"
"""Folder that belongs to the file system of a disk, and that only root may read."""


def natural_key(text: str) -> tuple[tuple[int, int | str], ...]:
    """Sort key that puts `"S2"` before `"S10"`."""
    return tuple((0, int(part)) if part.isdecimal() else (1, part) for part in re.split(r"(\d+)", text) if part)


def existing_folder(root: str | Path, expected: str) -> Path:
    """Return `root` as a path; raise an error that lists the `expected` files if it is not a folder."""
    folder = Path(root).expanduser()
    try:
        if folder.is_dir():
            os.stat(os.path.join(folder, os.curdir))  # raises if its files cannot be opened
            return folder
        kind = "is a file, not a folder" if folder.exists() else "does not exist"
    except OSError as error:
        kind = f"cannot be read ({error.strerror})"
    raise DataError(f"{folder} {kind}; expected a folder with {expected}")


def regular_file(path: Path) -> Path:
    """Return the path of a file; raise `DataError` for a pipe, a device, a broken link, or a file out of reach."""
    try:
        if S_ISREG(path.stat().st_mode):
            return path
        reason = "is not a file but a pipe or device; remove it, or put the file in its place"
    except FileNotFoundError:
        what = "a link to a file that does not exist" if path.is_symlink() else "no such file"
        reason = f"is {what}; remove the link, or restore the file" if path.is_symlink() else what
    except OSError as error:
        reason = f"cannot be read ({error.strerror})"
    raise DataError(f"{path}: {reason}")


def files_below(folder: Path) -> list[Path]:
    """List what a folder holds except folders, at any depth, sorted; each link to a folder is followed once.

    Pipes and broken links are listed too: what a loader wants to read goes through `regular_file`.
    """
    files: list[Path] = []
    left, followed = [folder], set()
    while left:
        for place, folders, names in os.walk(left.pop(0), onerror=_refuse_folder):
            files += [Path(place, name) for name in names]
            folders[:] = sorted(name for name in folders if name != OF_FILE_SYSTEM)
            try:
                links = [path for path in (Path(place, name) for name in folders) if path.is_symlink()]
                for link, facts in [(link, link.lstat()) for link in links]:
                    inside = Path(place).resolve().is_relative_to(link.resolve())
                    if (facts.st_dev, facts.st_ino) not in followed and not inside:
                        left.append(link)
                    followed.add((facts.st_dev, facts.st_ino))
            except OSError as error:
                _refuse_folder(error)
    return sorted(files)


def _refuse_folder(error: OSError) -> None:
    """Raise the error of a folder that cannot be listed: its files would be left out in silence."""
    raise DataError(f"{error.filename}: cannot be read ({error.strerror}); give read permission, or move it away")


def index_files(
    root: str | Path, pattern: re.Pattern, key: Callable[[re.Match, Path], tuple[str, str]], expected: str
) -> dict[str, list[Path]]:
    """Find the files in a folder whose names match a pattern, grouped by subject.

    Args:
        root: Folder, searched at any depth.
        pattern: Regular expression of the whole file name.
        key: Maps the match and the path to (subject, kind of file). The kind orders a subject's files and must be
            unique within the subject. The file is ignored if the subject is empty.
        expected: The expected files in words, for errors.
    """
    folder = existing_folder(root, expected)
    files: dict[tuple[str, str], Path] = {}
    names = files_below(folder)
    for path in names:
        match = pattern.fullmatch(path.name)
        place = key(match, path) if match else ("", "")
        if not place[0]:
            continue
        regular_file(path)
        if place in files and files[place].samefile(path):  # through a link
            continue
        if place in files:
            raise DataError(f"two files for subject {place[0]}, {place[1]}: {files[place]} and {path}; keep one")
        files[place] = path
    if not files:
        present = ", ".join(str(p.relative_to(folder)) for p in names[:3]) or "no file"
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        raise DataError(f"nothing to load in {folder}: expected {expected}; found {present}{more}")
    index: dict[str, list[Path]] = {}
    for place in sorted(files, key=lambda p: (natural_key(p[0]), natural_key(p[1]))):
        index.setdefault(place[0], []).append(files[place])
    return index


def select_subjects(index: Index, subjects: Iterable[str | int] | None) -> dict[str, Sequence[Path]]:
    """Select subjects from an index, in natural order; `None` = all.

    A subject is given by its name, or by the number in its name (`3` or `"3"` for `"S3"`).
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
        raise DataError("subjects=[] selects no subject; leave it out to select all")
    return {s: files for s, files in index.items() if s in wanted}


def check_choice(dataset: str, option: str, value: object, known: Collection[str]) -> None:
    """Raise `DataError` unless a loader's option has one of the known values."""
    if value not in known:
        raise DataError(f"{dataset}: {option} must be one of {', '.join(known)}, got {value!r}")


def check_choices(dataset: str, option: str, values: Sequence[str], known: Collection[str]) -> None:
    """Raise `DataError` unless a loader's option is a list of known values."""
    if isinstance(values, str) or not values or any(value not in known for value in values):
        raise DataError(f"{dataset}: {option} must be a list of values from {[*known]}, got {values!r}")


def read_option(option: str, given: object, kind: type[Fields]) -> Fields:
    """Read a loader's option that has fields; None = all defaults. Raise `DataError` if it is invalid."""
    try:
        return kind.from_content({} if given is None else given)
    except ArgumentError as error:
        raise DataError(f"{option}: {error}") from None


def read_parts(reader: Reader, path: Path, what: str, **arguments: Any) -> dict[str, Any]:
    """Read parts of a file with a function of `emg_lens.io.binary`; `what` is for messages: `"a MATLAB file"`."""
    try:
        return read_in_subprocess(reader, path, **arguments)
    except (UnreadableError, OSError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise DataError(f"{path}: cannot be read as {what} ({reason}); is it complete?") from None


def hashes_of_data(files: Iterable[Path]) -> dict[Path, str]:
    """Return `content_hashes` of files of data."""
    try:
        return content_hashes(files)
    except OSError as error:
        raise DataError(f"{error.filename}: cannot be read ({error.strerror}); is it still there?") from None


def listing_hash(name: str, folder: Path | None, index: Index) -> str:
    """Return a short hash of a data set's name, and of its files' contents and names relative to their folder."""
    contents = hashes_of_data(sorted({file for files in index.values() for file in files} if folder else ()))
    lines = [
        f"{file.relative_to(folder) if file.is_relative_to(folder) else file.name} {content}"  # a description elsewhere
        for file, content in contents.items()
        if folder
    ]
    return hashlib.sha256("\n".join([name, *sorted(lines)]).encode()).hexdigest()[:16]


def _number(text: str, digits_only: bool = False) -> int | str:
    """The number in a subject's name; the name itself if it contains no number or several."""
    has_number = re.fullmatch(r"\d+" if digits_only else r"\D*\d+", text)
    return int(re.sub(r"\D", "", text)) if has_number else text
