"""Save a `TrialSet` as one HDF5 file: arrays as data sets, other fields as JSON in attributes, and a checksum."""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd

from emg_lens.data.files import read_parts, regular_file
from emg_lens.data.recording import DataError
from emg_lens.io.binary import hdf5_parts
from emg_lens.io.checksums import PLACEHOLDER, DamagedFileError, check_file, replacing_with_checksum
from emg_lens.io.hdf5_writing import new_hdf5_file
from emg_lens.io.os_errors import reason_of, remedy

FORMAT, VERSION = "emg-lens trials", 3
ARRAYS = ("x", "y", "repetition", "repetition_id")
OPTIONAL = ("targets", "source", "start_s")
TEXTS = ("subject", "notes")
FACTS: dict[str, Callable[[Any], Any]] = {
    "fs": float,
    "classes": lambda text: tuple(map(str, json.loads(text))),
    "channels": lambda text: pd.DataFrame(json.loads(text)).astype({"native_fs": float}),
    "target_names": lambda text: tuple(map(str, json.loads(text))),
}
"""Attributes of the file, and how each is read."""


def save(trials: Any, path: Path) -> None:
    """Write a temporary file and move it to `path`: a reader sees the old file or the complete new one."""
    with written(path) as file:
        _fill(file, trials)


@contextmanager
def written(path: Path) -> Iterator[h5py.File]:
    """Yield a temporary file, and move it to `path` when the block ends without an error.

    Raises:
        DataError: The file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing_with_checksum(path) as partial, new_hdf5_file(partial) as file:
            yield file
    except UnicodeEncodeError as error:
        raise DataError(f"cannot write {path}: {error.object[:100]!r} is not text in UTF-8; rename it") from None
    except ValueError as error:  # an empty path, or one with a zero byte
        raise DataError(f"{str(path)!r} is not a path of a file ({error}); give another path") from None
    except OSError as error:
        raise DataError(f"cannot write {path}: {reason_of(error)}; {remedy(error, 'give another path')}") from None


def _fill(file: h5py.File, trials: Any) -> None:
    """Write the fields of a `TrialSet`."""
    file.attrs.update(checksum=PLACEHOLDER, format=FORMAT, version=VERSION, fs=trials.fs)
    file.attrs["classes"] = json.dumps(trials.classes)
    file.attrs["channels"] = json.dumps(trials.channels.to_dict("list"))
    file.attrs["target_names"] = json.dumps(trials.target_names)
    for name in (*ARRAYS, *OPTIONAL):
        if getattr(trials, name) is not None:
            file.create_dataset(name, data=getattr(trials, name))
    for name, texts in (("subject", trials.subject.astype(object)), ("notes", list(trials.notes))):
        file.create_dataset(name, data=texts, dtype=h5py.string_dtype(), shape=len(texts))


def load(path: Path) -> dict[str, Any]:
    """Read the fields of a `TrialSet`."""
    content = read_file(path, (*ARRAYS, *OPTIONAL), TEXTS)
    about = content.pop("attributes")
    missing = [name for name in (*ARRAYS, *TEXTS) if name not in content]
    if missing:
        raise DataError(f"{path}: has no {missing[0]}; expected a file that TrialSet.save wrote")
    facts: dict[str, Any] = {"subject": np.array(content["subject"], dtype=str), "notes": tuple(content["notes"])}
    for name, read in FACTS.items():
        try:
            facts[name] = read(about[name])
        except (KeyError, TypeError, ValueError, RecursionError):
            raise DataError(f"{path}: its {name} cannot be read; the file was changed, so save it again") from None
    return content | facts


def subject_names(path: Path) -> tuple[str, ...]:
    """Read the names of the subjects, in order of appearance, without the samples."""
    return tuple(dict.fromkeys(read_file(path, (), ("subject",)).get("subject", ())))


def read_file(
    path: Path,
    arrays: tuple[str, ...],
    texts: tuple[str, ...],
    of_format: str = FORMAT,
    version: int = VERSION,
    writer: str = "TrialSet.save",
) -> dict[str, Any]:
    """Read parts of a file that `writer` wrote; every error is a `DataError` that names the file."""
    path = path.expanduser()
    if os.path.exists(path) and not os.path.isdir(path):  # False for a name that is too long or has a zero byte
        regular_file(path)
    else:
        what, or_else = ("a folder", " (or cohort: {dataset: folder})") if os.path.isdir(path) else ("no such file", "")
        raise DataError(f"{path}: {what}; expected a file that {writer} wrote{or_else}")
    try:
        facts = path.stat()
        checked = check_file(path) if arrays else _check_once(path, facts.st_size, facts.st_mtime_ns, facts.st_ino)
    except DamagedFileError as error:
        raise DataError(f"{error}; save it again") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read as a trial set ({error.strerror})") from None
    content = read_parts(hdf5_parts, path, "a trial set", arrays=arrays, texts=texts)
    about = content["attributes"]
    del content["members"], content["shapes"]
    if about.get("format") != of_format:
        raise DataError(f"{path}: an HDF5 file, but not one that {writer} wrote")
    if about.get("version") != version:
        raise DataError(f"{path}: format version {about.get('version')}, expected {version}; save it with this version")
    if not checked:
        raise DataError(f"{path}: has no checksum; it was changed after it was written, so save it again")
    return content


@lru_cache(maxsize=64)
def _check_once(path: Path, *state: int) -> bool:  # noqa: ARG001
    """`check_file`, computed once while the file's size, time and inode stay the same."""
    return check_file(path)
