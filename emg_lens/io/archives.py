"""Zip archives of a folder: packed with the same bytes each time, and unpacked only if they are safe and complete.

The folder lists its files in `checksums.json`. An archive with other files, links, paths that lead out of the folder,
or far more content than its size suggests is refused, and nothing of it stays on the disk.
"""

import shutil
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from emg_lens.errors import EmgLensError
from emg_lens.io.checksums import CHECKSUMS, DamagedFileError, check_checksums, read_json, write_checksums
from emg_lens.io.files import new_folder, replacing
from emg_lens.io.os_errors import check_regular, remedy

SUFFIX = ".zip"
EPOCH = (1980, 1, 1, 0, 0, 0)
"""Time of every file in an archive."""
MOST_FILES = 200_000
LARGE = 1 << 30
MOST_RATIO = 200
"""Content above `LARGE` bytes may be so many times larger than the archive; tables shrink to about a third."""
LONGEST_PART, DEEPEST = 200, 12
_FORBIDDEN = frozenset('\\:*?"<>|')
_ON_DAMAGED_ARCHIVES = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    LookupError,
    NotImplementedError,
    RuntimeError,
    ValueError,
    OverflowError,
)


class ArchiveError(EmgLensError, ValueError):
    """An archive that is damaged, unsafe, or of other files."""


def pack(folder: Path, top: str, archive: Path, done: Callable[[float], None] = lambda _: None) -> None:
    """Write all files of a folder into an archive, under the name `top`, with their checksums.

    The list of checksums is written into the folder first. The same files give the same bytes.

    Args:
        folder: The folder.
        top: Folder inside the archive, `"study/0123456789"`.
        archive: The file, which is replaced in one step.
        done: Called with the fraction of the bytes that are packed.

    Raises:
        OSError: A file cannot be read or written.
    """
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    write_checksums(folder, [name for name in names if name != CHECKSUMS])
    names = sorted({*names, CHECKSUMS})
    total, written = sum((folder / name).stat().st_size for name in names) or 1, 0
    with replacing(archive) as partial, zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as file:
        for name in names:
            about = zipfile.ZipInfo(f"{top}/{name}", EPOCH)
            about.compress_type, about.create_system = zipfile.ZIP_DEFLATED, 3
            about.external_attr, about.file_size = (stat.S_IFREG | 0o644) << 16, (folder / name).stat().st_size
            with (folder / name).open("rb") as source, file.open(about, "w") as target:
                shutil.copyfileobj(source, target, 1 << 20)
            written += about.file_size
            done(written / total)


def unpack(archive: Path, folder: Path) -> None:
    """Unpack an archive of `pack` into a new folder, without the folders above the files, and check every file.

    Raises:
        ArchiveError: The archive is damaged or unsafe, or it is none of `pack`. Nothing is written then.
        OSError: The archive cannot be read, or the folder cannot be written.
    """
    check_regular(archive)
    with _one_line(archive), zipfile.ZipFile(archive) as file:
        entries = [one for one in file.infolist() if not one.is_dir()]
        names = _checked_names(archive, entries, file.infolist())
        with new_folder(folder) as partial:
            for entry, name in zip(entries, names, strict=True):
                place = partial / name
                place.parent.mkdir(parents=True, exist_ok=True)
                with file.open(entry) as source, place.open("xb") as target:
                    shutil.copyfileobj(source, target, 1 << 20)  # stops at the declared size
            _check_list(archive, partial, names)


def _checked_names(archive: Path, entries: Sequence[zipfile.ZipInfo], every: Sequence[zipfile.ZipInfo]) -> list[str]:
    """Return the path of each file below the folder that holds the checksums.

    Raises:
        ArchiveError: A path is unsafe, an entry is no plain file, or the content is too large.
    """
    if len(every) > MOST_FILES:
        raise _refusal(archive, f"it has {len(every)} files, more than {MOST_FILES}")
    total = sum(one.file_size for one in entries)
    if total > LARGE and total > MOST_RATIO * archive.stat().st_size:
        raise _refusal(archive, f"{total / LARGE:.1f} GiB would be unpacked from {archive.stat().st_size} bytes")
    for one in every:
        kind = stat.S_IFMT(one.external_attr >> 16)
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise _refusal(archive, f"{one.filename!r} is a link or a device")
        parts = one.filename.rstrip("/").split("/")
        unsafe = any(part in ("", ".", "..") or len(part) > LONGEST_PART or part.endswith((" ", ".")) for part in parts)
        if unsafe or len(parts) > DEEPEST or not one.filename.isprintable() or _FORBIDDEN & {*one.filename}:
            raise _refusal(archive, f"the path {one.filename[:200]!r} is not allowed")
        if one.flag_bits & 1 or one.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise _refusal(archive, f"{one.filename!r} is encrypted or compressed in another way")
    paths = [PurePosixPath(one.filename) for one in entries]
    lists = sorted((path for path in paths if path.name == CHECKSUMS), key=lambda path: len(path.parts))
    if not lists:
        raise _refusal(archive, f"it has no {CHECKSUMS}")
    top = lists[0].parent
    outside = [str(path) for path in paths if not path.is_relative_to(top)]
    if outside:
        raise _refusal(archive, f"{outside[0]!r} is not in the folder {str(top)!r}")
    names = [path.relative_to(top).as_posix() for path in paths]
    folded = [name.casefold() for name in names]
    folders = {str(above) for name in folded for above in PurePosixPath(name).parents}
    if len(set(folded)) < len(folded) or folders & set(folded):
        raise _refusal(archive, "two of its files have the same path")
    return names


def _check_list(archive: Path, folder: Path, names: Sequence[str]) -> None:
    try:
        listed = read_json(folder / CHECKSUMS)["files"]
        other = {*listed} ^ ({*names} - {CHECKSUMS})
        if other:
            raise _refusal(archive, f"its {CHECKSUMS} and its files disagree about {min(other)!r}")
        check_checksums(folder)
    except DamagedFileError as error:
        reason = str(error).replace(f"{folder}/", "").partition(";")[0]
        raise _refusal(archive, reason) from None


@contextmanager
def _one_line(archive: Path) -> Iterator[None]:
    """Turn what zipfile raises for a damaged archive into an `ArchiveError`."""
    try:
        yield
    except EmgLensError:
        raise
    except _ON_DAMAGED_ARCHIVES as error:
        raise _refusal(archive, " ".join(f"{type(error).__name__}: {error}".split())[:200]) from None
    except OSError as error:
        if error.errno is not None and (remedy(error, "") or error.filename is not None):
            raise
        raise _refusal(archive, f"{error.strerror or error}") from None


def _refusal(archive: Path, reason: str) -> ArchiveError:
    return ArchiveError(
        f"{archive} is damaged, unsafe, or no archive of emg-lens share ({reason}); nothing was unpacked: get the file"
        " again from its source"
    )
