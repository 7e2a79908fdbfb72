"""A `TrialSet` as one HDF5 file: arrays as data sets, the rest as JSON in attributes."""

import json
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
from jaxtyping import Shaped

from emg_lens.data.recording import DataError

FORMAT, VERSION = "emg-lens trials", 2
"""Version 1 had no targets, and did not say where in a recording a trial begins; it is still read."""
ARRAYS = ("x", "y", "repetition", "movement")
OPTIONAL = ("targets", "source", "start_s")


def save(trials: Any, path: Path) -> None:
    """Write beside `path`, then put the file in its place: readers see the old file or the whole new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with h5py.File(draft, "w") as file:
            file.attrs.update(format=FORMAT, version=VERSION, fs=trials.fs)
            file.attrs["classes"] = json.dumps(trials.classes)
            file.attrs["channels"] = json.dumps(trials.channels.to_dict("list"))
            file.attrs["target_names"] = json.dumps(trials.target_names)
            for name in (*ARRAYS, *OPTIONAL):
                if getattr(trials, name) is not None:
                    file.create_dataset(name, data=getattr(trials, name))
            file.create_dataset("subject", data=trials.subject.astype(object), dtype=h5py.string_dtype())
            file.create_dataset("notes", data=list(trials.notes), dtype=h5py.string_dtype(), shape=len(trials.notes))
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def load(path: Path) -> dict[str, Any]:
    """The fields of a `TrialSet`.

    Raises:
        DataError: A file that is missing, truncated, not a trial set, or of another version.
    """
    with _opened(path) as file:
        return {
            **{name: file[name][()] for name in ARRAYS},  # pyright: ignore
            **{name: file[name][()] for name in OPTIONAL if name in file},  # pyright: ignore
            "target_names": tuple(json.loads(file.attrs.get("target_names", "[]"))),  # pyright: ignore
            "subject": _subjects(file),
            "channels": pd.DataFrame(json.loads(file.attrs["channels"])),  # pyright: ignore
            "fs": float(file.attrs["fs"]),  # pyright: ignore
            "classes": tuple(json.loads(file.attrs["classes"])),  # pyright: ignore
            "notes": tuple(file["notes"].asstr()[()].tolist()),  # pyright: ignore
        }


def subject_names(path: Path) -> tuple[str, ...]:
    """Names of the subjects, in order of appearance, without reading samples.

    Raises:
        DataError: As `load`.
    """
    with _opened(path) as file:
        return tuple(dict.fromkeys(_subjects(file).tolist()))


def _subjects(file: h5py.File) -> Shaped[np.ndarray, " trial"]:
    return file["subject"].asstr()[()].astype(str)  # pyright: ignore


@contextmanager
def _opened(path: Path) -> Iterator[h5py.File]:
    """The file, if it is a trial set; what goes wrong while it is read is told in one line."""
    path = path.expanduser()
    if not path.is_file():
        what = "a folder" if path.is_dir() else "no such file"
        raise DataError(f"{path}: {what}; expected a file that TrialSet.save wrote")
    try:
        with h5py.File(path) as file:
            if file.attrs.get("format") != FORMAT:
                raise DataError(f"{path}: an HDF5 file, but not one that TrialSet.save wrote")
            if not 1 <= file.attrs["version"] <= VERSION:  # pyright: ignore
                raise DataError(f"{path}: format version {file.attrs['version']}, expected {VERSION} at most; update")
            yield file
    except (OSError, KeyError, RuntimeError) as error:
        raise DataError(f"{path}: cannot be read as a trial set ({str(error).splitlines()[0]})") from None
