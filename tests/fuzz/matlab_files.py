"""Fuzz of MATLAB files: version 5, compressed and not, and version 7.3."""

import struct
import zlib
from collections.abc import Collection, Mapping
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import test_ninapro
import test_ninapro_bases
from changes import odd_array, pick
from hdf5 import GIANT, HDF5_KINDS, NEVER, odd_hdf5
from loaders import Specimen, attempt, bytes_changed, specimens
from numpy.random import Generator
from scipy.io import savemat
from scipy.sparse import csr_matrix
from verdicts import Target


def matlab_5(content: dict[str, Any], packed: bool) -> bytes:
    """Write a file of version 5."""
    file = BytesIO()
    savemat(file, content, do_compression=packed)
    return file.getvalue()


def matlab_73(content: dict[str, Any], path: Path) -> bytes:
    """Write a file of version 7.3."""
    with h5py.File(path, "w", userblock_size=512) as file:
        for key, value in content.items():
            if not isinstance(value, str):
                file[key] = np.atleast_2d(value).T
    return path.read_bytes()


def matlab_changed(specimen: Specimen, rng: Generator, path: Path) -> tuple[str, bool]:
    """Change bytes, variables, or the structure of a MATLAB file."""
    if rng.random() < 0.5:
        return bytes_changed(specimen, rng, path)
    content = dict(specimen.fields)
    key = pick(rng, sorted(key for key in content if key in specimen.read or rng.random() < 0.3))
    if rng.random() < 0.3:
        return hostile_hdf5(specimen, key, rng, path)
    if rng.random() < 0.1:
        return hostile_matlab_5(specimen, key, rng, path)
    content[key], words = odd_value(content[key], rng)
    if content[key] is None:
        del content[key]
    try:
        if rng.random() < 0.5:
            path.write_bytes(matlab_5(content, bool(rng.random() < 0.5)))
        else:
            path.write_bytes(matlab_73(content, path))
    except (TypeError, ValueError, OSError):  # no such thing in this version
        return bytes_changed(specimen, rng, path)
    return f"{key}: {words}", False


def odd_value(value: Any, rng: Generator) -> tuple[Any, str]:
    """Give a variable another type."""
    array = np.asarray(value)
    cell = np.empty(array.shape if array.ndim else (1, 1), object)
    cell.ravel()[:] = [np.array([[1.0]])] * cell.size
    others = {
        "removed": None,
        "cell array": cell,
        "struct": {"a": np.atleast_2d(array), "b": "x"},
        "struct array": np.array([(1, 2), (3, 4)], dtype=[("a", object), ("b", object)]),
        "char": "x" * 40,
        "chars": np.array(["ab", "cd"]),
        "sparse": csr_matrix(np.atleast_2d(array).astype(float)) if array.dtype.kind in "iuf" and array.ndim < 3 else 0,
        "scalar": 3.0,
        "scalar NaN": np.nan,
        "scalar infinite": np.inf,
        "nested cells": np.array([[cell, cell]], dtype=object)[:, :1],
    }
    if rng.random() < 0.4:
        name = pick(rng, sorted(others))
        return others[name], name
    return odd_array(array, rng)


