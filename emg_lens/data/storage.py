"""A `TrialSet` as one HDF5 file: arrays as data sets, the rest as JSON in attributes, a checksum over all of it."""

import json
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd

from emg_lens.data.recording import DataError
from emg_lens.io.binary import hdf5_parts
from emg_lens.io.seals import BLANK, DamagedFileError, check_seal, sealing
from emg_lens.io.subprocess_reader import UnreadableError, read_apart

FORMAT, VERSION = "emg-lens trials", 3
"""Version 1 had no targets, and did not say where in a recording a trial begins; 2 had no checksum. Both are read."""
ARRAYS = ("x", "y", "repetition", "repetition_id")
OPTIONAL = ("targets", "source", "start_s")
TEXTS = ("subject", "notes")


def save(trials: Any, path: Path) -> None:
    """Write beside `path`, then put the file in its place: readers see the old file or the whole new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with sealing(path) as partial, h5py.File(partial, "w") as file:
        file.attrs.update(checksum=BLANK, format=FORMAT, version=VERSION, fs=trials.fs)
        file.attrs["classes"] = json.dumps(trials.classes)
        file.attrs["channels"] = json.dumps(trials.channels.to_dict("list"))
        file.attrs["target_names"] = json.dumps(trials.target_names)
        for name in (*ARRAYS, *OPTIONAL):
            if getattr(trials, name) is not None:
                file.create_dataset(name, data=getattr(trials, name))
        for name, texts in (("subject", trials.subject.astype(object)), ("notes", list(trials.notes))):
            file.create_dataset(name, data=texts, dtype=h5py.string_dtype(), shape=len(texts))


def load(path: Path) -> dict[str, Any]:
    """The fields of a `TrialSet`.

    Raises:
        DataError: A file that is missing, damaged, not a trial set, or of a later version.
    """
    found = _read(path, (*ARRAYS, *OPTIONAL), TEXTS)
    about = found.pop("attributes")
    missing = [name for name in (*ARRAYS, *TEXTS) if name not in found]
    if missing:
        raise DataError(f"{path}: holds no {missing[0]}; expected a file that TrialSet.save wrote")
    return {
        **found,
        "subject": np.array(found["subject"], dtype=str),
        "notes": tuple(found["notes"]),
        "fs": _fact(path, about, "fs", float),
        "classes": _fact(path, about, "classes", _names),
        "channels": _fact(path, about, "channels", _channels),
        "target_names": _fact(path, {"target_names": "[]", **about}, "target_names", _names),
    }


def subject_names(path: Path) -> tuple[str, ...]:
    """Names of the subjects, in order of appearance, without reading samples.

    Raises:
        DataError: As `load`.
    """
    return tuple(dict.fromkeys(_read(path, (), ("subject",)).get("subject", ())))


def _read(path: Path, arrays: tuple[str, ...], texts: tuple[str, ...]) -> dict[str, Any]:
    """The parts of a file, if it is a trial set; what goes wrong while it is read is told in one line."""
    path = path.expanduser()
    if not path.is_file():
        what = "a folder" if path.is_dir() else "no such file"
        raise DataError(f"{path}: {what}; expected a file that TrialSet.save wrote")
    try:
        facts = path.stat()
        sealed = check_seal(path) if arrays else _has_seal(path, facts.st_size, facts.st_mtime_ns, facts.st_ino)
        found = read_apart(hdf5_parts, path, arrays=arrays, texts=texts)
    except DamagedFileError as error:
        raise DataError(str(error)) from None
    except (UnreadableError, OSError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise DataError(f"{path}: cannot be read as a trial set ({reason})") from None
    about = found["attributes"]
    if about.get("format") != FORMAT:
        raise DataError(f"{path}: an HDF5 file, but not one that TrialSet.save wrote")
    version = about.get("version")
    if not isinstance(version, int) or not 1 <= version <= VERSION:
        raise DataError(f"{path}: format version {version}, expected {VERSION} at most; update")
    if version >= 3 and not sealed:
        raise DataError(f"{path}: has lost its checksum; it was changed after it was written")
    return found


@lru_cache(maxsize=64)
def _has_seal(path: Path, *state: int) -> bool:  # noqa: ARG001
    """Whether a file has a checksum, and that it is right; asked once as long as size, time and inode stay the same."""
    return check_seal(path)


def _fact(path: Path, about: dict[str, Any], name: str, read: Callable[[Any], Any]) -> Any:
    try:
        return read(about[name])
    except (KeyError, TypeError, ValueError, RecursionError):
        raise DataError(f"{path}: its {name} cannot be read; it was changed after it was written") from None


def _names(text: str) -> tuple[str, ...]:
    names = json.loads(text)
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(names)
    return tuple(names)


def _channels(text: str) -> pd.DataFrame:
    columns = json.loads(text)
    if any(not isinstance(value, str) for name in ("modality", "name", "units") for value in columns[name]):
        raise ValueError(columns)
    table = pd.DataFrame(columns)
    return table.assign(native_fs=table["native_fs"].astype(float))