def hostile_matlab_5(specimen: Specimen, key: str, rng: Generator, path: Path) -> tuple[str, bool]:
    """Write a file of version 5 that declares, or unpacks to, a giant array."""
    kind = pick(rng, ("giant", "negative", "bomb", "many dimensions", "long name"))
    shape = {"giant": (2**30, 16), "negative": (-5, -3), "many dimensions": (2,) * 60}.get(kind, (GIANT // 128, 16))
    name = key.encode() * (100_000 if kind == "long name" else 1)
    size = 2**32 - 100 if kind in ("giant", "bomb") else 64
    inside = struct.pack("<IIII", 6, 8, 6, 0) + element(5, struct.pack(f"<{len(shape)}i", *shape)) + element(1, name)
    inside += struct.pack("<II", 9, size)
    header = b"MATLAB 5.0 MAT-file".ljust(124) + struct.pack("<HH", 0x0100, 0x4D49)
    whole = struct.pack("<II", 14, min(len(inside) + size, 2**32 - 1)) + inside
    if kind == "bomb":
        packer = zlib.compressobj(9)
        start = packer.compress(whole) + packer.flush(zlib.Z_FULL_FLUSH)
        block = packer.compress(bytes(2**24)) + packer.flush(zlib.Z_FULL_FLUSH)
        packed = start + block * 300  # 5 GB of zeros
        whole = struct.pack("<II", 15, len(packed)) + packed
    path.write_bytes(header + whole + bytes(64))
    return f"{key}: {kind}", key in specimen.read


def element(kind: int, data: bytes) -> bytes:
    """Write a data element of version 5."""
    return struct.pack("<II", kind, len(data)) + data + bytes(-len(data) % 8)


def hostile_hdf5(specimen: Specimen, key: str, rng: Generator, path: Path) -> tuple[str, bool]:
    """Write a file of version 7.3 with an unusual HDF5 feature in place of one variable."""
    content = dict(specimen.fields)
    matlab_73(content, path)
    kind = pick(rng, HDF5_KINDS)
    with h5py.File(path, "r+") as file:
        shape = np.atleast_2d(content[key]).T.shape if not isinstance(content[key], str) else (3, 1)
        if key in file:
            del file[key]
        odd_hdf5(file, key, shape, kind, path)
    return f"{key}: {kind}", key in specimen.read and kind in NEVER


def prepare_matlab(
    dataset: str,
    path: str,
    content: dict[str, Any],
    read: Collection[str],
    folder: Path,
    others: Mapping[str, bytes] | None = None,
    versions: str = "pu7",
) -> list[Specimen]:
    """Make a specimen compressed (`p`), uncompressed (`u`) and of version 7.3 (`7`)."""
    made = {
        "p": lambda: matlab_5(content, True),
        "u": lambda: matlab_5(content, False),
        "7": lambda: matlab_73(content, folder / "73.mat"),
    }
    files = [made[version]() for version in dict.fromkeys(versions)]
    return [specimens(dataset, path, files, folder, others, content, read)]


def prepare_ninapro(folder: Path) -> list[Specimen]:
    """NinaPro DB5."""
    read = ("emg", "acc", "restimulus", "rerepetition")
    return prepare_matlab("ninapro-db5", "S1_E1_A1.mat", test_ninapro.content(rows=600), read, folder)


def prepare_db2(folder: Path) -> list[Specimen]:
    """NinaPro DB2: an accelerometer in each electrode, with columns in one of two orders."""
    content = test_ninapro_bases.content(gestures=(1, 2), repetitions=1, rows=220)
    return prepare_matlab("ninapro-db2", "S1_E1_A1.mat", content, ("emg", "acc", "restimulus", "rerepetition"), folder)


def prepare_db8(folder: Path) -> list[Specimen]:
    """NinaPro DB8: sixteen electrodes, and a glove with holes."""
    glove = np.random.default_rng(2).normal(scale=30, size=(880, 18))
    glove[300:310] = np.nan
    content = test_ninapro_bases.content(gestures=(1, 2), repetitions=1, rows=220, n_emg=16, glove=glove)
    return prepare_matlab(
        "ninapro-db8", "S1_E1_A1.mat", content, ("emg", "glove", "restimulus", "rerepetition"), folder
    )


def prepare_myo_force(folder: Path) -> list[Specimen]:
    """Grasp force."""
    random = np.random.default_rng(0)
    content = {
        "emg": random.integers(-128, 128, (300, 8)).astype(np.int16),
        "Force": random.integers(0, 1024, (300, 1)).astype(np.uint16),
    }
    return prepare_matlab("myo-force", "recording_force_v10.mat", content, ("emg", "Force"), folder)


TARGETS = tuple(
    Target(name, prepare, partial(attempt, matlab_changed))
    for name, prepare in {
        "ninapro-db5": prepare_ninapro,
        "ninapro-db2": prepare_db2,
        "ninapro-db8": prepare_db8,
        "myo-force": prepare_myo_force,
    }.items()
)
